package armhttp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
)

func planOf(t testing.TB, template, parameters string) ([]planned, error) {
	t.Helper()
	group, err := resource.ParseID("/subscriptions/s/resourceGroups/g")
	if err != nil {
		t.Fatal(err)
	}
	var source, given resource.Document
	if err := json.Unmarshal([]byte(template), &source); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(parameters), &given); err != nil {
		t.Fatal(err)
	}
	return plan(group, "local", source, given)
}

func TestATemplateBecomesItsResourcesInTheirOrder(t *testing.T) {
	all, err := planOf(t, `{
		"parameters": {"ws": {"type": "string"}, "name": {"type": "string", "defaultValue": "unused"}, "tags": {"type": "object", "defaultValue": {"a": "[toUpper('b')]"}},
			"capacity": {"type": "int", "defaultValue": 1}, "more": {"type": "bool", "defaultValue": false}},
		"variables": {"full": "[format('{0}/{1}', parameters('ws'), parameters('name'))]"},
		"resources": [
			{"type": "P.X/spaces/ends/deps", "name": "[concat(variables('full'), '/blue')]", "sku": {"capacity": "[parameters('capacity')]"},
			 "dependsOn": ["[resourceId('P.X/spaces/ends', parameters('ws'), parameters('name'))]"], "properties": {"plain": "[[kept]", "it''s": "[if(equals(parameters('capacity'), 1), 'one', 'many')]"}},
			{"type": "P.X/spaces/ends", "name": "[variables('full')]", "location": "[resourceGroup().location]", "tags": "[parameters('tags')]", "properties": {"sub": "[subscription().subscriptionId]"},
			 "resources": [{"type": "things", "name": "inner", "properties": {}}]},
			{"type": "P.X/spaces/ends", "condition": "[parameters('more')]", "name": "never/made", "properties": {}}
		]}`, `{"ws": {"value": "w"}, "name": {"value": "e"}}`)
	if err != nil {
		t.Fatal(err)
	}
	const at = "/subscriptions/s/resourceGroups/g/providers/P.X/spaces/w/ends/e"
	want := []string{
		at + ` {"location":"local","properties":{"sub":"s"},"tags":{"a":"B"}}`,
		at + `/deps/blue {"properties":{"it''s":"one","plain":"[kept]"},"sku":{"capacity":1}}`,
		at + `/things/inner {"properties":{}}`,
	}
	for i, one := range all {
		if got := one.id.String() + " " + string(one.body); i >= len(want) || got != want[i] {
			t.Errorf("%d: %s", i, got)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d resources", len(all))
	}
}

func TestExpressionsAreEvaluated(t *testing.T) {
	for text, want := range map[string]string{
		`concat('a', 1, true())`: `"a1True"`, `concat(createArray(1), createArray('b'))`: `[1,"b"]`, `toLower(trim(' AB '))`: `"ab"`, `replace('a-b', '-', '')`: `"ab"`,
		`parameters('o').inner[1]`: `"two"`, `parameters('o')['INNER'][0]`: `1`, `empty(parameters('o'))`: `false`, `and(true(), not(false()))`: `true`, `or(false(), false())`: `false`,
		`coalesce(null(), 'x')`: `"x"`, `'it''s'`: `"it's"`, `-5`: `-5`, `int('7')`: `7`, `bool('true')`: `true`, `string(1)`: `"1"`,
		`resourceId('P.X/a/b', 'x', 'y')`:              `"/subscriptions/s/resourceGroups/g/providers/P.X/a/x/b/y"`,
		`resourceId('other', 'P.X/a', 'x')`:            `"/subscriptions/s/resourceGroups/other/providers/P.X/a/x"`,
		`resourceId('sub', 'other', 'P.X/a', 'x')`:     `"/subscriptions/sub/resourceGroups/other/providers/P.X/a/x"`,
		`format('{0}-{1}', 'a', resourceGroup().name)`: `"a-g"`,
	} {
		raw, _ := json.Marshal("[" + text + "]")
		all, err := planOf(t, `{"parameters":{"o":{"type":"object","defaultValue":{"inner":[1,"two"]}}},"resources":[{"type":"P.X/a","name":"n","properties":{"v":`+string(raw)+`}}]}`, `{}`)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := string(all[0].body); got != `{"properties":{"v":`+want+`}}` {
			t.Errorf("%s: %s, wanted %s", text, got, want)
		}
	}
}

func TestWhatATemplateCannotBeIsRefusedByName(t *testing.T) {
	deep := strings.Repeat("concat(", 100) + "'a'" + strings.Repeat(")", 100)
	var doubling strings.Builder
	for i := range 40 {
		fmt.Fprintf(&doubling, `"v%d":"[concat(variables('v%d'),variables('v%d'))]",`, i, i+1, i+1)
	}
	for source, says := range map[string]string{
		`{"resources":[]}`:  "no resources",
		`{"resources":"x"}`: "list",
		`{"parameters":{"p":{"type":"string"}},"resources":[{"type":"P.X/a","name":"n"}]}`:                                              "'p' is required",
		`{"parameters":{"p":{"type":"int","defaultValue":"x"}},"resources":[{"type":"P.X/a","name":"n"}]}`:                              "type int",
		`{"parameters":{"p":{"type":"string","defaultValue":"c","allowedValues":["a","b"]}},"resources":[{"type":"P.X/a","name":"n"}]}`: "allowed",
		`{"resources":[{"type":"P.X/a","name":"[parameters('none')]"}]}`:                                                                "no parameter 'none'",
		`{"resources":[{"type":"P.X/a/b","name":"n"}]}`:                                                                                 "do not fit",
		`{"resources":[{"type":"P.X/a"}]}`:                                                                                              "no name",
		`{"resources":[{"type":"P.X/a","name":"[reference('x')]"}]}`:                                                                    "'reference' is not offered",
		`{"resources":[{"type":"P.X/a","name":"[concat('a']"}]}`:                                                                        "missing",
		`{"resources":[{"type":"P.X/a","name":"['a]"}]}`:                                                                                "does not end",
		`{"resources":[{"type":"P.X/a","name":"[` + deep + `]"}]}`:                                                                      "nested deeper",
		`{"variables":{` + doubling.String() + `"v40":"xx"},"resources":[{"type":"P.X/a","name":"[variables('v0')]"}]}`:                 "more than",
		`{"variables":{"a":"[variables('b')]","b":"[variables('a')]"},"resources":[{"type":"P.X/a","name":"[variables('a')]"}]}`:        "refers to itself",
		`{"resources":[{"type":"P.X/a","name":"n","copy":{"count":3}}]}`:                                                                "loop",
		`{"resources":[{"type":"Microsoft.Resources/deployments","name":"n"}]}`:                                                         "another template",
		`{"resources":[{"type":"P.X/a","name":"x","dependsOn":["y"]},{"type":"P.X/a","name":"y","dependsOn":["x"]}]}`:                   "wait for each other",
	} {
		_, err := planOf(t, source, `{}`)
		if f := fault.Find(err); f == nil || f.Kind != fault.BadRequest || f.Code != "InvalidTemplate" || !strings.Contains(f.Message, says) {
			t.Errorf("%.200s: %v; wanted %q", source, err, says)
		}
	}
	if _, err := planOf(t, `{"resources":[{"type":"P.X/a","name":"n"}]}`, `{"extra":{"value":1}}`); err == nil || !strings.Contains(err.Error(), "no parameter 'extra'") {
		t.Error(err)
	}
}

func FuzzExpressions(f *testing.F) {
	for _, seed := range []string{"concat('a', parameters('p'))", "if(equals(1,2),'x',createArray())[0].y", "resourceId('a/b','c')", "format('{0}', 1", "variables('v')"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := json.Marshal("[" + text + "]")
		if err != nil {
			t.Skip()
		}
		_, err = planOf(t, `{"parameters":{"p":{"defaultValue":"x"}},"variables":{"v":"[parameters('p')]"},"resources":[{"type":"P.X/a","name":"n","properties":{"v":`+string(raw)+`}}]}`, `{}`)
		if err != nil && fault.Find(err) == nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
