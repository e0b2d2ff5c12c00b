package armhttp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strings"
	"time"

	"lapis/fault"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/template"
)

// Deployments are the deployments of templates: of those that are known the
// parameters are read, others are evaluated, resource by resource.
type Deployments struct {
	Manager *manager.Manager

	// Wanted tells from a template that it knows, and its parameters, what is to
	// be made in the group: a resource id and the body of its PUT. The zero id is
	// that of a template that it does not know.
	Wanted func(group resource.ID, template, parameters resource.Document) (resource.ID, json.RawMessage, error)

	// Provided tells the types of what others would keep beside the resources
	// here, and what is made with them anyway: templates pass over it.
	Provided func(kind string) bool

	// Tasks are the deployments that are being made.
	Tasks *Tasks

	// RepliesIn bounds how long a PUT waits for its deployment; clients poll one
	// that takes longer. 0 is 25 s.
	RepliesIn time.Duration
}

const deployments = template.Deployments

// Routes are the paths that are more than a resource's.
func (d Deployments) Routes() []Route {
	return []Route{
		{http.MethodPut, deployments, d.put},
		{http.MethodPost, deployments + "/validate", d.validate},
		{http.MethodPost, deployments + "/whatIf", d.whatIf},
		{http.MethodPost, deployments + "/cancel", d.cancel},
		{http.MethodGet, deployments + "/operationStatuses", d.status},
		{http.MethodGet, deployments + "/operations", d.operations}, // all, and one
		{http.MethodGet, resource.GroupType + "/deployments/operations", d.operations},
		{http.MethodGet, resource.GroupType + "/deployments", d.list},
	}
}

// deployment is what is read of a deployment's body.
type deployment struct {
	Properties struct {
		Mode           string            `json:"mode"`
		Template       json.RawMessage   `json:"template"`
		TemplateLink   json.RawMessage   `json:"templateLink"`
		Parameters     resource.Document `json:"parameters"`
		ParametersLink json.RawMessage   `json:"parametersLink"`
		WhatIf         struct {
			Format string `json:"resultFormat"`
		} `json:"whatIfSettings"`
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

// given tells whether a member has a value.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// planned is one resource that a deployment makes, as far as it is known before.
type planned struct {
	id   resource.ID
	body json.RawMessage
}

// read decodes a request and says what is to be made. What can be known to be
// wrong is refused before anything is made.
func (d Deployments) read(r *http.Request, a resource.Address, v resource.View) (deployment, *template.Template, *world, error) {
	body, err := readDeployment(r)
	if err != nil {
		return body, nil, nil, err
	}
	group := a.Scope.Ancestor(resource.GroupType)
	if group.Zero() || !a.Scope.Parent().Same(group) {
		return body, nil, nil, fault.Invalid("deployments are made in a resource group; '%s' is none", a.Scope.Parent()).With("InvalidDeployment")
	}
	p := &body.Properties
	switch {
	case strings.EqualFold(p.Mode, "Complete"):
		p.Mode = "Complete"
	case p.Mode == "" || strings.EqualFold(p.Mode, "Incremental"):
		p.Mode = "Incremental"
	default:
		return body, nil, nil, fault.Invalid("The deployment's mode '%s' is not one of Incremental and Complete.", fault.Clip(p.Mode)).With("InvalidDeployment").At("properties.mode")
	}
	if given(p.TemplateLink) || given(p.ParametersLink) {
		return body, nil, nil, fault.Invalid("The deployment names its template or its parameters by a link: nothing is fetched for a deployment here. Send them in it ('template', 'parameters'; with az, --template-file).").With("InvalidTemplateLink").At("properties.templateLink")
	}
	w := &world{d: d, ctx: r.Context(), view: v, caller: identity.Of(r.Context()), correlation: r.Header.Get("x-ms-correlation-request-id"), passed: map[string]map[string]any{}, secrets: map[string]map[string]any{}}
	if _, err := w.manager().Get(w.ctx, w.caller, group, v); err != nil {
		return body, nil, nil, err
	}
	source, err := resource.ParseDocument(p.Template)
	if err != nil {
		return body, nil, nil, template.Invalid("The template must be a JSON object.")
	}
	id, wanted, err := d.Wanted(group, source, p.Parameters)
	if err != nil {
		return body, nil, nil, err
	}
	t := template.Fixed(id, wanted)
	if id.Zero() {
		site, err := w.Site(group, a.Scope.Name())
		if err != nil {
			return body, nil, nil, err
		}
		if t, err = template.Read(p.Template, p.Parameters, site); err != nil {
			return body, nil, nil, refused(err)
		}
	}
	return body, t, w, nil
}

// refused says of a template's mistake that the template is not valid.
func refused(err error) error {
	if f := fault.Find(err); f != nil && f.Code == "InvalidTemplate" && !strings.HasPrefix(f.Message, "Deployment template validation failed") {
		f.Message = "Deployment template validation failed: '" + f.Message + "'"
	}
	return err
}

// plan tells what a template makes, and what those in it make.
func (w *world) plan(t *template.Template) ([]planned, error) {
	var all []planned
	for _, s := range t.Steps {
		inner, err := s.Nested(w)
		if err != nil {
			return nil, refused(err)
		}
		if inner != nil {
			more, err := w.plan(inner)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		body, err := s.Body(w)
		if err != nil {
			return nil, refused(err)
		}
		if !w.d.Provided(s.ID.Type()) {
			t, err := w.manager().Types().Find(s.ID.Type())
			if f := fault.Find(err); f != nil && f.Kind == fault.Missing {
				err = fault.Invalid("%s", f.Message).With(f.Code).At(s.ID.String())
			}
			if err == nil && t.Check != nil {
				err = t.Check(s.ID.Name())
			}
			if err != nil {
				return nil, err
			}
		}
		all = append(all, planned{s.ID, body})
	}
	if _, _, err := t.Outputs(w); err != nil {
		return nil, refused(err)
	}
	return all, nil
}

// outcome is the properties of a deployment.
func outcome(w *world, mode string, parameters map[string]any, begun time.Time) map[string]any {
	if parameters == nil {
		parameters = map[string]any{}
	}
	return map[string]any{"provisioningState": resource.Succeeded, "mode": mode, "duration": fmt.Sprintf("PT%.3fS", time.Since(begun).Seconds()), "timestamp": stampTime(time.Now()),
		"correlationId": w.correlation, "providers": []any{}, "dependencies": []any{}, "outputs": map[string]any{},
		"outputResources": []any{}, "parameters": parameters}
}

// shownParameters are the parameters of a template that is not evaluated: never
// a secret.
func shownParameters(body deployment) map[string]any {
	var source struct {
		Parameters map[string]struct{ Type string } `json:"parameters"`
	}
	_ = json.Unmarshal(body.Properties.Template, &source)
	shown := map[string]any{}
	for name, raw := range body.Properties.Parameters {
		if !strings.HasPrefix(strings.ToLower(source.Parameters[name].Type), "secure") {
			shown[name] = raw
		}
	}
	return shown
}

func (d Deployments) put(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	begun := time.Now()
	body, t, w, err := d.read(r, a, v)
	if err != nil {
		return 0, nil, err
	}
	if _, err := w.sketch().plan(t); err != nil {
		return 0, nil, err
	}
	parameters := t.Parameters()
	if len(parameters) == 0 {
		parameters = shownParameters(body)
	}
	var made resource.Resource
	var f *fault.Error
	var broken error
	kept := make(chan struct{})
	w.kept = func() { close(kept) }
	done, err := d.Tasks.begin(w.ctx, a.Scope, func(ctx context.Context) {
		w.ctx = identity.With(ctx, w.caller)
		made, f, broken = w.deploy(a.Scope, t, body.Properties.Mode, parameters, begun)
	})
	if err != nil {
		return 0, nil, err
	}
	poll := http.Header{"Retry-After": {"1"}, "Azure-Asyncoperation": {v.Origin + a.Scope.String() + "/operationStatuses/" + resource.NewGUID() + "?api-version=" + r.URL.Query().Get("api-version")}}
	patience := cmp.Or(d.RepliesIn, 25*time.Second)
	select { // what is answered can be polled
	case <-done:
	case <-kept:
	}
	select {
	case <-done:
	case <-r.Context().Done():
		return 0, nil, r.Context().Err()
	case <-time.After(patience):
		props := outcome(w, body.Properties.Mode, parameters, begun)
		props["provisioningState"] = "Running"
		return http.StatusCreated, headed{poll, map[string]any{"id": a.Scope.String(), "name": a.Scope.Name(), "type": deployments, "properties": props}}, nil
	}
	switch {
	case broken != nil:
		return 0, nil, broken
	case f == nil:
		return http.StatusCreated, show(made), nil
	case strings.Contains(r.UserAgent(), "AZURECLI/"): // it chokes on an error here, and polls
		return http.StatusCreated, headed{poll, show(made)}, nil
	}
	return 0, nil, f
}

// status tells how a deployment goes, to those who poll.
func (d Deployments) status(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	res, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope.Parent(), v)
	if err != nil {
		return 0, nil, err
	}
	var p struct {
		State string          `json:"provisioningState"`
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(res.Properties, &p); err != nil {
		return 0, nil, err
	}
	status := map[string]any{"status": p.State}
	if given(p.Error) {
		status["error"] = p.Error
	}
	return http.StatusOK, headed{http.Header{"Retry-After": {"1"}}, status}, nil
}

// cancel ends a deployment; what it has made stays.
func (d Deployments) cancel(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if _, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope, v); err != nil {
		return 0, nil, err
	}
	if !d.Tasks.cancel(a.Scope) {
		return 0, nil, fault.Conflicts("The deployment '%s' cannot be cancelled: it has ended.", a.Scope.Name()).With("DeploymentCannotBeCancelled").At(a.Scope.String())
	}
	return http.StatusNoContent, nil, nil
}

// deploy makes what a template asks for, and keeps how it went as the deployment
// of that id. The fault is the first of those that its resources met with.
func (w *world) deploy(id resource.ID, t *template.Template, mode string, parameters map[string]any, begun time.Time) (resource.Resource, *fault.Error, error) {
	keep := func(props map[string]any) (resource.Resource, error) {
		reply, err := w.manager().Put(w.ctx, manager.Request{ID: id, Caller: w.caller, Correlation: w.correlation, View: w.view, Body: template.Encode(map[string]any{"properties": props})})
		return reply.Resource, err
	}
	props := outcome(w, mode, parameters, begun)
	props["provisioningState"] = "Running"
	// The deployment must be allowed and have a place before anything is made.
	if _, err := keep(props); err != nil {
		return resource.Resource{}, nil, err
	}
	if w.kept != nil {
		w.kept()
		w.kept = nil
	}
	made, failures := []any{}, []any{}
	var first *fault.Error
	failed := map[*template.Step]bool{}
	fail := func(id resource.ID, f *fault.Error) {
		if first == nil {
			first = f
		}
		failures = append(failures, map[string]any{"code": f.Code, "message": f.Message, "target": id.String()})
	}
	for _, s := range t.Steps {
		if waits(s, failed) {
			failed[s] = true
			continue
		}
		err := w.take(s)
		if cause := context.Cause(w.ctx); errors.Is(cause, errCancelled) {
			props := outcome(w, mode, parameters, begun)
			props["provisioningState"], props["outputResources"] = resource.Canceled, made
			w.ctx = context.WithoutCancel(w.ctx)
			kept, err := keep(props)
			return kept, fault.Conflicts("The deployment '%s' was cancelled.", id.Name()).With("DeploymentCancelled").At(id.String()), err
		}
		if f := fault.Find(err); f != nil {
			failed[s] = true
			fail(s.ID, f)
			continue
		}
		if err != nil {
			return resource.Resource{}, nil, err
		}
		made = append(made, map[string]string{"id": s.ID.String()})
	}
	if first == nil && mode == "Complete" {
		others, err := w.others(id.Parent(), t)
		if err != nil {
			return resource.Resource{}, nil, err
		}
		for _, other := range others {
			reply, err := w.manager().Delete(w.ctx, manager.Request{ID: other.ID, Caller: w.caller, Correlation: w.correlation, View: w.view})
			if err == nil {
				err = w.wait(other.ID, reply.Operation)
			}
			if f := fault.Find(err); f != nil && f.Kind != fault.Missing {
				fail(other.ID, f)
			} else if f == nil && err != nil {
				return resource.Resource{}, nil, err
			}
		}
	}
	outputs := map[string]any{}
	if first == nil {
		var err error
		if outputs, w.secrets[id.Key()], err = t.Outputs(w); err != nil {
			f := fault.Find(err)
			if f == nil {
				return resource.Resource{}, nil, err
			}
			f.Message = "Unable to evaluate template outputs: " + f.Message
			fail(id, f.With("DeploymentOutputEvaluationFailed"))
		}
	}
	props = outcome(w, mode, parameters, begun)
	props["outputResources"] = made
	if first != nil {
		props["provisioningState"] = resource.Failed
		props["error"] = map[string]any{"code": "DeploymentFailed", "target": id.String(), "details": failures,
			"message": "At least one resource deployment operation failed. Please list deployment operations for details. Please see https://aka.ms/arm-deployment-operations for usage details. " + first.Message}
	} else {
		props["outputs"] = outputs
	}
	kept, err := keep(props)
	return kept, first, err
}

// waits tells whether a resource is not to be made, because one that it waits for
// has failed.
func waits(s *template.Step, failed map[*template.Step]bool) bool {
	for other := range failed {
		if s.Waits(other) {
			return true
		}
	}
	return false
}

// take makes one resource of a template.
func (w *world) take(s *template.Step) error {
	inner, err := s.Nested(w)
	if err != nil {
		return err
	}
	if inner != nil {
		defer w.d.Tasks.enter(s.ID)()
		_, f, err := w.deploy(s.ID, inner, "Incremental", inner.Parameters(), time.Now())
		if err == nil && f != nil {
			return fault.New(f.Kind, f.Code, "The deployment '%s' failed: %s", s.ID.Name(), f.Message).At(s.ID.String())
		}
		return err
	}
	body, err := s.Body(w)
	if err != nil {
		return err
	}
	if w.d.Provided(s.ID.Type()) {
		return w.pass(s.ID, body)
	}
	reply, err := w.manager().Put(w.ctx, manager.Request{ID: s.ID, Caller: w.caller, Correlation: w.correlation, View: w.view, Body: body})
	if err != nil {
		return err
	}
	return w.wait(s.ID, reply.Operation)
}

// others are the resources of a group that a template does not speak of.
func (w *world) others(group resource.ID, t *template.Template) ([]resource.Resource, error) {
	var all []resource.Resource
	after := ""
	for {
		page, err := w.manager().Tracked(w.ctx, w.caller, group, after, 1000, w.view)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Resources {
			if !spoken(r.ID, t) {
				all = append(all, r)
			}
		}
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

// spoken tells whether a template speaks of a resource, or of one in it.
func spoken(id resource.ID, t *template.Template) bool {
	for _, s := range t.Steps {
		if s.ID.Same(id) || strings.HasPrefix(s.ID.Key(), id.Key()+"/") {
			return true
		}
	}
	return false
}

// madeFor bounds how long a deployment waits for one of its resources.
const madeFor = 2 * time.Hour

// wait waits until an operation on a resource has ended.
func (w *world) wait(id resource.ID, operation string) error {
	if operation == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.ctx, madeFor)
	defer cancel()
	for {
		changed := w.manager().Store().Notify()
		op, err := w.manager().Operation(ctx, w.caller, operation)
		switch {
		case err != nil && w.ctx.Err() == nil && ctx.Err() != nil:
			return fault.Conflicts("'%s' was not ready within %v; it is still being made.", id.Name(), madeFor).With("DeploymentTimeout").At(id.String())
		case err != nil:
			return err
		case op.State == resource.Failed:
			return fault.Conflicts("%s", op.Message).With(op.Code).At(id.String())
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
	begun := time.Now()
	body, t, w, err := d.read(r, a, v)
	if err != nil {
		return 0, nil, err
	}
	all, err := w.sketch().plan(t)
	if err != nil {
		return 0, nil, err
	}
	parameters := t.Parameters()
	if len(parameters) == 0 {
		parameters = shownParameters(body)
	}
	props := outcome(w, body.Properties.Mode, parameters, begun)
	made := []any{}
	for _, one := range all {
		made = append(made, map[string]string{"id": one.id.String()})
	}
	props["validatedResources"] = made
	delete(props, "outputResources")
	delete(props, "outputs")
	return http.StatusOK, map[string]any{"id": a.Scope.String(), "name": a.Scope.Name(), "type": deployments, "properties": props}, nil
}

// whatIf tells what a deployment would make or change.
func (d Deployments) whatIf(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	body, t, w, err := d.read(r, a, v)
	if err != nil {
		return 0, nil, err
	}
	all, err := w.sketch().plan(t)
	if err != nil {
		return 0, nil, err
	}
	changes := []map[string]any{}
	for _, one := range all {
		if d.Provided(one.id.Type()) {
			changes = append(changes, map[string]any{"resourceId": one.id.String(), "changeType": "Ignore"})
			continue
		}
		change, err := w.would(one)
		if err != nil {
			return 0, nil, err
		}
		changes = append(changes, change)
	}
	others, err := w.others(a.Scope.Parent(), t)
	if err != nil {
		return 0, nil, err
	}
	for _, other := range others {
		kind := "Ignore"
		if body.Properties.Mode == "Complete" {
			kind = "Delete"
		}
		changes = append(changes, map[string]any{"resourceId": other.ID.String(), "changeType": kind, "before": show(other)})
	}
	if strings.EqualFold(body.Properties.WhatIf.Format, "ResourceIdOnly") {
		for _, c := range changes {
			if c["changeType"] == "Modify" || c["changeType"] == "NoChange" {
				c["changeType"] = "Deploy"
			}
			delete(c, "before")
			delete(c, "after")
			delete(c, "delta")
		}
	}
	return http.StatusOK, map[string]any{"status": resource.Succeeded,
		"properties": map[string]any{"correlationId": w.correlation, "changes": changes}}, nil
}

// would tells what making one resource would change.
func (w *world) would(one planned) (map[string]any, error) {
	after, err := resource.ParseDocument(one.body)
	if err != nil {
		return nil, err
	}
	after.Set("id", one.id.String())
	after.Set("name", one.id.Name())
	after.Set("type", one.id.Type())
	change := map[string]any{"resourceId": one.id.String(), "changeType": "Create", "before": nil, "after": after, "delta": nil}
	old, err := w.manager().Get(w.ctx, w.caller, one.id, w.view)
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
	name := a.Scope.Name()
	if a.Scope.Is(deployments + "/operations") {
		name = a.Scope.Parent().Name()
	}
	id := a.Scope.Ancestor(resource.GroupType).Child(deployments, name)
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
	add := func(target, state, status string, message any) {
		made, err := resource.ParseID(target)
		if err != nil {
			return
		}
		doing := "Create"
		if made.Same(id) {
			doing = "EvaluateDeploymentOutput"
		}
		number := fmt.Sprintf("%016X", fnv64(made.Key()))
		items = append(items, map[string]any{"id": id.String() + "/operations/" + number, "operationId": number,
			"properties": map[string]any{"provisioningOperation": doing, "provisioningState": state, "duration": "PT1S", "timestamp": p.Timestamp,
				"serviceRequestId": "", "statusCode": status, "statusMessage": message,
				"targetResource": map[string]string{"id": target, "resourceType": made.Type(), "resourceName": made.Name()}}})
	}
	for _, made := range p.Resources {
		add(made.ID, resource.Succeeded, "OK", nil)
	}
	if p.Error != nil {
		for _, e := range p.Error.Details {
			add(e.Target, resource.Failed, "Conflict", map[string]any{"status": "Failed", "error": map[string]string{"code": e.Code, "message": e.Message}})
		}
	}
	if number := a.Scope; number.Is(deployments + "/operations") {
		for _, one := range items {
			if one.(map[string]any)["operationId"] == number.Name() {
				return http.StatusOK, one, nil
			}
		}
		return 0, nil, fault.NotFound("The deployment '%s' has no operation '%s'.", id.Name(), number.Name())
	}
	return http.StatusOK, listOf(items), nil
}

func fnv64(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return h.Sum64()
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
