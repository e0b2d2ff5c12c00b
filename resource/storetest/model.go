package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"lapis/fault"
	"lapis/resource"
)

// likeAMap commits random batches to the store and to a map, and compares what
// both then hold.
func likeAMap(t *testing.T, s Subject) {
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		m := model{t: t, store: s.Store, prefix: fmt.Sprintf("%s%d", space, round), held: map[string]held{}}
		r.Repeat(map[string]func(*rapid.T){"commit": m.commit, "": m.check})
	})
}

type held struct {
	etag, properties, status string
}

type model struct {
	t      *testing.T
	store  Store
	prefix string
	held   map[string]held // by name
}

var modelNames = []string{"a", "b", "c/parts/x", "c"}

func (m *model) id(name string) resource.ID { return ID(m.t, "%s/things/%s", m.prefix, name) }

// commit makes a batch whose expectations hold or do not.
func (m *model) commit(r *rapid.T) {
	after := maps.Clone(m.held)
	var b resource.Batch
	sound := true
	for range rapid.IntRange(1, 4).Draw(r, "writes") {
		name := rapid.SampledFrom(modelNames).Draw(r, "name")
		now, there := after[name]
		switch rapid.SampledFrom([]string{"put", "status", "remove", "rely"}).Draw(r, "verb") {
		case "put":
			w := resource.Write{Resource: resource.Resource{ID: m.id(name), Properties: m.json(r), Status: m.json(r)}, Keep: rapid.Bool().Draw(r, "keep")}
			w.Expect = m.expect(r, name, &sound)
			if _, twice := after[name+"#"]; twice {
				return // one write for each resource in a batch
			}
			next := held{properties: string(w.Resource.Properties), status: string(w.Resource.Status)}
			if there && w.Keep {
				next.status = now.status
			}
			after[name], after[name+"#"] = next, held{}
			b.Puts = append(b.Puts, w)
		case "status":
			status := m.json(r)
			b.Statuses = append(b.Statuses, resource.StatusWrite{ID: m.id(name), Status: status})
		case "remove":
			deep := rapid.Bool().Draw(r, "deep")
			b.Removals = append(b.Removals, resource.Removal{ID: m.id(name), Expect: resource.Any, Deep: deep})
		case "rely":
			b.Relies = append(b.Relies, resource.Expectation{ID: m.id(name), Etag: m.expect(r, name, &sound)})
		}
	}
	for _, name := range modelNames {
		delete(after, name+"#")
	}
	// Statuses come after puts, removals after statuses.
	for _, w := range b.Statuses {
		for name, h := range after {
			if m.id(name).Same(w.ID) {
				h.status = string(w.Status)
				after[name] = h
			}
		}
	}
	for _, w := range b.Removals {
		for name := range after {
			if id := m.id(name); id.Same(w.ID) || w.Deep && id.Parent().Same(w.ID) {
				delete(after, name)
			}
		}
	}
	_, err := m.store.Commit(m.t.Context(), b)
	switch {
	case sound && err != nil:
		r.Fatalf("%v", err)
	case !sound && !errors.Is(err, resource.ErrChanged):
		r.Fatalf("%v, though an expectation does not hold", err)
	case err == nil:
		m.held = after
	}
	for name, h := range m.held {
		got, err := m.store.Get(m.t.Context(), m.id(name))
		if err != nil {
			r.Fatalf("%s: %v", name, err)
		}
		h.etag = got.Etag
		m.held[name] = h
	}
}

func (m *model) json(r *rapid.T) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"n":%d}`, rapid.IntRange(0, 9).Draw(r, "n")))
}

// expect draws an expectation on what was stored before the batch.
func (m *model) expect(r *rapid.T, name string, sound *bool) string {
	now, there := m.held[name]
	switch rapid.SampledFrom([]string{"any", "right", "right", "wrong"}).Draw(r, "expect") {
	case "right":
		if there {
			return now.etag
		}
		return resource.Absent
	case "wrong":
		*sound = false
		if there {
			return resource.Absent
		}
		return "x"
	}
	return resource.Any
}

// check compares all that is held.
func (m *model) check(r *rapid.T) {
	for _, name := range modelNames {
		want, there := m.held[name]
		got, err := m.store.Get(m.t.Context(), m.id(name))
		switch {
		case !there && !fault.Is(err, fault.Missing):
			r.Fatalf("%s: %v, and it should be missing", name, err)
		case there && (err != nil || string(got.Properties) != want.properties || string(got.Status) != want.status):
			r.Fatalf("%s: %s, %s, %v; want %+v", name, got.Properties, got.Status, err, want)
		}
	}
	page, err := m.store.List(m.t.Context(), resource.Query{Type: "Microsoft.X/spaces/things", Scope: ID(m.t, "%s", m.prefix), Limit: 1000})
	if err != nil {
		r.Fatal(err)
	}
	var got, want []string
	for _, p := range page.Resources {
		got = append(got, p.ID.Name())
	}
	for name := range m.held {
		if name != "c/parts/x" {
			want = append(want, name)
		}
	}
	if slices.Sort(want); !slices.Equal(got, want) {
		r.Fatalf("listed %v, want %v", got, want)
	}
}
