package registry

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
)

// Search is one page of a search.
type Search struct {
	Filter string
	Order  []string
	Limit  int
	Page   string
}

// FoundModel is a registered model with its latest versions, one per stage.
type FoundModel struct {
	Model
	Latest []Version
}

// prompts tells whether the filter asks for prompts; others leave them out.
// The clauses that do so are taken out where a missing tag passes too.
func prompts(clauses []tracking.Clause) (rest []tracking.Clause, asked bool) {
	for _, c := range clauses {
		if key, ok := c.Tag(); ok && key == promptTag {
			asked = true
			if c.Op == "!=" && c.Text == "true" || c.Op == "=" && c.Text == "false" {
				asked = false // which is what happens anyway
				continue
			}
		}
		rest = append(rest, c)
	}
	return rest, asked
}

// SearchModels finds registered models.
func (g *Registry) SearchModels(ctx context.Context, site ml.Site, q Search) ([]FoundModel, string, error) {
	clauses, err := tracking.RegisteredModelGrammar.Parse(q.Filter)
	if err != nil {
		return nil, "", err
	}
	clauses, asked := prompts(clauses)
	order, err := modelOrders(q.Order)
	if err != nil {
		return nil, "", err
	}
	all, err := g.Models(ctx, site)
	if err != nil {
		return nil, "", err
	}
	var found []Model
	for _, m := range all {
		if !asked && m.Tags[promptTag] == "true" {
			continue
		}
		if passes(clauses, m.Tags, map[string]string{"name": m.Name}, nil) {
			found = append(found, m)
		}
	}
	slices.SortStableFunc(found, func(a, b Model) int {
		for _, o := range order {
			c := strings.Compare(a.Name, b.Name)
			if o.key != "name" {
				c = cmp.Compare(a.Updated, b.Updated)
			}
			if c != 0 {
				return o.sign * c
			}
		}
		return strings.Compare(a.Name, b.Name)
	})
	page, next, err := tracking.Page(found, q.Page, q.Limit, func(m Model) string { return m.Name })
	if err != nil {
		return nil, "", err
	}
	models := make([]FoundModel, len(page))
	for i, m := range page {
		v, err := g.Versions(ctx, site, m.Name)
		if err != nil && !fault.Is(err, fault.Missing) {
			return nil, "", err
		}
		models[i] = FoundModel{m, latest(v, stages)}
	}
	return models, next, nil
}

// SearchVersions finds versions of registered models.
func (g *Registry) SearchVersions(ctx context.Context, site ml.Site, q Search) ([]Version, string, error) {
	clauses, err := tracking.ModelVersionGrammar.Parse(q.Filter)
	if err != nil {
		return nil, "", err
	}
	clauses, asked := prompts(clauses)
	order, err := versionOrders(q.Order)
	if err != nil {
		return nil, "", err
	}
	if len(order) == 0 {
		order = []orderKey{{"last_updated_timestamp", -1}}
	}
	of := ""
	for _, c := range clauses {
		if key, ok := c.Attribute(); ok && key == "name" && c.Op == "=" {
			of = c.Text
		}
	}
	if checkModelName(of) != nil {
		of = ""
	}
	all, err := g.Versions(ctx, site, of)
	if fault.Is(err, fault.Missing) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	var found []Version
	for _, v := range all {
		if !asked && v.Tags[promptTag] == "true" {
			continue
		}
		if passes(clauses, v.Tags, map[string]string{"name": v.Name, "run_id": v.Run, "source_path": v.Source},
			map[string]float64{"version_number": float64(number(v.Number))}) {
			found = append(found, v)
		}
	}
	slices.SortStableFunc(found, func(a, b Version) int {
		for _, o := range order {
			var c int
			switch o.key {
			case "name":
				c = strings.Compare(a.Name, b.Name)
			case "version_number":
				c = cmp.Compare(number(a.Number), number(b.Number))
			case "creation_timestamp":
				c = cmp.Compare(a.Created, b.Created)
			default:
				c = cmp.Compare(a.Updated, b.Updated)
			}
			if c != 0 {
				return o.sign * c
			}
		}
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(number(b.Number), number(a.Number)))
	})
	page, next, err := tracking.Page(found, q.Page, q.Limit, func(v Version) string { return v.Name + "/" + v.Number })
	return page, next, err
}

type orderKey struct {
	key  string
	sign int // 1 ascending, -1 descending
}

// orders reads order_by clauses; which keys there are, its callers know.
func orders(list []string) ([]orderKey, error) {
	var all []orderKey
	for _, text := range list {
		fields := strings.Fields(text)
		if len(fields) == 0 || len(fields) > 2 {
			return nil, invalid("Invalid order_by clause '%s'. Could not be parsed.", text)
		}
		o := orderKey{key: fields[0], sign: 1}
		if len(fields) == 2 {
			switch strings.ToUpper(fields[1]) {
			case "DESC":
				o.sign = -1
			case "ASC":
			default:
				if fields[0] == "timestamp" { // a word of SQL's own
					return nil, invalid("Invalid order_by clause '%s'. Could not be parsed.", text)
				}
				return nil, invalid("Invalid ordering key in order_by clause '%s'.", text)
			}
		}
		all = append(all, o)
	}
	return all, nil
}

// modelOrders reads what to order registered models by.
func modelOrders(list []string) ([]orderKey, error) {
	all, err := orders(list)
	for _, o := range all {
		if !slices.Contains([]string{"name", "timestamp", "last_updated_timestamp"}, o.key) {
			return nil, invalid("Invalid order by key '%s' specified. Valid keys are '{'name', 'timestamp'}'", o.key)
		}
	}
	return all, err
}

// versionOrders reads what to order model versions by.
func versionOrders(list []string) ([]orderKey, error) {
	const valid = "{'creation_timestamp', 'last_updated_timestamp', 'name', 'version_number'}"
	all, err := orders(list)
	for i := range all {
		o := &all[i]
		first, key, dotted := strings.Cut(o.key, ".")
		switch {
		case !dotted:
			key = first
		case first != "attribute" && first != "tag" && first != "tags":
			return nil, invalid("Invalid entity type '%s'. Valid entity types are ('attribute', 'tag', 'tags')", first)
		}
		key = strings.Trim(key, "`\"")
		switch known := strings.Contains(valid, "'"+key+"'"); {
		case known:
			o.key = key
		case first == "tag" || first == "tags":
			return nil, invalid("Invalid order by key '%s' specified. Valid keys are %s", key, valid)
		default:
			return nil, invalid("Invalid attribute key '%s' specified. Valid keys are '%s'", key, valid)
		}
	}
	return all, err
}

func passes(clauses []tracking.Clause, tags, texts map[string]string, numbers map[string]float64) bool {
	for i := range clauses {
		c := &clauses[i]
		if key, ok := c.Tag(); ok {
			v, there := tags[key]
			if !there || !c.Matches(v) {
				return false
			}
			continue
		}
		key, _ := c.Attribute()
		if n, ok := numbers[key]; ok {
			if !c.MatchesNumber(n) {
				return false
			}
			continue
		}
		if !c.Matches(texts[key]) {
			return false
		}
	}
	return true
}
