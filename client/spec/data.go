package spec

import (
	"path/filepath"
	"strings"
)

func (b *builder) data() (Result, error) {
	dataType := b.root.str("type")
	if dataType == "" {
		dataType = "uri_folder"
	}
	v, auto, err := b.version("data")
	if err != nil {
		return Result{}, err
	}
	at := b.root.get("path")
	uri := at.text
	var referenced []string
	switch {
	case strings.HasPrefix(uri, "azureml:") && !strings.HasPrefix(uri, "azureml://"):
		return Result{}, at.fault("path", "%q is an asset. The path of data is a local path, azureml://datastores/NAME/paths/…, or a web or storage address.", uri)
	case !remote(uri):
		c, err := b.local(at, "path")
		if err != nil {
			return Result{}, err
		}
		if err := fits(c, dataType, at, "path"); err != nil {
			return Result{}, err
		}
		if dataType == "mltable" {
			if referenced, err = b.mltable(c, at); err != nil {
				return Result{}, err
			}
		}
		place, err := b.world.Upload(b.ctx, c, b.root.str("datastore"), Asset{"data", b.root.str("name"), v})
		if err != nil {
			return Result{}, err
		}
		if uri = "azureml://datastores/" + place.Datastore + "/paths/" + place.Path; b.Target.Registry != "" {
			uri = place.URL
		}
	}
	p := map[string]any{
		"dataType": dataType, "dataUri": uri,
		"isAnonymous": false, "isArchived": false,
		"tags": tagsOf(b.root.get("tags")), "properties": map[string]any{},
	}
	put(p, "description", b.root.str("description"))
	if referenced != nil {
		p["referencedUris"] = referenced
	}
	if a := b.root.get("auto_delete_setting"); a != nil {
		p["autoDeleteSetting"] = autoDelete(a)
	}
	return b.sendRequest(Request{Method: "PUT", Path: b.Target.Path("data", b.root.str("name"), "versions", v), APIVersion: "2023-04-01-preview", Body: map[string]any{"properties": p}, Automatic: auto})
}

func autoDelete(n *Node) map[string]any {
	m := map[string]any{}
	put(m, "condition", pascal(n.str("condition")))
	if v := n.get("value"); v != nil {
		m["value"] = v.literal()
	}
	return m
}

// fits checks that the content is what the type says.
func fits(c *Content, dataType string, n *Node, path string) error {
	switch {
	case dataType == "uri_file" && c.Folder:
		return n.fault(path, "%q is a folder, and the type is uri_file. Make the type uri_folder or name a file.", n.text)
	case (dataType == "uri_folder" || dataType == "mltable") && !c.Folder:
		return n.fault(path, "%q is a file, and the type is %s. Make the type uri_file or name a folder.", n.text, dataType)
	}
	return nil
}

// mltable reads the paths that an MLTable folder refers to.
func (b *builder) mltable(c *Content, n *Node) ([]string, error) {
	d, err := ReadFile(filepath.Join(c.Path, "MLTable"))
	if err != nil {
		return nil, n.fault("path", "the folder %q holds no file MLTable, which data of type mltable needs: %v", n.text, err)
	}
	paths := d.Root.get("paths")
	if paths == nil || paths.kind != sequence {
		return nil, d.Root.fault("paths", "an MLTable lists its paths, each as `- file:`, `- folder:` or `- pattern:`.")
	}
	var out []string
	for _, p := range paths.items {
		for _, key := range []string{"file", "folder", "pattern", "directory"} {
			if s := p.str(key); s != "" {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

var dataTypes = []string{"uri_file", "uri_folder", "mltable"}

var dataAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "path", shape: str, rule: required},
	field{key: "type", shape: choice(dataTypes...)},
	field{key: "datastore", shape: str},
	field{key: "properties", rule: readOnly},
)
