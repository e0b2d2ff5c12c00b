package spec

import (
	"fmt"
	"slices"
	"strings"

	"lapis/pattern"
)

func checkJob(d *Document, _ Options) error {
	var c checker
	commandJob.check(&c, d.Root, "")
	checkBindings(&c, d.Root)
	return c.err()
}

var bound = pattern.New(`\$\{\{\s*(inputs|outputs)\.([A-Za-z0-9_]+)`)

// checkBindings checks that the command names inputs and outputs that exist.
func checkBindings(c *checker, root *Node) {
	cmd := root.get("command")
	if cmd == nil || cmd.kind != text {
		return
	}
	for _, m := range bound.FindAllStringSubmatch(cmd.text, -1) {
		section, name := m[1], m[2]
		table := root.get(section)
		if table.find(name) != nil || section == "outputs" && name == "default" {
			continue
		}
		var known []string
		if table != nil {
			for _, k := range table.keys {
				known = append(known, k.text)
			}
		}
		c.wrong(cmd, "command", "it uses ${{%s.%s}}, and %s has no %q.%s", section, name, section, name, didYouMean(name, known))
	}
}

func (b *builder) job() (Result, error) {
	r := b.root
	// Everything is read before the first request.
	p := map[string]any{
		"jobType": "Command", "command": r.str("command"),
		"isArchived": false,
		"tags":       tagsOf(r.get("tags")), "properties": tagsOf(r.get("properties")),
		"environmentVariables": tagsOf(r.get("environment_variables")),
	}
	for key, value := range b.Source {
		if properties := p["properties"].(map[string]any); properties[key] == nil {
			properties[key] = value
		}
	}
	put(p, "description", r.str("description"))
	put(p, "parentJobName", r.str("parent_job_name"))

	resources := map[string]any{}
	if n := r.get("resources"); n != nil {
		resources = resourcesOf(n)
		p["resources"] = resources
	}
	if n := r.get("compute"); n != nil {
		if n.text == "local" {
			properties, _ := resources["properties"].(map[string]any)
			if properties == nil {
				properties = map[string]any{}
			}
			properties["IsLocal"] = map[string]any{"IsLocal": true}
			resources["properties"] = properties
			p["resources"] = resources
		} else {
			id, err := b.computeID(n, "compute")
			if err != nil {
				return Result{}, err
			}
			p["computeId"] = id
		}
	}
	if n := r.get("distribution"); n != nil {
		p["distribution"] = distributionOf(n)
	}
	if n := r.get("limits"); n != nil {
		limits := map[string]any{"jobLimitsType": "Command"}
		if t := n.get("timeout"); t != nil {
			seconds, _ := t.whole()
			limits["timeout"] = period(seconds)
		}
		p["limits"] = limits
	}
	if n := r.get("queue_settings"); n != nil {
		q := map[string]any{}
		put(q, "jobTier", pascal(n.str("job_tier")))
		if i := slices.Index([]string{"low", "medium", "high"}, n.str("priority")); i >= 0 {
			q["priority"] = i + 1
		}
		p["queueSettings"] = q
	}
	if n := r.get("identity"); n != nil {
		id := map[string]any{"identityType": map[string]string{"managed": "Managed", "managed_identity": "Managed", "aml_token": "AMLToken", "user_identity": "UserIdentity"}[n.str("type")]}
		put(id, "clientId", n.str("client_id"))
		put(id, "objectId", n.str("object_id"))
		put(id, "resourceId", n.str("msi_resource_id"))
		p["identity"] = id
	}
	if n := r.get("services"); n != nil {
		p["services"] = servicesOf(n)
	}

	inputs, err := b.inputs()
	if err != nil {
		return Result{}, err
	}
	p["inputs"] = inputs
	p["outputs"] = outputsOf(r.get("outputs"))

	if p["environmentId"], err = b.environmentID(r.get("environment"), "environment"); err != nil {
		return Result{}, err
	}
	if n := r.get("code"); n != nil {
		if p["codeId"], err = b.code(n); err != nil {
			return Result{}, err
		}
	}

	name := r.str("name")
	if name == "" {
		name = NewJobName()
	}
	put(p, "displayName", r.str("display_name"))
	if p["displayName"] == nil {
		p["displayName"] = name
	}
	experiment := r.str("experiment_name")
	if experiment == "" {
		experiment = b.Experiment
	}
	if experiment == "" {
		experiment = "Default"
	}
	p["experimentName"] = experiment
	return b.send("PUT", b.Target.Path("jobs", name), "2025-01-01-preview", map[string]any{"properties": p})
}

// code gives the id of a code version: of an upload, or as it is named.
func (b *builder) code(n *Node) (string, error) { return b.codeOf(n, "code") }

// codeOf is code of the field at that path.
func (b *builder) codeOf(n *Node, path string) (string, error) {
	switch {
	case strings.HasPrefix(n.text, "azureml:"):
		return b.reference(n, path, "codes")
	case remote(n.text):
		return n.text, nil
	}
	c, err := b.local(n, path)
	if err != nil {
		return "", err
	}
	return b.world.Code(b.ctx, c)
}

var inputModeWire = map[string]string{
	"ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "mount": "ReadWriteMount", "download": "Download",
	"upload": "Upload", "direct": "Direct", "eval_mount": "EvalMount", "eval_download": "EvalDownload",
}

func (b *builder) inputs() (map[string]any, error) {
	out := map[string]any{}
	n := b.root.get("inputs")
	if n == nil {
		return out, nil
	}
	for i, k := range n.keys {
		v, path := n.values[i], join("inputs", k.text)
		if !inputName.MatchString(k.text) {
			return nil, k.fault(path, "the name of an input has letters, digits and underscores, and begins with no digit.")
		}
		if v.kind != mapping {
			out[k.text] = map[string]any{"jobInputType": "literal", "value": v.literal()}
			continue
		}
		if literal := v.get("value"); literal != nil {
			out[k.text] = map[string]any{"jobInputType": "literal", "value": literal.literal()}
			continue
		}
		m, err := b.input(v, path)
		if err != nil {
			return nil, err
		}
		out[k.text] = m
	}
	return out, nil
}

var inputName = pattern.New(`^[A-Za-z_][A-Za-z0-9_.]*$`)

func (b *builder) input(v *Node, path string) (map[string]any, error) {
	inputType := v.str("type")
	if inputType == "" {
		inputType = "uri_folder"
	}
	m := map[string]any{"jobInputType": inputType}
	put(m, "mode", inputModeWire[v.str("mode")])
	put(m, "pathOnCompute", v.str("path_on_compute"))
	at := v.get("path")
	switch uri := at.text; {
	case binding.MatchString(uri):
		m["uri"] = uri
	case strings.HasPrefix(uri, "azureml:") && !strings.HasPrefix(uri, "azureml://") || strings.HasPrefix(uri, "azureml://registries/"):
		collection := "data"
		if slices.Contains(modelTypes, inputType) {
			collection = "models"
		}
		id, err := b.reference(at, join(path, "path"), collection)
		if err != nil {
			return nil, err
		}
		m["uri"] = id
	case remote(uri):
		m["uri"] = uri
	default:
		c, err := b.local(at, join(path, "path"))
		if err != nil {
			return nil, err
		}
		if err := fits(c, inputType, at, join(path, "path")); err != nil {
			return nil, err
		}
		place, err := b.world.Upload(b.ctx, c, v.str("datastore"), Asset{})
		if err != nil {
			return nil, err
		}
		address := "azureml://datastores/" + place.Datastore + "/paths/" + place.Path
		if inputType == "uri_folder" {
			address = strings.TrimSuffix(address, "/") + "/"
		}
		m["uri"] = address
	}
	return m, nil
}

func outputsOf(n *Node) map[string]any {
	out := map[string]any{}
	if n == nil {
		return out
	}
	for i, k := range n.keys {
		v := n.values[i]
		m := map[string]any{"jobOutputType": "uri_folder"}
		put(m, "jobOutputType", v.str("type"))
		put(m, "mode", inputModeWire[v.str("mode")])
		put(m, "uri", v.str("path"))
		put(m, "assetName", v.str("name"))
		put(m, "assetVersion", v.str("version"))
		put(m, "description", v.str("description"))
		out[k.text] = m
	}
	return out
}

func resourcesOf(n *Node) map[string]any {
	m := map[string]any{"properties": map[string]any{}}
	for _, key := range []string{"instance_count", "max_instance_count", "instance_type", "shm_size", "locations", "properties"} {
		put(m, camel(key), n.get(key))
	}
	if d := n.get("docker_args"); d != nil {
		if d.kind == sequence {
			m["dockerArgsList"] = d.plain()
		} else {
			m["dockerArgs"] = d.text
		}
	}
	return m
}

func distributionOf(n *Node) map[string]any {
	kind := n.str("type")
	m := map[string]any{"distributionType": map[string]string{"mpi": "Mpi", "pytorch": "PyTorch", "tensorflow": "TensorFlow", "ray": "Ray"}[kind]}
	if kind == "tensorflow" {
		m["parameterServerCount"] = 0
	}
	for i, k := range n.keys {
		if k.text != "type" {
			put(m, camel(k.text), n.values[i])
		}
	}
	return m
}

func servicesOf(n *Node) map[string]any {
	wire := map[string]string{"jupyter_lab": "JupyterLab", "vs_code": "VSCode", "ssh": "SSH", "tensor_board": "TensorBoard", "custom": "Custom"}
	out := map[string]any{}
	for i, k := range n.keys {
		v := n.values[i]
		kind := v.str("type")
		if w, ok := wire[kind]; ok {
			kind = w
		}
		m := map[string]any{"jobServiceType": kind}
		put(m, "port", v.get("port"))
		if v.str("nodes") != "" {
			m["nodes"] = map[string]any{"nodesValueType": "All"}
		}
		properties := map[string]any{}
		if given := v.get("properties"); given != nil {
			properties = given.plain().(map[string]any)
		}
		put(properties, "logDir", v.str("log_dir"))
		put(properties, "sshPublicKeys", v.str("ssh_public_keys"))
		if len(properties) > 0 {
			m["properties"] = properties
		}
		out[k.text] = m
	}
	return out
}

// NewJobName makes up a name that can be said aloud.
func NewJobName() string {
	pick := func(words []string) string {
		var n int
		for _, c := range random(4) {
			n = n*36 + int(c)
		}
		return words[n%len(words)]
	}
	return fmt.Sprintf("%s_%s_%s", pick(adjectives), pick(nouns), random(10))
}

var adjectives = strings.Fields(`amber ample azure bold brave bright brisk calm clever cool coral crisp dapper eager early
	fair fancy fine fond free fresh gentle glad golden good great green happy honest humble ivory jolly keen kind lively loyal
	lucid lucky mellow merry mighty mild modest neat nice nimble noble olive plain polite proud quick quiet rapid ready red
	serene sharp shiny silver sincere smart smooth snowy solid steady strong sunny sweet swift tidy upbeat vivid warm wise witty yellow`)

var nouns = strings.Fields(`acorn anchor apple arrow badge basil beach berry bird boat book branch bread bridge brook button
	cabin candle canoe carrot castle cedar cherry cloud clover coast comet cricket crown daisy deer dolphin door drum eagle
	feather fern field fig finch flute forest fox garden ginger grape guitar hill honey island ivory jacket kettle kite lake
	lamp leaf lemon lion lute maple marble meadow melon moon music nest oak ocean onion orange owl panda pasta peach pear
	pepper pillow pine plum pond prairie rain rice river rocket rose sail seed shell sparrow spruce star stone sugar tent tree tulip turtle valley violet wave wheat wolf`)

var jobResources = fields{
	{key: "instance_count", shape: whole(1)},
	{key: "max_instance_count", shape: whole(1)},
	{key: "instance_type", shape: str},
	{key: "locations", shape: listOf(str)},
	{key: "shm_size", shape: str},
	{key: "docker_args", shape: func(c *checker, n *Node, path string) {
		if n.kind == sequence {
			listOf(str)(c, n, path)
		} else {
			str(c, n, path)
		}
	}},
	{key: "properties", shape: mapOf(anything)},
}

var distributions = map[string]fields{
	"mpi":        {{key: "process_count_per_instance", shape: whole(1)}},
	"pytorch":    {{key: "process_count_per_instance", shape: whole(1)}},
	"tensorflow": {{key: "parameter_server_count", shape: whole(0)}, {key: "worker_count", shape: whole(0)}},
	"ray": {
		{key: "port", shape: whole(1)}, {key: "address", shape: str}, {key: "include_dashboard", shape: flag}, {key: "dashboard_port", shape: whole(1)},
		{key: "head_node_additional_args", shape: str}, {key: "worker_node_additional_args", shape: str},
	},
}

var service = fields{
	{key: "port", shape: whole(0)},
	{key: "nodes", shape: nullable(choice("all"))},
	{key: "properties", shape: mapOf(anything)},
	{key: "endpoint", rule: readOnly},
	{key: "status", rule: readOnly},
	{key: "error_message", rule: readOnly},
}

var services = map[string]fields{
	"jupyter_lab":  service,
	"vs_code":      service,
	"ssh":          service.and(field{key: "ssh_public_keys", shape: str}),
	"tensor_board": service.and(field{key: "log_dir", shape: str}),
	"custom":       service, "Tracking": service, "Studio": service, "RayDashboard": service,
}

var jobIdentity = tagged(map[string]fields{
	"managed":          {{key: "client_id", shape: str}, {key: "object_id", shape: str}, {key: "msi_resource_id", shape: str}},
	"managed_identity": {{key: "client_id", shape: str}, {key: "object_id", shape: str}, {key: "msi_resource_id", shape: str}},
	"aml_token":        {},
	"user_identity":    {},
})

var inputModes = []string{"download", "ro_mount", "direct", "eval_mount", "eval_download"}

// input takes a literal, or a mapping with the path of data or a model.
func input(c *checker, n *Node, path string) {
	if n.kind != mapping {
		scalar(c, n, path)
		return
	}
	if n.find("value") != nil {
		fields{{key: "value", shape: scalar, rule: required}}.check(c, n, path)
		return
	}
	fields{
		{key: "type", shape: choice(slices.Concat(dataTypes, modelTypes)...)},
		{key: "path", shape: str, rule: required},
		{key: "path_on_compute", shape: str},
		{key: "mode", shape: choice(inputModes...)},
		{key: "datastore", shape: str},
	}.check(c, n, path)
}

var output = fields{
	{key: "type", shape: choice(slices.Concat(dataTypes, modelTypes)...)},
	{key: "path", shape: str},
	{key: "mode", shape: choice("mount", "rw_mount", "upload", "direct")},
	{key: "name", shape: name},
	{key: "version", shape: version},
	{key: "description", shape: str},
}

var command = fields{
	{key: "command", shape: str, rule: required},
	{key: "code", shape: str},
	{key: "environment", shape: environmentReference, rule: required},
	{key: "resources", shape: jobResources.check},
	{key: "distribution", shape: tagged(distributions)},
	{key: "queue_settings", shape: fields{
		{key: "job_tier", shape: func(c *checker, n *Node, path string) {
			present(c, n, path)
			nullable(choice("spot", "basic", "standard", "premium", "null"))(c, n, path)
		}},
		{key: "priority", shape: choice("low", "medium", "high")},
	}.check},
}

var commandJob = resource.and(command...).and(
	field{key: "tags", shape: mapOf(nullable(str))},
	field{key: "type", shape: choice("command")},
	field{key: "display_name", shape: str},
	field{key: "experiment_name", shape: name},
	field{key: "compute", shape: str},
	field{key: "properties", shape: mapOf(nullable(str))},
	field{key: "environment_variables", shape: mapOf(scalar)},
	field{key: "identity", shape: jobIdentity},
	field{key: "services", shape: mapOf(tagged(services))},
	field{key: "limits", shape: fields{{key: "timeout", shape: whole(1)}}.check},
	field{key: "inputs", shape: mapOf(input)},
	field{key: "outputs", shape: mapOf(nullable(func(c *checker, n *Node, path string) {
		output.check(c, n, path)
		if v := n.get("version"); v != nil && n.get("name") == nil {
			c.wrong(v, join(path, "version"), "an output with a version needs a name. Add `name:`.")
		}
	}))},
	field{key: "parent_job_name", shape: name},
	field{key: "status", rule: readOnly},
	field{key: "log_files", rule: readOnly},
	field{key: "parameters", rule: readOnly},
)
