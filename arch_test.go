package lapis

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A rule says what some packages never import, and why.
type rule struct {
	from    []string // patterns of packages of this module, without "lapis/"
	except  []string // packages of from that the rule leaves alone
	never   []string // patterns of imports they must not have; ours without "lapis/"
	allowed []string // imports that never would catch, and that are right
	because string
}

// In a pattern, "x/..." is x and all below it, "x/*" is what lies directly in
// x; "other" before it means: apart from the importing package's own family
// (the folder below the first).
var rules = []rule{
	{
		from:    []string{"fault"},
		never:   []string{"..."},
		because: "errors are what everything speaks of, so they can speak of nothing",
	},
	{
		from:    []string{"file"},
		never:   []string{"..."},
		because: "whatever keeps a file may use it, so it can use nothing",
	},
	{
		from:    []string{"frame"},
		never:   []string{"..."},
		because: "processes that score speak it too, and need nothing else of the platform",
	},
	{
		from:    []string{"socket", "processors"},
		never:   []string{"..."},
		because: "they know of the system that we run on, and of nothing that runs on it",
	},
	{
		from:    []string{"host", "native/..."},
		never:   []string{"ml/...", "resource/...", "edge/...", "backend/...", "client/...", "cmd/..."},
		allowed: []string{"ml/serving"},
		because: "what holds and scores models outlives the server, and needs nothing of it",
	},
	{
		from:    []string{"resource/..."},
		never:   []string{"ml/...", "edge/...", "backend/...", "client/...", "cmd/..."},
		because: "the kernel must not learn nouns: a new type must need no change there",
	},
	{
		from:    []string{"ml/..."},
		except:  []string{"ml/compute/runtimetest"}, // a suite: its tasks really fetch
		never:   []string{"edge/...", "backend/...", "client/...", "cmd/...", "net/http", "database/sql", "k8s.io/...", "github.com/aws/..."},
		because: "the rules can be read and tested without a network or a database server",
	},
	{
		from:    []string{"backend/..."},
		never:   []string{"other backend/...", "edge/...", "client/...", "cmd/..."},
		because: "each can be dropped or replaced alone",
	},
	{
		from:    []string{"edge/..."},
		never:   []string{"other edge/*", "backend/...", "client/...", "cmd/..."},
		because: "protocols share the domain, not each other's quirks; what they all need is in edge itself",
	},
	{
		from:    []string{"edge/studio/..."},
		never:   []string{"ml/..."},
		because: "the pages live on the public APIs, which keeps those complete",
	},
	{
		from:    []string{"client/..."},
		never:   []string{"ml/...", "resource/...", "edge/...", "backend/...", "cmd/..."},
		allowed: []string{"resource"},
		because: "the command line cannot reach around the API",
	},
	{
		from:    []string{"..."},
		except:  []string{"cmd/lapis"},
		never:   []string{"cmd/..."},
		because: "only the binary knows how the parts are put together",
	},
}

// Inside ml, a package uses only steps before its own: that keeps the nouns
// readable one after the other. Packages of one step leave each other alone.
var steps = [][]string{
	{"ml", "ml/blob", "ml/asset", "ml/tracking", "ml/serving"},
	{"ml/data", "ml/environment", "ml/component", "ml/model", "ml/compute", "ml/registry", "ml/trace", "ml/evaluation", "ml/connection", "ml/webhook"},
	{"ml/workspace", "ml/job", "ml/endpoint", "ml/share", "ml/trash"},
	{"ml/sweep", "ml/pipeline", "ml/dispatch", "ml/deploy", "ml/collect", "ml/schedule", "ml/monitor", "ml/drift"},
	{"ml/autoscale", "ml/rollout", "ml/cost", "ml/advisor"},
}

// Within a step, these arrows are wanted: everything in ml may use what ml
// itself says of names and references, an asset's bytes are blobs, a model or a
// data asset is told by its paths on a datastore, and what happens in the
// registry is told to webhooks.
var within = map[string][]string{
	"ml":          {"ml/blob"},
	"ml/asset":    {"ml", "ml/blob"},
	"ml/model":    {"ml/data"},
	"ml/registry": {"ml/webhook"},
}

// pkg is what `go list` tells about a package.
type pkg struct {
	ImportPath string
	Imports    []string
}

const module = "lapis"

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// own is the path inside this module.
func own(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// matches says whether the import or package path fits the pattern. Paths of
// this module come without its name, all others whole.
func matches(pattern, path string) bool {
	if folder, ok := strings.CutSuffix(pattern, "..."); ok {
		folder = strings.TrimSuffix(folder, "/")
		return folder == "" || path == folder || strings.HasPrefix(path, folder+"/")
	}
	if folder, ok := strings.CutSuffix(pattern, "/*"); ok {
		rest, below := strings.CutPrefix(path, folder+"/")
		return below && rest != ""
	}
	return pattern == path
}

// family is the folder below the first: "edge/armhttp" of "edge/armhttp/x".
func family(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// offences lists the arrows that point the wrong way, each with its reason.
func offences(all []pkg) []string {
	var found []string
	for _, p := range all {
		from, ok := own(p.ImportPath)
		if !ok || from == "" {
			continue
		}
		for _, r := range rules {
			if !slices.ContainsFunc(r.from, func(s string) bool { return matches(s, from) }) || slices.Contains(r.except, from) {
				continue
			}
			for _, imp := range p.Imports {
				if r.forbids(from, imp) {
					found = append(found, from+" imports "+imp+", but "+r.because)
				}
			}
		}
		found = append(found, stepOffences(from, p.Imports)...)
	}
	return found
}

func (r rule) forbids(from, imp string) bool {
	path, ours := own(imp)
	if !ours {
		path = imp
	}
	for _, pattern := range r.never {
		rest, other := strings.CutPrefix(pattern, "other ")
		switch {
		case pattern == "..." && !ours: // "everything of ours"
		case !matches(rest, path):
		case other && family(path) == family(from):
		case ours && slices.Contains(r.allowed, path):
		default:
			return true
		}
	}
	return false
}

func stepOf(path string) int {
	return slices.IndexFunc(steps, func(s []string) bool {
		return slices.ContainsFunc(s, func(p string) bool { return p == path || p != "ml" && strings.HasPrefix(path, p+"/") })
	})
}

func stepOffences(from string, imports []string) []string {
	if !matches("ml/...", from) {
		return nil
	}
	at := stepOf(from)
	if at < 0 {
		return []string{from + " stands on no step of ml: give it one in arch_test.go"}
	}
	var found []string
	for _, imp := range imports {
		to, ours := own(imp)
		if !ours || !matches("ml/...", to) || family(to) == family(from) && to != "ml" {
			continue
		}
		if step := stepOf(to); step > at || step == at && !slices.Contains(within[from], to) {
			found = append(found, from+" imports "+to+", which does not stand on a step before it")
		}
	}
	return found
}

func TestImportsPointOneWay(t *testing.T) {
	all := packages(t)
	if len(all) < 20 {
		t.Fatalf("go list found %d packages; the whole module has more", len(all))
	}
	for _, o := range offences(all) {
		t.Error(o)
	}
}

// A rule that nothing can break proves nothing: each of these arrows must be
// found, and each of the good ones left alone.
func TestArrowsThatPointTheWrongWayAreFound(t *testing.T) {
	bad := []struct{ from, imp string }{
		{"fault", "lapis/resource"},
		{"resource/manager", "lapis/ml/job"},
		{"resource", "lapis/backend/sqldb"},
		{"ml/job", "net/http"},
		{"ml/job", "database/sql"},
		{"ml/job", "lapis/edge"},
		{"ml/dispatch", "lapis/backend/process"},
		{"ml/compute", "k8s.io/api/core/v1"},
		{"ml/data", "lapis/ml/job"},
		{"ml/job", "lapis/ml/workspace"},
		{"ml/tracking", "lapis/ml/asset"},
		{"ml/nowhere", "fmt"},
		{"backend/disk", "lapis/backend/sqldb"},
		{"backend/sqldb", "lapis/edge/armhttp"},
		{"edge/armhttp", "lapis/edge/blobhttp"},
		{"edge", "lapis/edge/blobhttp"},
		{"edge/blobhttp", "lapis/backend/disk"},
		{"edge/studio", "lapis/ml/job"},
		{"client", "lapis/ml/job"},
		{"client/spec", "lapis/resource/manager"},
		{"ml/job", "lapis/cmd/lapis"},
	}
	for _, b := range bad {
		if got := offences([]pkg{{ImportPath: module + "/" + b.from, Imports: []string{b.imp}}}); len(got) == 0 {
			t.Errorf("nothing stops %s from importing %s", b.from, b.imp)
		}
	}
	good := []struct{ from, imp string }{
		{"ml/job", "lapis/ml/data"},
		{"ml/job", "lapis/resource"},
		{"ml/blob/blobtest", "lapis/ml/blob"},
		{"ml/job", "net/url"},
		{"backend/sqldb", "database/sql"},
		{"edge/armhttp", "lapis/edge"},
		{"edge/armhttp", "lapis/resource/manager"},
		{"edge/armhttp", "net/http"},
		{"client", "lapis/resource"},
		{"client", "lapis/client/spec"},
		{"cmd/lapis", "lapis/backend/disk"},
		{"fault", "errors"},
	}
	for _, g := range good {
		if got := offences([]pkg{{ImportPath: module + "/" + g.from, Imports: []string{g.imp}}}); len(got) > 0 {
			t.Errorf("%s may import %s: %v", g.from, g.imp, got)
		}
	}
}
