package endpoint_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
)

func TestADeploymentIsShownWithAllThatItWasNotTold(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	h.must(on("ep1/deployments/blue"), deployed(`{"environmentVariables":{"N":1,"B":true,"S":"x"}}`))
	raw, err := json.Marshal(h.shown(on("ep1/deployments/blue")))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"appInsightsEnabled":false,"egressPublicNetworkAccess":"Enabled","endpointComputeType":"Managed",` +
		`"environmentVariables":{"B":"true","N":"1","S":"x"},"instanceType":"Standard_DS3_v2",` +
		`"livenessProbe":{"failureThreshold":30,"initialDelay":"PT10S","period":"PT10S","successThreshold":1,"timeout":"PT2S"},` +
		`"model":"` + main + `/models/m/versions/1",` +
		`"properties":{"azureml.modelName":"m","azureml.modelVersion":"1","serving.runtime":"python"},"provisioningState":"Succeeded",` +
		`"readinessProbe":{"failureThreshold":30,"initialDelay":"PT10S","period":"PT10S","successThreshold":1,"timeout":"PT2S"},` +
		`"requestSettings":{"maxConcurrentRequestsPerInstance":1,"maxQueueWait":"PT0.5S","requestTimeout":"PT5S"},"scaleSettings":{"scaleType":"Default"}}`
	if string(raw) != want {
		t.Errorf("%s\nwanted\n%s", raw, want)
	}
	r := h.get(on("ep1/deployments/blue"))
	if string(r.SKU) != `{"capacity":1,"name":"Default"}` || r.Location != "local" || r.Tags == nil {
		t.Error(string(r.SKU), r.Location, r.Tags)
	}
	// A client that sends back what it read changes nothing.
	body, _ := json.Marshal(map[string]any{"location": r.Location, "tags": r.Tags, "sku": r.SKU, "properties": json.RawMessage(raw)})
	h.must(on("ep1/deployments/blue"), string(body))
	if again, _ := json.Marshal(h.shown(on("ep1/deployments/blue"))); string(again) != want {
		t.Errorf("sent back: %s", again)
	}
	stored, err := h.store.Get(t.Context(), r.ID)
	if err != nil || strings.Contains(string(stored.Properties), "modelVersion") {
		t.Errorf("what was shown became the user's: %s %v", stored.Properties, err)
	}
}

func TestAnythingThatNamesAModelIsPinned(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	h.must(main+"/environments/e/versions/2", `{"properties":{"image":"python"}}`)
	script := `"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"score.py"}`
	for _, c := range []struct{ body, model, environment string }{
		{`{"model":"azureml:m@latest"}`, main + "/models/m/versions/1", ""},
		{`{"model":"` + main + `/models/m/labels/latest"}`, main + "/models/m/versions/1", ""},
		{`{"model":"azureml:` + main + `/models/m/versions/1"}`, main + "/models/m/versions/1", ""},
		{`{"environmentId":"azureml:e@latest",` + script + `}`, main + "/models/m/versions/1", main + "/environments/e/versions/2"},
		{`{"model":null,"environmentId":"` + main + `/environments/own/versions/1"}`, "", main + "/environments/own/versions/1"},
	} {
		h.must(on("ep1/deployments/blue"), deployed(c.body))
		p, err := resource.ParseDocument(h.get(on("ep1/deployments/blue")).Properties)
		if err != nil || p.Text("model") != c.model || p.Text("environmentId") != c.environment {
			t.Errorf("%s: model %q, environment %q, %v", c.body, p.Text("model"), p.Text("environmentId"), err)
		}
	}
}

func TestWhatIsWrongWithADeploymentIsNamed(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	refused(t, h.put(on("nope/deployments/blue"), deployed(`{}`)), fault.Missing, "'nope'")
	refused(t, h.put(on("ep1/deployments/b"), deployed(`{}`)), fault.BadRequest, "3 to 32")
	for _, c := range []struct{ change, says string }{
		{`{"model":null}`, "name a model"},
		{`{"model":5}`, "model"},
		{`{"model":"m"}`, "azureml:NAME:VERSION"},
		{`{"model":"` + main + `/environments/e/versions/1"}`, "version of models"},
		{`{"model":"` + main + `2/models/m/versions/1"}`, "share it through a registry"},
		{`{"codeConfiguration":{"codeId":"azureml:c:1"},"environmentId":"azureml:e:1"}`, "scoringScript"},
		{`{"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"../score.py"},"environmentId":"azureml:e:1"}`, "inside the code"},
		{`{"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"/score.py"},"environmentId":"azureml:e:1"}`, "inside the code"},
		{`{"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"score.py"}}`, "environmentId"},
		{`{"codeConfiguration":"score.py"}`, "object"},
		{`{"modelMountPath":"models"}`, "absolute path"},
		{`{"modelMountPath":"/a/../b"}`, "absolute path"},
		{`{"instanceType":4}`, "instanceType"},
		{`{"instanceType":"Standard_DS3_v22x!"}`, "near ones are Standard_DS3_v2"},
		{`{"endpointComputeType":"Kubernetes"}`, "endpoint's kind"},
		{`{"endpointComputeType":"AzureMLCompute"}`, "Managed, Kubernetes"},
		{`{"egressPublicNetworkAccess":"x"}`, "Enabled, Disabled"},
		{`{"appInsightsEnabled":"yes"}`, "true or false"},
		{`{"requestSettings":{"requestTimeout":"PT181S"}}`, "3m0s"},
		{`{"requestSettings":{"requestTimeout":"PT0S"}}`, "requestTimeout"},
		{`{"requestSettings":{"requestTimeout":"-PT3S"}}`, "requestTimeout"},
		{`{"requestSettings":{"requestTimeout":5}}`, "ISO 8601"},
		{`{"requestSettings":{"maxConcurrentRequestsPerInstance":0}}`, "from 1"},
		{`{"requestSettings":{"maxQueueWait":"soon"}}`, "maxQueueWait"},
		{`{"livenessProbe":{"period":"PT0S"}}`, "livenessProbe.period"},
		{`{"livenessProbe":{"successThreshold":2}}`, "from 1 to 1"},
		{`{"readinessProbe":{"failureThreshold":0}}`, "readinessProbe.failureThreshold"},
		{`{"readinessProbe":[]}`, "object"},
		{`{"scaleSettings":{"scaleType":"Sometimes"}}`, "Default, TargetUtilization"},
		{`{"scaleSettings":{"scaleType":"TargetUtilization","minInstances":3,"maxInstances":2}}`, "maxInstances"},
		{`{"scaleSettings":{"scaleType":"TargetUtilization","targetUtilizationPercentage":101}}`, "from 1 to 100"},
		{`{"environmentVariables":{"A=B":"c"}}`, "no name of a variable"},
		{`{"environmentVariables":{"A":["c"]}}`, "environmentVariables.A"},
		{`{"environmentVariables":{"A":"${{azureml://connections/nope/credentials/key}}"}}`, "connection 'nope'"},
		{`{"environmentVariables":{"A":"${{keyvault:https://x}}"}}`, "what is offered"},
		{`{"properties":{"a":[1]}}`, "properties.a"},
		{`{"properties":{"serving.min_instances":"-1"}}`, "whole number"},
		{`{"dataCollector":{"rollingRate":"Century"}}`, "Minute, Hour"},
		{`{"dataCollector":{"collections":{"a":{},"b":{},"c":{},"d":{},"e":{},"f":{}}}}`, "at most 5"},
		{`{"dataCollector":{"collections":{"a":{"samplingRate":2}}}}`, "from 0 to 1"},
		{`{"dataCollector":{"collections":{"a/b":{}}}}`, "no name of a collection"},
		{`{"dataCollector":{"requestLogging":{"captureHeaders":"all"}}}`, "list"},
		{`{"containerResourceRequirements":{"containerResourceLimits":{"cpu":"many"}}}`, "no amount"},
		{`{"containerResourceRequirements":{"containerResourceLimits":{"cpu":"500m"},"containerResourceRequests":{"cpu":"1"}}}`, "more than the limit"},
	} {
		if err := h.put(on("ep1/deployments/blue"), deployed(c.change)); err == nil {
			t.Errorf("%s was taken", c.change)
		} else {
			refused(t, err, fault.BadRequest, c.says)
		}
	}
	for _, c := range []struct{ sku, says string }{
		{`{"capacity":0}`, "from 1 to 50"}, {`{"capacity":51}`, "from 1 to 50"}, {`{"capacity":-1}`, "sku.capacity"}, {`{"capacity":1.5}`, "whole number"},
		{`{"capacity":"1"}`, "whole number"}, {`{"name":"Big"}`, "must be Default"}, {`[]`, "object"},
	} {
		body := resource.Overlay(json.RawMessage(deployed(`{}`)), json.RawMessage(`{"sku":`+c.sku+`}`))
		refused(t, h.put(on("ep1/deployments/blue"), string(body)), fault.BadRequest, c.says)
	}
	for _, change := range []string{`{"model":"azureml:m:9"}`, `{"model":"azureml:none@latest"}`, `{"environmentId":"azureml:e:9"}`, `{"model":"azureml://registries/none/models/m/versions/1"}`} {
		refused(t, h.put(on("ep1/deployments/blue"), deployed(change)), fault.Missing, "could not be found")
	}
	for _, c := range []struct{ body, says string }{{`{"containerType":"Other"}`, "InferenceServer"}, {`{"tail":0}`, "from 1 to 5000"}, {`{"tail":5001}`, "from 1 to 5000"}, {`{"tail":"all"}`, "tail"}} {
		h.must(on("ep1/deployments/green"), deployed(`{}`))
		_, err := h.act(on("ep1/deployments/green"), "getLogs", c.body)
		refused(t, err, fault.BadRequest, c.says)
	}
}

func TestWhatIsUnusualAndRightIsTaken(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	for _, change := range []string{
		`{"requestSettings":{"requestTimeout":"PT3M","maxQueueWait":"PT0S"}}`,
		`{"requestSettings":{"requestTimeout":"PT5M"},"environmentVariables":{"PRT_CONFIG_OVERRIDE":"x"}}`,
		`{"instanceType":"standard_nc4as_t4_v3"}`,
		`{"scaleSettings":{"scaleType":"targetutilization","minInstances":0,"maxInstances":5}}`,
		`{"environmentVariables":{"A":"Bearer ${{azureml://connections/con/credentials/key}}"}}`,
		`{"dataCollector":{"enabled":"True","rollingRate":"hour","samplingStrategy":{"rate":0.5}}}`,
		`{"dataCollector":{"collections":{"request":{"dataCollectionMode":"enabled"},"model_inputs":{"dataId":"azureml:x:1","samplingRate":0.1}},"requestLogging":{"captureHeaders":["a"]}}}`,
		`{"containerResourceRequirements":{"containerResourceLimits":{"cpu":"1","memory":"2Gi","gpu":0},"containerResourceRequests":{"cpu":0.5,"memory":"500Mi"}}}`,
		`{"RequestSettings":{"RequestTimeout":"PT9S"}}`,
		`{"something":{"that":"we do not know"}}`,
	} {
		if err := h.put(on("ep1/deployments/blue"), deployed(change)); err != nil {
			t.Errorf("%s: %v", change, err)
		}
	}
	// One that may sleep has no instances to begin with.
	body := resource.Overlay(json.RawMessage(deployed(`{"properties":{"serving.min_instances":"0"}}`)), json.RawMessage(`{"sku":{"capacity":0}}`))
	h.must(on("ep1/deployments/blue"), string(body))
}

// TestNoValueOfTheWrongTypeIsTheServersFault puts values of all types into every
// place of both bodies.
func TestNoValueOfTheWrongTypeIsTheServersFault(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	endpoint := `{"location":"local","tags":{"a":"b"},"identity":{"type":"SystemAssigned","userAssignedIdentities":{"x":{}}},"kind":"Managed","properties":{"authMode":"Key","description":"d",
		"compute":"","keys":{"primaryKey":"abcdefgh1","secondaryKey":"abcdefgh2"},"properties":{"serving.sticky_header":"a","serving.cors":"b","serving.requests_per_second":"1"},
		"traffic":{},"mirrorTraffic":{"blue":0},"publicNetworkAccess":"Enabled"}}`
	deployment := `{"location":"local","tags":{"a":"b"},"sku":{"name":"Default","capacity":1},"properties":{"endpointComputeType":"Managed","model":"azureml:m:1","modelMountPath":"/m",
		"codeConfiguration":{"codeId":"azureml:c:1","scoringScript":"score.py"},"environmentId":"azureml:e:1","environmentVariables":{"A":"b"},"description":"d","properties":{"p":"q"},
		"instanceType":"Standard_DS3_v2","appInsightsEnabled":true,"egressPublicNetworkAccess":"Enabled","privateNetworkConnection":false,
		"requestSettings":{"requestTimeout":"PT5S","maxConcurrentRequestsPerInstance":1,"maxQueueWait":"PT1S"},
		"livenessProbe":{"initialDelay":"PT10S","period":"PT10S","timeout":"PT2S","successThreshold":1,"failureThreshold":30},
		"scaleSettings":{"scaleType":"TargetUtilization","minInstances":1,"maxInstances":2,"pollingInterval":"PT1S","targetUtilizationPercentage":70},
		"dataCollector":{"collections":{"request":{"dataCollectionMode":"Enabled","dataId":"x","samplingRate":1}},"rollingRate":"Hour","samplingRate":1,"requestLogging":{"captureHeaders":["a"]}},
		"containerResourceRequirements":{"containerResourceLimits":{"cpu":"1"},"containerResourceRequests":{"cpu":"1"}}}}`
	values := []any{nil, true, -7, 1.5, "word", "", []any{1, "two"}, map[string]any{"a": 1}, []any{}, map[string]any{}, 1e300, "a/b", "ü", strings.Repeat("x", 3000), "\x00"}
	taken, turned := 0, 0
	h.must(on("ep1/deployments/blue"), deployment)
	for id, body := range map[string]string{on("ep1"): endpoint, on("ep1/deployments/blue"): deployment} {
		var whole any
		if err := json.Unmarshal([]byte(body), &whole); err != nil {
			t.Fatal(err)
		}
		h.must(id, body)
		places(whole, func(set func(any)) {
			for _, v := range values {
				set(v)
				raw, err := json.Marshal(whole)
				if err != nil {
					t.Fatal(err)
				}
				for verb, err := range map[string]error{"PUT": h.put(id, string(raw)), "PATCH": h.patch(id, string(raw))} {
					if err == nil {
						taken++
					} else if f := fault.Find(err); f == nil || f.Kind == fault.Internal {
						t.Errorf("%s %s: %v", verb, raw, err)
					} else {
						turned++
					}
				}
				// Whatever was taken can be shown.
				_ = h.shown(id)
				if _, err := h.service.Routes(t.Context()); err != nil {
					t.Fatalf("%s: %v", raw, err)
				}
			}
		})
	}
	if t.Logf("%d taken, %d refused", taken, turned); taken == 0 || turned == 0 {
		t.Error("this tests nothing")
	}
}

// places calls do for every value of an object, at any depth, with what changes it
// and, at last, puts it back.
func places(v any, do func(set func(any))) {
	at := func(get any, set func(any)) {
		do(set)
		set(get)
		places(get, do)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			at(member, func(to any) { v[name] = to })
		}
	case []any:
		for i, element := range v {
			at(element, func(to any) { v[i] = to })
		}
	}
}

func TestCapacityIsAskedForByAutoscale(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	h.must(on("ep1/deployments/blue"), deployed(`{}`))
	before := h.get(on("ep1/deployments/blue"))
	if err := h.patch(on("ep1/deployments/blue"), `{"tags":{"by":"autoscale"},"sku":{"capacity":4}}`); err != nil {
		t.Fatal(err)
	}
	after := h.get(on("ep1/deployments/blue"))
	if string(after.SKU) != `{"capacity":4,"name":"Default"}` || fmt.Sprint(after.Tags) != "map[by:autoscale]" || string(after.Properties) != string(before.Properties) {
		t.Error(string(after.SKU), after.Tags, string(after.Properties))
	}
}
