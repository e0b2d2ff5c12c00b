package tracking

import (
	"strconv"
	"strings"
)

// The grammars of traces.
var (
	TraceGrammar = &Grammar{
		entities: traceEntities,
		names:    "{'attribute', 'attributes', 'trace', 'tag', 'tags', 'request_metadata', 'metadata', 'span', 'feedback', 'expectation', 'issue'}",
		text:     names("request_id", "status", "client_request_id", "name", "run_id", "prompt", "text"),
		number:   traceNumbers,
		lists:    []string{"name", "status", "request_id", "run_id", "client_request_id"},
		null:     true, quotes: true, traces: true,
		stands: traceStands,
	}
	// Traces are ordered by some of the same.
	traceOrders = &Grammar{
		entities: traceEntities,
		names:    TraceGrammar.names,
		text:     names("request_id", "status", "name", "run_id", "experiment_id"),
		number:   traceNumbers,
		stands:   traceStands,
	}
	traceEntities = map[string]entity{
		"attribute": attribute, "attributes": attribute, "trace": attribute, "tag": tag, "tags": tag,
		"metadata": metadata, "request_metadata": metadata, "span": span, "feedback": feedback, "expectation": expectation, "issue": issue,
	}
	traceNumbers = names("timestamp", "timestamp_ms=timestamp", "execution_time", "execution_time_ms=execution_time",
		"end_time", "end_time_ms=end_time")
	traceStands = map[string]stand{
		"name": {tag, "mlflow.traceName"}, "prompt": {tag, "mlflow.linkedPrompts"}, "run_id": {metadata, "mlflow.sourceRun"}, "text": {span, "content"},
	}
)

// stand is what an attribute stands for.
type stand struct {
	of  entity
	key string
}

// checkTrace checks the operator of a clause about traces, once the whole
// filter is read.
func (c *Clause) checkTrace(g *Grammar) error {
	ops, what, end := traceOps, "Invalid comparator", "'"
	switch c.of {
	case attribute:
		if _, numeric := g.number[c.Key]; numeric {
			if contains(numberOps, c.Op) {
				return nil
			}
			return invalid("Invalid comparator '%s' not one of '{'%s'}", c.Op, strings.Join(traceOps, "', '"))
		}
	case tag, metadata:
		if c.of == tag {
			end = ""
		}
		ops = traceTagOps
		if c.Key == "mlflow.linkedPrompts" && c.Op != "=" {
			return invalid("Invalid comparator '%s' for prompts filter. Only '=' is supported with format: prompt = \"name/version\"", c.Op)
		}
		if c.of == tag && c.Key == "mlflow.linkedPrompts" && strings.Count(c.Text, "/") != 1 {
			return invalid("Invalid prompts filter value '%s'. Expected format: prompt = \"name/version\"", c.Text)
		}
		if (c.Key == "mlflow.trace.tokenUsage" || c.Key == "mlflow.trace.cost") && c.of == metadata && strings.HasSuffix(c.Op, "LIKE") {
			return invalid("Comparator '%s' is not supported for reserved metadata '%s'. Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported.", c.Op, c.Key)
		}
	case span:
		what = "span." + c.Key + " comparator"
		if c.Key == "content" {
			ops = []string{"LIKE", "ILIKE"}
		}
	case feedback, expectation:
		what = "assessment." + c.Key + " comparator"
		ops = assessmentOps
	case issue:
		what = "issue." + c.Key + " comparator"
		ops = []string{"="}
	}
	if contains(ops, c.Op) {
		return nil
	}
	return invalid("%s '%s' not one of '{'%s'}%s", what, c.Op, strings.Join(ops, "', '"), end)
}

var (
	traceOps      = []string{"NOT IN", "=", "RLIKE", "ILIKE", "!=", "LIKE", "IN"}
	traceTagOps   = []string{"=", "IS NOT NULL", "RLIKE", "ILIKE", "IS NULL", "!=", "LIKE"}
	assessmentOps = []string{"!=", "=", ">", ">=", "<", "<=", "LIKE", "ILIKE", "RLIKE", "IS NULL", "IS NOT NULL"}
)

// traceValue reads the right side of a comparison about traces.
func (g *Grammar) traceValue(c *Clause, list []token) ([]token, error) {
	t := list[0]
	if c.Op == "BETWEEN" {
		return nil, g.invalidClause(append([]token{{'i', c.Key}, {'i', c.Op}}, list...))
	}
	kind := c.Of()
	if c.of == metadata {
		kind = "request_metadata"
	}
	if _, numeric := g.number[c.Key]; numeric && c.of == attribute {
		switch {
		case t.text == "(":
			return nil, invalid("Only attributes in {'client_request_id', 'name', 'request_id', 'run_id', 'status'} supports comparison with a list of quoted string values.")
		case !contains(numberOps, c.Op):
			return list[1:], nil
		case t.kind != 'n':
			return nil, invalid("Expected numeric value type for numeric attribute: %s. Found %s", c.Key, t.text)
		}
		c.Number, _ = strconv.ParseFloat(t.text, 64)
		return list[1:], nil
	}
	assessed := c.of == feedback || c.of == expectation
	if assessed && strings.ContainsAny(c.Op, "<>") {
		if t.kind != 'n' {
			return nil, invalid("Expected a numeric value for %s when using comparator '%s'. Got value %s", kind, c.Op, t.text)
		}
		c.IsNumeric = true
		c.Number, _ = strconv.ParseFloat(t.text, 64)
		return list[1:], nil
	}
	if t.kind == 'p' && t.text == "(" {
		if c.Op != "IN" && c.Op != "NOT IN" {
			return nil, g.invalidClause(append([]token{{'i', c.Key}, {'i', c.Op}}, list...))
		}
		if assessed || c.of == issue {
			return nil, invalid("Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", kind, listText(list))
		}
		return g.list(c, list)
	}
	switch {
	case t.kind == 's' || t.kind == 'i' && t.text[0] == '"':
	case t.kind == 'i':
		return nil, invalid("Parameter value is either not quoted or unidentified quote types used for string value %s. Use either single or double quotes.", t.text)
	default:
		return nil, invalid("Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", kind, t.text)
	}
	if c.Op == "IN" || c.Op == "NOT IN" {
		return nil, g.invalidClause([]token{{'i', c.Key}, {'i', c.Op}, t})
	}
	c.Text = unquote(t.text)
	if c.of == span && strings.HasPrefix(c.Key, "attributes.") {
		return list[1:], c.within()
	}
	return list[1:], c.compareWith(c.Text)
}

// within makes the pattern of an attribute of a span. MLflow looks for it in
// the JSON of the whole span, behind the attribute's name.
func (c *Clause) within() error {
	name := unquote(strings.TrimPrefix(c.Key, "attributes."))
	whole := Clause{Op: c.Op}
	text := ""
	switch c.Op {
	case "RLIKE":
		rest := c.Text
		start, end := `"\\".*`, ""
		if r, ok := strings.CutPrefix(rest, "^"); ok {
			rest, start = r, `"\\"`
		}
		if r, ok := strings.CutSuffix(rest, "$"); ok {
			rest, end = r, `\\"`
		}
		text = `"` + name + `": ` + start + rest + end
	case "LIKE", "ILIKE":
		text = `%"` + name + `"` + c.Text + `%`
	default:
		return nil
	}
	if err := whole.compareWith(text); err != nil {
		return err
	}
	c.regular, c.like = whole.regular, whole.like
	return nil
}

// ofTrace reads what traces are sorted by.
func (o *Order) ofTrace(name string) (err error) {
	if o.of, o.Key, err = traceOrders.name(name); err != nil {
		return err
	}
	switch {
	case o.of != attribute && o.of != tag && o.of != metadata:
		return invalid("Invalid identifier type '%s'", o.Of())
	case o.of == metadata && (o.Key == "mlflow.trace.tokenUsage" || o.Key == "mlflow.trace.cost"):
		return invalid("Ordering by reserved metadata '%s' is not supported because it is represented by multiple columns.", o.Key)
	}
	return nil
}
