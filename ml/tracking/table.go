package tracking

import (
	"context"
	"slices"
	"strings"
)

// Source is where the rows of a table come from: experiments of a workspace,
// or single runs.
type Source struct {
	Workspace   string // GUID
	Experiments []string
	Runs        []string // ids; none = all of the experiments
}

// TableQuery chooses runs of experiments and workspaces, and what is shown of
// them.
type TableQuery struct {
	Sources []Source
	Columns []string // none: DefaultColumns
	RunSearch
}

// Table is one page of runs with the chosen columns.
type Table struct {
	Columns []string
	Runs    []*Detail
	Total   int // runs that the search found, on all pages
	Next    string
}

// DefaultColumns are shown when none are chosen. "metrics.*" stands for every
// metric that a run of the page has; "params.*" and "tags.*" likewise.
var DefaultColumns = []string{"workspace", "experiment_id", "run_id", "run_name", "status", "start_time", "end_time", "params.*", "metrics.*"}

// maxColumns bounds the columns that a request may name.
const maxColumns = 1000

// attributeColumns are the columns that are no metric, param or tag.
var attributeColumns = []string{"workspace", "experiment_id", "run_id", "run_name", "status", "user_id", "start_time", "end_time",
	"artifact_uri", "lifecycle_stage", "parent_run_id", "description", "job"}

func checkColumn(c string) error {
	group, key, dotted := strings.Cut(c, ".")
	if dotted && key != "" && (group == "metrics" || group == "params" || group == "tags") {
		return nil
	}
	if !dotted && slices.Contains(attributeColumns, c) {
		return nil
	}
	return invalid("'%s' is no column. Columns are %s, and metrics.KEY, params.KEY and tags.KEY, where KEY may be *.", c, strings.Join(attributeColumns, ", "))
}

// Table finds runs and names the columns to show of them. The details are
// shared: they must not be changed.
func (s *Service) Table(ctx context.Context, q TableQuery) (Table, error) {
	if len(q.Columns) == 0 {
		q.Columns = DefaultColumns
	}
	if len(q.Columns) > maxColumns {
		return Table{}, invalid("%d columns are named; at most %d may be.", len(q.Columns), maxColumns)
	}
	for _, c := range q.Columns {
		if err := checkColumn(c); err != nil {
			return Table{}, err
		}
	}
	t := Table{}
	var err error
	if t.Runs, t.Total, t.Next, err = s.find(ctx, q.Sources, q.RunSearch); err != nil {
		return t, err
	}
	for _, c := range q.Columns {
		group, key, _ := strings.Cut(c, ".")
		if key != "*" {
			if !slices.Contains(t.Columns, c) {
				t.Columns = append(t.Columns, c)
			}
			continue
		}
		seen := map[string]bool{}
		for _, d := range t.Runs {
			d.eachKey(group, func(k string) { seen[group+"."+k] = true })
		}
		from := len(t.Columns)
		for name := range seen {
			if !slices.Contains(t.Columns, name) {
				t.Columns = append(t.Columns, name)
			}
		}
		slices.Sort(t.Columns[from:])
	}
	return t, nil
}

func (d *Detail) eachKey(group string, visit func(key string)) {
	switch group {
	case "metrics":
		for i := range d.Metrics {
			visit(d.Metrics[i].Key)
		}
	case "params":
		for k := range d.Params {
			visit(k)
		}
	case "tags":
		d.EachTag(func(k, _ string) { visit(k) })
	}
}

// Column returns what a run shows in a column: a string, an int64, a float64, a
// bool, or nil for nothing. The column "workspace" is the GUID.
func (d *Detail) Column(name string) any {
	group, key, dotted := strings.Cut(name, ".")
	text := func(v string, ok bool) any {
		if !ok {
			return nil
		}
		return v
	}
	if dotted {
		switch group {
		case "metrics":
			if p, ok := d.Latest(key); ok {
				return p.Value
			}
			return nil
		case "params":
			v, ok := d.Params[key]
			return text(v, ok)
		}
		return text(d.Tag(key))
	}
	switch name {
	case "workspace":
		return d.Workspace
	case "experiment_id":
		return d.Experiment
	case "start_time":
		return d.Start
	case "end_time":
		if d.End == 0 {
			return nil
		}
		return d.End
	case "lifecycle_stage":
		return d.Lifecycle()
	case "parent_run_id":
		return text(d.Parent, d.Parent != "")
	case "description":
		return text(d.Description, d.Description != "")
	case "job":
		return d.Job
	}
	return text(d.attribute(name))
}
