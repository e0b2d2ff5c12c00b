package blobtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lapis/fault"
	"lapis/ml/blob"
)

// machine drives a store beside a map that says what it should hold.
type machine struct {
	store  blob.Store
	blobs  map[string]modelBlob
	staged map[string]map[string]string // key → block → bytes
}

type modelBlob struct {
	text   string
	meta   string
	blocks []string // ids
	bytes  map[string]string
}

var modelKeys = rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a!", "A", "b/c", "ü", "a/"})

func model(t *testing.T, s blob.Store) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		if n > 1 {
			for _, k := range list(t, s, blob.Query{}) {
				if err := s.Delete(t.Context(), here, k, blob.Condition{}); err != nil {
					rt.Fatal(err)
				}
			}
			if err := s.DeleteContainer(t.Context(), here); err != nil {
				rt.Fatal(err)
			}
			if err := s.CreateContainer(t.Context(), here); err != nil {
				rt.Fatal(err)
			}
		}
		m := &machine{store: s, blobs: map[string]modelBlob{}, staged: map[string]map[string]string{}}
		ctx := t.Context()
		text := rapid.SampledFrom([]string{"", "x", "some text", strings.Repeat("long ", 1000)})
		ids := rapid.SampledFrom([]string{"1", "2", "3"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				key, body, meta := modelKeys.Draw(rt, "key"), text.Draw(rt, "text"), ids.Draw(rt, "meta")
				cond := blob.Condition{}
				_, exists := m.blobs[key]
				if rapid.Bool().Draw(rt, "new only") {
					cond.IfNoneMatch = "*"
				}
				_, err := s.Put(ctx, here, key, strings.NewReader(body), -1, blob.Attributes{Metadata: map[string]string{"m": meta}}, cond)
				if exists && cond.IfNoneMatch != "" {
					if !fault.Is(err, fault.Conflict) {
						rt.Fatalf("put over a blob: %v", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				m.blobs[key] = modelBlob{text: body, meta: meta}
				delete(m.staged, key)
			},
			"stage": func(rt *rapid.T) {
				key, id, body := modelKeys.Draw(rt, "key"), ids.Draw(rt, "id"), text.Draw(rt, "text")
				if err := s.Stage(ctx, here, key, id, strings.NewReader(body), int64(len(body))); err != nil {
					rt.Fatal(err)
				}
				if m.staged[key] == nil {
					m.staged[key] = map[string]string{}
				}
				m.staged[key][id] = body
			},
			"commit": func(rt *rapid.T) {
				key := modelKeys.Draw(rt, "key")
				var (
					refs []blob.BlockRef
					b    = modelBlob{bytes: map[string]string{}}
					ok   = true
				)
				old := m.blobs[key]
				for range rapid.IntRange(0, 4).Draw(rt, "n") {
					r := blob.BlockRef{ID: ids.Draw(rt, "id"), From: blob.BlockSource(rapid.IntRange(0, 2).Draw(rt, "from"))}
					refs = append(refs, r)
					body, found := "", false
					if r.From != blob.Committed {
						body, found = m.staged[key][r.ID]
					}
					if !found && r.From != blob.Staged {
						body, found = old.bytes[r.ID]
					}
					ok = ok && found
					b.text += body
					b.blocks = append(b.blocks, r.ID)
					b.bytes[r.ID] = body
				}
				// A blob that holds two blocks of one name is not used again here: which
				// of the two is meant then is not promised.
				if count := slices.Compact(slices.Sorted(slices.Values(b.blocks))); len(count) != len(b.blocks) {
					rt.Skip()
				}
				_, err := s.CommitBlocks(ctx, here, key, refs, blob.Attributes{}, blob.Condition{})
				if !ok {
					if !fault.Is(err, fault.BadRequest) {
						rt.Fatalf("commit of a missing block: %v", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				m.blobs[key] = b
				delete(m.staged, key)
			},
			"set metadata": func(rt *rapid.T) {
				key, meta := modelKeys.Draw(rt, "key"), ids.Draw(rt, "meta")
				b, exists := m.blobs[key]
				_, err := s.SetMetadata(ctx, here, key, map[string]string{"m": meta}, blob.Condition{})
				if exists != (err == nil) {
					rt.Fatal(err)
				}
				if exists {
					b.meta = meta
					m.blobs[key] = b
				}
			},
			"delete": func(rt *rapid.T) {
				key := modelKeys.Draw(rt, "key")
				_, exists := m.blobs[key]
				err := s.Delete(ctx, here, key, blob.Condition{})
				if exists != (err == nil) {
					rt.Fatal(err)
				}
				if exists {
					delete(m.staged, key)
				}
				delete(m.blobs, key)
			},
			"": func(rt *rapid.T) {
				if got, want := list(t, s, blob.Query{}), slices.Sorted(maps.Keys(m.blobs)); !slices.Equal(got, want) {
					rt.Fatalf("listed are %q, want %q", got, want)
				}
				for key, b := range m.blobs {
					got, info, err := read(ctx, s, here, key, 0, -1)
					if err != nil || got != b.text || info.Metadata["m"] != b.meta {
						rt.Fatalf("%q holds %.40q, %v (%v), want %.40q, %q", key, got, info.Metadata, err, b.text, b.meta)
					}
				}
				for key, staged := range m.staged {
					_, got, err := s.Blocks(ctx, here, key)
					if err != nil || fmt.Sprint(blockIDs(got)) != fmt.Sprint(slices.Sorted(maps.Keys(staged))) {
						rt.Fatalf("staged for %q are %v (%v), want %v", key, got, err, slices.Sorted(maps.Keys(staged)))
					}
				}
			},
		})
	})
}

func blockIDs(blocks []blob.Block) []string {
	var ids []string
	for _, b := range blocks {
		ids = append(ids, b.ID)
	}
	slices.Sort(ids)
	return ids
}
