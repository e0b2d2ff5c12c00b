package tracking

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
)

// entity is what a clause of a filter speaks of.
type entity int

const (
	attribute entity = iota
	metric
	param
	tag
	datasetOf
	metadata // and what follows: of traces
	span
	feedback
	expectation
	issue
)

// Kinds of what a clause speaks of, for packages that match their own things.
const (
	OfAttribute   = "attribute"
	OfTag         = "tag"
	OfMetadata    = "metadata"
	OfSpan        = "span"
	OfFeedback    = "feedback"
	OfExpectation = "expectation"
	OfIssue       = "issue"
)

var entityNames = [...]string{OfAttribute, "metric", "parameter", OfTag, "dataset", OfMetadata, OfSpan, OfFeedback, OfExpectation, OfIssue}

// Of returns the kind of what the clause speaks of.
func (c *Clause) Of() string {
	return entityNames[c.of]
}

// Clause is one comparison of a filter; a filter is clauses joined by AND.
type Clause struct {
	of     entity
	Key    string
	Op     string // in upper case
	Text   string
	Number float64
	Values []string // of IN and NOT IN
	like   *pattern

	regular   *regexp.Regexp
	IsNumeric bool // of feedback and expectations: Number is compared
}

// Tag returns the key of the tag that the clause compares, if it does.
func (c *Clause) Tag() (key string, ok bool) { return c.Key, c.of == tag }

// Attribute returns the attribute that the clause compares, if it does.
func (c *Clause) Attribute() (key string, ok bool) { return c.Key, c.of == attribute }

// Grammar is what may be said in the filters of one kind of thing.
type Grammar struct {
	entities       map[string]entity
	names          string            // the entities, as the error lists them
	text           map[string]string // string attributes: spelling → attribute
	number         map[string]string // number attributes
	lists          []string          // attributes that take IN; nil = all
	null           bool              // params, tags and the like take IS [NOT] NULL
	traces         bool              // the values are those of traces: see traceValue
	stands         map[string]stand  // attributes that stand for something else
	tagNull        bool              // tags alone take IS [NOT] NULL
	whole          bool              // numbers are whole
	bare           bool              // strings may stand without quotes
	colon          bool              // how it says which attributes it knows: "are: {…}"
	tagLists       bool              // params and tags take IN
	onlyAttributes bool              // as an order
	quotes         bool              // errors quote the words they name

	// refuse is the error of a comparator that the left side does not take.
	refuse func(g *Grammar, c *Clause, op string) error
}

var attributeNames = map[string]entity{"attribute": attribute, "attr": attribute, "attributes": attribute, "run": attribute}

func with(base map[string]entity, more map[string]entity) map[string]entity {
	m := map[string]entity{}
	for k, v := range base {
		m[k] = v
	}
	for k, v := range more {
		m[k] = v
	}
	return m
}

func names(list ...string) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		from, to, ok := strings.Cut(s, "=")
		if !ok {
			to = from
		}
		m[from] = to
	}
	return m
}

var dataEntities = map[string]entity{
	"metric": metric, "metrics": metric,
	"param": param, "params": param, "parameter": param, "parameters": param,
	"tag": tag, "tags": tag,
}

// The grammars.
var (
	RunGrammar = &Grammar{
		refuse:   refuseAny,
		entities: with(with(attributeNames, dataEntities), map[string]entity{"dataset": datasetOf, "datasets": datasetOf}),
		names:    "['metric', 'parameter', 'tag', 'attribute', 'dataset']",
		text:     names("run_id", "run_name", "status", "user_id", "artifact_uri", "run name=run_name", "Run name=run_name", "Run Name=run_name"),
		number:   names("start_time", "end_time", "created=start_time", "Created=start_time"),
		lists:    []string{"run_id"},
		null:     true,
		quotes:   true,
	}
	// Runs are ordered by the same, but for spellings that filters alone know.
	runOrders = &Grammar{
		entities: RunGrammar.entities,
		names:    RunGrammar.names,
		text:     names("run_id", "run_name", "status", "user_id", "artifact_uri"),
		number:   RunGrammar.number,
	}
	ExperimentGrammar = &Grammar{
		refuse:   refuseAny,
		tagNull:  true,
		whole:    true,
		entities: map[string]entity{"attribute": attribute, "tag": tag, "tags": tag},
		names:    "['tag', 'attribute']",
		text:     names("name", "experiment_id"),
		number:   names("creation_time", "last_update_time"),
		lists:    []string{"experiment_id"},
	}
	ModelGrammar = &Grammar{
		refuse:   refuseLogged,
		bare:     true,
		entities: map[string]entity{"attributes": attribute, "metrics": metric, "params": param, "tags": tag},
		names:    "['attributes', 'metrics', 'params', 'tags']",
		text:     names("name", "model_id", "model_type", "status", "source_run_id", "experiment_id"),
		number: names("creation_timestamp", "creation_time=creation_timestamp", "last_updated_timestamp",
			"last_updated_time=last_updated_timestamp"),
		tagLists: true,
	}
	RegisteredModelGrammar = &Grammar{
		refuse:   refuseRegistered,
		whole:    true,
		entities: map[string]entity{"attribute": attribute, "tag": tag, "tags": tag},
		names:    "('attribute', 'tag', 'tags')",
		text:     names("name"),
	}
	ModelVersionGrammar = &Grammar{
		refuse:   refuseRegistered,
		whole:    true,
		entities: map[string]entity{"attribute": attribute, "tag": tag, "tags": tag},
		names:    "('attribute', 'tag', 'tags')",
		text:     names("name", "run_id", "source_path"),
		number:   names("version_number"),
	}
	DatasetGrammar = &Grammar{
		refuse:   refuseAny,
		entities: map[string]entity{"attribute": attribute, "attributes": attribute, "tag": tag, "tags": tag},
		names:    "['tag', 'attribute']",
		colon:    true,
		text:     names("name", "created_by", "last_updated_by"),
		number:   names("created_time", "last_update_time"),
	}
	// DatasetOrders is what datasets are ordered by.
	DatasetOrders = &Grammar{
		onlyAttributes: true,
		entities:       DatasetGrammar.entities,
		names:          DatasetGrammar.names,
		colon:          true,
		text:           names("name"),
		number:         DatasetGrammar.number,
	}
)

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

// Parse reads a filter. The empty filter has no clauses.
func (g *Grammar) Parse(filter string) ([]Clause, error) {
	list := tokens(filter)
	for i, t := range list {
		if t.kind == 'p' && t.text == ";" {
			if i < len(list)-1 {
				return nil, invalid("Search filter contained multiple expression %q. Provide AND-ed expression list.", filter)
			}
			list = list[:i]
		}
	}
	var clauses []Clause
	for len(list) > 0 {
		if list[0].kind == 'i' && strings.EqualFold(list[0].text, "AND") {
			list = list[1:]
			continue
		}
		c, rest, err := g.clause(list)
		if _, ok := err.(notClause); ok && g.bare {
			err = invalid("Invalid filter string: %s. Expected a list of comparisons separated by 'AND' (e.g. 'metrics.loss > 0.1 AND params.lr = 0.01').", pythonText(filter))
		} else if ok {
			err = invalid("%v", err)
		}
		if err != nil {
			return nil, err
		}
		clauses = append(clauses, c)
		list = rest
	}
	if g.traces {
		for i := range clauses {
			if err := clauses[i].checkTrace(g); err != nil {
				return nil, err
			}
		}
	}
	return clauses, nil
}

// notClause is the words that are no comparison.
type notClause string

func (words notClause) Error() string {
	return "Invalid clause(s) in filter string: " + string(words)
}

// pythonText is a string as Python shows it.
func pythonText(s string) string {
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `\'`) + "'"
}

// invalidClause names the words, up to the next AND, that are no comparison.
func (g *Grammar) invalidClause(list []token) error {
	var words []string
	if list[0].text == "(" {
		words, list = []string{listText(list)}, nil
		if g.quotes {
			words[0] = "'" + words[0] + "'"
		}
	}
	for i, t := range list {
		if i > 0 && (strings.EqualFold(t.text, "AND") || g.traces && strings.EqualFold(list[0].text, "OR")) {
			break
		}
		parts := []string{t.text}
		if t.kind == 'x' && len(t.text) > 1 && t.text[0] == '\'' { // a quote that nothing closes
			parts = []string{"'", t.text[1:]}
		}
		for _, w := range parts {
			if g.quotes {
				w = "'" + w + "'"
			}
			words = append(words, w)
		}
	}
	return notClause(strings.Join(words, ", "))
}

// clause reads one comparison and returns what follows it.
func (g *Grammar) clause(list []token) (c Clause, rest []token, err error) {
	if list[0].kind != 'i' || len(list) < 2 {
		return c, nil, g.invalidClause(list)
	}
	switch {
	case word(list, 1, "IS") && word(list, 2, "NULL"):
		c.Op, rest = "IS NULL", list[3:]
	case word(list, 1, "IS") && word(list, 2, "NOT") && word(list, 3, "NULL"):
		c.Op, rest = "IS NOT NULL", list[4:]
	case word(list, 1, "NOT") && word(list, 2, "IN"):
		c.Op, rest = "NOT IN", list[3:]
	case word(list, 1, "IN"), word(list, 1, "LIKE"), word(list, 1, "ILIKE"), word(list, 1, "RLIKE"), word(list, 1, "BETWEEN"):
		c.Op, rest = strings.ToUpper(list[1].text), list[2:]
	case list[1].kind == 'o':
		c.Op, rest = list[1].text, list[2:]
	default:
		return c, nil, g.invalidClause(list)
	}
	if c.of, c.Key, err = g.name(list[0].text); err != nil {
		return c, nil, err
	}
	if g.traces && (c.Op == "IS NULL" || c.Op == "IS NOT NULL") {
		return c, rest, nil
	}
	if c.Op == "IS NULL" || c.Op == "IS NOT NULL" {
		if !g.null && !(g.tagNull && c.of == tag) || c.of == attribute || c.of == metric || c.of == datasetOf || c.of == span {
			return c, nil, invalid("IS NULL / IS NOT NULL is only supported for tags and params, not for '%s' '%s'", c.Of(), c.Key)
		}
		return c, rest, nil
	}
	if len(rest) == 0 || word(rest, 0, "AND") || rest[0].kind == 'x' && rest[0].text[0] == '\'' || strings.HasSuffix(c.Op, "IN") && rest[0].text != "(" {
		return c, nil, g.invalidClause(list)
	}
	rest, err = g.value(&c, rest)
	return c, rest, err
}

// name resolves the left side of a comparison.
func (g *Grammar) name(text string) (entity, string, error) {
	first, key, dotted := cutName(text)
	of := attribute
	if g.bare && dotted {
		of, ok := g.entities[first]
		if !ok {
			return 0, "", invalid("Invalid entity type: '%s'. Expected one of %s.", first, g.names)
		}
		if key = strings.Trim(key, "`"); of != attribute {
			return of, key, nil
		}
	}
	if dotted {
		var ok bool
		if of, ok = g.entities[unquote(first)]; !ok {
			word := "values"
			if g.names[0] == '(' {
				word = "entity types"
			}
			return 0, "", invalid("Invalid entity type '%s'. Valid %s are %s", unquote(first), word, g.names)
		}
		key = unquote(key)
	} else {
		key = unquote(first)
	}
	switch of {
	case attribute:
		if to, ok := g.stands[key]; ok && g.text[key] != "" {
			return to.of, to.key, nil
		}
		if to, ok := g.text[key]; ok {
			return of, to, nil
		}
		if to, ok := g.number[key]; ok {
			return of, to, nil
		}
		if g.colon {
			return 0, "", invalid("Invalid attribute key '%s' specified. Valid keys are: %s", key, g.attributes())
		}
		return 0, "", invalid("Invalid attribute key '%s' specified. Valid keys are '%s'", key, g.attributes())
	case span:
		if key == "attributes." {
			return 0, "", invalid("Span attribute name cannot be empty after 'attributes.'")
		}
		if key != "name" && key != "type" && key != "status" && key != "content" && !strings.HasPrefix(key, "attributes.") {
			return 0, "", invalid("Invalid span attribute '%s'. Supported attributes: name, status, type, attributes.<attribute_name>.", key)
		}
	case issue:
		if key != "id" {
			return 0, "", invalid("Invalid issue attribute '%s'. Supported attributes: id", key)
		}
	case datasetOf:
		if key != "name" && key != "digest" && key != "context" {
			return 0, "", invalid("Invalid dataset key '%s' specified. Valid keys are '{'name', 'digest', 'context'}'", key)
		}
	}
	return of, key, nil
}

// attributes lists the attribute keys for an error.
func (g *Grammar) attributes() string {
	var all []string
	for k := range g.text {
		all = append(all, "'"+k+"'")
	}
	for k := range g.number {
		all = append(all, "'"+k+"'")
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ", ") + "}"
}

// cutName cuts at the first dot outside quotes.
func cutName(s string) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		if n := quoted(s[i:]); n > 0 {
			i += n - 1
		} else if s[i] == '.' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

var (
	numberOps = []string{">", ">=", "!=", "=", "<", "<="}
	textOps   = []string{"!=", "=", "LIKE", "ILIKE"}

	nullOps   = []string{"!=", "=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"}
	stringOps = []string{"!=", "=", "LIKE", "ILIKE", "IN", "NOT IN"}
)

// takes refuses a clause whose comparator is not one of ops.
func (g *Grammar) takes(c *Clause, ops []string) error {
	if contains(ops, c.Op) {
		return nil
	}
	return g.refuse(g, c, c.Op)
}

// refuseAny is the error of runs, experiments and traces. The set that it names
// is not always closed by a quote.
func refuseAny(g *Grammar, c *Clause, op string) error {
	ops, end := stringOps, "'"
	_, isNumber := g.number[c.Key]
	switch {
	case c.of == metric:
		ops, end = numberOps, ""
	case c.of == tag && g.tagNull:
		return invalid("Invalid comparator for tag: %s", op)
	case c.of == param && g.null:
		ops = nullOps
	case c.of == tag && g.null:
		ops, end = nullOps, ""
	case c.of == datasetOf, c.of == attribute && isNumber:
		end = ""
	}
	sorted := append([]string(nil), ops...)
	slices.Sort(sorted)
	return invalid("Invalid comparator '%s' not one of '{'%s'}%s", op, strings.Join(sorted, "', '"), end)
}

// refuseRegistered is the error of registered models and their versions.
func refuseRegistered(g *Grammar, c *Clause, op string) error {
	if c.of == tag {
		return invalid("Invalid comparator for tag: %s", op)
	}
	if _, ok := g.number[c.Key]; ok {
		return invalid("Invalid comparator for attribute %s: %s", c.Key, op)
	}
	return invalid("Invalid comparator for attribute: %s", op)
}

// refuseLogged is the error of logged models.
func refuseLogged(g *Grammar, c *Clause, op string) error {
	kind := map[entity]string{attribute: "attributes", metric: "metrics", param: "params", tag: "tags"}[c.of]
	ops := "('=', '!=', 'LIKE', 'ILIKE', 'IN', 'NOT IN')"
	if _, isNumber := g.number[c.Key]; isNumber && c.of == attribute || c.of == metric {
		ops = "('<', '<=', '>', '>=', '=', '!=')"
	}
	return invalid("Invalid comparison operator for %s.%s: '%s'. Expected one of %s.", kind, c.Key, op, ops)
}

// value reads the right side of a comparison.
func (g *Grammar) value(c *Clause, list []token) ([]token, error) {
	if g.traces {
		return g.traceValue(c, list)
	}
	t := list[0]
	_, isNumber := g.number[c.Key]
	isNumber = isNumber && c.of == attribute
	if isNumber || c.of == metric {
		if err := g.takes(c, numberOps); g.bare && err != nil {
			return nil, err
		}
		if t.kind != 'n' {
			if c.of == metric {
				return nil, invalid("Expected numeric value type for metric. Found %s", t.text)
			}
			return nil, invalid("Expected numeric value type for numeric attribute: %s. Found %s", c.Key, t.text)
		}
		if err := g.takes(c, numberOps); err != nil {
			return nil, err
		}
		c.Number, _ = strconv.ParseFloat(t.text, 64)
		if c.of == attribute && g.whole && strings.ContainsAny(t.text, ".eE") {
			return nil, invalid("Invalid value for numeric attribute '%s': '%s'", c.Key, t.text)
		}
		return list[1:], nil
	}
	if t.kind == 'p' && t.text == "(" {
		return g.values(c, list)
	}
	if g.bare {
		if err := g.takes(c, textOps); err != nil {
			return nil, err
		}
		return list[1:], c.compareWith(strings.Trim(t.text, "'"))
	}
	if t.kind != 's' && !(t.kind == 'i' && t.text[0] == '"') {
		if t.kind == 'i' {
			return nil, invalid("Parameter value is either not quoted or unidentified quote types used for string value %s. Use either single or double quotes.", t.text)
		}
		switch c.of {
		case param:
			return nil, invalid("Expected a quoted string value for parameter (e.g. 'my-value'). Got value %s", t.text)
		case tag:
			return nil, invalid("Expected a quoted string value for tag (e.g. 'my-value'). Got value %s", t.text)
		case datasetOf:
			return nil, invalid("Expected a quoted string value for dataset attributes. Got value %s", t.text)
		}
		return nil, invalid("Expected a quoted string value for attributes. Got value %s", t.text)
	}
	ops := textOps
	if g.null && (c.of == tag || c.of == param) {
		ops = nullOps
	}
	if err := g.takes(c, ops); err != nil {
		return nil, err
	}
	return list[1:], c.compareWith(unquote(t.text))
}

// compareWith sets the string that the clause's left side is compared with.
func (c *Clause) compareWith(text string) error {
	c.Text = text
	switch c.Op {
	case "RLIKE":
		re, err := regexp.Compile(text)
		if err != nil {
			return invalid("Invalid regular expression '%s': %v", text, err)
		}
		c.regular = re
	case "LIKE", "ILIKE":
		c.like = newPattern(text, c.Op == "ILIKE")
	}
	return nil
}

// values reads the list of an IN.
func (g *Grammar) values(c *Clause, list []token) ([]token, error) {
	switch {
	case c.of == attribute && g.lists != nil && !contains(g.lists, c.Key):
		return nil, invalid("Only ['%s'] attributes support comparison with a list of quoted string values.", strings.Join(g.lists, "', '"))
	case (c.of == tag || c.of == param) && !g.tagLists:
		kind := "tag"
		if c.of == param {
			kind = "parameter"
		}
		return nil, invalid("Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", kind, listText(list))
	}
	if c.Op != "IN" && c.Op != "NOT IN" {
		return nil, g.refuse(g, c, "(")
	}
	return g.list(c, list)
}

// list reads the values in parentheses.
func (g *Grammar) list(c *Clause, list []token) ([]token, error) {
	for i := 1; i < len(list); i++ {
		t := list[i]
		switch {
		case t.kind == 'p' && t.text == ")":
			if len(c.Values) == 0 {
				return nil, invalid("While parsing a list in the query, expected a non-empty list of string values, but got empty list")
			}
			return list[i+1:], nil
		case t.kind == 's' || t.kind == 'i' && t.text[0] == '"':
			c.Values = append(c.Values, unquote(t.text))
		case t.kind == 'p' && t.text == ",":
		default:
			return nil, invalid("While parsing a list in the query, expected string value, punctuation, or whitespace, but got different type in list: %s", tupleText(list))
		}
	}
	return nil, g.invalidClause(list)
}

// tupleText is a list as Python writes it: (1,) and (1, 'a').
func tupleText(list []token) string {
	var items []string
	for _, t := range list[1:] {
		if t.text == ")" {
			break
		}
		if t.text != "," {
			items = append(items, t.text)
		}
	}
	if len(items) == 1 {
		return "(" + items[0] + ",)"
	}
	return "(" + strings.Join(items, ", ") + ")"
}

// listText is a list in parentheses as it was written.
func listText(list []token) string {
	var b strings.Builder
	for i, t := range list {
		if i > 1 && t.kind != 'p' && list[i-1].kind != 'p' {
			b.WriteByte(' ')
		}
		if t.text == "," {
			b.WriteString(", ")
			continue
		}
		b.WriteString(t.text)
		if t.text == ")" {
			break
		}
	}
	return b.String()
}
