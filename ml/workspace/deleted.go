package workspace

import (
	"encoding/json"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// KeptFor is how long a deleted workspace can be brought back.
const KeptFor = 14 * 24 * time.Hour

const deletedAt = "softDeletedAt"

func now() time.Time { return time.Now().UTC() }

// deleted is the status that a deleted workspace is kept with.
func deleted(at time.Time) json.RawMessage {
	s := resource.Document{}
	s.Set("provisioningState", "SoftDeleted")
	s.Set(deletedAt, at.Format(time.RFC3339))
	return s.Raw()
}

// Deleted tells whether the workspace was deleted and is kept.
func Deleted(r resource.Resource) bool {
	_, yes := When(r)
	return yes
}

// When tells when a workspace was deleted that is kept.
func When(r resource.Resource) (time.Time, bool) {
	var s struct {
		At time.Time `json:"softDeletedAt"`
	}
	if len(r.Status) == 0 || json.Unmarshal(r.Status, &s) != nil || s.At.IsZero() {
		return time.Time{}, false
	}
	return s.At, true
}

// revived is the workspace as it was before it was deleted.
func revived(r resource.Resource) resource.Resource {
	s, err := resource.ParseDocument(r.Status)
	if err != nil {
		return r
	}
	delete(s, deletedAt)
	s.Set("provisioningState", resource.Succeeded)
	r.Status, r.Archived = s.Raw(), false
	return r
}

// restore brings a deleted workspace back, with all that lies in it, where the
// caller wants that; else it says what can be done.
func restore(c *resource.Change, p resource.Document, wanted bool) error {
	at, _ := When(*c.Gone)
	if !wanted {
		return fault.Conflicts("A workspace '%s' was deleted on %s and is kept until %s. Bring it back by making it with allowRecoverSoftDeletedWorkspace set to true, or delete it for good (forceToPurge=true, `lapis workspace delete --permanently-delete`) and make it anew.",
			c.New.ID.Name(), at.Format(time.DateOnly), at.Add(KeptFor).Format(time.DateOnly)).With("SoftDeletedWorkspaceExists").At(c.New.ID.String())
	}
	was := revived(*c.Gone)
	c.New.Status, c.New.Location, c.New.SKU, c.New.Identity = was.Status, was.Location, was.SKU, was.Identity
	if c.New.Tags == nil {
		c.New.Tags = was.Tags
	}
	old, err := resource.ParseDocument(was.Properties)
	for name, value := range old {
		if _, given := p[name]; !given {
			p[name] = value
		}
	}
	return err
}
