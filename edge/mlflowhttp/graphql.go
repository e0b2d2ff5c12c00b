package mlflowhttp

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"unicode"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"

	"lapis/fault"
	"lapis/resource/identity"
)

//go:embed schema.graphql
var schemaText string

var schema = sync.OnceValue(func() *ast.Schema {
	return gqlparser.MustLoadSchema(&ast.Source{Name: "schema.graphql", Input: schemaText})
})

// Bounds of a GraphQL request, as MLflow's server has them.
const (
	maxDepth      = 10
	maxSelections = 1000
	maxRoots      = 10
	maxAliases    = 10
	maxTokens     = 20_000
)

// roots are the fields of queries and mutations, each with the route that
// answers it: GraphQL is another way to ask the same.
var roots = map[string]string{
	"mlflowGetExperiment":                "GET 2.0/mlflow/experiments/get",
	"mlflowGetRun":                       "GET 2.0/mlflow/runs/get",
	"mlflowListArtifacts":                "GET 2.0/mlflow/artifacts/list",
	"mlflowGetMetricHistoryBulkInterval": "GET 2.0/mlflow/metrics/get-history-bulk-interval",
	"mlflowSearchModelVersions":          searchVersionsRoute,
	"mlflowSearchRuns":                   "POST 2.0/mlflow/runs/search",
	"mlflowSearchDatasets":               "POST 2.0/mlflow/experiments/search-datasets",
}

const (
	searchVersionsRoute = "GET 2.0/mlflow/model-versions/search"
	getExperimentRoute  = "GET 2.0/mlflow/experiments/get"
)

func (s *Server) graphqlRoutes() { s.handle("GET|POST", "graphql", "", s.graphql) }

// graphql answers with data, and with errors as a list of texts.
func (s *Server) graphql(c *call) error {
	query := c.text("query", required)
	name := c.text("operationName", false)
	variables, _ := c.value("variables").(map[string]any)
	if text, ok := c.value("variables").(string); ok && c.query != nil {
		_ = json.Unmarshal([]byte(text), &variables)
	}
	if c.err != nil {
		return c.err
	}
	data, errs := s.execute(c, query, name, variables)
	reply := struct {
		Data   any      `json:"data"`
		Errors []string `json:"errors"`
	}{data, errs}
	b, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(b)
	return nil
}

func (s *Server) execute(c *call, query, name string, variables map[string]any) (data any, errs []string) {
	doc, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: query}, maxTokens)
	if err != nil {
		return nil, []string{"Syntax Error: " + said(err)}
	}
	for _, op := range doc.Operations {
		if err := bounded(doc, op.SelectionSet); err != nil {
			return nil, []string{err.Error()}
		}
	}
	for _, e := range validator.ValidateWithRules(schema(), doc, nil) {
		errs = append(errs, said(e))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	op := doc.Operations.ForName(name)
	switch {
	case name == "" && len(doc.Operations) > 1:
		return nil, []string{"Must provide operation name if query contains multiple operations."}
	case op == nil:
		return nil, []string{fmt.Sprintf("Unknown operation named '%s'.", name)}
	}
	values, err := validator.VariableValues(schema(), op, variables)
	if err != nil {
		var e *gqlerror.Error
		if errors.As(err, &e) && len(e.Path) > 1 {
			return nil, []string{fmt.Sprintf("Variable '$%s': %s", e.Path[1:], said(err))}
		}
		return nil, []string{said(err)}
	}
	g := &graph{call: c, doc: doc, values: values, asked: map[string]map[string]any{}}
	out := map[string]any{}
	for _, f := range g.fields(op.SelectionSet) {
		v, err := g.root(f)
		if err != nil {
			fl := fault.Find(err)
			if fl == nil || fl.Kind == fault.Internal {
				s.Log.Error("graphql", "field", f.Name, "err", err)
				err = errors.New("internal error")
			}
			errs = append(errs, short(err.Error()))
			v = nil
		}
		out[f.Alias] = v
	}
	return out, errs
}

// said is the text of an error, in the quotes that MLflow's server uses.
func said(err error) string {
	var e *gqlerror.Error
	if errors.As(err, &e) {
		return short(strings.ReplaceAll(e.Message, `"`, "'"))
	}
	return err.Error()
}

// bounded refuses a selection that is too deep or too wide, wherever it is
// written: fragments count where they are used.
func bounded(doc *ast.QueryDocument, set ast.SelectionSet) error {
	total, names := 0, 0
	var visit func(set ast.SelectionSet, depth, spreads int) (aliases int, err error)
	visit = func(set ast.SelectionSet, depth, spreads int) (aliases int, err error) {
		if depth > maxDepth {
			return 0, fault.Invalid("Query exceeds maximum depth of %d", maxDepth)
		}
		for _, sel := range set {
			if total++; total > maxSelections || spreads > maxSelections {
				return 0, fault.Invalid("Query exceeds maximum total selections of %d", maxSelections)
			}
			var more int
			switch sel := sel.(type) {
			case *ast.Field:
				if depth == 1 {
					names++
				}
				if sel.Alias != sel.Name {
					aliases++
				}
				if _, err = visit(sel.SelectionSet, depth+1, spreads); err != nil {
					return 0, err
				}
			case *ast.InlineFragment:
				more, err = visit(sel.SelectionSet, depth, spreads+1)
			case *ast.FragmentSpread:
				if d := doc.Fragments.ForName(sel.Name); d != nil {
					more, err = visit(d.SelectionSet, depth, spreads+1)
				}
			}
			if err != nil {
				return 0, err
			}
			if aliases += more; aliases > maxAliases {
				return 0, fault.Invalid("GraphQL queries should have at most %d aliases, got %d aliases.", maxAliases, aliases)
			}
		}
		return aliases, nil
	}
	if _, err := visit(set, 1, 0); err != nil {
		return err
	}
	if names > maxRoots {
		return fault.Invalid("GraphQL queries should have at most %d root fields, got %d root fields.", maxRoots, names)
	}
	return nil
}

// graph is one GraphQL request under way.
type graph struct {
	call   *call
	doc    *ast.QueryDocument
	values map[string]any            // of the variables
	asked  map[string]map[string]any // what routes answered about experiments and versions of runs
}

// field is a field of a reply, with all that is selected below it.
type field struct {
	*ast.Field
	below ast.SelectionSet
}

// fields are the fields that a selection asks for, each once.
func (g *graph) fields(set ast.SelectionSet) []*field {
	var list []*field
	var collect func(ast.SelectionSet)
	collect = func(set ast.SelectionSet) {
		for _, sel := range set {
			switch sel := sel.(type) {
			case *ast.Field:
				if !g.included(sel.Directives) {
					continue
				}
				at := -1
				for i, f := range list {
					if f.Alias == sel.Alias {
						at = i
					}
				}
				if at < 0 {
					list = append(list, &field{Field: sel})
					at = len(list) - 1
				}
				list[at].below = append(list[at].below, sel.SelectionSet...)
			case *ast.InlineFragment:
				if g.included(sel.Directives) {
					collect(sel.SelectionSet)
				}
			case *ast.FragmentSpread:
				if g.included(sel.Directives) {
					collect(g.doc.Fragments.ForName(sel.Name).SelectionSet)
				}
			}
		}
	}
	collect(set)
	return list
}

func (g *graph) included(directives ast.DirectiveList) bool {
	for name, want := range map[string]bool{"include": true, "skip": false} {
		if d := directives.ForName(name); d != nil {
			if yes, ok := d.ArgumentMap(g.values)["if"].(bool); ok && yes != want {
				return false
			}
		}
	}
	return true
}

// root answers a field of the query itself.
func (g *graph) root(f *field) (any, error) {
	switch {
	case f.Name == "__typename":
		return f.ObjectDefinition.Name, nil
	case strings.HasPrefix(f.Name, "__"):
		return nil, invalid("Questions about the schema are not answered by this server.")
	}
	args := f.ArgumentMap(g.values)
	if f.Name == "test" || f.Name == "testMutation" {
		return g.shape(f, map[string]any{"output": args["inputString"]})
	}
	input, ok := args["input"].(map[string]any)
	if !ok {
		return nil, invalid("The argument 'input' of '%s' is required.", f.Name)
	}
	reply, err := g.ask(roots[f.Name], input)
	if err != nil {
		return nil, err
	}
	return g.shape(f, reply)
}

// ask sends a question to a route of REST.
func (g *graph) ask(route string, fields map[string]any) (map[string]any, error) {
	c := *g.call
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	c.message = newMessage(b)
	for name, v := range c.fields {
		if v == nil {
			delete(c.fields, name)
		}
	}
	kept := &memory{header: http.Header{}}
	c.w = kept
	r := c.server.exact[route]
	if c.server.Access != nil {
		if err := c.server.Access.Check(c.ctx(), identity.Of(c.ctx()), r.permission, c.site.ID); err != nil {
			return nil, err
		}
	}
	if err := r.serve(&c); err != nil {
		return nil, err
	}
	d := json.NewDecoder(&kept.body)
	d.UseNumber()
	var reply map[string]any
	err = d.Decode(&reply)
	return reply, err
}

// memory keeps a reply.
type memory struct {
	header http.Header
	body   bytes.Buffer
}

func (m *memory) Header() http.Header         { return m.header }
func (m *memory) Write(b []byte) (int, error) { return m.body.Write(b) }
func (m *memory) WriteHeader(int)             {}

// shape is the value of a field as its type wants it: what REST leaves out is
// empty, and long numbers are texts.
func (g *graph) shape(f *field, v any) (any, error) { return g.value(f, f.Definition.Type, v) }

func (g *graph) value(f *field, t *ast.Type, v any) (any, error) {
	if t.Elem != nil {
		in, _ := v.([]any)
		list := make([]any, len(in))
		for i, x := range in {
			var err error
			if list[i], err = g.value(f, t.Elem, x); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	switch t.NamedType {
	case "String":
		s, _ := v.(string)
		return s, nil
	case "LongString":
		if n, ok := v.(json.Number); ok {
			return n.String(), nil
		}
		return "0", nil
	case "Float":
		if n, ok := v.(json.Number); ok {
			return n, nil
		}
		return nil, nil // NaN is no number in JSON
	case "Boolean":
		b, _ := v.(bool)
		return b, nil
	case "ApiError":
		return nil, nil
	}
	if def := schema().Types[t.NamedType]; def != nil && def.Kind == ast.Enum {
		if s, ok := v.(string); ok {
			return s, nil
		}
		return nil, nil
	}
	members, _ := v.(map[string]any)
	return g.object(f, t.NamedType, members)
}

func (g *graph) object(f *field, kind string, members map[string]any) (any, error) {
	out := map[string]any{}
	for _, x := range g.fields(f.below) {
		if x.Name == "__typename" {
			out[x.Alias] = kind
			continue
		}
		v := members[snake(x.Name)]
		if kind == "MlflowRunExtension" {
			var err error
			if v, err = g.ofRun(x.Name, v, members); err != nil {
				return nil, err
			}
		}
		shaped, err := g.shape(x, v)
		if err != nil {
			return nil, err
		}
		out[x.Alias] = shaped
	}
	return out, nil
}

// ofRun finds what a run's own reply does not hold.
func (g *graph) ofRun(name string, v any, run map[string]any) (any, error) {
	info, _ := run["info"].(map[string]any)
	route, fields, member := "", map[string]any{}, ""
	switch name {
	case "experiment":
		route, member = getExperimentRoute, "experiment"
		fields["experiment_id"] = info["experiment_id"]
	case "modelVersions":
		route, member = searchVersionsRoute, "model_versions"
		fields["filter"] = fmt.Sprintf("run_id='%v'", info["run_id"])
	default:
		return v, nil
	}
	key := route + fmt.Sprint(fields)
	reply, ok := g.asked[key]
	if !ok {
		var err error
		if reply, err = g.ask(route, fields); err != nil {
			return nil, err
		}
		g.asked[key] = reply
	}
	return reply[member], nil
}

// snake is a field's name in REST: run_id for runId.
func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
