package environment

import (
	"context"
	"encoding/json"

	"lapis/fault"
	"lapis/ml/asset"
	"lapis/resource"
)

// Environments is the kind of environments. A version's image, conda file and
// build never change; the SDK goes on to the next version when it is told 409.
func Environments() asset.Kind {
	return asset.Kind{
		Segment: "environments", Title: "environment", Fixed: []string{"image", "condaFile", "build"},
		Moved: func(id resource.ID, property string) error {
			return fault.Conflicts("The environment '%s:%s' exists with another '%s'; create a new version.",
				id.Parent().Name(), id.Name(), property).With("Conflict").At("properties." + property)
		},
		Admit: func(_ context.Context, _ *resource.Change, p resource.Document) error {
			build := p.Object("build")
			if p.Text("image") == "" && len(build) == 0 && p.Text("condaFile") == "" {
				return fault.Invalid("an environment needs 'image', 'build' or 'condaFile'").With("ValidationError").At("properties.image")
			}
			if len(build) > 0 {
				build.Default("dockerfilePath", "Dockerfile")
				p["build"] = build.Raw()
			}
			if text := p.Text("condaFile"); text != "" {
				if _, err := ParseConda(text); err != nil {
					return err
				}
			}
			p.Default("osType", "Linux")
			p.Default("environmentType", "UserCreated")
			return nil
		},
	}
}

// Wanted is what an environment's properties ask for. Image is "" unless the
// image alone decides; Container says that nothing but a container engine can
// make it, and why.
type Wanted struct {
	Recipe    Recipe
	Image     string
	Container string
}

// Want reads the properties of an environment version.
func Want(properties json.RawMessage) (Wanted, error) {
	p, err := resource.ParseDocument(properties)
	if err != nil {
		return Wanted{}, err
	}
	if len(p.Object("build")) > 0 {
		return Wanted{Container: "its Dockerfile needs a container engine, which this machine does not have; name an image and a conda file instead"}, nil
	}
	text := p.Text("condaFile")
	if text == "" {
		return Wanted{Image: p.Text("image")}, nil
	}
	recipe, err := ParseConda(text)
	return Wanted{Recipe: recipe}, err
}
