package spec

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/pattern"
)

// Options are what the command line adds to a file.
type Options struct {
	Target    Target
	Location  string // overrides the workspace's
	Workspace string // given with --workspace for a workspace file without a name

	// Experiment is the experiment of a job whose file names none.
	Experiment string

	// Source is where a job's code comes from: properties such as the commit,
	// which the file's own outrank.
	Source map[string]string

	// Local makes an endpoint a local one.
	Local bool

	// Script says what is wrong with a deployment's scoring script, before
	// anything is sent. SkipScript leaves even the check out that it is there.
	Script     func(ctx context.Context, file string) error
	SkipScript bool

	// DryRun lets a component's parts that a build step may still have to
	// make be absent.
	DryRun bool
}

// Result is what came of a file.
type Result struct {
	Path    string          // the resource's id
	Reply   json.RawMessage // what the server answered
	Existed bool            // a job of that name was there before; it does not run again
}

// Create checks the document as a file of the noun and sends its requests to
// the world, what is referred to first and the resource itself last. Everything
// the file and the folders beside it can be wrong in is found before the
// first request.
func Create(ctx context.Context, d *Document, noun string, o Options, w World) (Result, error) {
	if err := Check(ctx, d, noun, o); err != nil {
		return Result{}, err
	}
	return build(ctx, d, noun, o, w)
}

// Check finds what is wrong with the document, without a server.
func Check(ctx context.Context, d *Document, noun string, o Options) error {
	if err := identify(d, noun); err != nil {
		return err
	}
	if err := kindOf[noun].check(d, o); err != nil {
		return err
	}
	if o.Target.Registry != "" && !slices.Contains([]string{"data", "environment", "model", "component"}, noun) {
		return fault.Invalid("A registry holds data, environments, models and components, and no %s.", noun)
	}
	_, err := build(ctx, d, noun, o, &rehearsal{DryRun{Target: o.Target, Storage: "https://storage/container"}})
	return err
}

// rehearsal goes through a file's requests without reading what would be
// uploaded.
type rehearsal struct{ DryRun }

func (r *rehearsal) Code(_ context.Context, c *Content) (string, error) {
	return r.Target.Path("codes", "code", "versions", "1"), nil
}

func (r *rehearsal) Upload(_ context.Context, c *Content, datastore string, _ Asset) (Place, error) {
	if r.Target.Registry != "" {
		return Place{URL: r.Storage + "/" + c.Name}, nil
	}
	if datastore == "" {
		datastore = DefaultDatastore
	}
	return Place{Datastore: datastore, Path: "LocalUpload/hash/" + c.Name, URL: r.Storage + "/LocalUpload/hash/" + c.Name}, nil
}

// kindOf has the checks and the builder of each noun.
var kindOf map[string]struct {
	check func(*Document, Options) error
	build func(*builder) (Result, error)
}

func init() {
	kindOf = map[string]struct {
		check func(*Document, Options) error
		build func(*builder) (Result, error)
	}{
		"workspace":   {checkWorkspace, (*builder).workspace},
		"compute":     {checkTyped(computes, "amlcompute"), (*builder).compute},
		"datastore":   {checkTyped(datastores, "azure_blob"), (*builder).datastore},
		"data":        {checkTable(dataAsset), (*builder).data},
		"environment": {checkTable(environmentAsset), (*builder).environment},
		"model":       {checkTable(modelAsset), (*builder).model},
		"component":   {checkComponent, (*builder).component},
		"job":         {checkJob, (*builder).job},
		"connection":  {checkConnection, (*builder).connection},
		"registry":    {checkTable(registryResource), (*builder).registry},

		"online-endpoint":   {checkOnlineEndpoint, (*builder).onlineEndpoint},
		"online-deployment": {checkOnlineDeployment, (*builder).onlineDeployment},
	}
}

func checkTable(f fields) func(*Document, Options) error {
	return func(d *Document, _ Options) error {
		var c checker
		f.check(&c, d.Root, "")
		return c.err()
	}
}

// checkTyped checks a file whose `type` picks the table.
func checkTyped(tables map[string]fields, example string) func(*Document, Options) error {
	return func(d *Document, _ Options) error {
		var c checker
		t := d.Root.get("type")
		if t == nil {
			c.wrong(d.Root, "type", "this field is required, as in `type: %s`; %s.", example, oneOf(words(tables)))
			return c.err()
		}
		choice(words(tables)...)(&c, t, "type")
		if err := c.err(); err != nil {
			return err
		}
		tables[t.text].check(&c, d.Root, "")
		return c.err()
	}
}

func build(ctx context.Context, d *Document, noun string, o Options, w World) (Result, error) {
	b := &builder{ctx: ctx, doc: d, root: d.Root, Options: o, world: w, contents: map[string]*Content{}}
	return kindOf[noun].build(b)
}

// builder makes the requests of one document.
type builder struct {
	Options
	ctx      context.Context
	doc      *Document
	root     *Node
	world    World
	contents map[string]*Content
}

// send sends the request for the resource itself.
func (b *builder) send(method, path, version string, body map[string]any) (Result, error) {
	return b.sendRequest(Request{Method: method, Path: path, APIVersion: version, Body: body})
}

func (b *builder) sendRequest(r Request) (Result, error) {
	reply, err := b.world.Send(b.ctx, r)
	return Result{Path: r.Path, Reply: reply}, b.root.placed("", err)
}

// wireFields are the fields that the wire has other names for.
var wireFields = map[string]string{
	"computeId": "compute", "environmentId": "environment", "codeId": "code", "dataUri": "path", "modelUri": "path", "uri": "path",
	"dataType": "type", "modelType": "type", "jobType": "type", "computeType": "type", "datastoreType": "type", "category": "type", "vmSize": "size",
	"minNodeCount": "min_instances", "maxNodeCount": "max_instances", "assetName": "name", "assetVersion": "version", "condaFile": "conda_file",
	"codeConfiguration": "code_configuration", "capacity": "instance_count", "requestTimeout": "request_timeout_ms", "maxQueueWait": "max_queue_wait_ms", "swaggerUri": "openapi_uri",
}

// placed gives what a server says about a field of a request the place that
// the field has in the file. at is the path of n.
func (n *Node) placed(at string, err error) error {
	f := fault.Find(err)
	if f == nil || f.Target == "" || n == nil {
		return err
	}
	if value, path := n.holding(f.Target, at); value != nil {
		placed := value.fault(path, "%s", f.Message)
		placed.Kind, placed.Code, placed.Details = f.Kind, f.Code, f.Details
		return placed.From(err)
	}
	node := n
	for step := range strings.SplitSeq(f.Target, ".") {
		if step == "properties" || step == "scaleSettings" && node.find("scale_settings") == nil || step == "componentSpec" || step == "sku" {
			continue
		}
		field, ok := wireFields[step]
		if !ok {
			field = snake(step)
		}
		next := node.find(step)
		if next == nil {
			if next = node.find(field); next == nil {
				break
			}
			step = field
		}
		node, at = next, join(at, step)
	}
	if node == n {
		return err
	}
	if path := node.find("path"); path != nil && path.kind == text {
		node, at = path, join(at, "path")
	}
	placed := node.fault(at, "%s", f.Message)
	placed.Kind, placed.Code, placed.Details = f.Kind, f.Code, f.Details
	return placed.From(err)
}

// holding finds the value that is the address, or refers to the asset of that
// name, and its path.
func (n *Node) holding(s, at string) (*Node, string) {
	if n.kind == text && (n.text == s && strings.Contains(s, ":") || strings.HasPrefix(n.text, "azureml:"+s+":")) {
		return n, at
	}
	for i, v := range n.values {
		if found, path := v.holding(s, join(at, n.keys[i].text)); found != nil {
			return found, path
		}
	}
	for i, v := range n.items {
		if found, path := v.holding(s, join(at, strconv.Itoa(i))); found != nil {
			return found, path
		}
	}
	return nil, ""
}

// snake writes camelCase as snake_case.
func snake(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// version is the file's, or the next one; the second value tells which.
func (b *builder) version(collection string) (string, bool, error) {
	return b.versionOf(b.root, collection)
}

// versionOf is version of an asset that stands in place in a file.
func (b *builder) versionOf(n *Node, collection string) (string, bool, error) {
	if v := n.str("version"); v != "" {
		return v, false, nil
	}
	if b.Target.Registry != "" {
		return "", false, n.fault("version", "this field is required in a registry.")
	}
	v, err := b.world.NextVersion(b.ctx, collection, n.str("name"))
	return v, true, err
}

// idOf is the id of what was sent: another version may have been taken than
// was asked for.
func idOf(reply json.RawMessage, path string) string {
	var r struct{ ID string }
	if json.Unmarshal(reply, &r) == nil && r.ID != "" {
		return r.ID
	}
	return path
}

// local opens the file or folder that the field at path names.
func (b *builder) local(n *Node, path string) (*Content, error) {
	name := strings.TrimPrefix(n.text, "file://")
	name = strings.TrimPrefix(name, "file:")
	if strings.ContainsRune(name, 0) || name == "" {
		return nil, n.fault(path, "%q is not a path.", n.text)
	}
	full := filepath.FromSlash(name)
	if !filepath.IsAbs(full) {
		full = filepath.Join(n.doc.Dir, full)
	}
	if c, ok := b.contents[full]; ok {
		return c, nil
	}
	c, err := OpenContent(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, n.fault(path, "there is no file or folder %q; paths start at the folder of the YAML file. Correct the path or make it.", n.text)
	case errors.Is(err, fs.ErrPermission):
		return nil, n.fault(path, "%q may not be read. Check its permissions.", n.text)
	case fault.Find(err) != nil:
		return nil, n.fault(path, "%v", err)
	case err != nil:
		return nil, n.fault(path, "%q cannot be read: %v.", n.text, err)
	}
	b.contents[full] = c
	return c, nil
}

// readLocal reads a small file, such as a conda file.
func (b *builder) readLocal(n *Node, path string) (*Document, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(n.text, "file://"), "file:")
	full := filepath.FromSlash(name)
	if !filepath.IsAbs(full) {
		full = filepath.Join(n.doc.Dir, full)
	}
	if info, err := os.Stat(full); err != nil || info.IsDir() {
		return nil, n.fault(path, "there is no file %q; paths start at the folder of the YAML file. Correct the path or make it.", n.text)
	}
	d, err := ReadFile(full)
	if err != nil {
		return nil, err
	}
	d.File = filepath.ToSlash(filepath.Join(filepath.Dir(n.doc.File), name))
	if filepath.IsAbs(filepath.FromSlash(name)) {
		d.File = name
	}
	return d, nil
}

var (
	remoteForm = pattern.New(`^(https?|wasbs?|abfss?|adl|azureml|hdfs|s3|gs|dbfs)://|^runs:/|^git\+|^azureml:`)
	resourceID = pattern.New(`^/subscriptions/[^/<>]+/resource[gG]roups/[^/<>]+(/providers/[^/<>]+(/[^/<>]+/[^/<>]+)+)?$`)
	registryID = pattern.New(`^azureml://registries/[^/]+/[a-z]+/[^/]+/(versions|labels)/[^/]+$`)
	binding    = pattern.New(`^\s*\$\{\{.*\}\}\s*$`)
)

// remote tells an address from a local path.
func remote(s string) bool { return remoteForm.MatchString(s) }

// reference gives the resource id that `azureml:name:version`,
// `azureml:name@label` or `azureml:/subscriptions/…` stands for.
func (b *builder) reference(n *Node, path, collection string) (string, error) {
	s := n.text
	switch {
	case strings.HasPrefix(s, "azureml://registries/"):
		if !registryID.MatchString(s) {
			return "", n.fault(path, "%q does not name a version. It reads azureml://registries/REGISTRY/%s/NAME/versions/VERSION or …/labels/latest.", s, collection)
		}
		return s, nil
	case b.Target.Registry != "":
		return "", n.fault(path, "%q: in a registry, only what lies in a registry can be referred to. Write azureml://registries/REGISTRY/%s/NAME/versions/VERSION.", s, collection)
	case strings.HasPrefix(s, "azureml://"):
		return "", n.fault(path, "%q does not refer to %s. Write azureml:NAME:VERSION, azureml:NAME@latest or azureml://registries/REGISTRY/%s/NAME/versions/VERSION.", s, collection, collection)
	case strings.HasPrefix(s, "azureml:/"):
		id := strings.TrimPrefix(s, "azureml:")
		if !resourceID.MatchString(id) {
			return "", n.fault(path, "%q is not a resource id.", id)
		}
		return id, nil
	}
	ref, ok := strings.CutPrefix(s, "azureml:")
	if !ok {
		return "", n.fault(path, "%q is not a reference. To name an asset that exists write azureml:NAME:VERSION or azureml:NAME@latest.", s)
	}
	if name, label, ok := strings.Cut(ref, "@"); ok {
		if name == "" || label == "" || strings.ContainsAny(ref, "/ ") {
			return "", n.fault(path, "%q lacks a name or a label. Write azureml:NAME@latest.", s)
		}
		id, err := b.world.Labelled(b.ctx, collection, name, label)
		if f := fault.Find(err); f != nil && f.Kind == fault.Missing {
			placed := n.fault(path, "%s", f.Message)
			placed.Kind, placed.Code = f.Kind, f.Code
			return "", placed
		}
		return id, err
	}
	name, version, ok := strings.Cut(ref, ":")
	if !ok || name == "" || version == "" || strings.ContainsAny(ref, "/ ") {
		return "", n.fault(path, "%q names no version. Write azureml:NAME:VERSION or azureml:NAME@latest.", s)
	}
	return b.Target.Path(collection, name, "versions", version), nil
}

// compute gives the resource id of a compute target.
func (b *builder) computeID(n *Node, path string) (string, error) {
	s := strings.TrimPrefix(n.text, "azureml:")
	switch {
	case strings.HasPrefix(s, "/"):
		if !resourceID.MatchString(s) {
			return "", n.fault(path, "%q is not a resource id.", s)
		}
		return s, nil
	case s == "" || strings.ContainsAny(s, "/<> \t"):
		return "", n.fault(path, "%q is not the name of a compute. `lapis compute list` shows those that there are.", n.text)
	}
	return b.Target.Path("computes", s), nil
}

// put sets a key unless the value says nothing.
func put(m map[string]any, key string, value any) {
	switch v := value.(type) {
	case nil:
		return
	case string:
		if v == "" {
			return
		}
	case *Node:
		if v == nil {
			return
		}
		m[key] = v.plain()
		return
	case map[string]any:
		if v == nil {
			return
		}
	}
	m[key] = value
}

// tagsOf gives tags as words; none as an empty mapping.
func tagsOf(n *Node) map[string]any {
	m := map[string]any{}
	if n == nil {
		return m
	}
	for i, k := range n.keys {
		if n.values[i].kind == null {
			m[k.text] = nil
		} else {
			m[k.text] = n.values[i].literal()
		}
	}
	return m
}

// contentHash is a hash over a value's JSON, for the names of anonymous
// assets: the same content has the same name.
func contentHash(v any) string {
	data, _ := json.Marshal(v)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// random is n characters that no other resource is likely to have.
func random(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// period writes seconds as an ISO 8601 duration: 900 is PT15M.
func period(seconds int64) string {
	if seconds == 0 {
		return "P0D"
	}
	out := "P"
	if d := seconds / 86400; d > 0 {
		out += fmt.Sprintf("%dD", d)
	}
	if rest := seconds % 86400; rest > 0 {
		out += "T"
		for _, unit := range []struct {
			seconds int64
			letter  string
		}{{3600, "H"}, {60, "M"}, {1, "S"}} {
			if n := rest / unit.seconds; n > 0 {
				out += fmt.Sprintf("%d%s", n, unit.letter)
				rest %= unit.seconds
			}
		}
	}
	return out
}

// pascal writes snake_case as PascalCase.
func pascal(s string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(s, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

// camel writes snake_case as camelCase.
func camel(s string) string {
	p := pascal(s)
	if p == "" {
		return p
	}
	return strings.ToLower(p[:1]) + p[1:]
}
