package workspace

import (
	"context"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/resource"
)

// The kinds of workspaces. A hub has projects, which name it; a feature store is
// kept and shown, and what it would materialise is not offered.
const (
	kindDefault      = "Default"
	kindHub          = "Hub"
	kindProject      = "Project"
	kindFeatureStore = "FeatureStore"
)

// kindOf reads a kind as clients write it; "" is an ordinary workspace.
func kindOf(given string) (string, error) {
	if given == "" {
		return kindDefault, nil
	}
	for _, kind := range []string{kindDefault, kindHub, kindProject, kindFeatureStore} {
		if strings.EqualFold(given, kind) {
			return kind, nil
		}
	}
	return "", fault.Invalid("'kind' is %q; a workspace is of the kind default, hub, project or featurestore", given).With("ValidationError").At("kind")
}

// admitKind checks the kind of a workspace, which does not change, and the hub of
// a project.
func (s *Service) admitKind(ctx context.Context, c *resource.Change, p resource.Document) error {
	before := c.Old
	if before == nil {
		before = c.Gone
	}
	if before != nil && c.New.Kind == "" {
		c.New.Kind = before.Kind
	}
	kind, err := kindOf(c.New.Kind)
	if err != nil {
		return err
	}
	if before != nil && before.Kind != "" && !strings.EqualFold(before.Kind, kind) {
		return fault.Invalid("'kind' is %q, but the workspace '%s' is of the kind %s, which does not change; make another workspace", c.New.Kind, c.New.ID.Name(), before.Kind).With("ValidationError").At("kind")
	}
	c.New.Kind = kind
	wanted := p.Text("hubResourceId")
	if before != nil {
		old, err := resource.ParseDocument(before.Properties)
		if err != nil {
			return err
		}
		had := old.Text("hubResourceId")
		if wanted == "" && had != "" {
			wanted = had
			p.Set("hubResourceId", had)
		}
		if !strings.EqualFold(wanted, had) {
			return fault.Invalid("'properties.hubResourceId' is %q, but the project '%s' belongs to %q, which does not change; make another project", wanted, c.New.ID.Name(), had).With("ValidationError").At("properties.hubResourceId")
		}
		if c.Old != nil {
			return nil
		}
	}
	switch {
	case kind == kindProject && wanted == "":
		return fault.Invalid("'properties.hubResourceId' is required: the id of the hub that the project belongs to").With("ValidationError").At("properties.hubResourceId")
	case kind == kindProject:
		return s.inHub(ctx, c, p, wanted)
	case wanted != "":
		return fault.Invalid("'properties.hubResourceId' is %q, but only a project has a hub, and this is a workspace of the kind %s", wanted, kind).With("ValidationError").At("properties.hubResourceId")
	}
	return nil
}

// inHub checks that the hub of a new project is there. A project is found by its
// hub.
func (s *Service) inHub(ctx context.Context, c *resource.Change, p resource.Document, wanted string) error {
	id, err := resource.ParseID(wanted)
	if err != nil || !id.Is(ml.Workspaces) {
		return fault.Invalid("'properties.hubResourceId' is %q, which is no id of a workspace", wanted).With("ValidationError").At("properties.hubResourceId")
	}
	hub, err := s.Resources.Get(ctx, id)
	if fault.Is(err, fault.Missing) || err == nil && Deleted(hub) {
		return fault.NotFound("The hub '%s' could not be found in resource group '%s'.", id.Name(), id.Group()).At("properties.hubResourceId")
	}
	if err != nil {
		return err
	}
	if hub.Kind != kindHub {
		return fault.Invalid("'properties.hubResourceId' names '%s', which is a workspace of the kind %s and no hub", hub.ID.Name(), hub.Kind).With("ValidationError").At("properties.hubResourceId")
	}
	c.Rely(hub)
	p.Set("hubResourceId", hub.ID.String())
	c.New.Lookup = hub.ID.Key()
	return nil
}

// projects calls visit with the projects of a hub that are not deleted.
func (s *Service) projects(ctx context.Context, hub resource.ID, visit func(resource.Resource)) error {
	q := resource.Query{Type: ml.Workspaces, Lookup: hub.Key(), Limit: 1000}
	for {
		page, err := s.Resources.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range page.Resources {
			if !Deleted(r) {
				visit(r)
			}
		}
		if q.After = page.Next; q.After == "" {
			return nil
		}
	}
}

func (s *Service) viewHub(ctx context.Context, hub resource.ID, p resource.Document) error {
	ids := []string{}
	err := s.projects(ctx, hub, func(r resource.Resource) { ids = append(ids, r.ID.String()) })
	p.Set("associatedWorkspaces", ids)
	return err
}

// noProjects refuses to delete a hub before its projects, unless they go with it.
func (s *Service) noProjects(ctx context.Context, c *resource.Change) error {
	if c.Old.Kind != kindHub {
		return nil
	}
	var names []string
	err := s.projects(ctx, c.Old.ID, func(r resource.Resource) {
		if c.Root.Zero() || !strings.HasPrefix(r.ID.Key(), c.Root.Key()+"/") {
			names = append(names, r.ID.Name())
		}
	})
	if err == nil && len(names) > 0 {
		return fault.Conflicts("The hub '%s' has projects: %s. Delete them first.", c.Old.ID.Name(), strings.Join(names, ", ")).With("UserError").At(c.Old.ID.String())
	}
	return err
}

// list leaves out the kinds that a client does not ask for: kind=hub,project.
func (s *Service) list(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
	page, err := s.Resources.List(ctx, q)
	if err != nil || o["kind"] == "" {
		return page, err
	}
	wanted := map[string]bool{}
	for one := range strings.SplitSeq(o["kind"], ",") {
		kind, err := kindOf(strings.TrimSpace(one))
		if err != nil {
			return resource.Page{}, err
		}
		wanted[kind] = true
	}
	kept := page.Resources[:0:0]
	for _, r := range page.Resources {
		if wanted[r.Kind] {
			kept = append(kept, r)
		}
	}
	page.Resources = kept
	return page, nil
}
