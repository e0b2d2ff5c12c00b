package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// ask calls and wants a status; it returns the answer.
func (s *instance) ask(t *testing.T, token, method, path, body string, want int) map[string]any {
	t.Helper()
	status, m := s.call(t, token, method, path, body)
	if status != want {
		t.Fatalf("%s %s: %d, want %d: %v", method, path, status, want, m)
	}
	return m
}

// at reads a path of members of an answer.
func at(m any, path ...string) any {
	for _, p := range path {
		object, _ := m.(map[string]any)
		m = object[p]
	}
	return m
}

// names are the names of a list's items.
func names(m map[string]any) string {
	var all []string
	items, _ := m["value"].([]any)
	for _, item := range items {
		all = append(all, fmt.Sprint(at(item, "name")))
	}
	return strings.Join(all, " ")
}

// gone waits until nothing is there.
func (s *instance) gone(t *testing.T, token, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if status, _ := s.call(t, token, "GET", path, ""); status == 404 {
			return
		}
	}
	t.Fatalf("%s is still there", path)
}

func TestTheTreeThatAllResourcesHangOn(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	main := s.workspace(t)
	parts := strings.Split(main, "/")
	sub := strings.Join(parts[:3], "/")
	group := sub + "/resourcegroups/rg1"
	made := group + "/providers/Microsoft.MachineLearningServices/workspaces/ws1"

	t.Run("a group is made, changed and found in any case of letters", func(t *testing.T) {
		m := s.ask(t, token, "PUT", group, `{"location":"local","tags":{"a":"b"}}`, 201)
		if id := m["id"]; id != sub+"/resourceGroups/rg1" {
			t.Errorf("id %v", id)
		}
		s.ask(t, token, "HEAD", strings.ToUpper(group), "", 204)
		s.ask(t, token, "HEAD", group+"x", "", 404)
		if m := s.ask(t, token, "PATCH", group, `{"tags":{"c":"d"}}`, 200); fmt.Sprint(m["tags"]) != "map[c:d]" {
			t.Errorf("tags %v", m["tags"])
		}
		if got := names(s.ask(t, token, "GET", sub+"/resourceGroups", "", 200)); got != "lapis rg1" {
			t.Errorf("groups %q", got)
		}
	})
	t.Run("tenants, locations and providers are listed", func(t *testing.T) {
		if m := s.ask(t, token, "GET", "/tenants", "", 200); len(m["value"].([]any)) != 1 {
			t.Error(m)
		}
		if got := names(s.ask(t, token, "GET", sub+"/locations", "", 200)); got != "local" {
			t.Errorf("locations %q", got)
		}
		m := s.ask(t, token, "GET", sub+"/providers/microsoft.machinelearningservices", "", 200)
		if m["registrationState"] != "Registered" || len(m["resourceTypes"].([]any)) < 10 {
			t.Error(m)
		}
		s.ask(t, token, "GET", sub+"/providers/Microsoft.Nothing", "", 404)
		s.ask(t, token, "POST", sub+"/providers/Microsoft.MachineLearningServices/register", "", 200)
		s.ask(t, token, "GET", "/subscriptions/00000000-0000-0000-0000-000000000000/providers", "", 404)
	})
	const template = `"template":{"parameters":{"workspaceName":{"type":"string"}},"resources":[{"type":"Microsoft.MachineLearningServices/workspaces"}]}`
	deployment := group + "/providers/Microsoft.Resources/deployments/d1"
	body := func(name string) string {
		return `{"properties":{"mode":"incremental",` + template + `,"parameters":{"workspaceName":{"value":"` + name + `"},"location":{"value":"local"},"description":{"value":"first"},"tagValues":{"value":{"t":"1"}}}}}`
	}
	t.Run("a deployment makes a workspace of the template's parameters", func(t *testing.T) {
		s.ask(t, token, "POST", deployment+"/validate", body("ws1"), 200)
		s.ask(t, token, "GET", made, "", 404)
		if m := s.ask(t, token, "PUT", deployment, body("ws1"), 201); at(m, "properties", "provisioningState") != "Succeeded" {
			t.Fatal(m)
		}
		m := s.ask(t, token, "GET", made, "", 200)
		if at(m, "properties", "description") != "first" || at(m, "tags", "t") != "1" || at(m, "location") != "local" {
			t.Error(m)
		}
		ops := s.ask(t, token, "GET", group+"/deployments/d1/operations", "", 200)["value"].([]any)
		if len(ops) != 1 || at(ops[0], "properties", "targetResource", "resourceName") != "ws1" {
			t.Error(ops)
		}
		if got := names(s.ask(t, token, "GET", made+"/datastores", "", 200)); !strings.Contains(got, "workspaceblobstore") {
			t.Errorf("datastores %q", got)
		}
	})
	t.Run("a template's key without quotes is understood, as az writes it", func(t *testing.T) {
		bare := strings.Replace(body("ws1"), `"template"`, `template`, 1)
		s.ask(t, token, "POST", deployment+"/validate", bare, 200)
		if m := s.ask(t, token, "POST", deployment+"/whatIf", bare, 200); m["status"] != "Succeeded" {
			t.Error(m)
		}
	})
	t.Run("what a deployment would change is told property by property", func(t *testing.T) {
		would := func(body string) (kind, delta string) {
			t.Helper()
			change := at(s.ask(t, token, "POST", deployment+"/whatIf", body, 200), "properties", "changes").([]any)[0]
			list, _ := at(change, "delta").([]any)
			for _, d := range list {
				delta += fmt.Sprint(at(d, "propertyChangeType"), " ", at(d, "path"), " ", at(d, "before"), "->", at(d, "after"), ";")
			}
			return fmt.Sprint(at(change, "changeType")), delta
		}
		if kind, delta := would(body("ws1")); kind != "NoChange" || delta != "" {
			t.Errorf("%s %s", kind, delta)
		}
		if kind, delta := would(body("ws2")); kind != "Create" || delta != "" {
			t.Errorf("%s %s", kind, delta)
		}
		other := strings.NewReplacer("first", "second", `{"t":"1"}`, `{"t":"1","u":"2"}`).Replace(body("ws1"))
		if kind, delta := would(other); kind != "Modify" || delta != "Modify properties.description first->second;Create tags.u <nil>->2;" {
			t.Errorf("%s %s", kind, delta)
		}
	})
	t.Run("what cannot be deployed is refused before anything is made", func(t *testing.T) {
		for name, body := range map[string]string{
			"another template":   `{"properties":{"mode":"Incremental","template":{"resources":"none"},"parameters":{}}}`,
			"no name":            `{"properties":{` + template + `}}`,
			"another kind":       strings.Replace(body("hub"), `"location"`, `"kind":{"value":"palace"},"location"`, 1),
			"no template at all": `{"properties":{}}`,
		} {
			if m := s.ask(t, token, "POST", deployment+"/validate", body, 400); at(m, "error", "code") != "InvalidTemplate" {
				t.Errorf("%s: %v", name, m)
			}
		}
		s.ask(t, token, "POST", deployment+"/validate", `{"properties":`, 400)
	})
	t.Run("a deployment that fails tells so when it is asked", func(t *testing.T) {
		d2 := group + "/providers/Microsoft.Resources/deployments/d2"
		if m := s.ask(t, token, "PUT", d2, body("x"), 400); !strings.Contains(fmt.Sprint(m), "no name for a workspace") {
			t.Error(m)
		}
		s.ask(t, token, "GET", d2, "", 404)
		lock := made + "/providers/Microsoft.Authorization/locks/l0"
		s.ask(t, token, "PUT", lock, `{"properties":{"level":"ReadOnly"}}`, 201)
		if m := s.ask(t, token, "PUT", d2, body("ws1"), 409); at(m, "error", "code") != "ScopeLocked" {
			t.Error(m)
		}
		m := s.ask(t, token, "GET", d2, "", 200)
		if at(m, "properties", "provisioningState") != "Failed" || !strings.Contains(fmt.Sprint(at(m, "properties", "error")), "ScopeLocked") {
			t.Error(m)
		}
		s.ask(t, token, "DELETE", lock, "", 200)
	})
	t.Run("resources of all types are listed and filtered", func(t *testing.T) {
		for filter, want := range map[string]string{
			"": "azureml main ws1", "resourceGroup eq 'rg1'": "ws1", "resourceType eq 'Microsoft.MachineLearningServices/workspaces' and name eq 'main'": "main",
			"substringof('s1', name)": "ws1", "tagName eq 't' and tagValue eq '1'": "ws1", "name ne 'main'": "azureml ws1", "name eq 'nothing'": "",
		} {
			path := sub + "/resources?$filter=" + strings.ReplaceAll(strings.ReplaceAll(filter, " ", "%20"), "'", "%27")
			if got := names(s.ask(t, token, "GET", path, "", 200)); got != want {
				t.Errorf("%s: %q, want %q", filter, got, want)
			}
		}
		s.ask(t, token, "GET", sub+"/resources?$filter=name%20eq", "", 400)
		first := s.ask(t, token, "GET", sub+"/resources?$top=1", "", 200)
		next, _ := first["nextLink"].(string)
		next = next[strings.Index(next, "/subscriptions"):]
		if got := names(first) + " " + names(s.ask(t, token, "GET", next, "", 200)); got != "azureml main" {
			t.Errorf("two pages: %q", got)
		}
		if got := names(s.ask(t, token, "GET", group+"/resources", "", 200)); got != "ws1" {
			t.Errorf("of the group: %q", got)
		}
	})
	t.Run("a lock holds until it is taken away", func(t *testing.T) {
		lock := made + "/providers/Microsoft.Authorization/locks/l1"
		s.ask(t, token, "PUT", lock, `{"properties":{"level":"Sometimes"}}`, 400)
		s.ask(t, token, "PUT", lock, `{"properties":{"level":"CanNotDelete","notes":"keep"}}`, 201)
		for _, path := range []string{made, group} {
			if m := s.ask(t, token, "DELETE", path, "", 409); at(m, "error", "code") != "ScopeLocked" || !strings.Contains(fmt.Sprint(m), "l1") {
				t.Error(m)
			}
		}
		s.ask(t, token, "PATCH", made, `{"tags":{"t":"2"}}`, 200)
		s.ask(t, token, "PUT", lock, `{"properties":{"level":"ReadOnly"}}`, 200)
		s.ask(t, token, "PATCH", made, `{"tags":{"t":"3"}}`, 409)
		s.ask(t, token, "POST", made+"/listKeys", "", 409)
		s.ask(t, token, "GET", made, "", 200)
		if got := names(s.ask(t, token, "GET", group+"/providers/Microsoft.Authorization/locks", "", 200)); got != "l1" {
			t.Errorf("locks %q", got)
		}
		s.ask(t, token, "DELETE", lock, "", 200)
		s.ask(t, token, "POST", made+"/listKeys", "", 200)
	})
	t.Run("a group goes with all that lies in it", func(t *testing.T) {
		status, m := s.call(t, token, "DELETE", group, "")
		if status != 202 {
			t.Fatal(status, m)
		}
		s.gone(t, token, group)
		s.ask(t, token, "GET", made, "", 404)
		s.ask(t, token, "GET", main, "", 200)
	})
}

func TestALocationTellsItsSizesAndUsage(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	sub, _, _ := strings.Cut(s.workspace(t), "/resourceGroups/")
	at := sub + "/providers/Microsoft.MachineLearningServices/locations/local/"
	sizes := s.ask(t, token, "GET", at+"vmSizes", "", 200)
	if raw, _ := json.Marshal(sizes); !strings.Contains(string(raw), `"Standard_DS3_v2"`) {
		t.Errorf("%s", raw)
	}
	if n := len(s.ask(t, token, "GET", at+"usages", "", 200)["value"].([]any)); n < 3 {
		t.Errorf("%d usages", n)
	}
}

func TestADeletedWorkspaceIsKeptForAWhile(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	token := clientToken(t, s)
	ws := s.workspace(t)
	group := ws[:strings.Index(ws, "/providers/")]
	env := ws + "/environments/plain/versions/1"
	s.ask(t, token, "PUT", env, `{"properties":{"image":"library/python:latest"}}`, 201)
	s.ask(t, token, "PATCH", ws, `{"tags":{"a":"b"},"properties":{"description":"kept"}}`, 200)
	before := at(s.ask(t, token, "GET", ws, "", 200), "properties", "workspaceId")
	removed := func() {
		t.Helper()
		if status, m := s.call(t, token, "DELETE", ws, ""); status != 202 {
			t.Fatal(status, m)
		}
		for _, path := range []string{ws, env, ws + "/environments", ws + "/datastores/workspaceblobstore", "/history/v1.0" + ws + "/runs/x"} {
			s.ask(t, token, "GET", path, "", 404)
		}
		s.ask(t, token, "PUT", ws+"/environments/plain/versions/2", `{"properties":{"image":"a"}}`, 404)
		s.ask(t, token, "POST", ws+"/listKeys", "", 404)
		s.ask(t, token, "DELETE", ws, "", 204)
		if got := names(s.ask(t, token, "GET", group+"/providers/Microsoft.MachineLearningServices/workspaces", "", 200)); got != "" {
			t.Errorf("workspaces %q", got)
		}
		if got := names(s.ask(t, token, "GET", group+"/resources", "", 200)); strings.Contains(got, "main") {
			t.Errorf("resources %q", got)
		}
	}
	removed()
	if m := s.ask(t, token, "PUT", ws, `{"location":"local","properties":{}}`, 409); !strings.Contains(fmt.Sprint(m), "allowRecoverSoftDeletedWorkspace") {
		t.Error(m)
	}
	s.kill()
	s = start(t, dir) // and it is not made anew by a start
	token = clientToken(t, s)
	s.ask(t, token, "GET", ws, "", 404)
	if status, m := s.call(t, token, "PUT", ws, `{"location":"local","properties":{"allowRecoverSoftDeletedWorkspace":true}}`); status/100 != 2 {
		t.Fatal(status, m)
	}
	m := s.ask(t, token, "GET", ws, "", 200)
	if at(m, "properties", "workspaceId") != before || at(m, "properties", "description") != "kept" || at(m, "tags", "a") != "b" || at(m, "properties", "provisioningState") != "Succeeded" || at(m, "properties", "allowRecoverSoftDeletedWorkspace") != nil {
		t.Error(m)
	}
	s.ask(t, token, "GET", env, "", 200)
	s.submit(t, token, "j1", "true")
	s.await(t, token, "j1", "Completed")

	removed()
	s.ask(t, token, "DELETE", ws+"?forceToPurge=true", "", 202)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status, m := s.call(t, token, "PUT", ws, `{"location":"local","properties":{}}`)
		if status/100 == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal(status, m)
		}
	}
	s.ask(t, token, "GET", env, "", 404)
	if after := at(s.ask(t, token, "GET", ws, "", 200), "properties", "workspaceId"); after == before {
		t.Error("a new workspace has the old one's id")
	}
	s.ask(t, token, "DELETE", ws+"?forceToPurge=true", "", 202)
	s.gone(t, token, ws)
}
