package endpoint_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/endpoint"
	"lapis/ml/serving"
	"lapis/resource"
	"lapis/resource/storetest"
)

// on is the id of an endpoint, or of what lies below it.
func on(path string) string { return main + "/onlineEndpoints/" + path }

// online is the body of an endpoint with properties changed.
func online(change string) string {
	return string(resource.Document{"location": json.RawMessage(`"local"`),
		"properties": resource.Overlay(json.RawMessage(`{"authMode":"Key"}`), json.RawMessage(change))}.Raw())
}

// deployed is the body of a deployment with properties changed.
func deployed(change string) string {
	merged, err := resource.MergePatch(json.RawMessage(`{"endpointComputeType":"Managed","instanceType":"Standard_DS3_v2","model":"azureml:m:1"}`), json.RawMessage(change))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"location":"local","sku":{"name":"Default","capacity":1},"properties":%s}`, merged)
}

// claimsOf reads what a token says.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	claims := map[string]any{}
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func (h *house) blueAndGreen() {
	h.t.Helper()
	h.must(on("ep1"), online(`{}`))
	h.must(on("ep1/deployments/blue"), deployed(`{}`))
	h.must(on("ep1/deployments/green"), deployed(`{}`))
}

func TestAnEndpointIsShownWithItsAddressesAndWithoutItsKeys(t *testing.T) {
	h := newHouse(t)
	r := h.must(on("Ep1"), online(`{"authMode":"key","keys":{"primaryKey":"my-own-key-1"},"description":"d","properties":{"n":1,"on":true,"s":"x"}}`))
	p := h.shown(on("ep1"))
	if p["authMode"] != "Key" || p["scoringUri"] != "http://localhost:7444/endpoints/ep1/score" || p["swaggerUri"] != "http://localhost:7444/endpoints/ep1/swagger.json" ||
		p["provisioningState"] != "Succeeded" || p["publicNetworkAccess"] != "Enabled" || p["keys"] != nil || r.Kind != "Managed" {
		t.Error(p, r.Kind)
	}
	if texts := p["properties"].(map[string]any); texts["n"] != "1" || texts["on"] != "true" || texts["azureml.onlineendpointid"] != r.ID.String() {
		t.Error(texts)
	}
	if got, err := h.act(on("ep1"), "LISTKEYS", ""); err != nil || got["primaryKey"] != "my-own-key-1" || len(got["secondaryKey"].(string)) != 44 {
		t.Error(got, err)
	}
	var id map[string]string
	if json.Unmarshal(r.Identity, &id); id["type"] != "SystemAssigned" || len(id["principalId"]) != 36 || id["tenantId"] != "t" {
		t.Error(string(r.Identity))
	}
	again := h.must(on("ep1"), online(`{"properties":{"more":"y"}}`))
	if string(again.Identity) != string(r.Identity) {
		t.Error("the identity has changed")
	}
	if texts := h.shown(on("ep1"))["properties"].(map[string]any); texts["more"] != "y" || texts["s"] != "x" {
		t.Errorf("a PUT took properties away: %v", texts)
	}
	if err := h.patch(on("ep1"), `{"properties":{"properties":{"s":null}}}`); err != nil {
		t.Error(err)
	}
	if texts := h.shown(on("ep1"))["properties"].(map[string]any); texts["s"] != nil || texts["more"] != "y" {
		t.Errorf("after a patch: %v", texts)
	}
}

func TestWhatIsWrongWithAnEndpointIsNamed(t *testing.T) {
	h := newHouse(t)
	h.must(main+"2/onlineEndpoints/taken", online(`{}`))
	user := "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
	for _, c := range []struct {
		name, body string
		kind       fault.Kind
		says       string
	}{
		{"ab", online(`{}`), fault.BadRequest, "3 to 32"},
		{strings.Repeat("a", 33), online(`{}`), fault.BadRequest, "3 to 32"},
		{"1abc", online(`{}`), fault.BadRequest, "beginning with a letter"},
		{"abc-", online(`{}`), fault.BadRequest, "not ending in '-'"},
		{"a_b", online(`{}`), fault.BadRequest, "letters, digits"},
		{"TAKEN", online(`{}`), fault.Conflict, "unique"},
		{"ep1", `{"location":"local","properties":{}}`, fault.BadRequest, "authMode"},
		{"ep1", online(`{"authMode":"None"}`), fault.BadRequest, "Key, AMLToken, AADToken"},
		{"ep1", online(`{"authMode":7}`), fault.BadRequest, "authMode"},
		{"ep1", online(`{"publicNetworkAccess":"maybe"}`), fault.BadRequest, "publicNetworkAccess"},
		{"ep1", online(`{"traffic":{"blue":100}}`), fault.BadRequest, "does not exist yet"},
		{"ep1", online(`{"traffic":{"blue":"100"}}`), fault.BadRequest, "whole number"},
		{"ep1", online(`{"traffic":[1]}`), fault.BadRequest, "traffic"},
		{"ep1", online(`{"mirrorTraffic":{"blue":10}}`), fault.BadRequest, "does not exist yet"},
		{"ep1", online(`{"compute":"azureml:nope"}`), fault.Missing, "attached Kubernetes compute"},
		{"ep1", online(`{"compute":"` + main + `/computes/cpu"}`), fault.BadRequest, "AmlCompute"},
		{"ep1", online(`{"compute":"` + main + `2/computes/k8s"}`), fault.BadRequest, "lies in workspace"},
		{"ep1", online(`{"compute":"azureml:k8s","authMode":"AADToken"}`), fault.BadRequest, "AADToken"},
		{"ep1", online(`{"properties":{"a":{"b":1}}}`), fault.BadRequest, "properties.a"},
		{"ep1", online(`{"properties":"x"}`), fault.BadRequest, "object of strings"},
		{"ep1", online(`{"properties":{"serving.requests_per_second":"many"}}`), fault.BadRequest, "number"},
		{"ep1", online(`{"properties":{"serving.max_body_bytes":"0"}}`), fault.BadRequest, "bytes"},
		{"ep1", online(`{"properties":{"serving.sticky_header":"a b"}}`), fault.BadRequest, "header"},
		{"ep1", online(`{"keys":{"primaryKey":"short"}}`), fault.BadRequest, "printable"},
		{"ep1", online(`{"keys":{"primaryKey":"samesame1","secondaryKey":"samesame1"}}`), fault.BadRequest, "both keys the same"},
		{"ep1", `{"properties":{"authMode":"Key"},"identity":{"type":"Robot"}}`, fault.BadRequest, "identity.type"},
		{"ep1", `{"properties":{"authMode":"Key"},"identity":{"type":"UserAssigned"}}`, fault.BadRequest, "userAssignedIdentities"},
		{"ep1", `{"properties":{"authMode":"Key"},"identity":{"type":"UserAssigned","userAssignedIdentities":{"u":{}}}}`, fault.BadRequest, "no id of a user-assigned identity"},
		{"ep1", `{"properties":{"authMode":"Key"},"identity":5}`, fault.BadRequest, "identity"},
	} {
		refused(t, h.put(on(c.name), c.body), c.kind, c.says)
	}
	r := h.must(on("ep1"), `{"properties":{"authMode":"Key"},"identity":{"type":"UserAssigned","userAssignedIdentities":{"`+user+`":{}}}}`)
	if !strings.Contains(string(r.Identity), `"clientId"`) {
		t.Error(string(r.Identity))
	}
	refused(t, h.put(on("ep1"), online(`{"compute":"azureml:k8s"}`)), fault.BadRequest, "managed endpoint")
	if k := h.must(on("k8s"), online(`{"compute":"azureml:k8s"}`)); k.Kind != "K8S" || !strings.Contains(string(k.Properties), main+"/computes/k8s") {
		t.Error(k.Kind, string(k.Properties))
	}
}

func TestTrafficIsWhatTheRulesAllow(t *testing.T) {
	h := newHouse(t)
	h.blueAndGreen()
	for _, c := range []struct{ change, says string }{
		{`{"traffic":{"blue":99}}`, "adds up to 99"},
		{`{"traffic":{"blue":60,"green":60}}`, "adds up to 120"},
		{`{"traffic":{"blue":101}}`, "from 0 to 100"},
		{`{"traffic":{"blue":-1,"green":101}}`, "from 0 to 100"},
		{`{"traffic":{"blue":50.5,"green":49.5}}`, "whole number"},
		{`{"traffic":{"red":100}}`, "does not have"},
		{`{"traffic":{"blue":100,"red":0}}`, "does not have"},
		{`{"traffic":{"blue":100},"mirrorTraffic":{"green":51}}`, "at most 50"},
		{`{"traffic":{"blue":100},"mirrorTraffic":{"blue":10}}`, "live traffic"},
		{`{"traffic":{"blue":100},"mirrorTraffic":{"red":10}}`, "does not have"},
		{`{"mirrorTraffic":{"blue":10,"green":10}}`, "copies go to one"},
	} {
		refused(t, h.put(on("ep1"), online(c.change)), fault.BadRequest, c.says)
	}
	split := func(want string) {
		t.Helper()
		p := h.shown(on("ep1"))
		raw, _ := json.Marshal([]any{p["traffic"], p["mirrorTraffic"]})
		if string(raw) != want {
			t.Errorf("traffic and mirror are %s, wanted %s", raw, want)
		}
	}
	h.must(on("ep1"), online(`{"traffic":{"BLUE":100},"mirrorTraffic":{"green":10}}`))
	split(`[{"blue":100},{"green":10}]`)
	h.must(on("ep1"), online(`{"description":"says nothing of traffic"}`))
	split(`[{"blue":100},{"green":10}]`)
	h.must(on("ep1"), online(`{"traffic":{"blue":90,"green":10},"mirrorTraffic":{}}`))
	split(`[{"blue":90,"green":10},{}]`)
	if err := h.patch(on("ep1"), `{"properties":{"traffic":{"blue":0,"green":100}}}`); err != nil {
		t.Error(err)
	}
	split(`[{"blue":0,"green":100},{}]`)
	refused(t, h.delete(on("ep1/deployments/green")), fault.Conflict, "100 %")
	if err := h.delete(on("ep1/deployments/blue")); err != nil {
		t.Error(err)
	}
	split(`[{"green":100},{}]`)
	h.must(on("ep1"), online(`{"traffic":{}}`))
	split(`[{},{}]`)
	if err := h.delete(on("ep1/deployments/green")); err != nil {
		t.Error(err)
	}
	if got := strings.Join(h.deployer.withdrawn, " "); got != "blue green" {
		t.Error("withdrawn:", got)
	}
}

func TestAKubernetesEndpointMirrorsNothing(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{"compute":"azureml:k8s"}`))
	body := deployed(`{"endpointComputeType":"Kubernetes","instanceType":"my-own-type"}`)
	h.must(on("ep1/deployments/blue"), body)
	h.must(on("ep1/deployments/green"), body)
	refused(t, h.put(on("ep1"), online(`{"compute":"azureml:k8s","traffic":{"blue":100},"mirrorTraffic":{"green":10}}`)), fault.BadRequest, "not offered by Kubernetes")
	refused(t, h.put(on("ep1"), online(`{}`)), fault.BadRequest, "Kubernetes endpoint")
	refused(t, h.put(on("ep1/deployments/red"), deployed(`{}`)), fault.BadRequest, "endpoint's kind")
	if s := h.shown(on("ep1/deployments/blue"))["scaleSettings"].(map[string]any); s["scaleType"] != "TargetUtilization" || s["targetUtilizationPercentage"] != 70.0 {
		t.Error(s)
	}
}

func TestRollingBackGivesTheSplitThatWasBefore(t *testing.T) {
	h := newHouse(t)
	h.blueAndGreen()
	_, err := h.act(on("ep1"), "rollback", "")
	refused(t, err, fault.Conflict, "no other split")
	h.must(on("ep1"), online(`{"traffic":{"blue":100}}`))
	h.must(on("ep1"), online(`{"traffic":{"blue":90,"green":10}}`))
	h.must(on("ep1"), online(`{"traffic":{"green":100}}`))
	for _, want := range []string{"map[blue:90 green:10]", "map[green:100]", "map[blue:90 green:10]"} {
		got, err := h.act(on("ep1"), "rollback", "")
		if err != nil || fmt.Sprint(got["traffic"]) != want || fmt.Sprint(h.shown(on("ep1"))["traffic"]) != want {
			t.Errorf("%v %v, wanted %s", got, err, want)
		}
	}
	if _, told := h.shown(on("ep1"))["trafficBefore"]; told {
		t.Error("what is the server's own is shown")
	}
}

func TestKeysChangeOneAtATimeAndAreNeverKeptInClear(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	keys := func() (string, string) {
		got, err := h.act(on("ep1"), "listkeys", "")
		if err != nil {
			t.Fatal(err)
		}
		return got["primaryKey"].(string), got["secondaryKey"].(string)
	}
	hashed := func() {
		t.Helper()
		routes, err := h.service.Routes(t.Context())
		if err != nil || len(routes) != 1 {
			t.Fatal(routes, err)
		}
		a, b := keys()
		for i, key := range []string{a, b} {
			if sum := sha256.Sum256([]byte(key)); routes[0].Keys[i] != hex.EncodeToString(sum[:]) {
				t.Error("the gateway has other keys")
			}
		}
	}
	a1, b1 := keys()
	hashed()
	regenerate := func(body string) error { _, err := h.act(on("ep1"), "regenerateKeys", body); return err }
	if err := regenerate(`{"keyType":"Primary","keyValue":"` + a1 + `"}`); err != nil {
		t.Fatal(err)
	}
	a2, b2 := keys()
	if a2 == a1 || b2 != b1 {
		t.Error("a key that is the present one asks for a new one, and of that alone")
	}
	hashed()
	if err := regenerate(`{"keyType":"secondary","keyValue":"chosen-by-the-user"}`); err != nil {
		t.Fatal(err)
	}
	if a3, b3 := keys(); a3 != a2 || b3 != "chosen-by-the-user" {
		t.Error(a3, b3)
	}
	hashed()
	if err := regenerate(`{"keyType":"Secondary"}`); err != nil {
		t.Fatal(err)
	}
	if _, b := keys(); b == "chosen-by-the-user" {
		t.Error("it was not replaced")
	}
	for body, says := range map[string]string{`{}`: "Primary or Secondary", `{"keyType":"Third"}`: "Primary or Secondary", `{"keyType":7}`: "keyType",
		`{"keyType":"Primary","keyValue":"a b c d e f"}`: "printable", `[]`: "object"} {
		refused(t, regenerate(body), fault.BadRequest, says)
	}
	_, b := keys()
	refused(t, regenerate(`{"keyType":"Primary","keyValue":"`+b+`"}`), fault.BadRequest, "the same")
	open, err := h.store.OpenOperations(t.Context())
	if err != nil || len(open) != 0 {
		t.Error(open, err)
	}
	for _, op := range h.operations {
		kept, err := h.store.Operation(t.Context(), op)
		if err != nil || len(kept.Input) != 0 {
			t.Errorf("an operation keeps %q: %v", kept.Input, err)
		}
	}
}

func TestTokensAreOfOneEndpointAndOneEpoch(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{"authMode":"aml_token"}`))
	got, err := h.act(on("ep1"), "token", "")
	if err != nil || got["tokenType"] != "Bearer" || got["expiryTimeUtc"].(float64)-got["refreshAfterTimeUtc"].(float64) != 6*3600 {
		t.Fatal(got, err)
	}
	if _, err := h.issuer.Verify(got["accessToken"].(string), func(string) bool { return true }); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a token that scores is taken for one that does all: %v", err)
	}
	routes, err := h.service.Routes(t.Context())
	if err != nil || routes[0].Auth != serving.AuthAMLToken {
		t.Fatal(routes, err)
	}
	claims := claimsOf(t, got["accessToken"].(string))
	if claims["lapis_endpoint"] != strings.ToLower(on("ep1")) || claims["lapis_epoch"] != routes[0].Epoch || claims["aud"] != "https://ml.azure.com" {
		t.Error(claims)
	}
	if _, err := h.act(on("ep1"), "regenerateKeys", `{"keyType":"Primary"}`); err != nil {
		t.Fatal(err)
	}
	if after, _ := h.service.Routes(t.Context()); after[0].Epoch == routes[0].Epoch {
		t.Error("tokens of before are still good")
	}
	h.must(on("ep2"), online(`{"authMode":"AADToken"}`))
	if got, err = h.act(on("ep2"), "token", ""); err != nil {
		t.Fatal(err)
	}
	if p, err := h.issuer.Verify(got["accessToken"].(string), func(a string) bool { return a == "https://ml.azure.com" }); err != nil || p.ID != eve.ID {
		t.Error(p, err)
	}
	h.must(on("ep3"), online(`{}`))
	_, err = h.act(on("ep3"), "token", "")
	refused(t, err, fault.BadRequest, "listKeys")
}

func TestASecondWriteWaitsForTheFirst(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	gate := make(chan struct{})
	h.deployer.set(gate, nil)
	first, err := h.manager.Put(t.Context(), h.request(on("ep1/deployments/blue"), deployed(`{}`)))
	if err != nil || first.Operation == "" {
		t.Fatal(first, err)
	}
	if s := h.shown(on("ep1/deployments/blue")); s["provisioningState"] != "Creating" {
		t.Error(s["provisioningState"])
	}
	refused(t, h.put(on("ep1/deployments/blue"), deployed(`{}`)), fault.Conflict, "being changed")
	refused(t, h.patch(on("ep1/deployments/blue"), `{"sku":{"capacity":2}}`), fault.Conflict, "being changed")
	refused(t, h.put(on("ep1"), online(`{"traffic":{"blue":100}}`)), fault.Conflict, "has not answered yet")
	h.must(on("ep1"), online(`{"description":"another resource"}`))
	close(gate)
	if err := h.ended(first); err != nil {
		t.Fatal(err)
	}
	h.must(on("ep1"), online(`{"traffic":{"blue":100}}`))
	gate = make(chan struct{})
	h.deployer.set(gate, nil)
	scaled, err := h.manager.Patch(t.Context(), h.request(on("ep1/deployments/blue"), `{"sku":{"capacity":3}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := h.shown(on("ep1/deployments/blue")); s["provisioningState"] != "Scaling" {
		t.Error(s["provisioningState"])
	}
	close(gate)
	if err := h.ended(scaled); err != nil {
		t.Fatal(err)
	}
	if r := h.get(on("ep1/deployments/blue")); string(r.SKU) != `{"capacity":3,"name":"Default"}` {
		t.Error(string(r.SKU))
	}
}

func TestAFailedChangeSaysWhyAndWhatServedStillDoes(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	h.deployer.set(nil, fault.Invalid("ModuleNotFoundError: No module named 'nope' (score.py, line 3)\nmore").With("ResourceNotReady"))
	err := h.put(on("ep1/deployments/blue"), deployed(`{}`))
	if f := fault.Find(err); f == nil || f.Code != "ResourceNotReady" || !strings.HasPrefix(f.Message, "ModuleNotFoundError") {
		t.Error(err)
	}
	if s := h.shown(on("ep1/deployments/blue")); s["provisioningState"] != "Failed" || !strings.Contains(fmt.Sprint(s["provisioningErrors"]), "nope") {
		t.Error(s)
	}
	refused(t, h.put(on("ep1"), online(`{"traffic":{"blue":100}}`)), fault.Conflict, "Failed")
	if got, err := h.act(on("ep1/deployments/blue"), "getLogs", `{"tail":5}`); err != nil || got["content"] != "blue InferenceServer 5\n" {
		t.Error(got, err)
	}
	h.deployer.set(nil, nil)
	h.must(on("ep1/deployments/blue"), deployed(`{}`))
	if s := h.shown(on("ep1/deployments/blue")); s["provisioningState"] != "Succeeded" || s["provisioningErrors"] != nil {
		t.Error(s)
	}
	h.must(on("ep1"), online(`{"traffic":{"blue":100}}`))
	h.deployer.set(nil, errors.New("no word for users"))
	if err := h.put(on("ep1/deployments/blue"), deployed(`{"description":"x"}`)); err == nil {
		t.Error("it did not fail")
	}
	h.must(on("ep1"), online(`{"description":"its traffic stays","traffic":{"blue":100}}`))
}

func TestAnEndpointGoesWithItsDeployments(t *testing.T) {
	h := newHouse(t)
	h.blueAndGreen()
	h.must(on("ep1"), online(`{"traffic":{"blue":100}}`))
	if err := h.delete(on("ep1")); err != nil {
		t.Fatal(err)
	}
	if len(h.deployer.withdrawn) != 2 {
		t.Error(h.deployer.withdrawn)
	}
	for _, id := range []string{on("ep1"), on("ep1/deployments/blue")} {
		if _, err := h.store.Get(t.Context(), storetest.ID(t, "%s", id)); !fault.Is(err, fault.Missing) {
			t.Error(id, err)
		}
	}
	if err := h.delete(on("ep1")); err != nil {
		t.Error("deleting what is not there:", err)
	}
	h.must(main+"2/onlineEndpoints/ep1", online(`{}`))
}

func TestDeletingAnEndpointTellsItsDeploymentsAtOnce(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), online(`{}`))
	gate := make(chan struct{})
	h.deployer.set(gate, nil)
	coming, err := h.manager.Put(t.Context(), h.request(on("ep1/deployments/blue"), deployed(`{}`)))
	if err != nil {
		t.Fatal(err)
	}
	going, err := h.manager.Delete(t.Context(), h.request(on("ep1"), ""))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := h.store.Get(t.Context(), coming.Resource.ID); err == nil && endpoint.StateOf(r) != resource.Deleting {
		t.Errorf("it is %s", endpoint.StateOf(r))
	}
	close(gate)
	if err := h.ended(going); err != nil {
		t.Fatal(err)
	}
	_ = h.ended(coming) // it came up or did not: it is gone
	if _, err := h.store.Get(t.Context(), coming.Resource.ID); !fault.Is(err, fault.Missing) {
		t.Error(err)
	}
}

func TestRoutesAreWhatTheResourcesSay(t *testing.T) {
	h := newHouse(t)
	h.blueAndGreen()
	h.must(on("ep1"), online(`{"traffic":{"blue":100,"green":0},"mirrorTraffic":{"green":20},"properties":{"serving.sticky_header":"x-user","serving.cors":"https://a, https://b","serving.requests_per_second":"2.5","serving.max_body_bytes":"1000"}}`))
	routes, err := h.service.Routes(t.Context())
	if err != nil || len(routes) != 1 {
		t.Fatal(routes, err)
	}
	r := routes[0]
	if r.Name != "ep1" || r.Kind != "Managed" || r.Auth != "Key" || len(r.Keys) != 2 || len(r.Epoch) != 36 || fmt.Sprint(r.Traffic, r.Mirror) != "map[blue:100] map[green:20]" ||
		r.Sticky != "x-user" || len(r.CORS) != 2 || r.Limits != (serving.Limits{RequestsPerSecond: 2.5, Burst: 3, MaxBody: 1000}) || len(r.Deployments) != 2 {
		t.Errorf("%+v", r)
	}
	if err := h.delete(main); err != nil {
		t.Fatal(err)
	}
	if routes, err := h.service.Routes(t.Context()); err != nil || len(routes) != 0 {
		t.Errorf("endpoints of a deleted workspace are served: %v %v", routes, err)
	}
}

func TestListsAreFilteredByNameKindAndTags(t *testing.T) {
	h := newHouse(t)
	h.must(on("ep1"), `{"tags":{"a":"1"},"properties":{"authMode":"Key"}}`)
	h.must(on("ep2"), `{"tags":{"a":"2"},"properties":{"authMode":"Key","compute":"azureml:k8s"}}`)
	for _, c := range []struct {
		o    resource.Options
		want string
	}{
		{nil, "ep1 ep2"}, {resource.Options{"name": "EP1"}, "ep1"}, {resource.Options{"computetype": "kubernetes"}, "ep2"},
		{resource.Options{"computetype": "Managed"}, "ep1"}, {resource.Options{"tags": "a"}, "ep1 ep2"}, {resource.Options{"tags": "a=2"}, "ep2"}, {resource.Options{"tags": "b"}, ""},
	} {
		page, err := h.manager.List(t.Context(), eve, resource.Query{Type: "Microsoft.MachineLearningServices/workspaces/onlineEndpoints", Parent: storetest.ID(t, main)}, c.o, resource.View{Origin: "https://o"})
		var names []string
		for _, r := range page.Resources {
			names = append(names, r.ID.Name())
		}
		if got := strings.Join(names, " "); err != nil || got != c.want {
			t.Errorf("%v: %q %v, wanted %q", c.o, got, err, c.want)
		}
	}
}

func TestOfTwoEndpointsMadeAtOnceUnderOneNameOneIsServed(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	errs := make(chan error, 2)
	for _, w := range []string{main, main + "2"} {
		go func() { errs <- h.put(w+"/onlineEndpoints/same", online(`{}`)) }()
	}
	failed := 0
	for range 2 {
		select {
		case err := <-errs:
			if err != nil {
				failed++
				refused(t, err, fault.Conflict, "taken")
			}
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	if failed != 1 {
		t.Errorf("%d of two were refused", failed)
	}
	if routes, err := h.service.Routes(t.Context()); err != nil || len(routes) != 1 {
		t.Error(routes, err)
	}
}
