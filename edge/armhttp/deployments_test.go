package armhttp

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"lapis/resource"
)

// put asks for a deployment of a template, and returns where to poll it.
func (s *site) deploy(name, template string) answer {
	s.t.Helper()
	return s.do("PUT", group+"/providers/Microsoft.Resources/deployments/"+name, `{"properties":{"mode":"Incremental","template":`+template+`}}`)
}

// ends polls a deployment until it has a state.
func (s *site) ends(poll, state string) answer {
	s.t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		a := s.want("GET", strings.Replace(poll, "https:", "http:", 1), "", 200)
		if a.at("status") == state {
			return a
		}
		if time.Since(begun) > time.Minute {
			s.t.Fatalf("still %s, not %s", a.text, state)
		}
	}
}

const kettle = `{"resources":[{"type":"Microsoft.X/spaces/kettles","name":"a/k1","properties":{}}],"outputs":{"hot":{"type":"bool","value":"[reference('k1').boils]"}}}`

func TestADeploymentThatTakesLongIsPolled(t *testing.T) {
	s := newSite(t)
	a := s.deploy("long", kettle)
	poll := a.header.Get("Azure-AsyncOperation")
	if a.status != 201 || a.at("properties", "provisioningState") != "Running" || poll == "" || a.header.Get("Retry-After") == "" {
		t.Fatal(a.status, a.header, a.text)
	}
	s.ends(poll, "Running")
	if a := s.deploy("long", kettle); a.status != 409 || a.at("error", "code") != "DeploymentActive" {
		t.Error(a.status, a.text)
	}
	s.do("GET", "/", "", "x-release", "1")
	s.ends(poll, "Succeeded")
	a = s.want("GET", group+"/providers/Microsoft.Resources/deployments/long", "", 200)
	if a.at("properties", "outputs", "hot", "value") != true || a.at("properties", "outputResources", 0, "id") != base+"/kettles/k1" {
		t.Error(a.text)
	}
	a = s.want("GET", group+"/deployments/long/operations", "", 200)
	if a.at("value", 0, "properties", "provisioningState") != "Succeeded" || a.at("value", 0, "properties", "targetResource", "resourceName") != "k1" {
		t.Error(a.text)
	}
	one := s.want("GET", a.at("value", 0, "id").(string), "", 200)
	if one.at("operationId") != a.at("value", 0, "operationId") {
		t.Error(one.text)
	}
}

func TestADeploymentIsCancelled(t *testing.T) {
	s := newSite(t)
	poll := s.deploy("long", kettle).header.Get("Azure-AsyncOperation")
	cancel := group + "/providers/Microsoft.Resources/deployments/long/cancel"
	s.want("POST", cancel, "", 204)
	s.ends(poll, "Canceled")
	for begun := time.Now(); s.do("POST", cancel, "").status != 409; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatal("what has ended is cancelled again")
		}
	}
}

func TestADeploymentThatTheServersEndCutOffHasFailed(t *testing.T) {
	id, err := resource.ParseID(group + "/providers/Microsoft.Resources/deployments/d")
	if err != nil {
		t.Fatal(err)
	}
	tasks := NewTasks()
	see := func() string {
		rs := []resource.Resource{{ID: id, Properties: json.RawMessage(`{"provisioningState":"Running"}`)}}
		if err := tasks.DeploymentType().View(t.Context(), resource.View{}, rs); err != nil {
			t.Fatal(err)
		}
		return string(rs[0].Properties)
	}
	leave := tasks.enter(id)
	if got := see(); !strings.Contains(got, "Running") {
		t.Error(got)
	}
	leave()
	if got := see(); !strings.Contains(got, `"Failed"`) || !strings.Contains(got, "Deploy it again") {
		t.Error(got)
	}
}
