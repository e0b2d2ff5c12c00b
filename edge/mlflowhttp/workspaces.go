package mlflowhttp

import (
	"net/http"
	"strings"

	"lapis/fault"
	"lapis/ml/workspace"
)

// workspaceHeader names the workspace that a request is for.
const workspaceHeader = "X-MLFLOW-WORKSPACE"

func (s *Server) workspaceRoutes() {
	const base = "3.0/mlflow/workspaces"
	s.handle("POST", base, "", s.createWorkspace)
	s.handle("GET", base, "", s.whenOn(s.listWorkspaces))
	s.handle("GET", base+"/{workspace_name}", "", s.whenOn(s.getWorkspace))
	s.handle("PATCH", base+"/{workspace_name}", "", s.whenOn(s.updateWorkspace))
	s.handle("DELETE", base+"/{workspace_name}", "", s.whenOn(s.deleteWorkspace))
}

// enter makes a request one for the workspace that its header names. One whose
// path names a workspace may name no other.
func (s *Server) enter(c *call, rooted bool) error {
	on, err := s.Workspaces.Enabled(c.ctx())
	if err != nil {
		return err
	}
	c.spaces = on && rooted
	name := strings.TrimSpace(c.r.Header.Get(workspaceHeader))
	switch {
	case name != "" && !on:
		return fault.Invalid("Workspace APIs are not available: workspaces are not enabled on this server").With("FEATURE_DISABLED")
	case name == "":
		return nil
	}
	site, err := s.Workspaces.Site(c.ctx(), name)
	if err != nil {
		return err
	}
	if !rooted && !site.ID.Same(c.site.ID) {
		return invalid("The address names the workspace '%s', and the header %s another: '%s'.", c.site.ID.Name(), workspaceHeader, name)
	}
	c.site, c.workspace, c.spaces = site, site.GUID, true
	return nil
}

// spaceName is the name of the workspace that a request is for.
func (c *call) spaceName() (string, error) {
	if !c.spaces {
		return workspace.Default, nil
	}
	return c.server.Workspaces.NameOf(c.ctx(), c.workspace)
}

// known refuses a run that is not there, where MLflow's workspaces are on: only
// then does MLflow look.
func (c *call) known(runs ...string) error {
	if !c.spaces {
		return nil
	}
	for _, run := range runs {
		if _, err := c.server.Tracking.Run(c.ctx(), c.workspace, run); err != nil {
			return err
		}
	}
	return nil
}

// within refuses a path of another workspace's artefacts.
func (c *call) within(p string) error {
	rest, ok := strings.CutPrefix(p, "workspaces/")
	if !ok && p != "workspaces" || !c.spaces {
		return nil
	}
	name, _, _ := strings.Cut(rest, "/")
	if name == "" {
		return invalid("Artifact paths prefixed with 'workspaces/' must include a workspace name.")
	}
	ours, err := c.server.Workspaces.NameOf(c.ctx(), c.workspace)
	if err == nil && name != ours {
		err = invalid("Artifact path targets workspace '%s' but the workspace specified in the request is '%s'.", name, ours)
	}
	return err
}

// whenOn serves a route that is there when MLflow's workspaces are on. The
// client knows the answer otherwise.
func (s *Server) whenOn(serve func(c *call) error) func(c *call) error {
	return func(c *call) error {
		on, err := s.Workspaces.Enabled(c.ctx())
		if err != nil {
			return err
		}
		if !on {
			return fault.NotFound("MLflow's workspaces are off on this server. They are on when one has been created.").With("ENDPOINT_NOT_FOUND")
		}
		return serve(c)
	}
}

func (o *out) workspace(key string, w workspace.Entry) {
	o.object(key)
	o.text("name", w.Name)
	o.some("description", w.Description)
	o.some("default_artifact_root", w.Root)
	if w.Archive != (workspace.Archive{}) {
		o.object("trace_archival_config")
		o.some("location", w.Archive.Location)
		o.some("retention", w.Archive.Retention)
		o.close()
	}
	o.close()
}

func (c *call) replyWorkspace(status int, w workspace.Entry, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.workspace("workspace", w)
	o.close()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(o.bytes())
	return nil
}

// change reads what is to be of a workspace.
func (m *message) change() workspace.Change {
	archive := m.message("trace_archival_config")
	return workspace.Change{Description: m.optional("description"), Root: m.optional("default_artifact_root"),
		ArchiveLocation: archive.optional("location"), ArchiveRetention: archive.optional("retention")}
}

func (s *Server) createWorkspace(c *call) error {
	if s.Workspaces == nil {
		return fault.New(fault.NotImplemented, "NOT_IMPLEMENTED", "This server has no MLflow workspaces.")
	}
	name, change := c.text("name", required), c.message.change()
	if c.err != nil {
		return c.err
	}
	w, err := s.Workspaces.Create(c.ctx(), name, change)
	return c.replyWorkspace(http.StatusCreated, w, err)
}

func (s *Server) listWorkspaces(c *call) error {
	all, err := s.Workspaces.List(c.ctx())
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.list("workspaces")
	for _, w := range all {
		o.workspace("", w)
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}

func (s *Server) getWorkspace(c *call) error {
	w, err := s.Workspaces.Get(c.ctx(), c.vars["workspace_name"])
	return c.replyWorkspace(http.StatusOK, w, err)
}

func (s *Server) updateWorkspace(c *call) error {
	change := c.message.change()
	if c.err != nil {
		return c.err
	}
	w, err := s.Workspaces.Update(c.ctx(), c.vars["workspace_name"], change)
	return c.replyWorkspace(http.StatusOK, w, err)
}

func (s *Server) deleteWorkspace(c *call) error {
	mode := c.r.URL.Query().Get("mode")
	switch mode {
	case "", "RESTRICT", "CASCADE":
	case "SET_DEFAULT":
		return fault.New(fault.NotImplemented, "NOT_IMPLEMENTED", "What a workspace holds is not moved to another on this server: delete it with mode=CASCADE, or leave it.")
	default:
		return invalid("Invalid deletion mode '%s'. Must be one of: SET_DEFAULT, CASCADE, RESTRICT", mode)
	}
	if err := s.Workspaces.Delete(c.ctx(), c.vars["workspace_name"], mode == "CASCADE"); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
