package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
)

const scopeOfTests = "/subscriptions/s/resourceGroups/g"

// there is a world of resources by id; sketch makes it one in which nothing is made.
type there struct {
	t      testing.TB
	all    map[string]string
	sketch bool
}

func (w there) Preview() bool { return w.sketch }

func (w there) Get(id resource.ID) (map[string]any, error) {
	text, ok := w.all[id.String()]
	if !ok {
		return nil, fault.NotFound("no %s", id)
	}
	v, err := Decode(json.RawMessage(text))
	return v.(map[string]any), err
}

func (w there) List(id resource.ID, action string, body json.RawMessage) (any, error) {
	if w.sketch {
		return nil, ErrLater
	}
	return map[string]any{"said": action + " of " + id.Name() + string(body)}, nil
}

func (w there) Site(group resource.ID, deployment string) (Site, error) {
	return site(group.String()), nil
}

func site(group string) Site {
	id, err := resource.ParseID(group)
	if err != nil {
		panic(err)
	}
	return Site{Group: id, ResourceGroup: map[string]any{"id": group, "name": id.Name(), "location": "local"},
		Subscription: map[string]any{"id": "/subscriptions/s", "subscriptionId": "s"}, Deployment: map[string]any{"name": "d"}}
}

func readText(t testing.TB, source, given string) (*Template, error) {
	t.Helper()
	var values resource.Document
	if err := json.Unmarshal([]byte(given), &values); err != nil {
		t.Fatal(err)
	}
	return Read(json.RawMessage(source), values, site(scopeOfTests))
}

// bodies are the resources of a template, one line each.
func bodies(t testing.TB, w World, read *Template) []string {
	t.Helper()
	var all []string
	for _, s := range read.Steps {
		body, err := s.Body(w)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimPrefix(s.ID.String(), scopeOfTests+"/providers/")+" "+string(body))
	}
	return all
}

func TestATemplateBecomesItsResourcesInTheirOrder(t *testing.T) {
	read, err := readText(t, `{
		"parameters": {"ws": {"type": "string"}, "name": {"type": "string", "defaultValue": "unused"}, "tags": {"type": "object", "defaultValue": {"a": "[toUpper('b')]"}},
			"capacity": {"type": "int", "defaultValue": 1}, "more": {"type": "bool", "defaultValue": false}},
		"variables": {"full": "[format('{0}/{1}', parameters('ws'), parameters('NAME'))]"},
		"resources": [
			{"type": "P.X/spaces/ends/deps", "name": "[concat(variables('full'), '/blue')]", "sku": {"capacity": "[parameters('capacity')]"},
			 "dependsOn": ["[resourceId('P.X/spaces/ends', parameters('ws'), parameters('name'))]"], "properties": {"plain": "[[kept]", "it''s": "[if(equals(parameters('capacity'), 1), 'one', 'many')]", "[concat('k','ey')]": 1.50}},
			{"type": "P.X/spaces/ends", "name": "[variables('full')]", "location": "[resourceGroup().location]", "tags": "[parameters('tags')]", "properties": {"sub": "[subscription().subscriptionId]"},
			 "resources": [{"type": "things", "name": "inner", "properties": {}}]},
			{"type": "P.X/spaces/ends", "condition": "[parameters('more')]", "name": "never/made", "properties": {}}
		]}`, `{"ws": {"value": "w"}, "name": {"value": "e"}}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`P.X/spaces/w/ends/e {"location":"local","properties":{"sub":"s"},"tags":{"a":"B"}}`,
		`P.X/spaces/w/ends/e/deps/blue {"properties":{"it''s":"one","key":1.50,"plain":"[kept]"},"sku":{"capacity":1}}`,
		`P.X/spaces/w/ends/e/things/inner {"properties":{}}`,
	}
	if got := bodies(t, there{t: t}, read); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestLoopsMakeResourcesPropertiesVariablesAndOutputs(t *testing.T) {
	read, err := readText(t, `{
		"variables": {"copy": [{"name": "names", "count": 2, "input": "[concat('n', copyIndex('names', 1))]"}],
			"deep": {"copy": [{"name": "list", "count": 2, "input": {"at": "[copyIndex('list')]"}}]}},
		"resources": [
			{"type": "P.X/last", "name": "z", "dependsOn": ["many"], "properties": "[variables('deep')]"},
			{"type": "P.X/many", "name": "[variables('names')[copyIndex()]]", "copy": {"name": "many", "count": "[length(variables('names'))]"},
			 "properties": {"copy": [{"name": "rows", "count": 2, "input": "[add(mul(10, copyIndex()), copyIndex('rows', 5))]"}]}},
			{"type": "P.X/none", "name": "never", "copy": {"name": "no", "count": 0}},
			{"type": "P.X/slow", "name": "[concat('s', copyIndex())]", "copy": {"name": "slow", "count": 3, "mode": "serial", "batchSize": 2}, "dependsOn": ["no"]}
		],
		"outputs": {"all": {"type": "array", "copy": {"count": 3, "input": "[concat('x', copyIndex())]"}}, "not": {"type": "string", "condition": false, "value": "[reference('nothing').x]"}}
	}`, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`P.X/many/n1 {"properties":{"rows":[5,6]}}`,
		`P.X/many/n2 {"properties":{"rows":[15,16]}}`,
		`P.X/last/z {"properties":{"list":[{"at":0},{"at":1}]}}`,
		`P.X/slow/s0 {}`, `P.X/slow/s1 {}`, `P.X/slow/s2 {}`,
	}
	w := there{t: t}
	if got := bodies(t, w, read); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if s := read.Steps; !s[5].Waits(s[3]) || !s[5].Waits(s[4]) || s[4].Waits(s[3]) {
		t.Error("a batch waits for the one before, and its members not for each other")
	}
	outputs, _, err := read.Outputs(w)
	if got := string(Encode(outputs)); err != nil || got != `{"all":{"type":"Array","value":["x0","x1","x2"]}}` {
		t.Error(got, err)
	}
}

func TestWhatIsAskedForComesFirst(t *testing.T) {
	read, err := readText(t, `{
		"parameters": {"secret": {"type": "secureString"}},
		"resources": [
			{"type": "P.X/uses", "name": "a", "properties": {"of": "[reference('b').inner.value]", "key": "[listKeys(resourceId('P.X/things', 'b'), '2020-01-01').said]", "s": "[parameters('secret')]"}},
			{"type": "P.X/things", "name": "b", "properties": {}}
		],
		"outputs": {"id": {"type": "string", "value": "[reference('b', '2020-01-01', 'Full').id]"}, "own": {"type": "secureString", "value": "[parameters('secret')]"}}
	}`, `{"secret": {"value": "hidden"}}`)
	if err != nil {
		t.Fatal(err)
	}
	w := there{t: t, all: map[string]string{scopeOfTests + "/providers/P.X/things/b": `{"id": "it", "properties": {"inner": {"value": 7}}}`}}
	want := []string{`P.X/things/b {"properties":{}}`, `P.X/uses/a {"properties":{"key":"listKeys of b","of":7,"s":"hidden"}}`}
	if got := bodies(t, w, read); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	outputs, secrets, err := read.Outputs(w)
	if got := string(Encode(secrets)); got != `{"own":{"type":"SecureString","value":"hidden"}}` {
		t.Error(got)
	}
	if got := string(Encode(outputs)); err != nil || got != `{"id":{"type":"String","value":"it"},"own":{"type":"SecureString"}}` {
		t.Error(got, err)
	}
	if got := string(Encode(read.Parameters())); got != `{"secret":{"type":"SecureString"}}` {
		t.Error("a secret is shown:", got)
	}
	w = there{t: t, sketch: true}
	if got := bodies(t, w, read)[1]; !strings.Contains(got, `"of":"[reference('b').inner.value]"`) || !strings.Contains(got, `"key":"[listKeys(`) {
		t.Error("before it is there, it stays as it is written:", got)
	}
	if _, err := readText(t, `{"variables":{"v":"[reference('b')]"},"resources":[{"type":"P.X/things","name":"b","properties":"[variables('v')]"}]}`, `{}`); err != nil {
		t.Error(err)
	}
}

func TestTemplatesLieInTemplates(t *testing.T) {
	inner := `{"parameters": {"p": {"type": "string", "defaultValue": "own"}}, "variables": {"v": "inner"}, "resources": [
		{"type": "P.X/a", "name": "n", "properties": {"p": "[parameters('p')]", "v": "[variables('v')]", "g": "[resourceGroup().name]"}}], "outputs": {"o": {"type": "string", "value": "[variables('v')]"}}}`
	source := func(scope string) string {
		return `{"parameters": {"p": {"type": "string", "defaultValue": "outer"}}, "variables": {"v": "outer"}, "resources": [
			{"type": "Microsoft.Resources/deployments", "name": "nested", "resourceGroup": "other", "properties": {"mode": "Incremental", "expressionEvaluationOptions": {"scope": "` + scope + `"},
			 "parameters": {"p": {"value": "[reference('x').given]"}}, "template": ` + inner + `}},
			{"type": "P.X/x", "name": "x"}]}`
	}
	for scope, want := range map[string]string{
		"inner": `/subscriptions/s/resourceGroups/other/providers/P.X/a/n {"properties":{"g":"other","p":"of x","v":"inner"}}`,
		"outer": `/subscriptions/s/resourceGroups/other/providers/P.X/a/n {"properties":{"g":"g","p":"outer","v":"outer"}}`,
	} {
		read, err := readText(t, source(scope), `{}`)
		if err != nil {
			t.Fatal(err)
		}
		if len(read.Steps) != 2 || read.Steps[0].ID.Name() != "x" {
			t.Fatal("what the parameters ask for comes first")
		}
		for _, sketch := range []bool{false, true} {
			w := there{t: t, sketch: sketch, all: map[string]string{scopeOfTests + "/providers/P.X/x/x": `{"properties": {"given": "of x"}}`}}
			if sketch {
				w.all = nil
			}
			nested, err := read.Steps[1].Nested(w)
			if err != nil {
				t.Fatal(err)
			}
			body, err := nested.Steps[0].Body(w)
			got := nested.Steps[0].ID.String() + " " + string(body)
			if sketch {
				want = strings.Replace(want, `"of x"`, `"[parameters('p')]"`, 1)
			}
			if err != nil || got != want {
				t.Errorf("%s, preview %t: %s, %v", scope, sketch, got, err)
			}
		}
	}
	for properties, says := range map[string]string{
		`{"templateLink": {"uri": "https://example.com/t.json"}}`: "nothing is fetched",
		`{"mode": "Complete", "template": {}}`:                    "must have Incremental",
		`{}`:                                                      "no 'template'",
	} {
		read, err := readText(t, `{"resources":[{"type":"Microsoft.Resources/deployments","name":"n","properties":`+properties+`}]}`, `{}`)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read.Steps[0].Nested(there{t: t}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", properties, err)
		}
	}
}

func TestSymbolicNamesStandForResources(t *testing.T) {
	read, err := readText(t, `{"languageVersion": "2.0",
		"definitions": {"size": {"type": "int", "minValue": 1, "maxValue": 3}},
		"parameters": {"n": {"$ref": "#/definitions/size", "defaultValue": 2}, "maybe": {"type": "string", "nullable": true}},
		"functions": [{"namespace": "__bicep", "members": {"shout": {"parameters": [{"name": "s", "type": "string"}], "output": {"type": "string", "value": "[toUpper(parameters('s'))]"}}}}],
		"resources": {
			"workspace": {"existing": true, "type": "P.X/spaces", "apiVersion": "2024-01-01", "name": "w"},
			"deps": {"copy": {"name": "deps", "count": "[parameters('n')]"}, "type": "P.X/spaces/deps", "apiVersion": "2024-01-01", "name": "[format('{0}/{1}', 'w', copyIndex())]",
				"properties": {"at": "[reference('workspace').location]", "said": "[__bicep.shout('hey')]", "m": "[coalesce(parameters('maybe'), 'none')]"}, "dependsOn": ["workspace"]},
			"after": {"type": "P.X/after", "apiVersion": "2024-01-01", "name": "a", "properties": {"id": "[resourceInfo('deps[1]').id]"}, "dependsOn": ["deps"]}
		}, "outputs": {"o": {"type": "array", "value": "[map(references('deps'), lambda('d', lambdaVariables('d').v))]"}}}`, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	w := there{t: t, all: map[string]string{scopeOfTests + "/providers/P.X/spaces/w": `{"properties":{"location":"here"}}`,
		scopeOfTests + "/providers/P.X/spaces/w/deps/0": `{"properties":{"v":0}}`, scopeOfTests + "/providers/P.X/spaces/w/deps/1": `{"properties":{"v":1}}`}}
	want := []string{
		`P.X/spaces/w/deps/0 {"properties":{"at":"here","m":"none","said":"HEY"}}`,
		`P.X/spaces/w/deps/1 {"properties":{"at":"here","m":"none","said":"HEY"}}`,
		`P.X/after/a {"properties":{"id":"/subscriptions/s/resourceGroups/g/providers/P.X/spaces/w/deps/1"}}`,
	}
	if got := bodies(t, w, read); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if outputs, _, err := read.Outputs(w); err != nil || string(Encode(outputs)) != `{"o":{"type":"Array","value":[0,1]}}` {
		t.Error(outputs, err)
	}
}

func TestExpressionsAreEvaluated(t *testing.T) {
	for text, want := range map[string]string{
		`concat('a', 1, true())`: `"a1True"`, `concat(createArray(1), createArray('b'))`: `[1,"b"]`, `toLower(trim(' AB '))`: `"ab"`, `replace('a-b', '-', '')`: `"ab"`,
		`parameters('o').inner[1]`: `"two"`, `parameters('o')['INNER'][0]`: `1`, `empty(parameters('o'))`: `false`, `and(true(), not(false()))`: `true`, `or(false(), false())`: `false`,
		`coalesce(null(), 'x')`: `"x"`, `'it''s'`: `"it's"`, `-5`: `-5`, `int('7')`: `7`, `bool('true')`: `true`, `string(1)`: `"1"`, `string(createObject('a', 1))`: `"{\"a\":1}"`,
		`resourceId('P.X/a/b', 'x', 'y')`:              `"/subscriptions/s/resourceGroups/g/providers/P.X/a/x/b/y"`,
		`resourceId('other', 'P.X/a', 'x')`:            `"/subscriptions/s/resourceGroups/other/providers/P.X/a/x"`,
		`resourceId('sub', 'other', 'P.X/a', 'x')`:     `"/subscriptions/sub/resourceGroups/other/providers/P.X/a/x"`,
		`subscriptionResourceId('P.X/a', 'x')`:         `"/subscriptions/s/providers/P.X/a/x"`,
		`tenantResourceId('P.X/a', 'x')`:               `"/providers/P.X/a/x"`,
		`extensionResourceId('/s', 'P.X/a', 'x')`:      `"/s/providers/P.X/a/x"`,
		`format('{0}-{1}', 'a', resourceGroup().name)`: `"a-g"`, `format('{0:D3}{{}}{1,4}', 7, 'x')`: `"007{}   x"`,
		// Names are those that Azure would make.
		`uniqueString('test')`: `"rbgf3xv4ufgzg"`, `uniqueString('hello', 'world')`: `"a7wkljktk6wne"`, `uniqueString('abc')`: `"cgtzqvhu4i23s"`, `uniqueString('foo', 'bar', 'baz')`: `"xzi4ioaxtmth4"`,
		`uniqueString('/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg')`: `"bmg7c6xu4tw46"`,
		`guid('a', 'b', 'c')`: `"a98fa280-e03f-5afa-8d8e-92d0a9c201e8"`,
		`base64('one, two')`:  `"b25lLCB0d28="`, `base64ToString('b25lLCB0d28=')`: `"one, two"`, `base64ToJson(base64('{"a":1}')).a`: `1`,
		`dataUri('Hello')`: `"data:text/plain;charset=utf8;base64,SGVsbG8="`, `dataUriToString(dataUri('Hello'))`: `"Hello"`,
		`json('{"a":[1,2.5,null]}')`: `{"a":[1,2.5,null]}`, `json('null')`: `null`, `null()`: `null`,
		`union(createObject('a', createObject('x', 1)), json('{"a":{"y":2},"b":3}'))`: `{"a":{"x":1,"y":2},"b":3}`, `union(createArray(1, 2), createArray(2, 3))`: `[1,2,3]`,
		`intersection(createArray(1, 2, 3), createArray(3, 2))`: `[2,3]`, `intersection(json('{"a":1,"b":2}'), json('{"a":1,"b":3}'))`: `{"a":1}`,
		`contains('abc', 'b')`: `true`, `contains(createArray('a'), 'a')`: `true`, `contains(json('{"Key":1}'), 'key')`: `true`, `contains(range(1, 3), 4)`: `false`,
		`length('äbc')`: `3`, `length(range(0, 4))`: `4`, `range(5, 3)`: `[5,6,7]`, `split('a,b;c', createArray(',', ';'))`: `["a","b","c"]`, `join(createArray('a', 1), '-')`: `"a-1"`,
		`substring('hello', 1, 3)`: `"ell"`, `substring('hello', 2)`: `"llo"`, `first('abc')`: `"a"`, `last(range(0, 3))`: `2`, `first(createArray())`: `null`,
		`take('abc', 2)`: `"ab"`, `skip(range(0, 3), 1)`: `[1,2]`, `take('a', 9)`: `"a"`, `min(3, 1, 2)`: `1`, `max(createArray(3, 9))`: `9`,
		`add(2, 3)`: `5`, `sub(2, 3)`: `-1`, `mul(4, 5)`: `20`, `div(7, 2)`: `3`, `mod(7, 3)`: `1`, `greater(2, 1)`: `true`, `lessOrEquals('a', 'b')`: `true`,
		`padLeft(7, 3, '0')`: `"007"`, `startsWith('Hello', 'HE')`: `true`, `endsWith('x', 'y')`: `false`, `indexOf('abcb', 'B')`: `1`, `lastIndexOf('abcb', 'b')`: `3`,
		`uri('https://a/b/', '/c')`: `"https://a/b/c"`, `uriComponent('a b/c')`: `"a%20b%2Fc"`, `uriComponentToString('a%20b')`: `"a b"`,
		`items(json('{"b":1,"a":2}'))`: `[{"key":"a","value":2},{"key":"b","value":1}]`, `flatten(createArray(createArray(1), createArray(2)))`: `[1,2]`,
		`filter(range(0, 5), lambda('x', greater(lambdaVariables('x'), 2)))`:                             `[3,4]`,
		`map(range(0, 3), lambda('x', 'i', add(lambdaVariables('x'), lambdaVariables('i'))))`:            `[0,2,4]`,
		`reduce(range(1, 4), 0, lambda('a', 'b', add(lambdaVariables('a'), lambdaVariables('b'))))`:      `10`,
		`sort(createArray(3, 1, 2), lambda('a', 'b', less(lambdaVariables('a'), lambdaVariables('b'))))`: `[1,2,3]`,
		`toObject(createArray('x', 'y'), lambda('k', lambdaVariables('k')), lambda('k', 1))`:             `{"x":1,"y":1}`,
		`groupBy(createArray('ab', 'ac', 'b'), lambda('s', first(lambdaVariables('s'))))`:                `{"a":["ab","ac"],"b":["b"]}`,
		`if(true(), 'x', fail('not asked'))`:                                                             `"x"`, `and(false(), bool('what'))`: `false`, `tryGet(parameters('o'), 'none', 'x')`: `null`,
		`dateTimeAdd('2024-01-31T00:00:00Z', 'P1DT2H')`: `"2024-02-01T02:00:00Z"`, `dateTimeToEpoch('1970-01-02T00:00:00Z')`: `86400`, `dateTimeFromEpoch(0)`: `"1970-01-01T00:00:00Z"`,
		`dateTimeAdd('2024-01-31 00:00:00Z', '-PT1H', 'yyyy/M/d H:mm')`: `"2024/1/30 23:00"`, `equals('a', 'A')`: `false`, `equals(json('{"a":1}'), createObject('a', 1))`: `true`,
		`createObject('k', null())`: `{"k":null}`, `9007199254740993`: `9007199254740993`,
	} {
		raw, _ := json.Marshal("[" + text + "]")
		read, err := readText(t, `{"parameters":{"o":{"type":"object","defaultValue":{"inner":[1,"two"]}}},"resources":[{"type":"P.X/a","name":"n","properties":{"v":`+string(raw)+`}}]}`, `{}`)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		body, err := read.Steps[0].Body(there{t: t})
		if got := string(body); err != nil || got != `{"properties":{"v":`+want+`}}` {
			t.Errorf("%s: %s %v, wanted %s", text, got, err, want)
		}
	}
}

func TestWhatATemplateCannotBeIsRefusedByName(t *testing.T) {
	deep := strings.Repeat("concat(", 100) + "'a'" + strings.Repeat(")", 100)
	var doubling, lists strings.Builder
	for i := range 40 {
		fmt.Fprintf(&doubling, `"v%d":"[concat(variables('v%d'),variables('v%d'))]",`, i, i+1, i+1)
		fmt.Fprintf(&lists, `"v%d":["[variables('v%d')]","[variables('v%d')]"],`, i, i+1, i+1)
	}
	one := func(properties string) string {
		return `{"resources":[{"type":"P.X/a","name":"n","properties":` + properties + `}]}`
	}
	for source, says := range map[string]string{
		`[]`:                "must be a JSON object",
		`{"resources":"x"}`: "list",
		`{"parameters":{"p":{"type":"string"}},"resources":[{"type":"P.X/a","name":"n"}]}`:                                              "'p' is required",
		`{"parameters":{"p":{"type":"int","defaultValue":"x"}},"resources":[{"type":"P.X/a","name":"n"}]}`:                              "type int",
		`{"parameters":{"p":{"type":"int","minValue":5,"defaultValue":1}},"resources":[]}`:                                              "out of its range",
		`{"parameters":{"p":{"type":"string","maxLength":2,"defaultValue":"abc"}},"resources":[]}`:                                      "length 3",
		`{"parameters":{"p":{"type":"string","defaultValue":"c","allowedValues":["a","b"]}},"resources":[{"type":"P.X/a","name":"n"}]}`: "allowed",
		`{"resources":[{"type":"P.X/a","name":"[parameters('none')]"}]}`:                                                                "no parameter 'none'",
		`{"resources":[{"type":"P.X/a/b","name":"n"}]}`:                                                                                 "do not fit",
		`{"resources":[{"type":"P.X/a"}]}`:                                                                                              "no name",
		`{"resources":[{"type":"P.X/a","name":"[reference('x')]"}]}`:                                                                    "'reference' is not expected",
		one(`"[nothing('x')]"`):                                    "'nothing' is not valid",
		one(`"[utcNow()]"`):                                        "default value",
		one(`"[copyIndex()]"`):                                     "no copy loop",
		one(`"[div(1, 0)]"`):                                       "no such number",
		one(`"[resourceGroup().none]"`):                            "'none' doesn't exist",
		one(`"[lambda('x', 1)]"`):                                  "a function",
		one(`"[fail('because of this')]"`):                         "because of this",
		one(`"[json('{')]"`):                                       "not valid JSON",
		one(`"[first(1)]"`):                                        "a string or an array is expected",
		`{"resources":[{"type":"P.X/a","name":"[concat('a']"}]}`:   "missing",
		`{"resources":[{"type":"P.X/a","name":"['a]"}]}`:           "does not end",
		`{"resources":[{"type":"P.X/a","name":"[` + deep + `]"}]}`: "nested deeper",
		`{"variables":{` + doubling.String() + `"v40":"xx"},"resources":[{"type":"P.X/a","name":"[variables('v0')]"}]}`:          "more than",
		`{"variables":{` + lists.String() + `"v40":"xx"},"resources":[{"type":"P.X/a","name":"[string(variables('v0'))]"}]}`:     "more than",
		`{"variables":{"a":"[variables('b')]","b":"[variables('a')]"},"resources":[{"type":"P.X/a","name":"[variables('a')]"}]}`: "refers to itself",
		`{"resources":[{"type":"P.X/a","name":"n","copy":{"count":3}}]}`:                                                         "no 'name'",
		`{"resources":[{"type":"P.X/a","name":"n","copy":{"name":"c","count":2}}]}`:                                              "multiple times",
		`{"resources":[{"type":"P.X/a","name":"n","copy":{"name":"c","count":100000}}]}`:                                         "from 0 to 800",
		`{"resources":[{"type":"P.X/a","name":"n","condition":"yes"}]}`:                                                          "true or false",
		`{"resources":[{"type":"P.X/a","name":"n","dependsOn":["nobody"]}]}`:                                                     "'nobody' is not defined",
		`{"resources":[{"type":"P.X/a","name":"x","dependsOn":["y"]},{"type":"P.X/a","name":"y","dependsOn":["x"]}]}`:            "wait for each other",
		`{"extensions":{"k8s":{}},"resources":[]}`:                                                                               "'extensions'",
	} {
		read, err := readText(t, source, `{}`)
		for i := 0; err == nil && i < len(read.Steps); i++ {
			_, err = read.Steps[i].Body(there{t: t})
		}
		if f := fault.Find(err); f == nil || f.Kind != fault.BadRequest || f.Code != "InvalidTemplate" || !strings.Contains(f.Message, says) {
			t.Errorf("%.200s: %v; wanted %q", source, err, says)
		}
	}
	if _, err := readText(t, `{"resources":[]}`, `{"extra":{"value":1}}`); err == nil || !strings.Contains(err.Error(), "no parameter 'extra'") {
		t.Error(err)
	}
	if _, err := readText(t, "{\n  \"resources\": [\n    {\"type\": \"P.X/a\", \"name\": \"fine\"},\n    {\"type\": \"P.X/a\", \"name\": \"[what()]\"}\n  ]\n}", `{}`); err == nil || !strings.Contains(err.Error(), "'[what()]' at line '4' and column '5'") {
		t.Error(err)
	}
	if _, err := readText(t, `{"parameters":{"p":{"type":"secureString","minLength":9,"allowedValues":["x"]}},"resources":[]}`, `{"p":{"value":"mysecretword"}}`); err == nil || strings.Contains(err.Error(), "mysecret") {
		t.Error("a secret is not told:", err)
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	source := func(value string) string {
		return `{"parameters": {"s": {"type": "secureString"}}, "variables": {"of": "[concat(parameters('s'), '!')]", "all": {"of": "[variables('of')]"}},
			"resources": [{"type": "P.X/a", "name": "n", "properties": {"v": "` + value + `", "other": "[toUpper('plain')]"}}]}`
	}
	for _, value := range []string{"[parameters('s')]", "[variables('of')]", "[toLower(variables('all').of)]"} {
		read, err := readText(t, source(value), `{"s": {"value": "mysecretword"}}`)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // what is known already is no less secret
			shown := bodies(t, there{t: t, sketch: true}, read)[0]
			if strings.Contains(shown, "mysecretword") || !strings.Contains(shown, `"other":"PLAIN"`) {
				t.Error("a preview shows", shown)
			}
			if made := bodies(t, there{t: t}, read)[0]; !strings.Contains(made, "mysecretword") {
				t.Error("what is made is", made)
			}
		}
	}
	read, err := readText(t, source("[json(variables('of'))]"), `{"s": {"value": "mysecretword"}}`)
	if err == nil {
		_, err = read.Steps[0].Body(there{t: t})
	}
	if err == nil || strings.Contains(err.Error(), "mysecretword") {
		t.Error(err)
	}
}

func FuzzExpressions(f *testing.F) {
	for _, seed := range []string{"concat('a', parameters('p'))", "if(equals(1,2),'x',createArray())[0].y", "resourceId('a/b','c')", "format('{0}', 1", "variables('v')", "map(range(0,9),lambda('x',string(lambdaVariables('x'))))",
		"dateTimeAdd('2024-01-01','P1D','yyyy')", "format('{0,-9:N3}', 1234567)", "substring('a',-1,9223372036854775807)", "reference('n').x", "listKeys('n','1')", "take(range(0,10),-9223372036854775807)", "uri('http://a','%zz')", "mul(-1,-9223372036854775807)", "copyIndex('c', 3)"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := json.Marshal("[" + text + "]")
		if err != nil {
			t.Skip()
		}
		read, err := readText(t, `{"parameters":{"p":{"defaultValue":"x"}},"variables":{"v":"[parameters('p')]"},"resources":[{"type":"P.X/a","name":"n","copy":{"name":"c","count":1},"properties":{"v":`+string(raw)+`}}]}`, `{}`)
		for _, sketch := range []bool{true, false} {
			if err == nil {
				_, err = read.Steps[0].Body(there{t: t, sketch: sketch})
			}
		}
		if err != nil && fault.Find(err) == nil && !errors.Is(err, ErrLater) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
