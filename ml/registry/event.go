package registry

import (
	"context"
	"maps"
	"strings"

	"lapis/ml"
	"lapis/ml/webhook"
	"lapis/resource"
)

// What webhooks are told, in the shape and order of MLflow's payloads.
type (
	modelMade struct {
		Name        string            `json:"name"`
		Tags        map[string]string `json:"tags"`
		Description string            `json:"description"`
	}
	versionMade struct {
		Name        string            `json:"name"`
		Version     string            `json:"version"`
		Source      string            `json:"source"`
		Run         webhook.Text      `json:"run_id"`
		Tags        map[string]string `json:"tags"`
		Description webhook.Text      `json:"description"`
	}
	promptMade struct {
		Name        string            `json:"name"`
		Version     string            `json:"version"`
		Template    webhook.Text      `json:"template"`
		Tags        map[string]string `json:"tags"`
		Description webhook.Text      `json:"description"`
	}
	tagChange struct {
		Name    string  `json:"name"`
		Version string  `json:"version,omitempty"`
		Key     string  `json:"key"`
		Value   *string `json:"value,omitempty"`
	}
	aliasChange struct {
		Name    string `json:"name"`
		Alias   string `json:"alias"`
		Version string `json:"version,omitempty"`
	}
)

// Tags by which MLflow knows prompts, and what they say.
const (
	promptText = "mlflow.prompt.text"
	promptType = "_mlflow_prompt_type"
)

func isPrompt(tags map[string]string) bool { return strings.EqualFold(tags[promptTag], "true") }

// shownTags are the tags that are told of: of a prompt, those that are not what
// makes it one.
func shownTags(tags map[string]string) map[string]string {
	if !isPrompt(tags) {
		return tags
	}
	shown := maps.Clone(tags)
	for _, k := range []string{promptTag, promptType, promptText} {
		delete(shown, k)
	}
	return shown
}

// tell makes the rows that tell webhooks of a change to a model, or to a prompt
// if its tags say that it is one.
func (g *Registry) tell(ctx context.Context, site ml.Site, tags map[string]string, model, prompt, action string, data any) ([]any, error) {
	e := webhook.Event{Entity: model, Action: action}
	if isPrompt(tags) {
		e.Entity = prompt
	}
	return g.hooks.Rows(ctx, site, e, data)
}

// tellTag tells of a change to a tag of a prompt; those of models are not told.
func (g *Registry) tellTag(ctx context.Context, site ml.Site, p resource.Document, m *only, action string, data tagChange) (err error) {
	if isPrompt(tagsOf(p)) {
		m.rows, err = g.hooks.Rows(ctx, site, webhook.Event{Entity: "prompt_tag", Action: action}, data)
	}
	return err
}

func (g *Registry) tellVersionTag(ctx context.Context, site ml.Site, m *only, action string, data tagChange) error {
	if g.hooks == nil {
		return nil
	}
	model, err := g.Model(ctx, site, data.Name)
	if err != nil {
		return err
	}
	m.rows, err = g.tell(ctx, site, model.Tags, "model_version_tag", "prompt_version_tag", action, data)
	return err
}

// tellVersion tells of a new version.
func (g *Registry) tellVersion(ctx context.Context, site ml.Site, number string, n NewVersion) ([]any, error) {
	tags := asMap(n.Tags)
	if isPrompt(tags) {
		return g.hooks.Rows(ctx, site, webhook.Event{Entity: "prompt_version", Action: "created"},
			promptMade{n.Name, number, webhook.Text(tags[promptText]), shownTags(tags), webhook.Text(n.Description)})
	}
	return g.hooks.Rows(ctx, site, webhook.Event{Entity: "model_version", Action: "created"},
		versionMade{n.Name, number, n.Source, webhook.Text(n.Run), tags, webhook.Text(n.Description)})
}
