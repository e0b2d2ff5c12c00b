package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jmespath/go-jmespath"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"lapis/fault"
	"lapis/pattern"
)

// outputFlags say how a command prints its result.
type outputFlags struct {
	format string
	query  string
}

var formats = []string{"json", "jsonc", "yaml", "yamlc", "table", "tsv", "none"}

func (o *outputFlags) register(cmd *cobra.Command) {
	fl := cmd.PersistentFlags()
	fl.StringVarP(&o.format, "output", "o", "", "json, jsonc, yaml, yamlc, table, tsv or none (default json)")
	fl.StringVar(&o.query, "query", "", "JMESPath expression over the result, as in --query '[].name'")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// check finds a wrong flag before anything is done.
func (o *outputFlags) check() error {
	if o.format != "" && !slices.Contains(formats, o.format) {
		return fault.Invalid("--output %s: it can be json, jsonc, yaml, yamlc, table, tsv or none.", o.format)
	}
	if o.query != "" {
		if _, err := jmespath.Compile(literals(o.query)); err != nil {
			return fault.Invalid("--query %q: %v", o.query, err)
		}
	}
	return nil
}

// literals quotes the words between backticks that are not JSON, which az
// takes too: [?status==`Failed`].
func literals(query string) string {
	parts := strings.Split(query, "`")
	if len(parts)%2 == 0 {
		return query
	}
	for i := 1; i < len(parts); i += 2 {
		if !json.Valid([]byte(parts[i])) {
			quoted, _ := json.Marshal(parts[i])
			parts[i] = string(quoted)
		}
	}
	return strings.Join(parts, "`")
}

// print writes a result: an object or a list of them. Columns are those of
// the table when there is no query.
func (o *outputFlags) print(w io.Writer, result any, columns []string) error {
	var v any
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	if o.query != "" {
		if v, err = jmespath.Search(literals(o.query), v); err != nil {
			return fault.Invalid("--query %q: %v", o.query, err)
		}
		columns = nil
	}
	named := namedIn(o.query)
	switch o.format {
	case "none":
		return nil
	case "yaml", "yamlc":
		enc := yaml.NewEncoder(w)
		enc.SetIndent(2)
		if err := enc.Encode(v); err != nil {
			return err
		}
		return enc.Close()
	case "tsv":
		return tsv(w, v, named)
	case "table":
		return table(w, v, columns, named)
	}
	if v == nil && o.query == "" {
		return nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// tsv writes a line for each item, the values parted by tabs.
func tsv(w io.Writer, v any, named []string) error {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	for _, row := range rows {
		var cells []string
		switch row := row.(type) {
		case []any:
			for _, c := range row {
				cells = append(cells, cell(c))
			}
		case map[string]any:
			for _, k := range sortedKeys(row, named) {
				if scalar(row[k]) {
					cells = append(cells, cell(row[k]))
				}
			}
		default:
			cells = []string{cell(row)}
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return nil
}

// table writes aligned columns under their names.
func table(w io.Writer, v any, columns, named []string) error {
	rows, ok := v.([]any)
	if !ok {
		if v == nil {
			return nil
		}
		rows = []any{v}
	}
	if len(rows) == 0 {
		return nil
	}
	if len(columns) == 0 {
		if m, ok := rows[0].(map[string]any); ok {
			for _, k := range sortedKeys(m, named) {
				if scalar(m[k]) {
					columns = append(columns, k)
				}
			}
		} else {
			columns = []string{"result"}
		}
	}
	lines := make([][]string, 0, len(rows)+2)
	head, rule := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		head[i] = title(c[strings.LastIndexByte(c, '.')+1:])
		if row, ok := rows[0].(map[string]any); ok && strings.Contains(c, ".") {
			if _, whole := row[c]; whole {
				head[i] = c // the key of a metric, say, has points of its own
			}
		}
	}
	lines = append(lines, head, rule)
	for _, row := range rows {
		line := make([]string, len(columns))
		for i, c := range columns {
			switch row := row.(type) {
			case map[string]any:
				line[i] = short(cell(valueAt(row, c)))
			case []any:
				if i < len(row) {
					line[i] = cell(row[i])
				}
			default:
				line[i] = cell(row)
			}
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for i := range rule {
		rule[i] = strings.Repeat("-", widths[i])
	}
	for _, line := range lines {
		var b strings.Builder
		for i, c := range line {
			b.WriteString(c)
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// valueAt is the value at a path of keys, as in creation_context.created_at. A time
// is cut to its seconds.
func valueAt(row map[string]any, path string) any {
	if v, ok := row[path]; ok {
		return v
	}
	head, rest, deep := strings.Cut(path, ".")
	v := row[head]
	if !deep {
		return v
	}
	if m, ok := v.(map[string]any); ok {
		v = valueAt(m, rest)
	}
	if s, ok := v.(string); ok {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			return t.Format("2006-01-02T15:04:05Z07:00")
		}
	}
	return v
}

var longAddress = pattern.New(`^azureml://subscriptions/[^/]+/resource[gG]roups/[^/]+/workspaces/[^/]+/`)

// short takes out of an address what every address in the table has.
func short(s string) string { return longAddress.ReplaceAllString(s, "azureml://") }

func title(s string) string {
	parts := strings.Split(s, "_")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

func scalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return strings.NewReplacer("\n", " ", "\t", " ", "\r", "").Replace(v)
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		if a := math.Abs(v); a >= 1e21 || a < 1e-6 && a > 0 {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	data, _ := json.Marshal(v)
	return string(data)
}

// sortedKeys puts the keys that a query names in its order, the others behind
// them in their own.
func sortedKeys(m map[string]any, named []string) []string {
	keys := slices.Collect(maps.Keys(m))
	place := func(key string) int {
		if i := slices.Index(named, key); i >= 0 {
			return i
		}
		return len(named)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), strings.Compare(a, b))
	})
	return keys
}

// namedIn gives the names that a query makes, as in {Name:name, State:status},
// in their order, which the result of the query has lost.
func namedIn(query string) []string {
	if !strings.Contains(query, "{") {
		return nil
	}
	var names []string
	for _, m := range queryKey.FindAllStringSubmatch(query, -1) {
		names = append(names, strings.Trim(cmp.Or(m[1], m[2]), `"`))
	}
	return names
}

var queryKey = pattern.New(`[{,]\s*(?:([A-Za-z_][A-Za-z0-9_]*)|("[^"]*"))\s*:`)
