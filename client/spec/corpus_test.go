package spec_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"lapis/client/spec"
)

// The kinds that this package makes requests for.
var kinds = map[string]string{
	"workspace": "workspace", "amlCompute": "compute", "computeInstance": "compute", "datastore": "datastore", "data": "data",
	"environment": "environment", "model": "model", "commandJob": "job", "commandComponent": "component", "connection": "connection", "registry": "registry",
	"managedOnlineEndpoint": "online-endpoint", "kubernetesOnlineEndpoint": "online-endpoint", "managedOnlineDeployment": "online-deployment", "kubernetesOnlineDeployment": "online-deployment",
}

var world = spec.Target{Subscription: "00000000-0000-0000-0000-000000000001", ResourceGroup: "rg1", Workspace: "ws1"}

// corpus finds the shared corpus, or skips the test.
func corpus(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		c := filepath.Join(dir, "shared", "corpus")
		if _, err := os.Stat(filepath.Join(c, "golden")); err == nil {
			return c
		}
		if dir == filepath.Dir(dir) {
			t.Skip("the corpus is not beside the repository")
		}
	}
}

type golden struct {
	Kind         string
	Error        string
	Requests     []map[string]any
	Placeholders map[string]struct {
		Uploaded string
	}
	After struct {
		Override      any `json:"params_override"`
		Substitutions map[string]string
		Missing       []string `json:"missing_files"`
	}
}

// TestTheRequestsOfTheCorpusAreThoseOfTheSDK compares what each file of the
// corpus becomes with what the Python SDK sends for it.
func TestTheRequestsOfTheCorpusAreThoseOfTheSDK(t *testing.T) {
	dir := corpus(t)
	set := filepath.Join(t.TempDir(), "set")
	if err := os.CopyFS(set, os.DirFS(filepath.Join(dir, "azureml-examples"))); err != nil {
		t.Fatal(err)
	}
	total, equal, whole := 0, 0, 0
	var differ []string
	walk(t, filepath.Join(dir, "golden"), func(file string) {
		var g golden
		read(t, file, &g)
		noun, ok := kinds[strings.SplitN(g.Kind, ":", 2)[0]]
		if !ok || len(g.Requests) == 0 || g.Error != "" || g.After.Override != nil || len(g.After.Substitutions) > 0 {
			return
		}
		total++
		rel := strings.TrimSuffix(must(filepath.Rel(filepath.Join(dir, "golden"), file)), ".json")
		source := filepath.Join(set, rel)
		for _, p := range g.Placeholders {
			stub(t, set, filepath.Dir(source), p.Uploaded)
		}
		got, err := dryRun(source, noun)
		if err != nil {
			differ = append(differ, rel+": "+err.Error())
			return
		}
		want, have := prune(toAny(g.Requests)).([]any), prune(toAny(got)).([]any)
		m := matcher{}
		lastWant, lastHave := want[len(want)-1].(map[string]any), have[len(have)-1].(map[string]any)
		if d := m.compare(lastWant["body"], lastHave["body"], "body"); d != "" {
			differ = append(differ, rel+": "+d)
			return
		}
		if d := m.compare(strings.ToLower(lastWant["path"].(string)), strings.ToLower(lastHave["path"].(string)), "path"); d != "" {
			differ = append(differ, rel+": "+d)
			return
		}
		equal++
		if len(want) == len(have) {
			whole++
		}
	})
	t.Logf("corpus: %d of %d files become the request that the SDK sends, %d with as many requests before it", equal, total, whole)
	for _, d := range differ {
		t.Error(d)
	}
	if total < 190 {
		t.Errorf("the corpus had 190 files of these kinds, now %d", total)
	}
}

// TestWhatTheSDKRefusesIsRefused runs the broken files of the corpus.
func TestWhatTheSDKRefusesIsRefused(t *testing.T) {
	dir := corpus(t)
	set := filepath.Join(t.TempDir(), "set")
	if err := os.CopyFS(set, os.DirFS(filepath.Join(dir, "azureml-examples"))); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "negative", "mutants.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	total, refused, more := 0, 0, 0
	for lines.Scan() {
		var c struct{ ID, From, Kind, Mutation, Detail, Verdict, YAML string }
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		noun, ok := kinds[strings.SplitN(c.Kind, ":", 2)[0]]
		if !ok {
			continue
		}
		source := filepath.Join(set, filepath.Dir(c.From), "mutant.yml")
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(source, []byte(c.YAML), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := dryRun(source, noun)
		os.Remove(source)
		if c.Verdict != "rejected" {
			if err != nil {
				more++
			}
			// No server takes a negative count or a name of 300 letters.
			if strings.Contains(c.Detail, "300 letters") && err == nil || strings.HasPrefix(c.Detail, "max_instances") && err == nil {
				t.Errorf("%s %s (%s) is let through", c.Kind, c.Mutation, c.Detail)
			}
			continue
		}
		total++
		switch {
		case err == nil:
			t.Errorf("%s %s (%s) is let through", c.Kind, c.Mutation, c.Detail)
		case !regexp.MustCompile(`mutant\.yml:\d+: `).MatchString(err.Error()):
			t.Errorf("%s %s: the error names no line: %v", c.Kind, c.Mutation, err)
		default:
			refused++
		}
	}
	t.Logf("mutants: %d of %d that the SDK refuses are refused, and %d that it sends", refused, total, more)
	if total < 72 {
		t.Errorf("the corpus had 72 mutants of these kinds that the SDK refuses, now %d", total)
	}
}

func dryRun(source, noun string) ([]spec.Request, error) {
	d, err := spec.ReadFile(source)
	if err != nil {
		return nil, err
	}
	w := &spec.DryRun{Target: world, At: "local", Storage: "https://acct1.blob.core.lapis.test/azureml-blobstore-1"}
	o := spec.Options{Target: world, Experiment: filepath.Base(filepath.Dir(source)), DryRun: true}
	if noun == "workspace" && !strings.HasSuffix(source, "mutant.yml") {
		o.Workspace = "ws1"
	}
	_, err = spec.Create(context.Background(), d, noun, o, w)
	return w.Requests, err
}

// stub makes what was uploaded where it is not in the set.
func stub(t *testing.T, set, base, uploaded string) {
	target := filepath.Join(base, filepath.FromSlash(uploaded))
	if uploaded == "" || !strings.HasPrefix(target, set) {
		return
	}
	if _, err := os.Stat(target); err == nil {
		return
	}
	os.MkdirAll(filepath.Dir(target), 0o755)
	if strings.Contains(path.Base(uploaded), ".") {
		os.WriteFile(target, []byte("x"), 0o644)
		return
	}
	os.MkdirAll(target, 0o755)
	if strings.Contains(uploaded, "mltable") {
		os.WriteFile(filepath.Join(target, "MLTable"), []byte("paths:\n  - file: ./titanic.csv\n"), 0o644)
	}
}

// matcher compares as the corpus asks: placeholders are patterns that stand
// for one value each, and null is absent.
type matcher map[string]string

var placeholder = regexp.MustCompile(`<[a-z0-9:-]+>`)

func (m matcher) compare(want, have any, at string) string {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s: %v is no object", at, have)
		}
		keys := map[string]bool{}
		for k := range w {
			keys[k] = true
		}
		for k := range h {
			keys[k] = true
		}
		var order []string
		for k := range keys {
			order = append(order, k)
		}
		sort.Strings(order)
		for _, k := range order {
			if _, ok := w[k]; !ok {
				return fmt.Sprintf("%s.%s: not wanted (%v)", at, k, h[k])
			}
			if _, ok := h[k]; !ok {
				return fmt.Sprintf("%s.%s: missing (%v)", at, k, w[k])
			}
			if d := m.compare(w[k], h[k], at+"."+k); d != "" {
				return d
			}
		}
		return ""
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return fmt.Sprintf("%s: the list differs: %v", at, have)
		}
		for i := range w {
			if d := m.compare(w[i], h[i], fmt.Sprintf("%s[%d]", at, i)); d != "" {
				return d
			}
		}
		return ""
	case string:
		h, ok := have.(string)
		if !ok {
			break
		}
		names := placeholder.FindAllString(w, -1)
		if len(names) == 0 {
			if w == h || strings.ReplaceAll(w, "/versions/1", "/labels/latest") == h {
				return ""
			}
			break
		}
		parts := placeholder.Split(w, -1)
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		values := regexp.MustCompile("^" + strings.Join(parts, "(.+)") + "$").FindStringSubmatch(h)
		if values == nil {
			break
		}
		for i, n := range names {
			if old, ok := m[n]; ok && old != values[i+1] {
				return fmt.Sprintf("%s: %s is %s here and %s before", at, n, values[i+1], old)
			}
			m[n] = values[i+1]
		}
		return ""
	default:
		if want == have {
			return ""
		}
	}
	return fmt.Sprintf("%s: %#v, wanted %#v", at, have, want)
}

func toAny(v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		panic(err)
	}
	return out
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x == nil {
				delete(v, k)
			} else {
				v[k] = prune(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	}
	return v
}

func walk(t *testing.T, dir string, each func(string)) {
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".json") {
			each(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string, into any) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}
