package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// resourceKinds are the types below a workspace, as paths of one resource each.
var resourceKinds = []string{
	"computes/xx", "datastores/x", "connections/xx", "jobs/x",
	"codes/x", "codes/x/versions/1", "data/x", "data/x/versions/1", "environments/x", "environments/x/versions/1",
	"models/x", "models/x/versions/1", "components/x", "components/x/versions/1",
}

// actions are the verbs that clients post.
var actions = []string{
	"listKeys", "diagnose", "resyncKeys", "computes/xx/start", "computes/xx/stop", "computes/xx/restart", "computes/xx/listNodes",
	"datastores/x/listSecrets", "connections/xx/listsecrets", "jobs/x/cancel", "codes/x/versions/1/startPendingUpload",
}

func code(m map[string]any) string { return fmt.Sprint(at(m, "error", "code")) }

func TestWhatIsMissingIsNamedFromTheOutside(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	main := s.workspace(t)
	sub := strings.Join(strings.Split(main, "/")[:3], "/")
	group, provider, _ := strings.Cut(main, "/providers/")
	elsewhere := sub + "/resourceGroups/nowhere"
	inNoGroup := elsewhere + "/providers/" + provider
	inNoWorkspace := group + "/providers/Microsoft.MachineLearningServices/workspaces/nowhere"
	noSubscription := strings.Replace(main, sub, "/subscriptions/00000000-0000-0000-0000-000000000000", 1)

	want := func(method, path, body string, status int, word string) {
		t.Helper()
		got, m := s.call(t, token, method, path, body)
		if got != status || method != "HEAD" && code(m) != word {
			t.Errorf("%s %s: %d %s, want %d %s", method, strings.TrimPrefix(path, sub), got, code(m), status, word)
		}
	}
	var paths, posts, lists []string
	paths = append(paths, "")
	for _, k := range resourceKinds {
		paths = append(paths, "/"+k)
		lists = append(lists, "/"+k[:strings.LastIndexByte(k, '/')])
	}
	for _, a := range actions {
		posts = append(posts, "/"+a)
	}
	const body = `{"location":"local","properties":{}}`
	for _, c := range []struct{ workspace, code string }{
		{inNoGroup, "ResourceGroupNotFound"}, {noSubscription, "SubscriptionNotFound"}, {inNoWorkspace, "ResourceNotFound"},
	} {
		for _, p := range paths {
			if p == "" && c.workspace == inNoWorkspace {
				continue // a PUT makes it
			}
			for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE"} {
				want(method, c.workspace+p, body, 404, c.code)
			}
		}
		for _, p := range lists {
			want("GET", c.workspace+p, "", 404, c.code)
		}
		for _, p := range posts {
			want("POST", c.workspace+p, "{}", 404, c.code)
		}
	}
	const registry = "/providers/Microsoft.MachineLearningServices/registries/reg"
	template := `{"properties":{"template":{"parameters":{"workspaceName":{}},"resources":[{"type":"Microsoft.MachineLearningServices/workspaces"}]},"parameters":{"workspaceName":{"value":"ws9"},"location":{"value":"local"}}}}`
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		want(method, elsewhere+registry, body, 404, "ResourceGroupNotFound")
		want(method, elsewhere+registry+"/models/m/versions/1", body, 404, "ResourceGroupNotFound")
		want(method, elsewhere+"/providers/Microsoft.Authorization/locks/l", `{"properties":{"level":"ReadOnly"}}`, 404, "ResourceGroupNotFound")
	}
	for _, path := range []string{"/resources", "/deployments", "/deployments/d/operations", "/providers/Microsoft.Resources/deployments/d", "/providers/Microsoft.Resources/deployments",
		"/providers/Microsoft.MachineLearningServices/workspaces", "/providers/Microsoft.MachineLearningServices/registries", ""} {
		want("GET", elsewhere+path, "", 404, "ResourceGroupNotFound")
	}
	want("PUT", elsewhere+"/providers/Microsoft.Resources/deployments/d", template, 404, "ResourceGroupNotFound")
	want("POST", elsewhere+"/providers/Microsoft.Resources/deployments/d/validate", template, 404, "ResourceGroupNotFound")
	want("POST", elsewhere+"/providers/Microsoft.Resources/deployments/d/whatIf", template, 404, "ResourceGroupNotFound")

	t.Run("in a workspace that is there, each verb says what it is about", func(t *testing.T) {
		for _, k := range resourceKinds {
			p := main + "/" + k
			want("GET", p, "", 404, "ResourceNotFound")
			want("HEAD", p, "", 404, "")
			want("PATCH", p, body, 404, "ResourceNotFound")
			if got, m := s.call(t, token, "DELETE", p, ""); got != 204 {
				t.Errorf("DELETE %s: %d %v", k, got, m)
			}
			want("POST", p, "{}", 405, "MethodNotAllowed")
			want("PUT", p, "{", 400, "InvalidRequestContent")
			want("PUT", p, "", 400, "InvalidRequestContent")
			want("PUT", p, "[]", 400, "InvalidRequestContent")
			want("PUT", p, `{"properties":[]}`, 400, "InvalidRequestContent")
			want("PUT", p, `{"properties":"x"}`, 400, "InvalidRequestContent")
			want("PUT", main+"/"+k[:strings.LastIndexByte(k, '/')], body, 405, "MethodNotAllowed")
			want("POST", p+"/noSuchVerb", "{}", 404, "InvalidResourceType")
		}
		want("GET", main+"/noSuchThings/x", "", 404, "InvalidResourceType")
		want("PUT", main+"/noSuchThings/x", body, 404, "InvalidResourceType")
	})
}

// goldens finds the requests that an SDK has sent, or skips the test.
func goldens(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		c := filepath.Join(dir, "shared", "corpus", "golden")
		if _, err := os.Stat(c); err == nil {
			return c
		}
		if dir == filepath.Dir(dir) {
			t.Skip("the corpus is not beside the repository")
		}
	}
}

// wrongTypes stand in place of what a body has.
var wrongTypes = []any{"word", "", float64(7), -1.5, 1e300, true, nil, []any{}, []any{"a", 1.0}, map[string]any{}, map[string]any{"a": map[string]any{"b": 1.0}}}

// named are the members whose keys the user chooses.
var named = []string{"inputs", "outputs", "tags", "properties", "environmentVariables", "jobs", "searchSpace", "services", "environment_variables"}

// places lists the paths of a body, each with the form it has in all bodies.
func places(v any, path []any, form string, visit func(path []any, form string)) {
	visit(slices.Clone(path), form)
	switch v := v.(type) {
	case map[string]any:
		chosen := slices.Contains(named, form[strings.LastIndexByte(form, '.')+1:]) && len(path) > 1
		for _, k := range slices.Sorted(maps.Keys(v)) {
			key := k
			if chosen {
				key = "*"
			}
			places(v[k], append(path, k), form+"."+key, visit)
		}
	case []any:
		if len(v) > 0 {
			places(v[0], append(path, 0), form+"[]", visit)
		}
	}
}

// replaced is a copy of the body with another value at the path.
func replaced(v any, path []any, value any) any {
	if len(path) == 0 {
		return value
	}
	switch key := path[0].(type) {
	case string:
		m := maps.Clone(v.(map[string]any))
		m[key] = replaced(m[key], path[1:], value)
		return m
	default:
		l := slices.Clone(v.([]any))
		l[0] = replaced(l[0], path[1:], value)
		return l
	}
}

var (
	theirGroup    = regexp.MustCompile(`(?i)/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/rg1/`)
	placeholder   = regexp.MustCompile(`<[a-z0-9_:-]+>`)
	idOfAsset     = regexp.MustCompile(`/(codes|environments|components|models|data)/[^/"]+/versions/[^/"]+`)
	idOfCompute   = regexp.MustCompile(`/computes/[^/"]+`)
	armProvider   = regexp.MustCompile(`(?i)Microsoft\.[a-z]+/(.*)$`)
	nameInAPath   = regexp.MustCompile(`(codes|environments|components|models|data|workspaces|registries|deployments|versions|jobs|computes|datastores|connections)/[^/]+`)
	armCollection = regexp.MustCompile(`/[^/]+$`)
)

// TestNoWrongTypeInARequestIsTheServersFault puts values of every type into
// every place of the bodies that an SDK sends. The server takes them or says
// what is wrong with them, and never fails.
func TestNoWrongTypeInARequestIsTheServersFault(t *testing.T) {
	root := goldens(t)
	s := start(t, dataFolder(t))
	token := clientToken(t, s)
	main := s.workspace(t)
	// What the bodies refer to. Nothing runs: the instance is stopped.
	s.ask(t, token, "PUT", main+"/environments/x/versions/1", `{"properties":{"image":"x"}}`, 201)
	s.ask(t, token, "PUT", main+"/codes/x/versions/1", `{"properties":{"codeUri":"https://localhost/blob/a/b/c"}}`, 201)
	s.ask(t, token, "PUT", main+"/computes/xx", `{"location":"local","properties":{"computeType":"ComputeInstance","properties":{"vmSize":"STANDARD_DS2_V2"}}}`, 201)
	s.ask(t, token, "POST", main+"/computes/xx/stop", "", 202)

	type request struct {
		method, path string
		body         any
		place        []any
	}
	bases := map[string]request{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".json" {
			return err
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := placeholder.ReplaceAllString(string(raw), "x")
		text = theirGroup.ReplaceAllString(text, main[:strings.Index(main, "/providers/")]+"/")
		text = strings.ReplaceAll(text, "/workspaces/ws1", main[strings.LastIndex(main, "/workspaces/"):])
		text = strings.ReplaceAll(text, `"template": "x"`, `"template": {"parameters":{"workspaceName":{}},"resources":[{"type":"Microsoft.MachineLearningServices/workspaces"}]}`)
		var g struct {
			Requests []struct {
				Method, Path string
				Body         any
			}
		}
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range g.Requests {
			if r.Body == nil || r.Method != "PUT" && r.Method != "PATCH" {
				continue
			}
			path := r.Path
			raw, err := json.Marshal(r.Body)
			if err != nil {
				return err
			}
			raw = idOfAsset.ReplaceAll(raw, []byte("/$1/x/versions/1"))
			raw = idOfCompute.ReplaceAll(raw, []byte("/computes/xx"))
			var body any
			if err := json.Unmarshal(raw, &body); err != nil {
				return err
			}
			// One body for each place that is new.
			kind := r.Method + " " + nameInAPath.ReplaceAllString(armProvider.FindString(path), "$1")
			places(body, nil, kind, func(at []any, form string) {
				if _, there := bases[form]; !there {
					bases[form] = request{r.Method, path, body, at}
				}
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	forms := slices.Sorted(maps.Keys(bases))
	step := 4 // a part of all; LAPIS_SOAK=1 sends them all
	if os.Getenv("LAPIS_SOAK") != "" {
		step = 1
	}
	var refusedKinds sync.Map // those that are not offered: one answer will do
	var sent, taken, refused, later, count atomic.Int64
	work := make(chan func())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for do := range work {
				do()
			}
		})
	}
	for i, form := range forms {
		base := bases[form]
		for j, value := range wrongTypes {
			if (i+j)%step != 0 {
				continue
			}
			work <- func() {
				kind := armCollection.ReplaceAllString(nameInAPath.ReplaceAllString(base.path, "$1"), "")
				if _, not := refusedKinds.Load(kind); not {
					return
				}
				body, err := json.Marshal(replaced(base.body, base.place, value))
				if err != nil {
					t.Error(err)
					return
				}
				// A name of its own, so that what was taken before is not in the way.
				name := fmt.Sprintf("m%d", count.Add(1))
				target := armCollection.ReplaceAllString(base.path, "/"+name)
				status, m := s.call(t, token, base.method, target, string(body))
				sent.Add(1)
				switch {
				case status < 300:
					taken.Add(1)
				case status == 501:
					later.Add(1)
					refusedKinds.Store(kind, true)
				case status >= 500 || code(m) == "<nil>" || at(m, "error", "message") == "":
					t.Errorf("%s %s with %v at %s: %d %v", base.method, target, value, form, status, m)
				default:
					refused.Add(1)
				}
			}
		}
	}
	close(work)
	group.Wait()
	t.Logf("%d places, %d sent, %d taken, %d refused, %d of types that are not offered", len(forms), sent.Load(), taken.Load(), refused.Load(), later.Load())
	if taken.Load() == 0 || refused.Load() == 0 {
		t.Error("this tests nothing")
	}
	s.ask(t, token, "GET", main, "", 200)
}
