package template

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// function is one of the language.
type function struct {
	least, most int // arguments; most -1: any number
	do          func(e scope, c call, args []any) (any, error)
}

// functions are those of the language, in lower case. Those that do not evaluate
// all of their arguments stand in scope.call.
var functions map[string]function

func init() { // they call each other
	functions = map[string]function{
		// What the template has.
		"parameters":      {1, 1, parameters},
		"variables":       {1, 1, variables},
		"copyindex":       {0, 2, copyIndex},
		"lambdavariables": {1, 1, lambdaVariables},
		"utcnow":          {0, 1, utcNow},
		"newguid":         {0, 0, newGUID},
		"fail":            {1, 1, func(e scope, c call, args []any) (any, error) { return nil, Invalid("%s", plain(args[0])) }},

		// Where it is deployed, and what is there.
		"resourcegroup":          {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.ResourceGroup, nil }},
		"subscription":           {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.Subscription, nil }},
		"tenant":                 {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.Tenant, nil }},
		"environment":            {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.Environment, nil }},
		"deployment":             {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.Deployment, nil }},
		"deployer":               {0, 0, func(e scope, _ call, _ []any) (any, error) { return e.t.site.Deployer, nil }},
		"resourceid":             {2, -1, resourceID},
		"subscriptionresourceid": {2, -1, resourceID},
		"tenantresourceid":       {2, -1, resourceID},
		"extensionresourceid":    {3, -1, extensionResourceID},
		"reference":              {1, 3, reference},
		"references":             {1, 2, references},
		"resourceinfo":           {1, 1, resourceInfo},
		"pickzones":              {3, 5, func(scope, call, []any) (any, error) { return []any{}, nil }},

		// Logic.
		"true":            {0, 0, func(scope, call, []any) (any, error) { return true, nil }},
		"false":           {0, 0, func(scope, call, []any) (any, error) { return false, nil }},
		"null":            {0, 0, func(scope, call, []any) (any, error) { return nil, nil }},
		"not":             {1, 1, not},
		"equals":          {2, 2, func(_ scope, _ call, args []any) (any, error) { return Alike(args[0], args[1]), nil }},
		"less":            comparing(func(n int) bool { return n < 0 }),
		"lessorequals":    comparing(func(n int) bool { return n <= 0 }),
		"greater":         comparing(func(n int) bool { return n > 0 }),
		"greaterorequals": comparing(func(n int) bool { return n >= 0 }),
		"bool":            {1, 1, toBool},

		// Numbers.
		"int":   {1, 1, toInt},
		"float": {1, 1, toFloat},
		"add":   counting(func(a, b int64) (int64, bool) { s := a + b; return s, (s > a) == (b > 0) }),
		"sub":   counting(func(a, b int64) (int64, bool) { d := a - b; return d, (d < a) == (b > 0) }),
		"mul": counting(func(a, b int64) (int64, bool) {
			p := a * b
			return p, a == 0 || p/a == b && !(a == -1 && b == math.MinInt64)
		}),
		"div": counting(func(a, b int64) (int64, bool) {
			if b == 0 || b == -1 && a == math.MinInt64 {
				return 0, false
			}
			return a / b, true
		}),
		"mod": counting(func(a, b int64) (int64, bool) {
			if b == 0 || b == -1 {
				return 0, b == -1
			}
			return a % b, true
		}),
		"min": least(func(a, b int64) bool { return a < b }),
		"max": least(func(a, b int64) bool { return a > b }),

		// Texts.
		"tolower": ofText(func(s string) any { return strings.ToLower(s) }),
		"toupper": ofText(func(s string) any { return strings.ToUpper(s) }),
		"trim":    ofText(func(s string) any { return strings.TrimSpace(s) }),
		"base64":  ofText(func(s string) any { return base64.StdEncoding.EncodeToString([]byte(s)) }),
		"datauri": ofText(func(s string) any {
			return "data:text/plain;charset=utf8;base64," + base64.StdEncoding.EncodeToString([]byte(s))
		}),
		"uricomponent":         ofText(func(s string) any { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }),
		"string":               {1, 1, func(_ scope, _ call, args []any) (any, error) { return plain(args[0]), nil }},
		"base64tostring":       {1, 1, base64ToString},
		"base64tojson":         {1, 1, base64ToJSON},
		"datauritostring":      {1, 1, dataURIToString},
		"uricomponenttostring": {1, 1, uriComponentToString},
		"uri":                  {2, 2, joinURI},
		"json":                 {1, 1, parseJSON},
		"format":               {1, -1, format},
		"replace":              {3, 3, replace},
		"split":                {2, 2, split},
		"join":                 {2, 2, join},
		"substring":            {2, 3, substring},
		"startswith":           {2, 2, func(e scope, c call, args []any) (any, error) { return atEdge(e, c, args, strings.HasPrefix) }},
		"endswith":             {2, 2, func(e scope, c call, args []any) (any, error) { return atEdge(e, c, args, strings.HasSuffix) }},
		"padleft":              {2, 3, padLeft},
		"uniquestring":         {1, -1, uniqueString},
		"guid":                 {1, -1, guid},

		// Texts and lists.
		"concat":      {1, -1, concat},
		"length":      {1, 1, length},
		"empty":       {1, 1, empty},
		"contains":    {2, 2, contains},
		"first":       {1, 1, func(e scope, c call, args []any) (any, error) { return end(e, c, args[0], true) }},
		"last":        {1, 1, func(e scope, c call, args []any) (any, error) { return end(e, c, args[0], false) }},
		"take":        {2, 2, func(e scope, c call, args []any) (any, error) { return part(e, c, args, true) }},
		"skip":        {2, 2, func(e scope, c call, args []any) (any, error) { return part(e, c, args, false) }},
		"indexof":     {2, 2, func(e scope, c call, args []any) (any, error) { return place(e, c, args, false) }},
		"lastindexof": {2, 2, func(e scope, c call, args []any) (any, error) { return place(e, c, args, true) }},

		// Lists and objects.
		"array":           {1, 1, toArray},
		"createarray":     {0, -1, func(_ scope, _ call, args []any) (any, error) { return append([]any{}, args...), nil }},
		"createobject":    {0, -1, createObject},
		"range":           {2, 2, numbers},
		"flatten":         {1, 1, flatten},
		"union":           {1, -1, union},
		"intersection":    {1, -1, intersection},
		"shallowmerge":    {1, 1, shallowMerge},
		"items":           {1, 1, items},
		"objectkeys":      {1, 1, objectKeys},
		"tryget":          {2, -1, tryGet},
		"tryindexfromend": {2, 2, indexFromEnd},
		"indexfromend":    {2, 2, indexFromEnd},
		"filter":          {2, 2, filter},
		"map":             {2, 2, mapped},
		"mapvalues":       {2, 2, mapValues},
		"reduce":          {3, 3, reduce},
		"sort":            {2, 2, sorted},
		"groupby":         {2, 2, groupBy},
		"toobject":        {2, 3, toObject},

		// Times.
		"datetimeadd":       {2, 3, dateTimeAdd},
		"datetimetoepoch":   {1, 1, dateTimeToEpoch},
		"datetimefromepoch": {1, 1, dateTimeFromEpoch},
	}
}

// plain is a value as it stands in a text.
func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case json.Number:
		return v.String()
	}
	return string(Encode(v))
}

// Encode is a value as JSON.
func Encode(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return json.RawMessage("null") // values of templates are JSON
	}
	return bytes.TrimSpace(b.Bytes())
}

// Alike tells whether two values are equal.
func Alike(a, b any) bool {
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return ok && a == b
	case int64:
		b, ok := b.(int64)
		return ok && a == b
	}
	return bytes.Equal(Encode(a), Encode(b))
}

func wants(e scope, c call, v any, what string) error {
	return e.wrong(c, "%s is expected where %s stands", what, fault.Clip(kindOf(v)+" "+string(Encode(v))))
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "the string"
	case bool:
		return "the bool"
	case int64, json.Number:
		return "the number"
	case []any:
		return "the array"
	case lambda:
		return "a lambda"
	}
	return "the object"
}

func textOf(e scope, c call, v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	return "", wants(e, c, v, "a string")
}

func intOf(e scope, c call, v any) (int64, error) {
	if n, ok := v.(int64); ok {
		return n, nil
	}
	return 0, wants(e, c, v, "a whole number")
}

func listOf(e scope, c call, v any) ([]any, error) {
	if l, ok := v.([]any); ok {
		return l, nil
	}
	return nil, wants(e, c, v, "an array")
}

func objectOf(e scope, c call, v any) (map[string]any, error) {
	if m, ok := v.(map[string]any); ok {
		return m, nil
	}
	return nil, wants(e, c, v, "an object")
}

func lambdaOf(e scope, c call, v any, least, most int) (lambda, error) {
	if l, ok := v.(lambda); ok && len(l.names) >= least && len(l.names) <= most {
		return l, nil
	}
	return lambda{}, wants(e, c, v, fmt.Sprintf("a lambda with %d arguments", least))
}

// listAndLambda are the arguments of a function that asks a lambda of each item.
func listAndLambda(e scope, c call, list, do any, least, most int) ([]any, lambda, error) {
	items, err := listOf(e, c, list)
	if err != nil {
		return nil, lambda{}, err
	}
	l, err := lambdaOf(e, c, do, least, most)
	return items, l, err
}

// twoTexts are the first two arguments, of a function of texts.
func twoTexts(e scope, c call, args []any) (first, second string, err error) {
	if first, err = textOf(e, c, args[0]); err == nil {
		second, err = textOf(e, c, args[1])
	}
	return first, second, err
}

func ofText(do func(string) any) function {
	return function{1, 1, func(e scope, c call, args []any) (any, error) {
		s, err := textOf(e, c, args[0])
		if err != nil {
			return nil, err
		}
		return do(s), nil
	}}
}

func counting(do func(a, b int64) (int64, bool)) function {
	return function{2, 2, func(e scope, c call, args []any) (any, error) {
		a, err := intOf(e, c, args[0])
		if err != nil {
			return nil, err
		}
		b, err := intOf(e, c, args[1])
		if err != nil {
			return nil, err
		}
		if b == 0 && !strings.EqualFold(c.name, "div") && !strings.EqualFold(c.name, "mod") && !strings.EqualFold(c.name, "mul") {
			return a, nil
		}
		n, ok := do(a, b)
		if !ok {
			return nil, e.wrong(c, "there is no such number for %d and %d", a, b)
		}
		return n, nil
	}}
}

func comparing(holds func(int) bool) function {
	return function{2, 2, func(e scope, c call, args []any) (any, error) {
		switch a := args[0].(type) {
		case int64:
			b, err := intOf(e, c, args[1])
			if err != nil {
				return nil, err
			}
			return holds(compare(a, b)), nil
		case string:
			b, err := textOf(e, c, args[1])
			if err != nil {
				return nil, err
			}
			return holds(strings.Compare(a, b)), nil
		}
		return nil, wants(e, c, args[0], "a whole number or a string")
	}}
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func least(before func(a, b int64) bool) function {
	return function{1, -1, func(e scope, c call, args []any) (any, error) {
		if list, ok := args[0].([]any); ok && len(args) == 1 {
			args = list
		}
		if len(args) == 0 {
			return nil, e.wrong(c, "there are no numbers")
		}
		found, err := intOf(e, c, args[0])
		for _, a := range args[1:] {
			n, bad := intOf(e, c, a)
			if bad != nil {
				return nil, bad
			}
			if before(n, found) {
				found = n
			}
		}
		return found, err
	}}
}

func parameters(e scope, c call, args []any) (any, error) {
	name, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	if e.args != nil {
		if v, ok := e.args[strings.ToLower(name)]; ok {
			return v, nil
		}
		return nil, Invalid("The function of the template has no parameter '%s'.", fault.Clip(name))
	}
	return e.t.parameter(name)
}

func variables(e scope, c call, args []any) (any, error) {
	name, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	if e.defaults || e.args != nil {
		return nil, e.wrong(c, "a parameter's default and the template's own functions cannot use variables")
	}
	return e.t.variable(name)
}

func lambdaVariables(e scope, c call, args []any) (any, error) {
	if v, ok := e.lambda[strings.ToLower(plain(args[0]))]; ok {
		return v, nil
	}
	return nil, e.wrong(c, "no lambda around it has the argument '%s'", fault.Clip(plain(args[0])))
}

func copyIndex(e scope, c call, args []any) (any, error) {
	name, offset := e.loop, int64(0)
	for _, a := range args {
		switch a := a.(type) {
		case string:
			name = a
		case int64:
			offset = a
		default:
			return nil, wants(e, c, a, "the name of a loop or an offset")
		}
	}
	n, ok := e.loops[strings.ToLower(name)]
	if !ok {
		return nil, e.wrong(c, "it stands in no copy loop of the name '%s'", fault.Clip(name))
	}
	return int64(n) + offset, nil
}

func utcNow(e scope, c call, args []any) (any, error) {
	if !e.defaults {
		return nil, e.wrong(c, "it is offered for the default value of a parameter alone")
	}
	layout := "yyyyMMddTHHmmssZ"
	if len(args) > 0 {
		var err error
		if layout, err = textOf(e, c, args[0]); err != nil {
			return nil, err
		}
	}
	return stamp(e, c, time.Now().UTC(), layout)
}

func newGUID(e scope, c call, _ []any) (any, error) {
	if !e.defaults {
		return nil, e.wrong(c, "it is offered for the default value of a parameter alone")
	}
	return resource.NewGUID(), nil
}

func not(e scope, c call, args []any) (any, error) {
	b, ok := args[0].(bool)
	if !ok {
		return nil, wants(e, c, args[0], "true or false")
	}
	return !b, nil
}

func toBool(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	case string:
		switch strings.ToLower(v) {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
	}
	return nil, wants(e, c, args[0], "true, false or a number")
}

func toInt(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case int64:
		return v, nil
	case json.Number:
		if f, err := v.Float64(); err == nil && math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, nil
		}
	}
	return nil, wants(e, c, args[0], "a whole number")
}

func toFloat(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case int64, json.Number:
		return v, nil
	case string:
		if v, err := decode(json.RawMessage(v)); err == nil && kindOf(v) == "the number" {
			return v, nil
		}
	}
	return nil, wants(e, c, args[0], "a number")
}
