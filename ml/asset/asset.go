// Package asset is what all versioned things have in common: a container of
// versions, the next and the latest version, labels, archiving, and the rule
// that what a version points to never changes.
package asset

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/pattern"
	"lapis/resource"
)

// Kind describes one versioned thing.
type Kind struct {
	Segment string // "environments"
	Title   string // "environment"
	Home    string // the type it lies in; "" for workspaces
	Async   bool   // versions are made by an operation to poll, as clients of registries want it

	// Fixed are the properties that a new PUT of the same version may not
	// change. Moved makes the refusal; nil is the 400 that the SDK turns into
	// its advice to choose another version.
	Fixed []string
	Moved func(id resource.ID, property string) error

	// Own are the properties of containers and versions that the server alone
	// writes.
	Own []string

	// Names and Versions refuse a name; nil is the common rule.
	Names, Versions func(string) error

	// Admit checks a version and fills in what is its own.
	Admit func(ctx context.Context, c *resource.Change, p resource.Document) error

	// View fills in, for readers, what is its own.
	View func(ctx context.Context, v resource.View, rs []resource.Resource) error

	// Actions are the POST verbs of a version.
	Actions map[string]resource.Action

	// List stands in for the store's list of versions.
	List func(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error)
}

// Container is the type of the things of this kind.
func (k Kind) Container() string {
	if k.Home != "" {
		return k.Home + "/" + k.Segment
	}
	return ml.Workspaces + "/" + k.Segment
}

// Version is the type of their versions.
func (k Kind) Version() string { return k.Container() + "/versions" }

// Types makes the two resource types of the kind.
func (k Kind) Types(store resource.Store) []*resource.Type {
	container := &resource.Type{
		Name: k.Container(), Title: k.Title, Implied: true, Own: k.Own, Check: or(k.Names, k.checkName),
		Admit: func(_ context.Context, c *resource.Change) error { return k.admitContainer(c) },
	}
	version := &resource.Type{
		Name: k.Version(), Title: k.Title + " version", Async: k.Async, Own: k.Own, Check: or(k.Versions, k.checkVersion),
		Admit: func(ctx context.Context, c *resource.Change) error { return k.admit(ctx, store, c) },
		AdmitDelete: func(ctx context.Context, c *resource.Change) error {
			return recount(ctx, store, c, c.Old, false)
		},
		View:    k.View,
		Actions: k.Actions,
		List:    k.List,
		Resolve: func(ctx context.Context, id resource.ID) (resource.ID, error) {
			if !strings.EqualFold(id.Name(), defaultVersion) {
				return resource.ID{}, nil
			}
			r, err := Latest(ctx, store, id.Parent())
			if fault.Is(err, fault.Missing) {
				return resource.ID{}, nil
			}
			return r.ID, err
		},
	}
	return []*resource.Type{container, version}
}

func or(f, otherwise func(string) error) func(string) error {
	if f != nil {
		return f
	}
	return otherwise
}

var (
	commonName    = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}$`)
	commonVersion = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}$`)
)

func (k Kind) checkName(name string) error {
	if !commonName.MatchString(name) {
		return fault.Invalid("%q is no name for a %s: 1 to 255 letters, digits, '_', '-' and '.', beginning with a letter, a digit or '_'", name, k.Title).With("ValidationError").At("name")
	}
	return nil
}

// defaultVersion stands for the latest version where a version is read.
const defaultVersion = "azureml_default"

func (k Kind) checkVersion(version string) error {
	if strings.EqualFold(version, defaultVersion) {
		return fault.Invalid("a version cannot be named %q: that word stands for the latest", version).With("ValidationError").At("version")
	}
	if !commonVersion.MatchString(version) {
		return fault.Invalid("%q is no version for a %s: 1 to 255 letters, digits, '_', '-' and '.', beginning with a letter, a digit or '_'", version, k.Title).With("ValidationError").At("version")
	}
	return nil
}

// counts is the status of a container.
type counts struct {
	LatestVersion string `json:"latestVersion"`
	NextVersion   string `json:"nextVersion"`
}

func (k Kind) admitContainer(c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	if err := keepLabels(c, p); err != nil {
		return err
	}
	if err := flags(p, c.New); err != nil {
		return err
	}
	if _, err := labels(p); err != nil {
		return err
	}
	// A client sends these back as it read them; they are counted here.
	delete(p, "latestVersion")
	delete(p, "nextVersion")
	delete(p, "provisioningState")
	c.New.Properties = p.Raw()
	if len(c.New.Status) == 0 {
		c.New.Status, _ = json.Marshal(counts{NextVersion: "1"})
	}
	return nil
}

// keepLabels leaves the labels as they are where a PUT has none: clients that
// archive a container do not know of them.
func keepLabels(c *resource.Change, p resource.Document) error {
	if c.Old == nil || p["labels"] != nil {
		return nil
	}
	old, err := resource.ParseDocument(c.Old.Properties)
	if raw, ok := old["labels"]; ok {
		p["labels"] = raw
	}
	return err
}

// flags reads and fills in what every asset has.
func flags(p resource.Document, r *resource.Resource) error {
	for _, name := range []string{"isArchived", "isAnonymous"} {
		p.Default(name, false)
		var b bool
		if err := json.Unmarshal(p[name], &b); err != nil {
			return fault.Invalid("'properties.%s' must be true or false", name).With("ValidationError").At("properties." + name)
		}
		if name == "isArchived" {
			r.Archived = b
		}
	}
	for _, name := range []string{"tags", "properties"} {
		p.Default(name, map[string]string{})
		var m map[string]any // the SDK sends the version of a hash as a number
		if err := json.Unmarshal(p[name], &m); err != nil || !scalars(m) {
			return fault.Invalid("'properties.%s' must be an object of strings", name).With("ValidationError").At("properties." + name)
		}
	}
	return nil
}

// scalars tells whether all values are strings, numbers or booleans.
func scalars(m map[string]any) bool {
	for _, v := range m {
		switch v.(type) {
		case string, float64, bool, nil:
		default:
			return false
		}
	}
	return true
}

// admit is the way of a version: its own checks, what may not change, and the
// count of its container, which is stored in the same commit.
func (k Kind) admit(ctx context.Context, store resource.Store, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	if err := flags(p, c.New); err != nil {
		return err
	}
	delete(p, "provisioningState")
	if k.Admit != nil {
		if err := k.Admit(ctx, c, p); err != nil {
			return err
		}
	}
	c.New.Properties = p.Raw()
	c.New.Status = json.RawMessage(`{"provisioningState":"Succeeded"}`)
	if c.Old == nil {
		return k.count(ctx, store, c)
	}
	if err := k.unmoved(c, p); err != nil {
		return err
	}
	if c.Old.Archived == c.New.Archived {
		return nil
	}
	return recount(ctx, store, c, c.Old, !c.New.Archived)
}

// unmoved refuses a version that would come to mean something else.
func (k Kind) unmoved(c *resource.Change, p resource.Document) error {
	old, err := resource.ParseDocument(c.Old.Properties)
	if err != nil {
		return err
	}
	for _, name := range k.Fixed {
		if resource.EqualJSON(orNull(old[name]), orNull(p[name])) {
			continue
		}
		if k.Moved != nil {
			return k.Moved(c.New.ID, name)
		}
		return fault.Invalid("(UserError) Asset paths cannot be updated. The %s '%s' exists with another '%s'; create a new version.",
			k.Title, c.New.ID.Parent().Name()+":"+c.New.ID.Name(), name).With("UserError").At("properties." + name)
	}
	return nil
}

// anonymous tells whether nobody gave the version its name: what holds only such
// versions is left out of ordinary lists.
func anonymous(properties json.RawMessage) bool { return flagged(properties, "isAnonymous") }

func archived(properties json.RawMessage) bool { return flagged(properties, "isArchived") }

func flagged(properties json.RawMessage, name string) bool {
	p, err := resource.ParseDocument(properties)
	var b bool
	return err == nil && json.Unmarshal(p[name], &b) == nil && b
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// count adds the container, with the latest and next version, to the change.
// The count is made where it is stored, so versions that are made at once do not
// get in each other's way.
func (k Kind) count(ctx context.Context, store resource.Store, c *resource.Change) error {
	id := c.New.ID.Parent()
	version := c.New.ID.Name()
	held, err := store.Get(ctx, id)
	switch {
	case err == nil && held.Archived && !anonymous(c.New.Properties) && !archived(held.Properties):
		// Versions that a platform or a client made by itself were all there was.
		held.Archived = false
		c.Batch.Puts = append(c.Batch.Puts, resource.Write{Expect: held.Etag, Resource: held, Keep: true})
	case err == nil:
		c.Rely(held)
	case fault.Is(err, fault.Missing):
		if err := or(k.Names, k.checkName)(id.Name()); err != nil {
			return err
		}
		c.Batch.Puts = append(c.Batch.Puts, resource.Write{Expect: resource.Absent, Resource: resource.Resource{
			ID: id, Created: c.New.Created, Updated: c.New.Updated, Archived: anonymous(c.New.Properties),
			Properties: json.RawMessage(`{"isArchived":false,"properties":{},"tags":{}}`)}})
	default:
		return err
	}
	c.Batch.Statuses = append(c.Batch.Statuses, resource.StatusWrite{ID: id, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		return counted(stored, version)
	}})
	return nil
}

// counted is the status of a container after a version was added to it.
func counted(status json.RawMessage, version string) (json.RawMessage, error) {
	n := counts{NextVersion: "1"}
	if len(status) > 0 {
		if err := json.Unmarshal(status, &n); err != nil {
			return nil, err
		}
	}
	n.LatestVersion = version
	next, err := strconv.ParseInt(n.NextVersion, 10, 64)
	if err != nil || next < 1 {
		next = 1
	}
	if v, err := strconv.ParseInt(version, 10, 64); err == nil && v >= next && v < 1<<62 {
		next = v + 1
	}
	n.NextVersion = strconv.FormatInt(next, 10)
	return json.Marshal(n)
}

// Labelled are the properties of a container whose version has the labels.
func Labelled(version string, labels []string) json.RawMessage {
	p := resource.Document{}
	p.Set("isArchived", false)
	p.Set("properties", map[string]string{})
	p.Set("tags", map[string]string{})
	if len(labels) > 0 {
		named := map[string]string{}
		for _, label := range labels {
			named[label] = version
		}
		p.Set("labels", named)
	}
	return p.Raw()
}

// recount adds to a change that takes a version away from those that are in use,
// or gives it back, which version of the container is the latest now: the last
// one made that is not archived.
func recount(ctx context.Context, store resource.Store, c *resource.Change, version *resource.Resource, used bool) error {
	id := version.ID.Parent()
	held, err := store.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return nil
	}
	if err != nil {
		return err
	}
	var seen counts
	if len(held.Status) > 0 {
		if err := json.Unmarshal(held.Status, &seen); err != nil {
			return err
		}
	}
	var latest *resource.Resource
	no := false
	for _, archived := range []*bool{&no, nil} {
		page, err := store.List(ctx, resource.Query{Type: version.ID.Type(), Parent: id, Newest: true, Archived: archived, Limit: 2})
		if err != nil {
			return err
		}
		if used && archived == &no {
			latest = version
		}
		for _, r := range page.Resources {
			if !r.ID.Same(version.ID) && (latest == nil || latest == version && r.Born > version.Born) {
				latest = &r
			}
		}
		if latest != nil {
			break
		}
	}
	now := ""
	if latest != nil {
		now = latest.ID.Name()
	}
	if now == seen.LatestVersion {
		return nil
	}
	c.Batch.Statuses = append(c.Batch.Statuses, resource.StatusWrite{ID: id, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		n := counts{NextVersion: "1"}
		if len(stored) > 0 {
			if err := json.Unmarshal(stored, &n); err != nil {
				return nil, err
			}
		}
		if n.LatestVersion == seen.LatestVersion { // else a version was made meanwhile
			n.LatestVersion = now
		}
		return json.Marshal(n)
	}})
	return nil
}

// Latest returns the version that the label latest names: the one made last of
// those that are not archived; of all if all are. Missing if there is none.
func Latest(ctx context.Context, store resource.Store, container resource.ID) (resource.Resource, error) {
	no := false
	page, err := store.List(ctx, resource.Query{Type: container.Type() + "/versions", Parent: container, Newest: true, Archived: &no, Limit: 1})
	if err != nil || len(page.Resources) > 0 {
		return first(page), err
	}
	return Newest(ctx, store, container)
}

func first(page resource.Page) resource.Resource {
	if len(page.Resources) == 0 {
		return resource.Resource{}
	}
	return page.Resources[0]
}

// Newest returns the version made last, archived or not; Missing if there is none.
func Newest(ctx context.Context, store resource.Store, container resource.ID) (resource.Resource, error) {
	page, err := store.List(ctx, resource.Query{Type: container.Type() + "/versions", Parent: container, Newest: true, Limit: 1})
	if err != nil {
		return resource.Resource{}, err
	}
	if len(page.Resources) == 0 {
		return resource.Resource{}, fault.NotFound("'%s' has no version.", container.Name()).At(container.String())
	}
	return first(page), nil
}

func homeTitle(home resource.ID) string {
	if home.Is(ml.Registries) {
		return "registry"
	}
	return "workspace"
}

// Next is the version that an asset without one would be given: one more than
// the highest number.
func Next(ctx context.Context, store resource.Store, container resource.ID) (string, error) {
	held, err := store.Get(ctx, container)
	if fault.Is(err, fault.Missing) {
		return "1", nil
	}
	if err != nil {
		return "", err
	}
	n := counts{NextVersion: "1"}
	if len(held.Status) > 0 {
		err = json.Unmarshal(held.Status, &n)
	}
	return n.NextVersion, err
}

// labels are those of a container: versions by label. They stand in its property
// "labels"; the aliases that MLflow gives to a model count as well.
func labels(container resource.Document) (map[string]string, error) {
	found := map[string]string{}
	if raw, ok := container.Object("mlflow")["aliases"]; ok {
		_ = json.Unmarshal(raw, &found) // what is in there is MLflow's affair
	}
	raw, ok := container["labels"]
	if !ok {
		return found, nil
	}
	if err := json.Unmarshal(raw, &found); err != nil {
		return nil, fault.Invalid("'properties.labels' must be an object of versions by label").With("ValidationError").At("properties.labels")
	}
	for label := range found {
		if strings.EqualFold(label, "latest") || !commonName.MatchString(label) {
			return nil, fault.Invalid("'properties.labels' has %q; a label is 1 to 255 letters, digits, '_', '-' and '.', and 'latest' is always the version made last", label).With("ValidationError").At("properties.labels")
		}
	}
	return found, nil
}

// labelled is the version that a label of a container names.
func labelled(ctx context.Context, store resource.Store, container resource.ID, title, label string) (string, error) {
	held, err := store.Get(ctx, container)
	if fault.Is(err, fault.Missing) {
		return "", fault.NotFound("The %s '%s' could not be found in %s '%s'.", title, container.Name(), homeTitle(container.Parent()), container.Parent().Name()).At(container.Name())
	}
	if err != nil {
		return "", err
	}
	p, err := resource.ParseDocument(held.Properties)
	if err != nil {
		return "", err
	}
	all, err := labels(p)
	if err != nil {
		return "", err
	}
	if version, ok := all[label]; ok {
		return version, nil
	}
	names := append(slices.Sorted(maps.Keys(all)), "latest")
	return "", fault.NotFound("The %s '%s' has no label %q; its labels are: %s.", title, container.Name(), label, strings.Join(names, ", ")).With("LabelNotFound").At(container.Name())
}

// Find returns a version by name and version or label, which begins with "@".
// "@latest" is the version made last, and "azureml_default" means the same.
func Find(ctx context.Context, store resource.Store, workspace resource.ID, segment, name, version string) (resource.Resource, error) {
	title := strings.TrimSuffix(segment, "s")
	container := workspace.Child(segment, name)
	if container.Zero() {
		return resource.Resource{}, fault.Invalid("%q is no name of a %s", name, title).At(name)
	}
	if version == "" || strings.EqualFold(version, "@latest") || strings.EqualFold(version, "azureml_default") {
		r, err := Latest(ctx, store, container)
		if fault.Is(err, fault.Missing) {
			return r, fault.NotFound("The %s '%s' could not be found in %s '%s'.", title, name, homeTitle(workspace), workspace.Name()).At(name)
		}
		return r, err
	}
	if label, ok := strings.CutPrefix(version, "@"); ok {
		var err error
		if version, err = labelled(ctx, store, container, title, label); err != nil {
			return resource.Resource{}, err
		}
	}
	id := container.Child("versions", version)
	if id.Zero() {
		return resource.Resource{}, fault.Invalid("%q is no version of a %s", version, title).At(name)
	}
	r, err := store.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return r, fault.NotFound("The %s '%s:%s' could not be found in %s '%s'. List what is there with `lapis %s list`.", title, name, version, homeTitle(workspace), workspace.Name(), title).At(name)
	}
	return r, err
}

// Seeded are the writes of one version, and of its container with its labels,
// that are there from the beginning of a workspace.
func Seeded(home resource.ID, segment, name, version string, labels []string, properties resource.Document, stamp resource.Stamp) []resource.Write {
	for name, value := range map[string]any{"isArchived": false, "isAnonymous": false, "tags": map[string]string{}, "properties": map[string]string{}} {
		properties.Default(name, value)
	}
	n := counts{LatestVersion: version, NextVersion: "1"}
	if v, err := strconv.ParseInt(version, 10, 64); err == nil {
		n.NextVersion = strconv.FormatInt(v+1, 10)
	}
	status, _ := json.Marshal(n)
	container := home.Child(segment, name)
	return []resource.Write{
		{Expect: resource.Absent, Resource: resource.Resource{ID: container, Created: stamp, Updated: stamp, Status: status,
			Properties: Labelled(version, labels)}},
		{Expect: resource.Absent, Resource: resource.Resource{ID: container.Child("versions", version), Created: stamp, Updated: stamp,
			Properties: properties.Raw(), Status: json.RawMessage(`{"provisioningState":"Succeeded"}`)}},
	}
}
