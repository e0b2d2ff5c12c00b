package spec_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lapis/client/spec"
)

const hello = "command: echo hi\nenvironment:\n  image: python:3.12\n"

// create runs a document that lies in dir and gives its requests.
func create(t testing.TB, dir, noun, source string, set ...string) ([]spec.Request, error) {
	t.Helper()
	d, err := spec.Parse("job.yml", dir, []byte(source))
	if err != nil {
		return nil, err
	}
	for _, s := range set {
		if err := d.Set(s); err != nil {
			return nil, err
		}
	}
	w := &spec.DryRun{Target: world, At: "local", Storage: "https://acct1.blob.core.lapis.test/box"}
	_, err = spec.Create(context.Background(), d, noun, spec.Options{Target: world, Experiment: "here", DryRun: true}, w)
	return w.Requests, err
}

func TestOddFilesAreRead(t *testing.T) {
	for what, source := range map[string]string{
		"a BOM":               "\xef\xbb\xbf" + hello,
		"Windows line ends":   strings.ReplaceAll(hello, "\n", "\r\n"),
		"no $schema, no type": hello,
		"anchors":             "x-shared: &e {image: 'python:3.12'}\n" + "command: echo\nenvironment: *e\n",
		"a merge":             "command: echo\nenvironment:\n  <<: {image: other}\n  image: 'python:3.12'\n",
	} {
		if what == "anchors" {
			source = "command: &c echo\nenvironment: {image: 'python:3.12'}\ndescription: *c\n"
		}
		got, err := create(t, t.TempDir(), "job", source)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if image := got[0].Body["properties"].(map[string]any)["image"]; image != "python:3.12" {
			t.Errorf("%s: the image is %v", what, image)
		}
	}
}

func TestBrokenFilesAreRefusedWithTheirPlace(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'j'; c++ {
		p := string(c - 1)
		bomb += fmt.Sprintf("%c: &%c [*%s, *%s, *%s, *%s, *%s, *%s, *%s, *%s, *%s, *%s]\n", c, c, p, p, p, p, p, p, p, p, p, p)
	}
	for what, c := range map[string]struct{ source, want string }{
		"not UTF-8":              {"command: echo\nname: \xff\xfe\n", "job.yml:2: the file is not UTF-8"},
		"not YAML":               {"command: [echo\nname: x\n", "job.yml:"},
		"a tab":                  {"command: echo\n\tname: x\n", "job.yml:"},
		"nothing":                {"", "job.yml: the file is empty"},
		"comments":               {"# nothing\n", "job.yml: the file is empty"},
		"two documents":          {hello + "---\n" + hello, "a second YAML document begins"},
		"a list":                 {"- 1\n", "job.yml:1: the file has to be a mapping"},
		"a key twice":            {hello + "command: again\n", "job.yml:4: command: this key stands in line 1 already"},
		"a bomb":                 {bomb, "aliases"},
		"a loop":                 {"command: echo\ntags: &t\n  a: *t\n", "job.yml:3:"},
		"nesting":                {"tags: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested"},
		"an unknown key":         {hello + "enviroment_variables: {}\n", `job.yml:4: enviroment_variables: this key is not known here. Did you mean "environment_variables"?`},
		"a number for a string":  {"command: 42\nenvironment: azureml:e:1\n", `job.yml:1: command: this is a whole number where a string is wanted. Put it in quotes: "42".`},
		"a pipeline":             {"type: pipeline\njobs: {}\n", "job.yml:1: type: pipelines are not offered yet"},
		"a pipeline, no type":    {"jobs: {}\n", "pipelines are not offered yet"},
		"a sweep by its schema":  {"$schema: https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json\n" + hello, "sweeps are not offered yet"},
		"a compute file":         {"$schema: https://azuremlschemas.azureedge.net/latest/amlCompute.schema.json\nname: c\n", "lapis compute create"},
		"a missing folder":       {hello + "code: nowhere\n", `job.yml:4: code: there is no file or folder "nowhere"`},
		"no version":             {"command: echo\nenvironment: azureml:train\n", `job.yml:2: environment: "azureml:train" names no version`},
		"no input":               {"command: cat ${{inputs.daat}}\nenvironment: azureml:e:1\ninputs: {data: 1}\n", `has no "daat". Did you mean "data"?`},
		"a negative count":       {hello + "resources: {instance_count: -1}\n", "resources.instance_count: -1 is too small; 1 is the least"},
		"a name of 300 letters":  {hello + "name: " + strings.Repeat("n", 300) + "\n", "300 characters; 255 is the most"},
		"a name that is a path":  {hello + "name: ../../etc\n", "name: a name cannot hold"},
		"image and build":        {"command: echo\nenvironment: {image: a, build: {path: .}}\n", "not both"},
		"a huge number":          {hello + "limits: {timeout: 99999999999999999999}\n", "too large"},
		"a list for a mapping":   {hello + "inputs: [1]\n", "inputs: this is a list where a mapping is wanted"},
		"a null input":           {hello + "inputs: {a: null}\n", "inputs.a"},
		"a mode that is unknown": {hello + "inputs: {a: {path: 'https://x/y', mode: mounted}}\n", "inputs.a.mode"},
	} {
		_, err := create(t, t.TempDir(), "job", c.source)
		if err == nil {
			t.Errorf("%s is let through", what)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; %q is wanted in it", what, err, c.want)
		}
	}
}

// What the SDK's own loaders refuse, beside the corpus's mutants.
func TestEachKindOfFileIsCheckedAsTheSDKDoes(t *testing.T) {
	const guid = "/subscriptions/12345678-0123-0123-0123-0123456789ab/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/s"
	component := "name: c\ncommand: echo\nenvironment: azureml:e:1\ninputs:\n  a: "
	for _, c := range []struct{ noun, source, want string }{
		{"component", component + "{type: integer, default: purple}\n", `job.yml:5: inputs.a.default: "purple" is no value of the type integer`},
		{"component", component + "{type: number, min: low}\n", `inputs.a.min: "low" is no value of the type number`},
		{"component", component + "{type: string, enum: [1]}\n", "inputs.a.enum.0: this is a whole number where a string is wanted"},
		{"component", component + "{type: boolean, default: 'yes'}\n", "inputs.a.default"},
		{"job", hello + "tags: {a: 1}\n", `job.yml:4: tags.a: this is a whole number where a string is wanted. Put it in quotes: "1".`},
		{"job", hello + "properties: {a: true}\n", "properties.a"},
		{"job", hello + "outputs: {o: {version: 1}}\n", "outputs.o.version: an output with a version needs a name"},
		{"job", hello + "services: {s: {type: ssh, nodes: some}}\n", `services.s.nodes: "some" is not known here; it can only be all`},
		{"job", hello + "queue_settings: {job_tier: null}\n", "queue_settings.job_tier"},
		{"environment", "name: e\nimage: i\nconda_file:\n", "job.yml:3: conda_file: the value is missing"},
		{"compute", "name: c\ntype: amlcompute\nidentity: {}\n", "job.yml:3: identity.type: this field is required"},
		{"compute", "name: c\ntype: amlcompute\nssh_settings: {admin_password: p}\n", "ssh_settings.admin_username: this field is required"},
		{"compute", "name: c\ntype: computeinstance\ncustom_applications: [{name: a, image: {reference: r}, endpoints: [{target: 1, published: 8787}]}]\n", "endpoints.0.target: 1 is too small; 1025 is the least"},
		{"connection", "name: c\ntype: git\ntarget: https://h\ncredentials: {type: pat}\n", "job.yml:4: credentials.pat: this field is required"},
		{"connection", "name: c\ntype: container_registry\ntarget: https://h\n", "credentials: this field is required for a connection of type container_registry"},
		{"connection", "name: c\ntype: git\ntarget: https://h\ncredentials: {type: sas, sas_token: s}\n", "credentials.type: a connection of type git cannot have sas; it can be pat, username_password or none"},
		{"datastore", "name: d\ntype: azure_blob\naccount_name: a\ncontainer_name: c\ncredentials: {client_secret: s}\n", "credentials"},
		{"datastore", "name: d\ntype: azure_blob\naccount_name: a\ncontainer_name: c\ntags: {a: 1}\n", "tags.a"},
		{"workspace", "name: w\nstorage_account: /subscriptions/a/resourceGroups/g/providers/p/t/n\n", "job.yml:2: storage_account: "},
		{"workspace", "name: w\nstorage_account: " + guid + "\ntags: {a: 1}\n", "tags.a"},
		{"registry", "name: r\nreplication_locations: [{location: l, storage_config: {storage_account_type: purple}}]\n", "storage_account_type"},
		{"registry", "name: r\nintellectual_property: {publisher: 1}\n", "intellectual_property.publisher"},
	} {
		if _, err := create(t, t.TempDir(), c.noun, c.source); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n%s\n%v; %q is wanted in it", c.noun, c.source, err, c.want)
		}
	}
	for _, c := range []struct{ noun, source string }{
		{"component", component + "{type: integer, default: 3, min: 1, max: '5'}\n"},
		{"component", component + "{type: number, default: 1e-3}\n"},
		{"component", component + "{type: boolean, default: true, optional: 1}\n"},
		{"component", component + "{type: string, default: 5}\n"},
		{"workspace", "name: w\nstorage_account: " + guid + "\n"},
		{"registry", "name: r\nlocation: l\nreplication_locations: [{location: l, storage_config: {storage_account_hns: true}}]\n"},
		{"connection", "name: c\ntype: git\ntarget: https://h\n"},
	} {
		if _, err := create(t, t.TempDir(), c.noun, c.source); err != nil {
			t.Errorf("%s\n%s\n%v", c.noun, c.source, err)
		}
	}
}

func TestSetPutsAValueOverTheFile(t *testing.T) {
	got, err := create(t, t.TempDir(), "job", hello+"inputs: {lr: 0.1}\n",
		"inputs.lr=0.01", "inputs.epochs=3", "display_name=42", "tags.team=vision", "resources.instance_count=2", "compute=azureml:cpu", "limits.timeout=60", `inputs.data={"path":"https://host/a.csv","type":"uri_file"}`)
	if err != nil {
		t.Fatal(err)
	}
	p := got[len(got)-1].Body["properties"].(map[string]any)
	want := map[string]any{
		"displayName": "42",
		"computeId":   world.Path("computes", "cpu"),
		"tags":        map[string]any{"team": "vision"},
		"limits":      map[string]any{"jobLimitsType": "Command", "timeout": "PT1M"},
		"inputs": map[string]any{
			"lr":     map[string]any{"jobInputType": "literal", "value": "0.01"},
			"epochs": map[string]any{"jobInputType": "literal", "value": "3"},
			"data":   map[string]any{"jobInputType": "uri_file", "uri": "https://host/a.csv"},
		},
	}
	for key, value := range want {
		if a, b := asJSON(p[key]), asJSON(value); a != b {
			t.Errorf("%s is %s, wanted %s", key, a, b)
		}
	}
	for _, wrong := range []string{"command.part=x", "nothing", "=x", "a..b=x"} {
		if _, err := create(t, t.TempDir(), "job", hello, wrong); err == nil || !strings.Contains(err.Error(), "--set") {
			t.Errorf("--set %s: %v", wrong, err)
		}
	}
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// folder makes a code folder with an ignore file, names in both cases and a
// link.
func folder(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "src")
	for name, content := range map[string]string{
		"main.py": "print(1)\n", "Pkg/b.txt": "x", "Pkg/A.txt": "yy", "data/a.csv": "1,2\n", "__pycache__/m.pyc": "zz", "run.log": "log",
		".amlignore": "# comment\n__pycache__/\n*.log\n!keep.log\n/data/*.tmp\n", "keep.log": "k", "data/x.tmp": "t",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("main.py", filepath.Join(dir, "link.py")); err != nil {
		t.Skip("no links here")
	}
	return dir
}

// The hashes are those that the Python SDK computes for the same folder: with
// others, nothing that it uploaded would be found again.
func TestHashesAreThoseOfTheSDK(t *testing.T) {
	dir := folder(t)
	for _, c := range []struct{ path, snapshot, upload string }{
		{dir, "c49f07cfe035ac921ab68f1e84fd67999d9d85578e24578d16d3374dc9c4d03b", "dcfd3c9a3ef7a38147f50e572a77c7ffa089c4dc4abab79aa2f8946f161c05e0"},
		{filepath.Join(dir, "main.py"), "33da73e9d1b5f9238d4aca4ab7eac7b709ca9c864e2c94f9d3c89ebc99f17b68", "be8e1ccd5bbcf8736e49e2bd0fe5d827c4332a4b6c1975d480092b1fa0cc9d74"},
	} {
		content, err := spec.OpenContent(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := content.Snapshot(); err != nil || got != c.snapshot {
			t.Errorf("snapshot of %s: %s, %v", filepath.Base(c.path), got, err)
		}
		if got, err := content.Upload(); err != nil || got != c.upload {
			t.Errorf("upload hash of %s: %s, %v", filepath.Base(c.path), got, err)
		}
	}
}

func TestIgnoredFilesAreNotUploaded(t *testing.T) {
	content, err := spec.OpenContent(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range content.Files {
		names = append(names, f.Name)
	}
	if got, want := strings.Join(names, " "), ".amlignore Pkg/A.txt Pkg/b.txt data/a.csv keep.log link.py main.py"; got != want {
		t.Errorf("the files are %s, wanted %s", got, want)
	}
}

func TestAFolderThatLinksToItselfIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "again")); err != nil {
		t.Skip("no links here")
	}
	if _, err := spec.OpenContent(dir); err == nil || !strings.Contains(err.Error(), "link") {
		t.Errorf("it is read: %v", err)
	}
}

// TestAnyFieldOfTheWrongTypeIsRefusedOrTaken puts a value of every type into
// every place of real files: never a panic, and a refusal names the file.
func TestAnyFieldOfTheWrongTypeIsRefusedOrTaken(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "src"), 0o755)
	os.WriteFile(filepath.Join(dir, "src", "a.py"), []byte("pass"), 0o644)
	files := every(t)
	values := []string{"null", "true", "-7", "0", "1.5", "word", "''", "[1, two]", "{a: 1}", "[]", "{}", "2024-01-01", "99999999999999999999", strings.Repeat("x", 300), "a/b c", "${{inputs.x}}", "azureml:", "azureml://", "file:", "\x00"}
	tried := 0
	for noun, source := range files {
		if _, err := create(t, dir, noun, source); err != nil {
			t.Errorf("%s as it stands: %v", noun, err)
		}
		for _, path := range places(t, source) {
			for _, v := range values {
				tried++
				if _, err := create(t, dir, noun, source, path+"="+v); err != nil && !strings.Contains(err.Error(), "job.yml") && !strings.Contains(err.Error(), "--set") {
					t.Errorf("%s: %s=%s: the error names no place: %v", noun, path, v, err)
				}
			}
		}
	}
	t.Logf("%d mutants", tried)
}

// every gives a file of each noun with all that is unlike elsewhere in it.
func every(t *testing.T) map[string]string {
	out := map[string]string{}
	for _, noun := range spec.Nouns {
		data, err := os.ReadFile(filepath.Join("testdata", "every", noun+".yml"))
		if err != nil {
			t.Fatal(err)
		}
		out[noun] = string(data)
	}
	return out
}

// places lists the paths of all values in a document.
func places(t *testing.T, source string) []string {
	d, err := spec.Parse("job.yml", "", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return d.Paths()
}

func FuzzDocuments(f *testing.F) {
	for _, seed := range []string{hello, "a: &a [*a]", "<<: [{}]", "? [a]\n: b", "!!binary x", "command: !!int '7'\nenvironment: azureml:e:1", "{type: command, command: a, environment: {image: b}}"} {
		f.Add(seed, "inputs.a=1")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, source, set string) {
		for _, noun := range spec.Nouns {
			_, err := create(t, dir, noun, source, set)
			if err != nil && strings.Contains(err.Error(), "panic") {
				t.Errorf("%v", err)
			}
		}
	})
}

func FuzzReferences(f *testing.F) {
	for _, seed := range []string{"azureml:a:1", "azureml:a@latest", "azureml://registries/r/environments/e/versions/1", "azureml:/subscriptions/s/resourceGroups/g", "file:x", "https://h", "a:b@c", ""} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, ref string) {
		if strings.ContainsAny(ref, "/\\.") && !strings.Contains(ref, ":") {
			return // a path could name the whole disk
		}
		quoted := asJSON(ref)
		for _, field := range []string{"environment", "compute", "code"} {
			source := "command: echo\n" + field + ": " + quoted + "\n"
			if field != "environment" {
				source += "environment: azureml:e:1\n"
			}
			got, err := create(t, dir, "job", source)
			if err != nil {
				continue
			}
			p := got[len(got)-1].Body["properties"].(map[string]any)
			if id, _ := p[field+"Id"].(string); strings.HasPrefix(id, "/") && strings.Contains(id, "//") {
				t.Errorf("%s %q became %q", field, ref, id)
			}
		}
	})
}
