package data

import (
	"context"
	"strings"

	"lapis/fault"
	"lapis/ml/asset"
	"lapis/resource"
)

// dataTypes are the types of data assets, by lower-case name.
var dataTypes = map[string]string{"uri_file": "uri_file", "uri_folder": "uri_folder", "mltable": "mltable"}

// Assets is the kind of data assets.
func Assets(store resource.Store) asset.Kind {
	return asset.Kind{
		Segment: "data", Title: "data asset", Fixed: []string{"dataUri", "dataType"},
		Admit: func(ctx context.Context, c *resource.Change, p resource.Document) error {
			kind, ok := dataTypes[strings.ToLower(p.Text("dataType"))]
			if !ok {
				return fault.Invalid("'properties.dataType' is %q; it must be uri_file, uri_folder or mltable", p.Text("dataType")).With("ValidationError").At("properties.dataType")
			}
			p.Set("dataType", kind)
			uri := p.Text("dataUri")
			if uri == "" {
				return fault.Invalid("'properties.dataUri' is required: where the data lies").With("ValidationError").At("properties.dataUri")
			}
			_, err := Locate(ctx, store, c.New.ID, uri)
			return err
		},
	}
}
