package armhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"lapis/fault"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Deployments are the deployments of templates: of those that are known the
// parameters are read, others are evaluated, resource by resource.
type Deployments struct {
	Manager *manager.Manager

	// Wanted tells from a template that it knows, and its parameters, what is to
	// be made in the group: a resource id and the body of its PUT. The zero id is
	// that of a template that it does not know.
	Wanted func(group resource.ID, template, parameters resource.Document) (resource.ID, json.RawMessage, error)
}

const deployments = "Microsoft.Resources/deployments"

// DeploymentType is the type that deployments are kept as.
func DeploymentType() *resource.Type {
	return &resource.Type{Name: deployments, Title: "deployment"}
}

// Routes are the paths that are more than a resource's.
func (d Deployments) Routes() []Route {
	return []Route{
		{http.MethodPut, deployments, d.put},
		{http.MethodPost, deployments + "/validate", d.validate},
		{http.MethodPost, deployments + "/whatIf", d.whatIf},
		{http.MethodGet, deployments + "/operations", d.operations},
		{http.MethodGet, resource.GroupType + "/deployments/operations", d.operations},
		{http.MethodGet, resource.GroupType + "/deployments", d.list},
	}
}

// deployment is what is read of a deployment's body.
type deployment struct {
	Properties struct {
		Mode       string            `json:"mode"`
		Template   resource.Document `json:"template"`
		Parameters resource.Document `json:"parameters"`
	} `json:"properties"`
}

// bareTemplate is the template's key as az writes it, without quotes.
var bareTemplate = pattern.New(`([,{]\s*)template(\s*:)`)

func readDeployment(r *http.Request) (deployment, error) {
	var d deployment
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return d, fault.Invalid("The request's body ended before it was whole. Send it again.").From(err)
	}
	if len(body) > maxBody {
		return d, fault.New(fault.TooLarge, "RequestBodyTooLarge", "The request's body is larger than the limit of %d bytes.", maxBody)
	}
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	err = json.Unmarshal(body, &d)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		if at := bareTemplate.FindIndex(body); at != nil {
			mended := append([]byte(nil), body[:at[0]]...)
			mended = append(mended, bareTemplate.ReplaceAll(body[at[0]:at[1]], []byte(`$1"template"$2`))...)
			d = deployment{}
			err = json.Unmarshal(append(mended, body[at[1]:]...), &d)
		}
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return d, resource.WrongJSON(err, "")
	}
	if err != nil {
		return d, fault.Invalid("The request content was invalid and could not be deserialized: '%v'.", err).With("InvalidRequestContent")
	}
	return d, nil
}

// read decodes a request and says what is to be made.
func (d Deployments) read(r *http.Request, a resource.Address) (deployment, []planned, error) {
	body, err := readDeployment(r)
	if err != nil {
		return body, nil, err
	}
	group := a.Scope.Ancestor(resource.GroupType)
	if group.Zero() || !a.Scope.Parent().Same(group) {
		return body, nil, fault.Invalid("deployments are made in a resource group; '%s' is none", a.Scope.Parent()).With("InvalidDeployment")
	}
	id, wanted, err := d.Wanted(group, body.Properties.Template, body.Properties.Parameters)
	if err != nil {
		return body, nil, err
	}
	all := []planned{{id: id, body: wanted}}
	if id.Zero() {
		location := ""
		if g, err := d.Manager.Store().Get(r.Context(), group); err == nil {
			location = g.Location
		}
		if all, err = plan(group, location, body.Properties.Template, body.Properties.Parameters); err != nil {
			return body, nil, err
		}
	}
	for _, one := range all {
		t, err := d.Manager.Types().Find(one.id.Type())
		if err == nil && t.Check != nil {
			err = t.Check(one.id.Name())
		}
		if err != nil {
			return body, nil, err
		}
	}
	return body, all, nil
}

// outcome is the properties of a deployment.
func outcome(body deployment, all []planned, correlation string) map[string]any {
	made := make([]any, len(all))
	for i, one := range all {
		made[i] = map[string]string{"id": one.id.String()}
	}
	mode := body.Properties.Mode
	if mode == "" || mode == "incremental" {
		mode = "Incremental"
	}
	parameters := body.Properties.Parameters
	if parameters == nil {
		parameters = resource.Document{}
	}
	return map[string]any{"provisioningState": resource.Succeeded, "mode": mode, "duration": "PT1S", "timestamp": stampTime(time.Now()),
		"correlationId": correlation, "providers": []any{}, "dependencies": []any{}, "outputs": map[string]any{},
		"outputResources": made, "parameters": parameters}
}

func (d Deployments) put(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	ctx := r.Context()
	body, all, err := d.read(r, a)
	if err != nil {
		return 0, nil, err
	}
	caller, correlation := identity.Of(ctx), r.Header.Get("x-ms-correlation-request-id")
	// The deployment must be allowed and have a place before anything is made.
	if _, err := d.Manager.Put(ctx, manager.Request{ID: a.Scope, Caller: caller, Correlation: correlation, View: v,
		Body: json.RawMessage(`{"properties":{"provisioningState":"Running"}}`)}); err != nil {
		return 0, nil, err
	}
	props := outcome(body, all, correlation)
	var f *fault.Error
	for i, one := range all {
		made := d.make(r, manager.Request{ID: one.id, Caller: caller, Correlation: correlation, View: v, Body: one.body}, len(all) > 1)
		if made == nil {
			continue
		}
		if f = fault.Find(made); f == nil {
			return 0, nil, made
		}
		props["provisioningState"] = resource.Failed
		props["outputResources"] = props["outputResources"].([]any)[:i]
		props["error"] = map[string]any{"code": "DeploymentFailed", "target": a.Scope.String(),
			"message": "At least one resource deployment operation failed. Please list deployment operations for details: " + f.Message,
			"details": []any{map[string]any{"code": f.Code, "message": f.Message, "target": one.id.String()}}}
		break
	}
	raw, err := json.Marshal(map[string]any{"properties": props})
	if err != nil {
		return 0, nil, err
	}
	reply, err := d.Manager.Put(ctx, manager.Request{ID: a.Scope, Caller: caller, Correlation: correlation, View: v, Body: raw})
	if err != nil {
		return 0, nil, err
	}
	// az chokes on an error here and reads the deployment; Azure ML's SDK shows
	// nothing of a deployment that failed, but an error.
	if f != nil && !strings.Contains(r.UserAgent(), "AZURECLI/") {
		return 0, nil, f
	}
	return http.StatusCreated, show(reply.Resource), nil
}

// madeFor bounds how long a deployment waits for one of its resources.
const madeFor = 4 * time.Minute

// make makes one resource, and waits until it is there if others may depend on it.
func (d Deployments) make(r *http.Request, req manager.Request, wait bool) error {
	reply, err := d.Manager.Put(r.Context(), req)
	if err != nil || reply.Operation == "" || !wait && !scores(req.ID) {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), madeFor)
	defer cancel()
	for {
		changed := d.Manager.Store().Notify()
		op, err := d.Manager.Operation(ctx, req.Caller, reply.Operation)
		switch {
		case err != nil && r.Context().Err() == nil && ctx.Err() != nil:
			return fault.Conflicts("'%s' was not ready within %s; it is still being made.", req.ID.Name(), madeFor).With("DeploymentTimeout").At(req.ID.String())
		case err != nil:
			return err
		case op.State == resource.Failed:
			return fault.Conflicts("%s", op.Message).With(op.Code).At(req.ID.String())
		case op.Done():
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// validate says what is wrong with a deployment before it is made.
func (d Deployments) validate(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	body, all, err := d.read(r, a)
	if err != nil {
		return 0, nil, err
	}
	if _, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope.Parent(), v); err != nil {
		return 0, nil, err
	}
	props := outcome(body, all, r.Header.Get("x-ms-correlation-request-id"))
	props["duration"] = "PT0S"
	props["validatedResources"] = props["outputResources"]
	return http.StatusOK, map[string]any{"id": a.Scope.String(), "name": a.Scope.Name(), "type": deployments, "properties": props}, nil
}

// whatIf tells what a deployment would make or change.
func (d Deployments) whatIf(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	_, all, err := d.read(r, a)
	if err != nil {
		return 0, nil, err
	}
	if _, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope.Parent(), v); err != nil {
		return 0, nil, err
	}
	changes := []any{}
	for _, one := range all {
		change, err := d.would(r, one, v)
		if err != nil {
			return 0, nil, err
		}
		changes = append(changes, change)
	}
	return http.StatusOK, map[string]any{"status": resource.Succeeded,
		"properties": map[string]any{"correlationId": r.Header.Get("x-ms-correlation-request-id"), "changes": changes}}, nil
}

// would tells what making one resource would change.
func (d Deployments) would(r *http.Request, one planned, v resource.View) (any, error) {
	after, err := resource.ParseDocument(one.body)
	if err != nil {
		return nil, err
	}
	after.Set("id", one.id.String())
	after.Set("name", one.id.Name())
	after.Set("type", one.id.Type())
	change := map[string]any{"resourceId": one.id.String(), "changeType": "Create", "before": nil, "after": after, "delta": nil}
	old, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), one.id, v)
	switch {
	case err == nil:
		raw, err := json.Marshal(show(old))
		if err != nil {
			return nil, err
		}
		change["before"], change["changeType"] = json.RawMessage(raw), "NoChange"
		if delta := difference("", raw, after.Raw()); len(delta) > 0 {
			change["delta"], change["changeType"] = delta, "Modify"
		}
	case !fault.Is(err, fault.Missing):
		return nil, err
	}
	return change, nil
}

// propertyChange is one difference, in the words of a what-if.
type propertyChange struct {
	Path     string           `json:"path"`
	Type     string           `json:"propertyChangeType"`
	Before   json.RawMessage  `json:"before"`
	After    json.RawMessage  `json:"after"`
	Children []propertyChange `json:"children"`
}

// difference tells what a PUT would change of a resource: the members it names,
// by their paths. What it leaves out stays, or gets its default.
func difference(at string, before, after json.RawMessage) []propertyChange {
	var was, wanted map[string]json.RawMessage
	if json.Unmarshal(before, &was) != nil || json.Unmarshal(after, &wanted) != nil {
		return nil
	}
	var changes []propertyChange
	for _, name := range resource.Document(wanted).Names() {
		path := strings.TrimPrefix(at+"."+name, ".")
		old, there := was[name]
		switch deeper := difference(path, old, wanted[name]); {
		case resource.EqualJSON(old, wanted[name]):
		case !there:
			changes = append(changes, propertyChange{Path: path, Type: "Create", After: wanted[name]})
		case len(deeper) > 0:
			changes = append(changes, deeper...)
		case !object(old) || !object(wanted[name]):
			changes = append(changes, propertyChange{Path: path, Type: "Modify", Before: old, After: wanted[name]})
		}
	}
	return changes
}

func object(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

// operations tells what a deployment did, resource by resource.
func (d Deployments) operations(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	id := a.Scope.Ancestor(resource.GroupType).Child(deployments, a.Scope.Name())
	res, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), id, v)
	if err != nil {
		return 0, nil, err
	}
	var p struct {
		State     string                `json:"provisioningState"`
		Timestamp string                `json:"timestamp"`
		Resources []struct{ ID string } `json:"outputResources"`
		Error     *struct {
			Details []struct{ Code, Message, Target string }
		} `json:"error"`
	}
	if err := json.Unmarshal(res.Properties, &p); err != nil {
		return 0, nil, err
	}
	items := []any{}
	add := func(target string, status string, message any) {
		made, err := resource.ParseID(target)
		if err != nil {
			return
		}
		items = append(items, map[string]any{"id": id.String() + "/operations/" + made.Name(), "operationId": made.Name(),
			"properties": map[string]any{"provisioningOperation": "Create", "provisioningState": p.State, "duration": "PT1S", "timestamp": p.Timestamp,
				"serviceRequestId": "", "statusCode": status, "statusMessage": message,
				"targetResource": map[string]string{"id": target, "resourceType": made.Type(), "resourceName": made.Name()}}})
	}
	for _, made := range p.Resources {
		add(made.ID, "OK", nil)
	}
	if p.Error != nil {
		for _, e := range p.Error.Details {
			add(e.Target, "Conflict", map[string]any{"status": "Failed", "error": map[string]string{"code": e.Code, "message": e.Message}})
		}
	}
	return http.StatusOK, listOf(items), nil
}

// list answers without the provider in the path too.
func (d Deployments) list(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	page, err := d.Manager.List(r.Context(), identity.Of(r.Context()), resource.Query{Type: deployments, Parent: a.Scope, Limit: 1000}, resource.Options{}, v)
	if err != nil {
		return 0, nil, err
	}
	items := []any{}
	for _, res := range page.Resources {
		items = append(items, show(res))
	}
	return http.StatusOK, listOf(items), nil
}
