package template

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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

func base64ToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || !utf8.Valid(b) {
		return nil, e.wrong(c, "'%s' is not a text in base64", fault.Clip(s))
	}
	return string(b), nil
}

func base64ToJSON(e scope, c call, args []any) (any, error) {
	s, err := base64ToString(e, c, args)
	if err != nil {
		return nil, err
	}
	return parseJSON(e, c, []any{s})
}

func parseJSON(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	if !json.Valid([]byte(s)) {
		return nil, e.wrong(c, "'%s' is not valid JSON", fault.Clip(s))
	}
	return decode(json.RawMessage(s))
}

func dataURIToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	head, data, ok := strings.Cut(s, ",")
	if !ok || !strings.HasPrefix(head, "data:") {
		return nil, e.wrong(c, "'%s' is no data URI", fault.Clip(s))
	}
	if strings.HasSuffix(head, ";base64") {
		return base64ToString(e, c, []any{data})
	}
	return uriComponentToString(e, c, []any{data})
}

func uriComponentToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made, err := url.PathUnescape(s)
	if err != nil || !utf8.ValidString(made) {
		return nil, e.wrong(c, "'%s' is not encoded as the part of a URI", fault.Clip(s))
	}
	return made, nil
}

func joinURI(e scope, c call, args []any) (any, error) {
	base, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	relative, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	b, err := url.Parse(base)
	if err != nil || !b.IsAbs() {
		return nil, e.wrong(c, "'%s' is no absolute URI", fault.Clip(base))
	}
	if strings.HasSuffix(base, "/") {
		return base + strings.TrimPrefix(relative, "/"), nil
	}
	r, err := url.Parse(relative)
	if err != nil {
		return nil, e.wrong(c, "'%s' is no relative URI", fault.Clip(relative))
	}
	return b.ResolveReference(r).String(), nil
}

// format is .NET's composite formatting: {0}, {1,8}, {2:D3}.
func format(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if b.Len() > maxMade {
			return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
		}
		switch {
		case s[i] == '{' && strings.HasPrefix(s[i+1:], "{"), s[i] == '}' && strings.HasPrefix(s[i+1:], "}"):
			b.WriteByte(s[i])
			i++
		case s[i] == '{':
			inside, _, closed := strings.Cut(s[i+1:], "}")
			item, spec, _ := strings.Cut(inside, ":")
			item, wide, _ := strings.Cut(item, ",")
			n, err := strconv.Atoi(strings.TrimSpace(item))
			if err != nil || !closed || n < 0 || n+1 >= len(args) {
				return nil, e.wrong(c, "'{%s}' names none of its %d arguments", fault.Clip(inside), len(args)-1)
			}
			text, ok := formatted(args[n+1], spec)
			if !ok {
				return nil, e.wrong(c, "'{%s}' cannot be applied to %s", fault.Clip(inside), fault.Clip(plain(args[n+1])))
			}
			if wide != "" {
				w, err := strconv.Atoi(strings.TrimSpace(wide))
				if err != nil || w > 1000 || w < -1000 {
					return nil, e.wrong(c, "'{%s}' has no width that is offered", fault.Clip(inside))
				}
				text = fmt.Sprintf("%*s", w, text)
			}
			b.WriteString(text)
			i += len(inside) + 1
		case s[i] == '}':
			return nil, e.wrong(c, "'%s' has a '}' without its '{'", fault.Clip(s))
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

// formatted is a value in one of .NET's formats.
func formatted(v any, spec string) (string, bool) {
	n, ok := v.(int64)
	if spec == "" || !ok {
		return plain(v), true
	}
	digits := -1
	if len(spec) > 1 {
		var err error
		if digits, err = strconv.Atoi(spec[1:]); err != nil || digits > 100 || digits < 0 {
			digits = -2
		}
	}
	switch kind := spec[0]; {
	case strings.Trim(spec, "0") == "" && len(spec) < 100:
		return fmt.Sprintf("%0*d", len(spec), n), true
	case digits == -2:
		return "", false
	case kind == 'D' || kind == 'd' || kind == 'G' || kind == 'g':
		sign, size := "", strconv.FormatInt(n, 10)
		if n < 0 {
			sign, size = "-", size[1:]
		}
		if kind == 'D' || kind == 'd' {
			size = strings.Repeat("0", max(0, digits-len(size))) + size
		}
		return sign + size, true
	case kind == 'X':
		return fmt.Sprintf("%0*X", max(digits, 0), uint64(n)), true
	case kind == 'x':
		return fmt.Sprintf("%0*x", max(digits, 0), uint64(n)), true
	case kind == 'N' || kind == 'n' || kind == 'F' || kind == 'f':
		if digits < 0 {
			digits = 2
		}
		text := strconv.FormatInt(n, 10)
		if kind == 'N' || kind == 'n' {
			first := 0
			if n < 0 {
				first = 1
			}
			for i := len(text) - 3; i > first; i -= 3 {
				text = text[:i] + "," + text[i:]
			}
		}
		if digits > 0 {
			text += "." + strings.Repeat("0", digits)
		}
		return text, true
	}
	return "", false
}

func replace(e scope, c call, args []any) (any, error) {
	var s [3]string
	for i := range s {
		var err error
		if s[i], err = textOf(e, c, args[i]); err != nil {
			return nil, err
		}
	}
	if s[1] == "" {
		return nil, e.wrong(c, "what is to be replaced is empty")
	}
	if len(s[0])+strings.Count(s[0], s[1])*len(s[2]) > 2*maxMade {
		return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
	}
	return strings.ReplaceAll(s[0], s[1], s[2]), nil
}

func split(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	marks, ok := args[1].([]any)
	if !ok {
		marks = []any{args[1]}
	}
	parts := []string{s}
	for _, m := range marks {
		mark, err := textOf(e, c, m)
		if err != nil {
			return nil, err
		}
		if mark == "" {
			continue
		}
		var finer []string
		for _, p := range parts {
			finer = append(finer, strings.Split(p, mark)...)
		}
		parts = finer
	}
	return texts(parts), nil
}

func texts(all []string) []any {
	list := make([]any, len(all))
	for i, s := range all {
		list[i] = s
	}
	return list
}

func join(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	mark, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteString(mark)
		}
		b.WriteString(plain(v))
		if b.Len() > maxMade {
			return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
		}
	}
	return b.String(), nil
}

func substring(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	runes := []rune(s)
	from, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	n := int64(len(runes)) - from
	if len(args) > 2 && args[2] != nil {
		if n, err = intOf(e, c, args[2]); err != nil {
			return nil, err
		}
	}
	if from < 0 || n < 0 || from > int64(len(runes)) || n > int64(len(runes))-from {
		return nil, e.wrong(c, "%d characters from %d on do not lie in '%s'", n, from, fault.Clip(s))
	}
	return string(runes[from : from+n]), nil
}

func atEdge(e scope, c call, args []any, holds func(s, part string) bool) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	part, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	return holds(strings.ToLower(s), strings.ToLower(part)), nil
}

func padLeft(e scope, c call, args []any) (any, error) {
	s := plain(args[0])
	total, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	with := " "
	if len(args) > 2 {
		if with, err = textOf(e, c, args[2]); err != nil {
			return nil, err
		}
	}
	if utf8.RuneCountInString(with) != 1 || total < 0 || total > maxMade/4 {
		return nil, e.wrong(c, "it takes a length and one character")
	}
	return strings.Repeat(with, max(0, int(total)-utf8.RuneCountInString(s))) + s, nil
}

// dashed joins texts as hashes of several want them.
func dashed(e scope, c call, args []any) (string, error) {
	all := make([]string, len(args))
	for i, a := range args {
		var err error
		if all[i], err = textOf(e, c, a); err != nil {
			return "", err
		}
	}
	return strings.Join(all, "-"), nil
}

// uniqueString is Azure's: the same names as there.
func uniqueString(e scope, c call, args []any) (any, error) {
	s, err := dashed(e, c, args)
	if err != nil {
		return nil, err
	}
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	h := murmur64([]byte(s))
	made := make([]byte, 13)
	for i := range made {
		made[i] = alphabet[h>>59]
		h <<= 5
	}
	return string(made), nil
}

// murmur64 is MurmurHash3 for 32 bits on two lanes.
func murmur64(data []byte) uint64 {
	const c1, c2 = 0x239b961b, 0xab0e9789
	lane := func(b []byte) uint32 {
		var k uint32
		for i, x := range b[:min(4, len(b))] {
			k |= uint32(x) << (8 * i)
		}
		return k
	}
	first := func(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }
	second := func(k uint32) uint32 { return bits.RotateLeft32(k*c2, 17) * c1 }
	var h1, h2 uint32
	at := 0
	for ; at+7 < len(data); at += 8 {
		h1 = (bits.RotateLeft32(h1^first(lane(data[at:])), 19)+h2)*5 + 0x561ccd1b
		h2 = (bits.RotateLeft32(h2^second(lane(data[at+4:])), 13)+h1)*5 + 0x0bcaa747
	}
	if rest := data[at:]; len(rest) > 0 {
		h1 ^= first(lane(rest))
		if len(rest) > 4 {
			h2 ^= second(lane(rest[4:]))
		}
	}
	n := uint32(len(data))
	h1, h2 = h1^n, h2^n
	h1 += h2
	h2 += h1
	mix := func(h uint32) uint32 {
		h = (h ^ h>>16) * 0x85ebca6b
		h = (h ^ h>>13) * 0xc2b2ae35
		return h ^ h>>16
	}
	h1, h2 = mix(h1), mix(h2)
	h1 += h2
	h2 += h1
	return uint64(h2)<<32 | uint64(h1)
}

// guid is Azure's: version 5 of a namespace of its own.
func guid(e scope, c call, args []any) (any, error) {
	s, err := dashed(e, c, args)
	if err != nil {
		return nil, err
	}
	space, _ := hex.DecodeString("11fb06fb712d4ddd98c7e71bbd588830")
	h := sha1.Sum(append(space, s...))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	x := hex.EncodeToString(h[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:], nil
}

func concat(e scope, c call, args []any) (any, error) {
	if _, lists := args[0].([]any); lists {
		joined := []any{}
		for _, a := range args {
			list, err := listOf(e, c, a)
			if err != nil {
				return nil, err
			}
			joined = append(joined, list...)
		}
		return joined, nil
	}
	var b strings.Builder
	for _, a := range args {
		switch a.(type) {
		case string, int64, json.Number, bool:
			b.WriteString(plain(a))
		default:
			return nil, wants(e, c, a, "a string")
		}
	}
	return b.String(), nil
}

func length(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return nil, wants(e, c, args[0], "a string, an array or an object")
}

func empty(e scope, c call, args []any) (any, error) {
	if args[0] == nil {
		return true, nil
	}
	n, err := length(e, c, args)
	return n == int64(0), err
}

func contains(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return strings.Contains(v, plain(args[1])), nil
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return Alike(one, args[1]) }), nil
	case map[string]any:
		_, ok := memberOf(v, args[1])
		return ok, nil
	}
	return nil, wants(e, c, args[0], "a string, an array or an object")
}

func end(e scope, c call, v any, first bool) (any, error) {
	switch v := v.(type) {
	case string:
		runes := []rune(v)
		switch {
		case len(runes) == 0:
			return "", nil
		case first:
			return string(runes[:1]), nil
		}
		return string(runes[len(runes)-1:]), nil
	case []any:
		switch {
		case len(v) == 0:
			return nil, nil
		case first:
			return v[0], nil
		}
		return v[len(v)-1], nil
	}
	return nil, wants(e, c, v, "a string or an array")
}

func part(e scope, c call, args []any, take bool) (any, error) {
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	cut := func(size int) (from, to int) {
		at := int(min(max(n, 0), int64(size)))
		if take {
			return 0, at
		}
		return at, size
	}
	switch v := args[0].(type) {
	case string:
		runes := []rune(v)
		from, to := cut(len(runes))
		return string(runes[from:to]), nil
	case []any:
		from, to := cut(len(v))
		return slices.Clone(v[from:to]), nil
	}
	return nil, wants(e, c, args[0], "a string or an array")
}

func place(e scope, c call, args []any, last bool) (any, error) {
	if list, ok := args[0].([]any); ok {
		found := int64(-1)
		for i, v := range list {
			if Alike(v, args[1]) {
				if found = int64(i); !last {
					break
				}
			}
		}
		return found, nil
	}
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	part, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	s, part = strings.ToLower(s), strings.ToLower(part)
	at := strings.Index(s, part)
	if last {
		at = strings.LastIndex(s, part)
	}
	if at < 0 {
		return int64(-1), nil
	}
	return int64(utf8.RuneCountInString(s[:at])), nil
}

func toArray(_ scope, _ call, args []any) (any, error) {
	if list, ok := args[0].([]any); ok {
		return list, nil
	}
	return []any{args[0]}, nil
}

func createObject(e scope, c call, args []any) (any, error) {
	if len(args)%2 != 0 {
		return nil, e.wrong(c, "it takes keys and values in turn")
	}
	made := map[string]any{}
	for i := 0; i < len(args); i += 2 {
		key, err := textOf(e, c, args[i])
		if err != nil {
			return nil, err
		}
		made[key] = args[i+1]
	}
	return made, nil
}

func numbers(e scope, c call, args []any) (any, error) {
	from, err := intOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	if n < 0 || n > 10_000 || from > math.MaxInt32 || from < math.MinInt32 {
		return nil, e.wrong(c, "it makes 0 to 10000 numbers, not %d from %d on", n, from)
	}
	list := make([]any, n)
	for i := range list {
		list[i] = from + int64(i)
	}
	return list, nil
}

func flatten(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := []any{}
	for _, v := range list {
		inner, err := listOf(e, c, v)
		if err != nil {
			return nil, err
		}
		made = append(made, inner...)
	}
	return made, nil
}

func union(e scope, c call, args []any) (any, error) {
	if _, lists := args[0].([]any); lists {
		made := []any{}
		seen := map[string]bool{}
		for _, a := range args {
			list, err := listOf(e, c, a)
			if err != nil {
				return nil, err
			}
			for _, v := range list {
				if key := string(Encode(v)); !seen[key] {
					seen[key] = true
					made = append(made, v)
				}
			}
		}
		return made, nil
	}
	made := map[string]any{}
	for _, a := range args {
		m, err := objectOf(e, c, a)
		if err != nil {
			return nil, err
		}
		made = merged(made, m)
	}
	return made, nil
}

// merged is one object over another, and so what lies in them.
func merged(under, over map[string]any) map[string]any {
	made := maps.Clone(under)
	for k, v := range over {
		for given := range under {
			if given != k && strings.EqualFold(given, k) {
				k = given
			}
		}
		a, ok1 := made[k].(map[string]any)
		b, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			v = merged(a, b)
		}
		made[k] = v
	}
	return made
}

func intersection(e scope, c call, args []any) (any, error) {
	if list, lists := args[0].([]any); lists {
		made := []any{}
		for _, v := range list {
			all := true
			for _, a := range args[1:] {
				other, err := listOf(e, c, a)
				if err != nil {
					return nil, err
				}
				all = all && slices.ContainsFunc(other, func(o any) bool { return Alike(o, v) })
			}
			if all && !slices.ContainsFunc(made, func(o any) bool { return Alike(o, v) }) {
				made = append(made, v)
			}
		}
		return made, nil
	}
	first, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := maps.Clone(first)
	for _, a := range args[1:] {
		other, err := objectOf(e, c, a)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(made, func(k string, v any) bool { o, ok := other[k]; return !ok || !Alike(o, v) })
	}
	return made, nil
}

func shallowMerge(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		m, err := objectOf(e, c, v)
		if err != nil {
			return nil, err
		}
		maps.Copy(made, m)
	}
	return made, nil
}

func items(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, map[string]any{"key": k, "value": m[k]})
	}
	return list, nil
}

func objectKeys(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	return texts(slices.Sorted(maps.Keys(m))), nil
}

func tryGet(_ scope, _ call, args []any) (any, error) {
	v := args[0]
	for _, key := range args[1:] {
		var ok bool
		if v, ok = memberOf(v, key); !ok {
			return nil, nil
		}
	}
	return v, nil
}

func indexFromEnd(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(len(list)) {
		if strings.HasPrefix(strings.ToLower(c.name), "try") {
			return nil, nil
		}
		return nil, e.wrong(c, "there is no element %d from the end", n)
	}
	return list[int64(len(list))-n], nil
}

func filter(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 1, 2)
	if err != nil {
		return nil, err
	}
	made := []any{}
	for i, v := range list {
		keep, err := l.do(v, int64(i))
		if err != nil {
			return nil, err
		}
		is, ok := keep.(bool)
		if !ok {
			return nil, wants(e, c, keep, "true or false")
		}
		if is {
			made = append(made, v)
		}
	}
	return made, nil
}

func mapped(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 1, 2)
	if err != nil {
		return nil, err
	}
	made := make([]any, len(list))
	for i, v := range list {
		if made[i], err = l.do(v, int64(i)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func mapValues(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 1, 1)
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for k, v := range m {
		if made[k], err = l.do(v); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func reduce(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[2], 2, 3)
	if err != nil {
		return nil, err
	}
	made := args[1]
	for i, v := range list {
		if made, err = l.do(made, v, int64(i)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func sorted(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 2, 2)
	if err != nil {
		return nil, err
	}
	made := slices.Clone(list)
	slices.SortStableFunc(made, func(a, b any) int {
		for _, try := range []struct {
			a, b any
			n    int
		}{{a, b, -1}, {b, a, 1}} {
			v, bad := l.do(try.a, try.b)
			if bad != nil && err == nil {
				err = bad
			}
			if v == true {
				return try.n
			}
		}
		return 0
	})
	return made, err
}

func groupBy(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 1, 1)
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		key, err := l.do(v)
		if err != nil {
			return nil, err
		}
		name, err := textOf(e, c, key)
		if err != nil {
			return nil, err
		}
		group, _ := made[name].([]any)
		made[name] = append(group, v)
	}
	return made, nil
}

func toObject(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		l, err := lambdaOf(e, c, args[1], 1, 1)
		if err != nil {
			return nil, err
		}
		key, err := l.do(v)
		if err != nil {
			return nil, err
		}
		name, err := textOf(e, c, key)
		if err != nil {
			return nil, err
		}
		if len(args) > 2 {
			if l, err = lambdaOf(e, c, args[2], 1, 1); err != nil {
				return nil, err
			}
			if v, err = l.do(v); err != nil {
				return nil, err
			}
		}
		made[name] = v
	}
	return made, nil
}
