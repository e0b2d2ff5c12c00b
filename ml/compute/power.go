package compute

import (
	"context"
	"encoding/json"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// power is the part of an instance's status that says whether it is on.
type power struct {
	State     string    `json:"state,omitempty"` // Running, Stopped; "" is Running
	Operation string    `json:"lastOperation,omitempty"`
	At        time.Time `json:"lastOperationAt,omitzero"`
}

// The states of an instance.
const (
	running = "Running"
	stopped = "Stopped"
)

// powerOf reads an instance's status.
func powerOf(r resource.Resource) power {
	p := power{State: running, Operation: "Create", At: r.Created.At}
	var s struct {
		Power *power `json:"power"`
	}
	if len(r.Status) > 0 && json.Unmarshal(r.Status, &s) == nil && s.Power != nil {
		return *s.Power
	}
	return p
}

// switches are the verbs that turn an instance on and off. A job that runs on it
// goes on to its end; those that come wait while it is off.
func switches(store resource.Store) map[string]resource.Action {
	to := func(operation, state string) resource.Action {
		return resource.Action{
			Async: true,
			Begin: func(ctx context.Context, call resource.Call) error {
				t, err := ParseTarget(call.Resource)
				if err != nil {
					return err
				}
				if t.Kind != "ComputeInstance" {
					return fault.Invalid("The compute '%s' is of the type %s; only a compute instance can be started, stopped or restarted.", t.Name, t.Kind).With("UserError").At(call.ID.String())
				}
				_, err = store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: call.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
					if len(stored) == 0 {
						stored = json.RawMessage(`{"provisioningState":"Succeeded"}`)
					}
					raw, err := json.Marshal(map[string]any{"power": power{State: state, Operation: operation, At: time.Now().UTC()}})
					return resource.Overlay(stored, raw), err
				}}}})
				return err
			},
			Run: func(context.Context, resource.Call) (any, error) { return nil, nil },
		}
	}
	return map[string]resource.Action{"start": to("Start", running), "stop": to("Stop", stopped), "restart": to("Restart", running)}
}

// admitInstance checks a compute instance.
func admitInstance(inner resource.Document) error {
	if inner.Text("vmSize") == "" {
		return fault.Invalid("'properties.properties.vmSize' is required, such as STANDARD_DS3_V2").With("ValidationError").At("properties.properties.vmSize")
	}
	for _, name := range []string{"state", "lastOperation", "connectivityEndpoints", "applications", "createdBy", "errors", "versions", "osImageMetadata", "containers", "dataDisks", "dataMounts"} {
		delete(inner, name)
	}
	if idle := inner.Text("idleTimeBeforeShutdown"); idle != "" {
		d, err := ParseDuration(idle)
		if err != nil || d < 15*time.Minute || d > 3*24*time.Hour {
			return fault.Invalid("'idleTimeBeforeShutdown' is %q; it must be from 15 minutes (PT15M) to 3 days (P3D)", idle).With("ValidationError").At("properties.properties.idleTimeBeforeShutdown")
		}
	}
	inner.Default("applicationSharingPolicy", "Shared")
	inner.Default("computeInstanceAuthorizationType", "personal")
	inner.Default("sshSettings", map[string]string{"sshPublicAccess": "Disabled"})
	return nil
}

// viewInstance puts the state where clients look for it.
func viewInstance(r *resource.Resource, inner resource.Document) {
	p := powerOf(*r)
	inner.Set("state", p.State)
	inner.Set("lastOperation", map[string]any{"operationName": p.Operation, "operationTime": p.At, "operationStatus": "Succeeded", "operationTrigger": "User"})
	inner.Set("connectivityEndpoints", map[string]any{"privateIpAddress": "127.0.0.1"})
	inner.Set("applications", []any{})
	inner.Set("errors", []any{})
}
