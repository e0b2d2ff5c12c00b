package mlflowhttp

import (
	"fmt"
	"path"

	"lapis/ml/registry"
	"lapis/ml/tracking"
)

func (s *Server) registryRoutes() {
	const models, versions = "2.0/mlflow/registered-models/", "2.0/mlflow/model-versions/"
	s.handle("POST", models+"create", modelsWrite, s.createRegistered)
	s.handle("POST", models+"rename", modelsWrite, s.renameRegistered)
	s.handle("PATCH", models+"update", modelsWrite, s.updateRegistered)
	s.handle("DELETE", models+"delete", modelsDelete, s.deleteRegistered)
	s.handle("GET", models+"get", modelsRead, s.getRegistered)
	s.handle("GET", models+"search", modelsRead, s.searchRegistered)
	s.handle("GET|POST", models+"get-latest-versions", modelsRead, s.latestVersions)
	s.handle("POST", models+"set-tag", modelsWrite, s.setRegisteredTag)
	s.handle("DELETE", models+"delete-tag", modelsWrite, s.deleteRegisteredTag)
	s.handle("POST", models+"alias", modelsWrite, s.setAlias)
	s.handle("DELETE", models+"alias", modelsWrite, s.deleteAlias)
	s.handle("GET", models+"alias", modelsRead, s.getAlias)
	s.handle("POST", versions+"create", modelsWrite, s.createVersion)
	s.handle("PATCH", versions+"update", modelsWrite, s.updateVersion)
	s.handle("POST", versions+"transition-stage", modelsWrite, s.moveVersion)
	s.handle("DELETE", versions+"delete", modelsDelete, s.deleteVersion)
	s.handle("GET", versions+"get", modelsRead, s.getVersion)
	s.handle("GET", versions+"search", modelsRead, s.searchVersions)
	s.handle("GET", versions+"get-download-uri", modelsRead, s.downloadURI)
	s.handle("POST", versions+"set-tag", modelsWrite, s.setVersionTag)
	s.handle("DELETE", versions+"delete-tag", modelsWrite, s.deleteVersionTag)
	s.add("GET|HEAD", "model-versions/get-artifact", route{artifactsRead, true, s.getVersionArtifact})
}

func (o *out) registered(key string, m *registry.Model, latest []registry.Version) {
	o.object(key)
	o.text("name", m.Name)
	o.integer("creation_timestamp", m.Created)
	o.integer("last_updated_timestamp", m.Updated)
	o.some("description", m.Description)
	if len(latest) > 0 {
		o.list("latest_versions")
		for i := range latest {
			o.version("", &latest[i])
		}
		o.closeList()
	}
	o.tags("tags", m.Tags)
	if len(m.Aliases) > 0 {
		o.list("aliases")
		for _, a := range sortedKeys(m.Aliases) {
			o.open()
			o.text("alias", a)
			o.text("version", m.Aliases[a])
			o.close()
		}
		o.closeList()
	}
	o.close()
}

func (o *out) version(key string, v *registry.Version) {
	o.object(key)
	o.text("name", v.Name)
	o.text("version", v.Number)
	o.integer("creation_timestamp", v.Created)
	o.integer("last_updated_timestamp", v.Updated)
	o.some("user_id", v.User)
	o.text("current_stage", v.Stage)
	o.text("description", v.Description)
	o.text("source", v.Source)
	o.text("run_id", v.Run)
	o.text("status", "READY")
	o.text("run_link", v.RunLink)
	o.tags("tags", v.Tags)
	if len(v.Aliases) > 0 {
		o.list("aliases")
		for _, a := range v.Aliases {
			o.key("")
			o.b = append(appendText(o.b, a), ',')
		}
		o.closeList()
	}
	o.close()
}

// replyRegistered answers with a model and its latest versions.
func (s *Server) replyRegistered(c *call, m registry.Model, err error) error {
	if err != nil {
		return err
	}
	latest, err := s.Registry.LatestVersions(c.ctx(), c.site, m.Name, nil)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.registered("registered_model", &m, latest)
	o.close()
	return c.reply(&o)
}

func (c *call) replyVersion(v registry.Version, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.version("model_version", &v)
	o.close()
	return c.reply(&o)
}

func (c *call) done(err error) error {
	if err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) createRegistered(c *call) error {
	name, description, tags := c.text("name", required), c.text("description", false), c.tags("tags", false)
	if c.err != nil {
		return c.err
	}
	m, err := s.Registry.CreateModel(c.ctx(), c.site, name, description, tags)
	return s.replyRegistered(c, m, err)
}

func (s *Server) renameRegistered(c *call) error {
	name, to := c.text("name", required), c.text("new_name", required)
	if c.err != nil {
		return c.err
	}
	m, err := s.Registry.RenameModel(c.ctx(), c.site, name, to)
	return s.replyRegistered(c, m, err)
}

func (s *Server) updateRegistered(c *call) error {
	name, description := c.text("name", required), c.text("description", false)
	if c.err != nil {
		return c.err
	}
	m, err := s.Registry.UpdateModel(c.ctx(), c.site, name, description)
	return s.replyRegistered(c, m, err)
}

func (s *Server) deleteRegistered(c *call) error {
	name := c.text("name", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Registry.DeleteModel(c.ctx(), c.site, name))
}

func (s *Server) getRegistered(c *call) error {
	name := c.text("name", required)
	if c.err != nil {
		return c.err
	}
	m, err := s.Registry.Model(c.ctx(), c.site, name)
	return s.replyRegistered(c, m, err)
}

// search reads the fields of a search.
func (c *call) search(usual, most int64) (registry.Search, error) {
	q := registry.Search{Filter: c.text("filter", false), Order: c.texts("order_by", false)}
	q.Limit, q.Page = c.page(pages{usual: usual, most: most, few: "Invalid value for max_results. It must be a positive integer, but got #",
		many: fmt.Sprintf("Invalid value for request parameter max_results. It must be at most %d, but got value #", most)})
	return q, c.err
}

func (s *Server) searchRegistered(c *call) error {
	q, err := c.search(100, 1000)
	if err != nil {
		return err
	}
	found, next, err := s.Registry.SearchModels(c.ctx(), c.site, q)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("registered_models")
		for i := range found {
			o.registered("", &found[i].Model, found[i].Latest)
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (c *call) replyVersions(list []registry.Version, next string) error {
	var o out
	o.open()
	if len(list) > 0 {
		o.list("model_versions")
		for i := range list {
			o.version("", &list[i])
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) latestVersions(c *call) error {
	name, stages := c.text("name", required), c.texts("stages", false)
	if c.err != nil {
		return c.err
	}
	list, err := s.Registry.LatestVersions(c.ctx(), c.site, name, stages)
	if err != nil {
		return err
	}
	return c.replyVersions(list, "")
}

func (s *Server) setRegisteredTag(c *call) error {
	name, t := c.text("name", required), tracking.Tag{Key: c.text("key", required), Value: c.text("value", false)}
	if c.err != nil {
		return c.err
	}
	return c.done(s.Registry.SetModelTag(c.ctx(), c.site, name, t))
}

func (s *Server) deleteRegisteredTag(c *call) error {
	name, key := c.text("name", required), c.text("key", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Registry.DeleteModelTag(c.ctx(), c.site, name, key))
}

func (s *Server) setAlias(c *call) error {
	name, alias, version := c.text("name", required), c.text("alias", required), c.text("version", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Registry.SetAlias(c.ctx(), c.site, name, alias, version))
}

func (s *Server) deleteAlias(c *call) error {
	name, alias := c.text("name", required), c.text("alias", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Registry.DeleteAlias(c.ctx(), c.site, name, alias))
}

func (s *Server) getAlias(c *call) error {
	name, alias := c.text("name", required), c.text("alias", required)
	if c.err != nil {
		return c.err
	}
	return c.replyVersion(s.Registry.Aliased(c.ctx(), c.site, name, alias))
}

// named reads which version a request is about.
func (c *call) named() (name, version string, err error) {
	name, version = c.text("name", required), c.text("version", required)
	if c.err != nil {
		return "", "", c.err
	}
	return name, version, registry.CheckNumber(version)
}

func (s *Server) createVersion(c *call) error {
	n := registry.NewVersion{
		Name: c.text("name", required), Source: c.text("source", required), Run: c.text("run_id", false), RunLink: c.text("run_link", false),
		Description: c.text("description", false), Model: c.text("model_id", false), Tags: c.tags("tags", false),
		RunGiven: c.has("run_id"), ModelGiven: c.has("model_id"),
	}
	if c.err != nil {
		return c.err
	}
	return c.replyVersion(s.Registry.CreateVersion(c.ctx(), c.site, n))
}

func (s *Server) updateVersion(c *call) error {
	name, version, err := c.named()
	description := c.text("description", false)
	if err == nil {
		err = c.err
	}
	if err != nil {
		return err
	}
	return c.replyVersion(s.Registry.UpdateVersion(c.ctx(), c.site, name, version, description))
}

func (s *Server) moveVersion(c *call) error {
	name, version, err := c.named()
	stage, archive := c.text("stage", required), c.flag("archive_existing_versions", false)
	if err == nil {
		err = c.err
	}
	if err != nil {
		return err
	}
	return c.replyVersion(s.Registry.MoveVersion(c.ctx(), c.site, name, version, stage, archive))
}

func (s *Server) deleteVersion(c *call) error {
	name, version, err := c.named()
	if err != nil {
		return err
	}
	return c.done(s.Registry.DeleteVersion(c.ctx(), c.site, name, version))
}

func (s *Server) getVersion(c *call) error {
	name, version, err := c.named()
	if err != nil {
		return err
	}
	return c.replyVersion(s.Registry.Version(c.ctx(), c.site, name, version))
}

func (s *Server) searchVersions(c *call) error {
	q, err := c.search(10000, 200000)
	if err != nil {
		return err
	}
	found, next, err := s.Registry.SearchVersions(c.ctx(), c.site, q)
	if err != nil {
		return err
	}
	return c.replyVersions(found, next)
}

func (s *Server) downloadURI(c *call) error {
	name, version, err := c.named()
	if err != nil {
		return err
	}
	uri, err := s.Registry.DownloadURI(c.ctx(), c.site, name, version)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("artifact_uri", uri)
	o.close()
	return c.reply(&o)
}

func (s *Server) setVersionTag(c *call) error {
	name, version, err := c.named()
	t := tracking.Tag{Key: c.text("key", required), Value: c.text("value", false)}
	if err == nil {
		err = c.err
	}
	if err != nil {
		return err
	}
	return c.done(s.Registry.SetVersionTag(c.ctx(), c.site, name, version, t))
}

func (s *Server) deleteVersionTag(c *call) error {
	name, version, err := c.named()
	key := c.text("key", required)
	if err == nil {
		err = c.err
	}
	if err != nil {
		return err
	}
	return c.done(s.Registry.DeleteVersionTag(c.ctx(), c.site, name, version, key))
}

func (s *Server) getVersionArtifact(c *call) error {
	q := c.r.URL.Query()
	p := q.Get("path")
	if p == "" {
		return invalid("Missing value for required parameter 'path'.%s", seeDocs)
	}
	if err := checkPath(p); err != nil {
		return err
	}
	uri, err := s.Registry.DownloadURI(c.ctx(), c.site, q.Get("name"), q.Get("version"))
	if err != nil {
		return err
	}
	base, err := proxied(uri)
	if err != nil {
		return err
	}
	at, err := s.locate(c, path.Join(base, p))
	if err != nil {
		return err
	}
	return s.send(c, at, p)
}
