// Package component has components: the reusable steps that jobs and pipelines
// are made of.
package component

import (
	"context"

	"lapis/fault"
	"lapis/ml/asset"
	"lapis/resource"
)

// Components is the kind of components. The specification is kept as it comes,
// without a null in it: the SDK refuses null where its schema has a default.
func Components() asset.Kind {
	return asset.Kind{
		Segment: "components", Title: "component", Fixed: []string{"componentSpec"},
		Moved: func(id resource.ID, _ string) error {
			return fault.Conflicts("The component '%s:%s' exists with another specification; create a new version.", id.Parent().Name(), id.Name()).With("UserError").At("properties.componentSpec")
		},
		Admit: func(_ context.Context, c *resource.Change, p resource.Document) error {
			spec := p.Object("componentSpec")
			if len(spec) == 0 {
				return fault.Invalid("'properties.componentSpec' is required").With("ValidationError").At("properties.componentSpec")
			}
			spec.Default("name", c.New.ID.Parent().Name())
			spec.Default("version", c.New.ID.Name())
			if spec.Text("type") == "" {
				return fault.Invalid("'properties.componentSpec.type' is required, such as 'command'").With("ValidationError").At("properties.componentSpec.type")
			}
			p["componentSpec"] = spec.Raw()
			return nil
		},
	}
}
