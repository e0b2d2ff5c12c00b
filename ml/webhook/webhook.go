// Package webhook tells other services what happens in the model registry: it
// keeps where they want to hear of what, and brings them each event at least
// once, also when the server was killed in between.
package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Type is the type of webhooks.
const Type = ml.Workspaces + "/webhooks"

// Webhook is an address that wants to hear of events.
type Webhook struct {
	ID          string // GUID
	Name        string
	URL         string
	Description string
	Events      []Event
	Disabled    bool
	Created     int64 // Unix ms
	Updated     int64 // Unix ms
}

// properties are those of the resource. The secret is sealed and never stands
// among them.
type properties struct {
	Name        string  `json:"name"`
	URL         string  `json:"url"`
	Description string  `json:"description"`
	Events      []Event `json:"events"`
	Status      string  `json:"status"` // ACTIVE or DISABLED
}

// Sealer seals values that must not lie in clear on the disk.
type Sealer interface {
	Seal(owner, name string, value []byte) []byte
	Open(owner, name string, sealed []byte) ([]byte, error)
}

// Store keeps webhooks and what is sealed of them.
type Store interface {
	resource.Store

	// Secret returns a sealed value, or nil if there is none.
	Secret(ctx context.Context, owner resource.ID, name string) ([]byte, error)
}

// Courier brings messages to addresses.
type Courier interface {
	// Check refuses an address that nothing is brought to, with a fault.
	Check(ctx context.Context, url string) error

	// Send posts a message and returns the answer. An error says that there
	// was none.
	Send(ctx context.Context, m Message) (Answer, error)
}

// Message is one HTTP request.
type Message struct {
	URL    string
	Header map[string]string
	Body   []byte
}

// Answer is what came back.
type Answer struct {
	Status     int
	Body       string        // the first 64 KiB of it
	RetryAfter time.Duration // 0: it did not say
}

// secretName names the sealed key that messages are signed with.
const secretName = "secret"

const (
	maxURL    = 2048
	maxSecret = 1000
	maxEvents = 100
	maxText   = 5000 // of a description
)

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

var webhookName = pattern.New(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// Webhooks makes the type of webhooks.
func Webhooks(sealer Sealer, courier Courier) *resource.Type {
	return &resource.Type{
		Name: Type, Title: "webhook",
		Check: func(id string) error {
			if !guid.MatchString(id) {
				return fault.Invalid("%q is no id of a webhook: it must be a GUID", id).With("ValidationError").At("webhookName")
			}
			return nil
		},
		Admit: func(ctx context.Context, c *resource.Change) error { return admit(ctx, sealer, courier, c) },
	}
}

var guid = pattern.New(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func admit(ctx context.Context, sealer Sealer, courier Courier, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	p.Default("status", "ACTIVE")
	if raw, ok := p[secretName]; ok {
		var key string
		if err := json.Unmarshal(raw, &key); err != nil || len(key) > maxSecret {
			return invalid("The secret of a webhook is a text of at most %d bytes.", maxSecret).At("properties.secret")
		}
		delete(p, secretName)
		c.Batch.Rows = append(c.Batch.Rows, resource.Sealed{Owner: c.New.ID, Name: secretName, Value: sealer.Seal(c.New.ID.Key(), secretName, []byte(key))})
	}
	c.New.Properties = p.Raw()
	var h, old properties
	if err := json.Unmarshal(c.New.Properties, &h); err != nil {
		return resource.WrongJSON(err, "properties")
	}
	if c.Old != nil {
		_ = json.Unmarshal(c.Old.Properties, &old)
	}
	switch {
	case !webhookName.MatchString(h.Name):
		return invalid("Webhook name '%s' is invalid. It must start and end with a letter or digit, be less than 63 characters long, and contain only letters, digits, dots (.), underscores (_), and hyphens (-).", fault.Clip(h.Name)).At("properties.name")
	case len(h.Events) == 0:
		return invalid("Webhook events must be a non-empty list of WebhookEvent objects: [].").At("properties.events")
	case len(h.Events) > maxEvents:
		return invalid("A webhook has at most %d events. Got %d.", maxEvents, len(h.Events)).At("properties.events")
	case len(h.Description) > maxText:
		return invalid("'description' exceeds the maximum length of %d characters", maxText).At("properties.description")
	case len(h.URL) > maxURL:
		return invalid("'url' exceeds the maximum length of %d characters", maxURL).At("properties.url")
	case h.Status != "ACTIVE" && h.Status != "DISABLED":
		return invalid("Invalid status '%s': it must be ACTIVE or DISABLED.", fault.Clip(h.Status)).At("properties.status")
	}
	for _, e := range h.Events {
		if err := e.Check(); err != nil {
			return err
		}
	}
	if h.URL != old.URL {
		return courier.Check(ctx, h.URL)
	}
	return nil
}

// Service has the rules of webhooks, in MLflow's words.
type Service struct {
	Config
	wake chan struct{}
}

// Config is what the service needs from outside.
type Config struct {
	Manager *manager.Manager
	Store   Store
	Outbox  Outbox
	Sealer  Sealer
	Courier Courier
	Now     func() time.Time

	// Workspace is the name that events give to the workspace they happened in;
	// "" leaves it out. Nil is "" for all.
	Workspace func(ctx context.Context, site ml.Site) string

	// Failed is told of messages that are given up.
	Failed func(d Delivery, why string)
}

// New returns the service.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Failed == nil {
		c.Failed = func(Delivery, string) {}
	}
	return &Service{Config: c, wake: make(chan struct{}, 1)}
}

func notFound(id string) error {
	return fault.NotFound("Webhook with ID %s not found.", fault.Clip(id)).With("RESOURCE_DOES_NOT_EXIST")
}

func of(r resource.Resource) (Webhook, error) {
	var p properties
	err := json.Unmarshal(r.Properties, &p)
	return Webhook{ID: r.ID.Name(), Name: p.Name, URL: p.URL, Description: p.Description, Events: p.Events, Disabled: p.Status == "DISABLED",
		Created: r.Created.At.UnixMilli(), Updated: r.Updated.At.UnixMilli()}, err
}

func (s *Service) id(site ml.Site, id string) (resource.ID, error) {
	child := site.ID.Child("webhooks", id)
	if child.Zero() || !guid.MatchString(id) {
		return child, notFound(id)
	}
	return child, nil
}

func (s *Service) get(ctx context.Context, site ml.Site, id string) (resource.Resource, error) {
	at, err := s.id(site, id)
	if err != nil {
		return resource.Resource{}, err
	}
	r, err := s.Manager.Get(ctx, identity.Of(ctx), at, resource.View{})
	if fault.Is(err, fault.Missing) {
		err = notFound(id)
	}
	return r, err
}

// Get finds a webhook.
func (s *Service) Get(ctx context.Context, site ml.Site, id string) (Webhook, error) {
	r, err := s.get(ctx, site, id)
	if err != nil {
		return Webhook{}, err
	}
	return of(r)
}

// Edit is what a new webhook is, or what changes of one; nil stays as it is.
type Edit struct {
	Name, URL, Description, Secret *string
	Events                         []Event
	Disabled                       *bool
}

func (e Edit) apply(p resource.Document) {
	for name, v := range map[string]*string{"name": e.Name, "url": e.URL, "description": e.Description, secretName: e.Secret} {
		if v != nil {
			p.Set(name, *v)
		}
	}
	if e.Events != nil {
		p.Set("events", e.Events)
	}
	if e.Disabled != nil {
		status := "ACTIVE"
		if *e.Disabled {
			status = "DISABLED"
		}
		p.Set("status", status)
	}
}

func (s *Service) put(ctx context.Context, p resource.Document, req manager.Request) (Webhook, error) {
	body := resource.Document{}
	body.Set("properties", p)
	req.Caller, req.Body = identity.Of(ctx), body.Raw()
	reply, err := s.Manager.Put(ctx, req)
	if err != nil {
		return Webhook{}, err
	}
	return of(reply.Resource)
}

// Create makes a webhook.
func (s *Service) Create(ctx context.Context, site ml.Site, e Edit) (Webhook, error) {
	p := resource.Document{}
	e.apply(p)
	return s.put(ctx, p, manager.Request{ID: site.ID.Child("webhooks", resource.NewGUID()), IfNoneMatch: "*"})
}

// Update changes a webhook.
func (s *Service) Update(ctx context.Context, site ml.Site, id string, e Edit) (Webhook, error) {
	var tries manager.Tries
	for {
		r, err := s.get(ctx, site, id)
		if err != nil {
			return Webhook{}, err
		}
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return Webhook{}, err
		}
		e.apply(p)
		w, err := s.put(ctx, p, manager.Request{ID: r.ID, IfMatch: r.Etag})
		if fault.Is(err, fault.PreconditionFailed) && tries.Again(ctx) {
			continue
		}
		return w, err
	}
}

// Delete removes a webhook. What it has not been told yet it will not hear.
func (s *Service) Delete(ctx context.Context, site ml.Site, id string) error {
	r, err := s.get(ctx, site, id)
	if err != nil {
		return err
	}
	_, err = s.Manager.Delete(ctx, manager.Request{ID: r.ID, Caller: identity.Of(ctx)})
	return err
}

// List returns one page of the webhooks of a workspace, newest first.
func (s *Service) List(ctx context.Context, site ml.Site, limit int, page string) ([]Webhook, string, error) {
	found, err := s.Manager.List(ctx, identity.Of(ctx), resource.Query{Type: Type, Parent: site.ID, Newest: true, Limit: maxWebhooks}, nil, resource.View{})
	if err != nil {
		return nil, "", err
	}
	all := make([]Webhook, 0, len(found.Resources))
	for _, r := range found.Resources {
		w, err := of(r)
		if err != nil {
			return nil, "", fmt.Errorf("webhook %s: %w", r.ID, err)
		}
		all = append(all, w)
	}
	return tracking.Page(all, page, limit, func(w Webhook) string { return w.ID })
}

// maxWebhooks bounds the webhooks of a workspace that are told of events.
const maxWebhooks = 1000

// Test sends an example of an event, the webhook's first for nil, at once and
// once, and returns the answer.
func (s *Service) Test(ctx context.Context, site ml.Site, id string, e *Event) (Answer, error) {
	r, err := s.get(ctx, site, id)
	if err != nil {
		return Answer{}, err
	}
	w, err := of(r)
	if err != nil {
		return Answer{}, err
	}
	if e == nil {
		e = &w.Events[0]
	} else if err := e.Check(); err != nil {
		return Answer{}, err
	}
	body, err := s.body(ctx, site, *e, json.RawMessage(examples[e.String()]))
	if err != nil {
		return Answer{}, err
	}
	return s.send(ctx, r.ID, w.URL, Delivery{ID: resource.NewGUID(), Body: body})
}
