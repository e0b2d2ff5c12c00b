package spec

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/pattern"
)

var componentName = pattern.New(`^[a-z][a-z0-9_]*$`)

func checkComponent(d *Document, _ Options) error {
	var c checker
	commandComponent.check(&c, d.Root, "")
	if n := d.Root.get("name"); n != nil && n.kind == text && n.text != "" && !componentName.MatchString(n.text) {
		c.wrong(n, "name", "%q: the name of a component has lower-case letters, digits and underscores, and begins with a letter.", n.text)
	}
	checkBindings(&c, d.Root)
	return c.err()
}

func (b *builder) component() (Result, error) {
	r := b.root
	s := map[string]any{
		"name": r.str("name"), "type": "command", "command": r.str("command"),
		"is_deterministic": true, "_source": "YAML.COMPONENT",
	}
	for _, key := range []string{"$schema", "description", "display_name", "version"} {
		put(s, key, r.str(key))
	}
	if n := r.get("is_deterministic"); n != nil {
		s["is_deterministic"] = n.truth()
	}
	if n := r.get("tags"); n != nil && len(n.keys) > 0 {
		s["tags"] = tagsOf(n)
	}
	for _, key := range []string{"resources", "properties"} {
		if n := r.get(key); n != nil && len(n.keys) > 0 {
			s[key] = n.plain()
		}
	}
	if n := r.get("distribution"); n != nil {
		m := n.plain().(map[string]any)
		if m["type"] == "tensorflow" && m["parameter_server_count"] == nil {
			m["parameter_server_count"] = 0
		}
		s["distribution"] = m
	}
	for _, key := range []string{"inputs", "outputs"} {
		if n := r.get(key); n != nil && len(n.keys) > 0 {
			s[key] = portsOf(n)
		}
	}
	includes := r.get("additional_includes")
	if includes != nil && len(includes.items) > 0 {
		s["additional_includes"] = includes.plain()
	}

	environment, err := b.environmentID(r.get("environment"), "environment")
	if err != nil {
		return Result{}, err
	}
	if strings.HasPrefix(environment, "/") {
		environment = "azureml:" + environment
	}
	s["environment"] = environment
	switch n := r.get("code"); {
	case includes != nil && len(includes.items) > 0:
		if s["code"], err = b.merged(n, includes); err != nil {
			return Result{}, err
		}
	case n != nil:
		if s["code"], err = b.code(n); err != nil {
			return Result{}, err
		}
	}
	if code, ok := s["code"].(string); ok && strings.HasPrefix(code, "/") {
		s["code"] = "azureml:" + code
	}

	v, auto, err := b.version("components")
	if err != nil {
		return Result{}, err
	}
	hashed := maps.Clone(s)
	delete(hashed, "version")
	p := map[string]any{
		"componentSpec": s,
		"isAnonymous":   false, "isArchived": false,
		"properties": map[string]any{"client_component_hash": contentHash(hashed)},
		"tags":       tagsOf(r.get("tags")),
	}
	put(p, "description", r.str("description"))
	return b.sendRequest(Request{Method: "PUT", Path: b.Target.Path("components", r.str("name"), "versions", v), APIVersion: "2024-01-01-preview", Body: map[string]any{"properties": p}, Automatic: auto})
}

// portsOf gives inputs or outputs as the specification has them: numbers are
// words there.
func portsOf(n *Node) map[string]any {
	out := map[string]any{}
	for i, k := range n.keys {
		v := n.values[i]
		m := map[string]any{}
		for j, key := range v.keys {
			switch value := v.values[j]; key.text {
			case "default", "min", "max":
				m[key.text] = value.literal()
				if f, err := strconv.ParseFloat(value.text, 64); v.str("type") == "number" && err == nil {
					m[key.text] = shortest(f)
				}
			case "enum":
				list := []any{}
				for _, item := range value.items {
					list = append(list, item.literal())
				}
				m[key.text] = list
			default:
				put(m, key.text, value)
			}
		}
		out[k.text] = m
	}
	return out
}

// merged is the code folder together with the additional includes, each under
// its own name. A later include must not hide an earlier file.
func (b *builder) merged(code, includes *Node) (string, error) {
	all := &Content{Name: "code_with_additional_includes", Folder: true, hashes: map[string]string{}}
	seen := map[string]string{}
	add := func(n *Node, path, prefix string) error {
		c, err := b.local(n, path)
		if err != nil {
			if b.DryRun && missing(err) {
				return nil // a build step may still have to make it
			}
			return err
		}
		all.Path = c.Path
		for _, f := range c.Files {
			name := f.Name
			if prefix != "" && c.Folder {
				name = prefix + "/" + name
			}
			if other, ok := seen[name]; ok {
				return n.fault(path, "it brings a file %q, which %s brings too. Rename one.", name, other)
			}
			seen[name] = n.text
			all.Files = append(all.Files, File{Path: f.Path, Name: name, Size: f.Size})
			all.Size += f.Size
		}
		return nil
	}
	if code != nil && !remote(code.text) {
		if err := add(code, "code", ""); err != nil {
			return "", err
		}
	}
	for i, n := range includes.items {
		path := join("additional_includes", string(rune('0'+i%10)))
		base := strings.TrimSuffix(n.text, "/")
		base = base[strings.LastIndexByte(base, '/')+1:]
		if err := add(n, path, base); err != nil {
			return "", err
		}
	}
	slices.SortFunc(all.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return b.world.Code(b.ctx, all)
}

func missing(err error) bool {
	f := fault.Find(err)
	return f != nil && (errors.Is(err, fs.ErrNotExist) || strings.Contains(f.Message, "there is no file or folder"))
}

var portTypes = slices.Concat([]string{"path"}, dataTypes, modelTypes)

var parameterTypes = []string{"string", "integer", "number", "boolean"}

var portModes = []string{"download", "ro_mount", "rw_mount", "mount", "upload", "direct", "eval_mount", "eval_download", "link"}

// parameter takes a value that a parameter of that type can have: `2`, and "2"
// too, for a number.
func parameter(kind string) shape {
	return func(c *checker, n *Node, path string) {
		before := len(c.mistakes)
		scalar(c, n, path)
		if len(c.mistakes) > before {
			return
		}
		var err error
		switch kind {
		case "integer":
			if n.kind != float {
				_, err = strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, 64)
			}
		case "number":
			_, err = n.number()
		case "boolean":
			if n.kind != boolean {
				_, err = strconv.ParseBool(n.text)
			}
		}
		if err != nil || kind != "boolean" && kind != "string" && n.kind == boolean {
			c.wrong(n, path, "%q is no value of the type %s.", n.text, kind)
		}
	}
}

// componentInput takes a parameter or a port.
func componentInput(c *checker, n *Node, path string) {
	f := fields{
		{key: "type", shape: choice(slices.Concat(parameterTypes, portTypes)...), rule: required},
		{key: "description", shape: str},
		{key: "optional", shape: flag},
		{key: "default", shape: scalar},
	}
	if kind := strings.ToLower(n.str("type")); n.kind == mapping && slices.Contains(parameterTypes, kind) {
		bound := scalar
		if kind != "string" {
			bound = parameter("number")
		}
		f = f.and(field{key: "default", shape: parameter(kind)}, field{key: "min", shape: bound}, field{key: "max", shape: bound}, field{key: "enum", shape: listOf(str)})
	} else {
		f = f.and(field{key: "mode", shape: choice(portModes...)})
	}
	f.check(c, n, path)
}

var commandComponent = asset.and(command...).and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "name", shape: name, rule: required},
	field{key: "type", shape: choice("command")},
	field{key: "display_name", shape: str},
	field{key: "is_deterministic", shape: flag},
	field{key: "inputs", shape: mapOf(componentInput)},
	field{key: "outputs", shape: mapOf(fields{
		{key: "type", shape: choice(slices.Concat(portTypes, parameterTypes)...), rule: required},
		{key: "description", shape: str},
		{key: "mode", shape: choice(portModes...)},
		{key: "early_available", shape: flag},
	}.check)},
	field{key: "properties", shape: mapOf(anything)},
	field{key: "additional_includes", shape: listOf(str)},
	field{key: "intellectual_property", rule: readOnly},
)
