package mlflowhttp

import (
	"strings"

	"lapis/fault"
	"lapis/ml/webhook"
)

// Permissions of webhooks.
const (
	webhooksRead   = webhook.Type + "/read"
	webhooksWrite  = webhook.Type + "/write"
	webhooksDelete = webhook.Type + "/delete"
)

func (s *Server) webhookRoutes() {
	const base = "2.0/mlflow/webhooks"
	s.handle("POST", base, webhooksWrite, s.createWebhook)
	s.handle("GET", base, webhooksRead, s.listWebhooks)
	s.handle("GET", base+"/{webhook_id}", webhooksRead, s.getWebhook)
	s.handle("PATCH", base+"/{webhook_id}", webhooksWrite, s.updateWebhook)
	s.handle("DELETE", base+"/{webhook_id}", webhooksDelete, s.deleteWebhook)
	s.handle("POST", base+"/{webhook_id}/test", webhooksWrite, s.testWebhook)
}

func (o *out) webhook(key string, w *webhook.Webhook) {
	o.object(key)
	o.text("webhook_id", w.ID)
	o.text("name", w.Name)
	o.some("description", w.Description)
	o.text("url", w.URL)
	o.list("events")
	for _, e := range w.Events {
		o.open()
		o.text("entity", strings.ToUpper(e.Entity))
		o.text("action", strings.ToUpper(e.Action))
		o.close()
	}
	o.closeList()
	status := "ACTIVE"
	if w.Disabled {
		status = "DISABLED"
	}
	o.text("status", status)
	o.integer("creation_timestamp", w.Created)
	o.integer("last_updated_timestamp", w.Updated)
	o.close()
}

func (c *call) replyWebhook(w webhook.Webhook, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.webhook("webhook", &w)
	o.close()
	return c.reply(&o)
}

// enum reads an enum whose names here are in lower case.
func (m *message) enum(name string, values []string) string {
	upper := make([]string, len(values))
	for i, v := range values {
		upper[i] = strings.ToUpper(v)
	}
	return strings.ToLower(m.choice(name, upper...))
}

func (m *message) event() webhook.Event {
	return webhook.Event{Entity: m.enum("entity", webhook.Entities), Action: m.enum("action", webhook.Actions)}
}

// webhook reads what a webhook is to be.
func (m *message) webhook(need bool) webhook.Edit {
	e := webhook.Edit{Description: m.optional("description"), Secret: m.optional("secret")}
	for _, f := range []struct {
		name string
		at   **string
	}{{"name", &e.Name}, {"url", &e.URL}} {
		if v := m.text(f.name, need); v != "" {
			*f.at = &v
		}
	}
	if need && !m.has("events") {
		m.needed("events")
	}
	for _, x := range m.messages("events", false) {
		e.Events = append(e.Events, x.event())
	}
	if status := m.choice("status", "", "ACTIVE", "DISABLED"); status != "" {
		disabled := status == "DISABLED"
		e.Disabled = &disabled
	}
	return e
}

func (s *Server) createWebhook(c *call) error {
	e := c.webhook(required)
	if c.err != nil {
		return c.err
	}
	return c.replyWebhook(s.Webhooks.Create(c.ctx(), c.site, e))
}

func (s *Server) listWebhooks(c *call) error {
	const words = "max_results must be between 1 and 1000."
	limit, page := c.page(pages{usual: 100, most: 1000, few: words, many: words, zero: true})
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Webhooks.List(c.ctx(), c.site, limit, page)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("webhooks")
		for i := range found {
			o.webhook("", &found[i])
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) getWebhook(c *call) error {
	return c.replyWebhook(s.Webhooks.Get(c.ctx(), c.site, c.vars["webhook_id"]))
}

func (s *Server) updateWebhook(c *call) error {
	e := c.webhook(false)
	if c.err != nil {
		return c.err
	}
	return c.replyWebhook(s.Webhooks.Update(c.ctx(), c.site, c.vars["webhook_id"], e))
}

func (s *Server) deleteWebhook(c *call) error {
	return c.done(s.Webhooks.Delete(c.ctx(), c.site, c.vars["webhook_id"]))
}

func (s *Server) testWebhook(c *call) error {
	var e *webhook.Event
	if c.has("event") {
		x := c.message.message("event").event()
		e = &x
	}
	if c.err != nil {
		return c.err
	}
	answer, err := s.Webhooks.Test(c.ctx(), c.site, c.vars["webhook_id"], e)
	var o out
	o.open()
	o.object("result")
	switch f := fault.Find(err); {
	case err == nil:
		o.flag("success", answer.Status < 400)
		o.integer("response_status", int64(answer.Status))
		o.text("response_body", answer.Body)
	case f != nil && (f.Kind != fault.BadRequest || e != nil && e.Check() != nil):
		return err
	default:
		// That nobody answers is what the test was to find out.
		o.flag("success", false)
		o.text("error_message", "Failed to test webhook: "+err.Error())
	}
	o.close()
	o.close()
	return c.reply(&o)
}
