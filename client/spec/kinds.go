package spec

import (
	"path"
	"slices"
	"strings"

	"lapis/pattern"
)

// Nouns are the words that name what a file describes, as in `lapis NOUN
// create`.
var Nouns = []string{"workspace", "compute", "datastore", "data", "environment", "model", "component", "job", "connection", "registry", "online-endpoint", "online-deployment"}

// schemas maps the file name in `$schema`, folded, to its noun.
var schemas = map[string]string{
	"workspace": "workspace", "hub": "workspace", "project": "workspace",
	"amlcompute": "compute", "computeinstance": "compute", "virtualmachinecompute": "compute", "kubernetescompute": "compute", "synapsesparkcompute": "compute",
	"azureblob": "datastore", "azurefile": "datastore", "azuredatalakegen1": "datastore", "azuredatalakegen2": "datastore", "onelake": "datastore",
	"data": "data", "environment": "environment", "model": "model",
	"commandcomponent": "component", "commandjob": "job",
	"connection": "connection", "workspaceconnection": "connection", "registry": "registry",
	"onlineendpoint": "online-endpoint", "managedonlineendpoint": "online-endpoint", "kubernetesonlineendpoint": "online-endpoint",
	"onlinedeployment": "online-deployment", "managedonlinedeployment": "online-deployment", "kubernetesonlinedeployment": "online-deployment",
}

// later maps the kinds that are known and not offered yet, by `type` or by
// the file name in `$schema`, folded, to what they are called.
var later = map[string]string{
	"pipeline": "pipelines", "pipelinejob": "pipelines", "pipelinecomponent": "pipeline components",
	"sweep": "sweeps", "sweepjob": "sweeps",
	"automl": "AutoML", "automljob": "AutoML",
	"spark": "Spark", "sparkjob": "Spark", "sparkcomponent": "Spark",
	"parallel": "parallel steps", "parallelcomponent": "parallel steps", "paralleljob": "parallel steps",
	"import": "data imports", "importjob": "data imports", "importcomponent": "data imports", "dataimport": "data imports",
	"datatransfer": "data transfers", "datatransferjob": "data transfers", "datatransfercomponent": "data transfers",
	"finetuning": "fine-tuning", "azureopenaifinetuning": "fine-tuning", "custommodelfinetuning": "fine-tuning", "distillation": "distillation",
	"schedule": "schedules", "monitorschedule": "schedules", "importschedule": "schedules",
	"batchendpoint": "batch endpoints", "batchdeployment": "batch deployments", "modelbatchdeployment": "batch deployments", "pipelinecomponentbatchdeployment": "batch deployments",
	"featureset": "feature stores", "featurestore": "feature stores", "featurestoreentity": "feature stores", "modelpackage": "model packages", "package": "model packages",
}

// schemaName is the kind that `$schema` names, folded: "commandjob".
func schemaName(root *Node) string {
	s := root.str("$schema")
	if s == "" {
		return ""
	}
	base := path.Base(strings.ReplaceAll(s, `\`, "/"))
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".json"), ".schema")
	return fold(base)
}

// identify checks that the document may be of the noun, and refuses what
// belongs to another or comes later.
func identify(d *Document, noun string) error {
	root := d.Root
	if root.kind != mapping {
		return root.fault("", "the file has to be a mapping of fields, and this is %s.", root.kind)
	}
	named := schemaName(root)
	if what, ok := later[named]; ok {
		return root.fault("$schema", "%s are not offered yet.", what)
	}
	if owner, ok := schemas[named]; ok && owner != noun {
		return root.get("$schema").fault("$schema", "this is a file for `lapis %s`. Use `lapis %s create --file %s`.", owner, owner, d.File)
	}
	if noun == "job" || noun == "component" {
		if t := root.get("type"); t != nil && t.kind == text {
			if what, ok := later[fold(t.text)]; ok {
				return t.fault("type", "%s are not offered yet; command %ss are.", what, noun)
			}
		}
		// A file with neither `type` nor `$schema` tells its kind by its fields.
		for key, what := range map[string]string{"jobs": "pipelines", "trial": "sweeps", "search_space": "sweeps", "trigger": "schedules", "create_job": "schedules"} {
			if root.get("type") == nil && root.get("command") == nil && root.find(key) != nil {
				return root.find(key).fault(key, "%s are not offered yet; command %ss are.", what, noun)
			}
		}
	}
	if noun == "data" && root.find("source") != nil && root.find("type") == nil {
		return root.find("source").fault("source", "data imports are not offered yet.")
	}
	if !slices.Contains(Nouns, noun) {
		return root.fault("", "%s: there is no such kind of file.", noun)
	}
	return nil
}

// The tables, here and in the files of the kinds, hold what Azure ML's own
// schemas hold.

var schemaField = field{key: "$schema", shape: str}

// resource is what most files begin with.
var resource = fields{
	schemaField,
	{key: "id", rule: readOnly},
	{key: "name", shape: name},
	{key: "description", shape: str},
	{key: "tags", shape: tags},
	{key: "creation_context", rule: readOnly},
	{key: "provisioning_state", rule: readOnly},
}

var asset = resource.and(
	field{key: "version", shape: version},
	field{key: "latest_version", rule: readOnly},
	field{key: "auto_delete_setting", shape: fields{
		{key: "condition", shape: choice("created_greater_than", "last_accessed_greater_than")},
		{key: "value", shape: scalar},
	}.check},
)

// tagged takes a mapping whose `type` picks its table.
func tagged(kinds map[string]fields) shape {
	words := make([]string, 0, len(kinds))
	for k := range kinds {
		words = append(words, k)
	}
	slices.Sort(words)
	return func(c *checker, n *Node, path string) {
		if n.kind != mapping {
			c.wrong(n, path, "this is %s where a mapping with a type is wanted.", n.kind)
			return
		}
		t := n.find("type")
		if t == nil {
			c.wrong(n, join(path, "type"), "this field is required; %s.", oneOf(words))
			return
		}
		before := len(c.mistakes)
		choice(words...)(c, t, join(path, "type"))
		if len(c.mistakes) > before {
			return
		}
		kinds[t.text].and(field{key: "type", shape: anything}).check(c, n, path)
	}
}

func words[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// arm takes the id of an Azure resource, such as a storage account.
func arm(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) == before && !resourceID.MatchString(n.text) {
		c.wrong(n, path, "%q is not a resource id. It reads /subscriptions/ID/resourceGroups/NAME/providers/PROVIDER/TYPE/NAME.", n.text)
	}
}

// armID takes the id of a resource in a subscription that Azure may have: its
// own id is a GUID.
func armID(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	arm(c, n, path)
	if len(c.mistakes) == before && !inSubscription.MatchString(n.text) {
		c.wrong(n, path, "%q is not a resource id: the subscription's id is a GUID, as in 12345678-0123-0123-0123-0123456789ab.", n.text)
	}
}

var inSubscription = pattern.New(`(?i)^/subscriptions/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/resourceGroups/[^/]+/providers/.`)
