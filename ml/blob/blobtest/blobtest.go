// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"lapis/fault"
	"lapis/ml/blob"
)

var (
	here  = blob.Container{Account: "store1", Name: "data"}
	there = blob.Container{Account: "store2", Name: "data"}
)

// Run checks the store that open makes, a new and empty one for each test.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s blob.Store)
	}{
		{"a container is made once and removed with all in it", containers},
		{"an account goes with all its containers", account},
		{"accounts keep containers of one name apart", accounts},
		{"a blob comes back as it was put", roundTrip},
		{"a range is read from the bytes its info speaks of", ranges},
		{"a condition that does not hold changes nothing", conditions},
		{"one of many writers who want to be first is", first},
		{"metadata is replaced as a whole", metadata},
		{"headers are replaced and metadata stays", headers},
		{"blocks become a blob in the order of the list", blocks},
		{"blocks of the blob as it is can be used again", recommit},
		{"a put and a commit drop the staged blocks", unstage},
		{"a list that names a missing block changes nothing", missingBlock},
		{"an upload that is cut leaves nothing", cut},
		{"any key that is allowed has a blob of its own", oddKeys},
		{"a key may be as deep as it is long", deepKeys},
		{"other keys are refused", badKeys},
		{"a listing is in byte order of keys, page by page", listing},
		{"a delimiter rolls keys up", delimiter},
		{"a deleted blob is gone from reads and listings", deletion},
		{"a reader gets the old bytes or the new, never a mix", replaced},
		{"any sequence of calls does what a map would do", model},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			for _, c := range []blob.Container{here, there} {
				if err := s.CreateContainer(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			test.run(t, s)
		})
	}
}

func put(t *testing.T, s blob.Store, c blob.Container, key, text string) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), c, key, strings.NewReader(text), int64(len(text)), blob.Attributes{}, blob.Condition{})
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return info
}

func read(ctx context.Context, s blob.Store, c blob.Container, key string, offset, length int64) (string, blob.Info, error) {
	r, info, err := s.Open(ctx, c, key, offset, length)
	if err != nil {
		return "", info, err
	}
	b, err := io.ReadAll(r)
	return string(b), info, errors.Join(err, r.Close())
}

func want(t *testing.T, s blob.Store, c blob.Container, key, text string) blob.Info {
	t.Helper()
	got, info, err := read(t.Context(), s, c, key, 0, -1)
	if err != nil {
		t.Fatalf("open %q: %v", key, err)
	}
	if got != text {
		t.Fatalf("%q holds %.100q, want %.100q", key, got, text)
	}
	if info.Key != key || info.Size != int64(len(text)) {
		t.Fatalf("info says key %q, size %d; want %q, %d", info.Key, info.Size, key, len(text))
	}
	return info
}

func wantFault(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	f := fault.Find(err)
	if f == nil || f.Kind != kind || f.Code != code {
		t.Fatalf("error is %v (%+v), want kind %d, code %s", err, f, kind, code)
	}
}

func account(t *testing.T, s blob.Store) {
	ctx := t.Context()
	second := blob.Container{Account: here.Account, Name: "second"}
	other := blob.Container{Account: here.Account + "2", Name: here.Name}
	for _, c := range []blob.Container{second, other} {
		if err := s.CreateContainer(ctx, c); err != nil {
			t.Fatal(err)
		}
		put(t, s, c, "a/b", "x")
	}
	for range 2 {
		if err := s.DeleteAccount(ctx, here.Account); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []blob.Container{here, second} {
		if ok, err := s.HasContainer(ctx, c); ok || err != nil {
			t.Errorf("%v is there: %v, %v", c, ok, err)
		}
	}
	want(t, s, other, "a/b", "x")
	if err := s.DeleteAccount(ctx, "nobody"); err != nil {
		t.Error(err)
	}
	wantFault(t, s.DeleteAccount(ctx, "../x"), fault.BadRequest, "InvalidResourceName")
	if err := s.CreateContainer(ctx, here); err != nil {
		t.Fatal(err)
	}
	put(t, s, here, "a/b", "again")
}

func containers(t *testing.T, s blob.Store) {
	ctx := t.Context()
	put(t, s, here, "a/b", "x")
	if err := s.CreateContainer(ctx, here); err != nil {
		t.Fatal(err)
	}
	want(t, s, here, "a/b", "x")
	for range 2 {
		if err := s.DeleteContainer(ctx, here); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := s.HasContainer(ctx, here); ok || err != nil {
		t.Fatalf("the container is there: %v, %v", ok, err)
	}
	_, _, err := s.Open(ctx, here, "a/b", 0, -1)
	wantFault(t, err, fault.Missing, "ContainerNotFound")
	_, err = s.Put(ctx, here, "a/b", strings.NewReader(""), 0, blob.Attributes{}, blob.Condition{})
	wantFault(t, err, fault.Missing, "ContainerNotFound")
	wantFault(t, s.Stage(ctx, here, "a", "1", strings.NewReader(""), 0), fault.Missing, "ContainerNotFound")
	_, err = s.List(ctx, here, blob.Query{})
	wantFault(t, err, fault.Missing, "ContainerNotFound")
	if err := s.CreateContainer(ctx, here); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.HasContainer(ctx, here); !ok || err != nil {
		t.Fatalf("the container is not there: %v, %v", ok, err)
	}
	_, err = s.Stat(ctx, here, "a/b")
	wantFault(t, err, fault.Missing, "BlobNotFound")
	for _, c := range []blob.Container{{}, {Account: "a", Name: ".."}, {Account: "a/b", Name: "c"}, {Account: "a", Name: "UP"}, {Account: ".trash", Name: "x"}} {
		wantFault(t, s.CreateContainer(ctx, c), fault.BadRequest, "InvalidResourceName")
		_, err := s.Stat(ctx, c, "a")
		wantFault(t, err, fault.BadRequest, "InvalidResourceName")
	}
}

func accounts(t *testing.T, s blob.Store) {
	put(t, s, here, "k", "one")
	put(t, s, there, "k", "two")
	want(t, s, here, "k", "one")
	want(t, s, there, "k", "two")
}

func roundTrip(t *testing.T, s blob.Store) {
	big := strings.Repeat("0123456789abcdef", 70000) // over a MB
	set := blob.Attributes{
		ContentType: "text/plain", ContentMD5: []byte{1, 2, 3}, ContentEncoding: "gzip", ContentLanguage: "de",
		ContentDisposition: "inline", CacheControl: "no-store", Metadata: map[string]string{"a": "1", "b_c": "ä"},
	}
	for _, size := range []int{0, 1, len(big)} {
		for _, announced := range []int64{int64(size), -1} {
			info, err := s.Put(t.Context(), here, "k", strings.NewReader(big[:size]), announced, set, blob.Condition{})
			if err != nil {
				t.Fatal(err)
			}
			got := want(t, s, here, "k", big[:size])
			if got.ETag != info.ETag || len(got.ETag) < 3 || got.ETag[0] != '"' || got.ETag[len(got.ETag)-1] != '"' {
				t.Fatalf("ETag is %s, then %s", info.ETag, got.ETag)
			}
			if fmt.Sprint(got.Attributes) != fmt.Sprint(set) {
				t.Fatalf("attributes are %v, want %v", got.Attributes, set)
			}
			if got.Modified.IsZero() || got.Created.IsZero() || got.Modified.Before(got.Created) {
				t.Fatalf("made %v, changed %v", got.Created, got.Modified)
			}
		}
	}
	put(t, s, here, "plain", "")
	if info := want(t, s, here, "plain", ""); info.ContentType != "application/octet-stream" || len(info.Metadata) != 0 {
		t.Fatalf("a blob without attributes has %+v", info.Attributes)
	}
}

func ranges(t *testing.T, s blob.Store) {
	ctx := t.Context()
	put(t, s, here, "flat", "0123456789")
	put(t, s, here, "empty", "")
	for i, part := range []string{"012", "", "3456", "789"} {
		stage(t, s, "parts", fmt.Sprint(i), part)
	}
	commit(t, s, "parts", "0", "1", "2", "3")
	for _, key := range []string{"flat", "parts"} {
		for offset := int64(0); offset < 10; offset++ {
			for length := int64(-1); length < 12; length++ {
				end := offset + length
				if length < 0 || end > 10 {
					end = 10
				}
				got, info, err := read(ctx, s, here, key, offset, length)
				if err != nil || got != "0123456789"[offset:end] || info.Size != 10 {
					t.Fatalf("%s: %d bytes from %d are %q (%v), info %+v", key, length, offset, got, err, info)
				}
			}
		}
		for _, r := range [][2]int64{{10, 1}, {10, -1}, {1000, 5}, {-1, 5}} {
			_, _, err := read(ctx, s, here, key, r[0], r[1])
			wantFault(t, err, fault.RangeUnsatisfiable, "InvalidRange")
		}
	}
	want(t, s, here, "empty", "")
	for _, length := range []int64{0, 1, 33554432} {
		_, _, err := read(ctx, s, here, "empty", 0, length)
		wantFault(t, err, fault.RangeUnsatisfiable, "InvalidRange")
	}
}

func conditions(t *testing.T, s blob.Store) {
	ctx := t.Context()
	first := put(t, s, here, "k", "one")
	second := put(t, s, here, "k", "two")
	if first.ETag == second.ETag {
		t.Fatal("two puts have one ETag")
	}
	stage(t, s, "k", "b", "block")
	stage(t, s, "new", "b", "block")
	type try struct {
		key  string
		cond blob.Condition
		kind fault.Kind
		code string
	}
	for _, x := range []try{
		{"k", blob.Condition{IfNoneMatch: "*"}, fault.Conflict, "BlobAlreadyExists"},
		{"k", blob.Condition{IfNoneMatch: second.ETag}, fault.PreconditionFailed, "ConditionNotMet"},
		{"k", blob.Condition{IfMatch: first.ETag}, fault.PreconditionFailed, "ConditionNotMet"},
		{"new", blob.Condition{IfMatch: "*"}, fault.PreconditionFailed, "ConditionNotMet"},
		{"new", blob.Condition{IfMatch: first.ETag}, fault.PreconditionFailed, "ConditionNotMet"},
	} {
		_, err := s.Put(ctx, here, x.key, strings.NewReader("no"), 2, blob.Attributes{}, x.cond)
		wantFault(t, err, x.kind, x.code)
		_, err = s.CommitBlocks(ctx, here, x.key, refs("b"), blob.Attributes{}, x.cond)
		wantFault(t, err, x.kind, x.code)
		if x.key == "k" {
			_, err = s.SetMetadata(ctx, here, x.key, nil, x.cond)
			wantFault(t, err, x.kind, x.code)
			_, err = s.SetHeaders(ctx, here, x.key, blob.Attributes{}, x.cond)
			wantFault(t, err, x.kind, x.code)
			wantFault(t, s.Delete(ctx, here, x.key, x.cond), x.kind, x.code)
		}
	}
	if info := want(t, s, here, "k", "two"); info.ETag != second.ETag {
		t.Fatal("a refused write changed the ETag")
	}
	_, err := s.Stat(ctx, here, "new")
	wantFault(t, err, fault.Missing, "BlobNotFound")
	for _, cond := range []func() blob.Condition{
		func() blob.Condition { return blob.Condition{IfMatch: "*"} },
		func() blob.Condition { return blob.Condition{IfMatch: second.ETag} },
		func() blob.Condition { return blob.Condition{IfNoneMatch: first.ETag} },
	} {
		info, err := s.Put(ctx, here, "k", strings.NewReader("three"), 5, blob.Attributes{}, cond())
		if err != nil {
			t.Fatalf("%+v: %v", cond(), err)
		}
		second = info
	}
	if _, err := s.Put(ctx, here, "new", strings.NewReader("x"), 1, blob.Attributes{}, blob.Condition{IfNoneMatch: "*"}); err != nil {
		t.Fatal(err)
	}
}

func first(t *testing.T, s blob.Store) {
	const writers = 16
	for round := range 5 {
		key := fmt.Sprintf("race/%d", round)
		var (
			wg  sync.WaitGroup
			won = make(chan string, writers)
		)
		for i := range writers {
			wg.Go(func() {
				text := fmt.Sprintf("writer %d", i)
				_, err := s.Put(t.Context(), here, key, strings.NewReader(text), -1, blob.Attributes{}, blob.Condition{IfNoneMatch: "*"})
				switch {
				case err == nil:
					won <- text
				case !fault.Is(err, fault.Conflict):
					t.Errorf("the loser got %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d writers were first", len(won))
		}
		want(t, s, here, key, <-won)
	}
}

func metadata(t *testing.T, s blob.Store) {
	ctx := t.Context()
	before, err := s.Put(ctx, here, "k", strings.NewReader("text"), 4,
		blob.Attributes{ContentType: "text/plain", Metadata: map[string]string{"a": "1", "b": "2"}}, blob.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.SetMetadata(ctx, here, "k", map[string]string{"upload_status": "completed"}, blob.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	got := want(t, s, here, "k", "text")
	if after.ETag == before.ETag || got.ETag != after.ETag || !got.Created.Equal(before.Created) {
		t.Fatalf("before %+v, after %+v, read %+v", before, after, got)
	}
	if len(got.Metadata) != 1 || got.Metadata["upload_status"] != "completed" || got.ContentType != "text/plain" {
		t.Fatalf("attributes are %+v", got.Attributes)
	}
	_, err = s.SetMetadata(ctx, here, "none", nil, blob.Condition{})
	wantFault(t, err, fault.Missing, "BlobNotFound")
}

func headers(t *testing.T, s blob.Store) {
	ctx := t.Context()
	stage(t, s, "k", "1", "te")
	stage(t, s, "k", "2", "xt")
	if _, err := s.CommitBlocks(ctx, here, "k", refs("1", "2"), blob.Attributes{ContentEncoding: "gzip", Metadata: map[string]string{"a": "1"}}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetHeaders(ctx, here, "k", blob.Attributes{ContentType: "text/csv", Metadata: map[string]string{"b": "2"}}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	got := want(t, s, here, "k", "text")
	if got.ContentType != "text/csv" || got.ContentEncoding != "" || len(got.Metadata) != 1 || got.Metadata["a"] != "1" {
		t.Fatalf("attributes are %+v", got.Attributes)
	}
	if committed, _, err := s.Blocks(ctx, here, "k"); err != nil || len(committed) != 2 {
		t.Fatalf("blocks are %v, %v", committed, err)
	}
}

func stage(t *testing.T, s blob.Store, key, id, text string) {
	t.Helper()
	if err := s.Stage(t.Context(), here, key, id, strings.NewReader(text), int64(len(text))); err != nil {
		t.Fatalf("stage %s of %q: %v", id, key, err)
	}
}

func refs(ids ...string) []blob.BlockRef {
	out := make([]blob.BlockRef, len(ids))
	for i, id := range ids {
		out[i].ID = id
	}
	return out
}

func commit(t *testing.T, s blob.Store, key string, ids ...string) blob.Info {
	t.Helper()
	info, err := s.CommitBlocks(t.Context(), here, key, refs(ids...), blob.Attributes{}, blob.Condition{})
	if err != nil {
		t.Fatalf("commit %v of %q: %v", ids, key, err)
	}
	return info
}

func blocks(t *testing.T, s blob.Store) {
	ctx := t.Context()
	_, _, err := s.Blocks(ctx, here, "k")
	wantFault(t, err, fault.Missing, "BlobNotFound")
	longID := strings.Repeat("Q", blob.MaxBlock)
	stage(t, s, "k", "b+/=", "wrong")
	stage(t, s, "k", "b+/=", "two ") // again, as a client does after a lost reply
	stage(t, s, "k", longID, "three")
	stage(t, s, "k", "a", "one ")
	stage(t, s, "k", "unused", "nothing")
	_, err = s.Stat(ctx, here, "k")
	wantFault(t, err, fault.Missing, "BlobNotFound")
	committed, staged, err := s.Blocks(ctx, here, "k")
	if err != nil || len(committed) != 0 || len(staged) != 4 || !slices.Contains(staged, blob.Block{ID: "b+/=", Size: 4}) {
		t.Fatalf("blocks are %v, %v, %v", committed, staged, err)
	}
	commit(t, s, "k", "a", "b+/=", longID, "a")
	want(t, s, here, "k", "one two threeone ")
	committed, staged, err = s.Blocks(ctx, here, "k")
	if wanted := []blob.Block{{ID: "a", Size: 4}, {ID: "b+/=", Size: 4}, {ID: longID, Size: 5}, {ID: "a", Size: 4}}; err != nil || !slices.Equal(committed, wanted) || len(staged) != 0 {
		t.Fatalf("blocks are %v, %v, %v", committed, staged, err)
	}
	commit(t, s, "none")
	want(t, s, here, "none", "")
	stage(t, s, "one", "a", "single")
	commit(t, s, "one", "a")
	want(t, s, here, "one", "single")
	stage(t, s, "one", "up1", "1")
	stage(t, s, "one", "up2", "2")
	stage(t, s, "one", "down", "3")
	if err := s.Unstage(ctx, here, "one", "up"); err != nil {
		t.Fatal(err)
	}
	if _, staged, err := s.Blocks(ctx, here, "one"); err != nil || !slices.Equal(staged, []blob.Block{{ID: "down", Size: 1}}) {
		t.Errorf("after dropping blocks, those staged are %v, %v", staged, err)
	}
	want(t, s, here, "one", "single")
	if err := s.Unstage(ctx, here, "nothing", ""); err != nil {
		t.Errorf("dropping blocks that are not there: %v", err)
	}
	for _, id := range []string{"", longID + "Q"} {
		wantFault(t, s.Stage(ctx, here, "k", id, strings.NewReader(""), 0), fault.BadRequest, "InvalidQueryParameterValue")
	}
}

func recommit(t *testing.T, s blob.Store) {
	ctx := t.Context()
	for id, text := range map[string]string{"a": "AA", "b": "BB", "c": "CC"} {
		stage(t, s, "k", id, text)
	}
	commit(t, s, "k", "a", "b", "c")
	stage(t, s, "k", "b", "bb")
	stage(t, s, "k", "d", "dd")
	commit(t, s, "k", "c", "b", "d", "a")
	want(t, s, here, "k", "CCbbddAA")
	stage(t, s, "k", "a", "aa")
	list := []blob.BlockRef{{ID: "a", From: blob.Staged}, {ID: "a", From: blob.Committed}, {ID: "d", From: blob.Latest}}
	if _, err := s.CommitBlocks(ctx, here, "k", list, blob.Attributes{}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	want(t, s, here, "k", "aaAAdd")
	commit(t, s, "k", "d")
	want(t, s, here, "k", "dd")
	stage(t, s, "k", "e", "ee")
	commit(t, s, "k", "d", "e")
	want(t, s, here, "k", "ddee")
}

func unstage(t *testing.T, s blob.Store) {
	stage(t, s, "k", "a", "old")
	put(t, s, here, "k", "text")
	_, err := s.CommitBlocks(t.Context(), here, "k", refs("a"), blob.Attributes{}, blob.Condition{})
	wantFault(t, err, fault.BadRequest, "InvalidBlockList")
	stage(t, s, "k", "a", "1")
	stage(t, s, "k", "b", "2")
	commit(t, s, "k", "a")
	_, err = s.CommitBlocks(t.Context(), here, "k", refs("a", "b"), blob.Attributes{}, blob.Condition{})
	wantFault(t, err, fault.BadRequest, "InvalidBlockList")
	want(t, s, here, "k", "1")
}

func missingBlock(t *testing.T, s blob.Store) {
	ctx := t.Context()
	put(t, s, here, "k", "text")
	stage(t, s, "k", "a", "1")
	for _, list := range [][]blob.BlockRef{
		refs("a", "b"),
		{{ID: "a", From: blob.Committed}},
		{{ID: ""}},
		{{ID: "../a"}},
	} {
		_, err := s.CommitBlocks(ctx, here, "k", list, blob.Attributes{}, blob.Condition{})
		wantFault(t, err, fault.BadRequest, "InvalidBlockList")
	}
	want(t, s, here, "k", "text")
	commit(t, s, "k", "a")
	_, err := s.CommitBlocks(ctx, here, "k", []blob.BlockRef{{ID: "a", From: blob.Staged}}, blob.Attributes{}, blob.Condition{})
	wantFault(t, err, fault.BadRequest, "InvalidBlockList")
}

var errBroken = errors.New("the line broke")

func cut(t *testing.T, s blob.Store) {
	ctx := t.Context()
	put(t, s, here, "old", "text")
	for _, key := range []string{"old", "new"} {
		_, err := s.Put(ctx, here, key, strings.NewReader("par"), 7, blob.Attributes{}, blob.Condition{})
		wantFault(t, err, fault.BadRequest, "IncompleteBody")
		_, err = s.Put(ctx, here, key, strings.NewReader("too much"), 7, blob.Attributes{}, blob.Condition{})
		wantFault(t, err, fault.BadRequest, "InvalidInput")
		broken := io.MultiReader(strings.NewReader("par"), readFunc(func([]byte) (int, error) { return 0, errBroken }))
		if _, err = s.Put(ctx, here, key, broken, -1, blob.Attributes{}, blob.Condition{}); !errors.Is(err, errBroken) {
			t.Fatalf("a broken reader gives %v", err)
		}
		broken = io.MultiReader(strings.NewReader("partial"), readFunc(func([]byte) (int, error) { return 0, errBroken }))
		if _, err = s.Put(ctx, here, key, broken, 7, blob.Attributes{}, blob.Condition{}); !errors.Is(err, errBroken) {
			t.Fatalf("a reader that objects at its end gives %v", err)
		}
		if err := s.Stage(ctx, here, key, "a", strings.NewReader("par"), 7); err == nil {
			t.Fatal("a cut block was taken")
		}
	}
	want(t, s, here, "old", "text")
	_, err := s.Stat(ctx, here, "new")
	wantFault(t, err, fault.Missing, "BlobNotFound")
	_, _, err = s.Blocks(ctx, here, "new")
	wantFault(t, err, fault.Missing, "BlobNotFound")
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// keys that file systems and protocols like to confuse.
var keys = []string{
	"a", "a/b", "a/b/c", "a!", "a0", "A", "aB", "ab", "a.b", "a.d", "a.d/x", "a.b/x", "a.c", "a.v", "a/", "a//b", "/", "/a", "//", " ", " a", "a ", "a%2Fb", "a%2fb", "%", "%00", "%2e%2e",
	"a.", "a..", "...", "dots./x.", "ü", "u\u0308", "日本/語.txt", "🙂", "a\\b", "a\\..\\b", "tab\there", "line\nbreak", "\x01", "\x7f", "?q=1", "#f", "a:b", "con", "NUL", "-rf", "*", "\"", "'", "<&>", "a+b", "~", ".hidden", ".tmp/x",
	strings.Repeat("x", 199), strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat("x", 200) + "/y", strings.Repeat("x", 200) + "!", strings.Repeat("x", 200) + "0",
	strings.Repeat("x", 400), strings.Repeat("x", 401), strings.Repeat("x", 1024), strings.Repeat("語", 1024), strings.Repeat("/", 20), strings.Repeat("🙂/", 20) + "🙂🙂",
	"a.0123456789abcdef.v", "a.0123456789abcdef.p/00000",
}

func oddKeys(t *testing.T, s blob.Store) {
	for _, k := range keys {
		put(t, s, here, k, "bytes of "+k)
	}
	for _, k := range keys {
		want(t, s, here, k, "bytes of "+k)
	}
	wanted := slices.Clone(keys)
	slices.Sort(wanted)
	if got := list(t, s, blob.Query{}); !slices.Equal(got, wanted) {
		t.Fatalf("the listing is\n%.300q\nwant\n%.300q", got, wanted)
	}
	for _, k := range keys {
		var below []string
		for _, w := range wanted {
			if strings.HasPrefix(w, k) {
				below = append(below, w)
			}
		}
		if got := list(t, s, blob.Query{Prefix: k, Limit: 3}); !slices.Equal(got, below) {
			t.Fatalf("below %.50q are\n%.300q\nwant\n%.300q", k, got, below)
		}
		if got, want := list(t, s, blob.Query{Prefix: k, Delimiter: "/", Limit: 2}), rollUp(wanted, k, "/"); !slices.Equal(got, want) {
			t.Fatalf("below %.50q, rolled up, are\n%.300q\nwant\n%.300q", k, got, want)
		}
	}
	for i, k := range keys {
		if err := s.Delete(t.Context(), here, k, blob.Condition{}); err != nil {
			t.Fatalf("delete %.50q: %v", k, err)
		}
		if i+1 < len(keys) {
			want(t, s, here, keys[i+1], "bytes of "+keys[i+1])
		}
	}
	if got := list(t, s, blob.Query{}); len(got) > 0 {
		t.Fatalf("left over: %q", got)
	}
}

func deepKeys(t *testing.T, s blob.Store) {
	deep := []string{strings.Repeat("/", 1024), strings.Repeat("🙂/", 511) + "🙂🙂"}
	for _, k := range deep {
		put(t, s, here, k, "deep")
		want(t, s, here, k, "deep")
	}
	if got := list(t, s, blob.Query{}); !slices.Equal(got, deep) {
		t.Fatalf("listed are %d keys", len(got))
	}
	for _, k := range deep {
		if err := s.Delete(t.Context(), here, k, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
}

func badKeys(t *testing.T, s blob.Store) {
	ctx := t.Context()
	for _, k := range []string{"", ".", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a\x00b", "\xff", "a/\xc3", strings.Repeat("x", 1025), strings.Repeat("语", 1025)} {
		_, err := s.Put(ctx, here, k, strings.NewReader("x"), 1, blob.Attributes{}, blob.Condition{})
		wantFault(t, err, fault.BadRequest, "InvalidResourceName")
		_, _, err = s.Open(ctx, here, k, 0, -1)
		wantFault(t, err, fault.BadRequest, "InvalidResourceName")
		_, err = s.Stat(ctx, here, k)
		wantFault(t, err, fault.BadRequest, "InvalidResourceName")
		_, err = s.SetMetadata(ctx, here, k, nil, blob.Condition{})
		wantFault(t, err, fault.BadRequest, "InvalidResourceName")
		wantFault(t, s.Stage(ctx, here, k, "a", strings.NewReader(""), 0), fault.BadRequest, "InvalidResourceName")
		wantFault(t, s.Delete(ctx, here, k, blob.Condition{}), fault.BadRequest, "InvalidResourceName")
	}
}

// list reads all pages and merges prefixes among the keys.
func list(t *testing.T, s blob.Store, q blob.Query) []string {
	t.Helper()
	var all []string
	for {
		page, err := s.List(t.Context(), here, q)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Clone(page.Prefixes)
		for _, b := range page.Blobs {
			got = append(got, b.Key)
		}
		if q.Limit > 0 && len(got) > q.Limit {
			t.Fatalf("a page of %d has %d entries", q.Limit, len(got))
		}
		slices.Sort(got)
		if len(all) > 0 && len(got) > 0 && got[0] <= all[len(all)-1] {
			t.Fatalf("a page begins with %q after %q", got[0], all[len(all)-1])
		}
		all = append(all, got...)
		if page.Next == "" {
			return all
		}
		if len(got) == 0 {
			t.Fatal("an empty page says there are more")
		}
		q.After = page.Next
	}
}

// rollUp is what a listing should be.
func rollUp(sorted []string, prefix, delimiter string) []string {
	var out []string
	for _, k := range sorted {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		if i := strings.Index(rest, delimiter); i >= 0 {
			k = prefix + rest[:i+len(delimiter)]
		}
		if len(out) == 0 || out[len(out)-1] != k {
			out = append(out, k)
		}
	}
	return out
}

func listing(t *testing.T, s blob.Store) {
	var all []string
	for i := range 37 {
		all = append(all, fmt.Sprintf("d%d/e%d/k%02d", i%3, i%2, i))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, i := range r.Perm(len(all)) {
		put(t, s, here, all[i], "x")
	}
	slices.Sort(all)
	for _, limit := range []int{0, 1, 2, 5, 36, 37, 38} {
		if got := list(t, s, blob.Query{Limit: limit}); !slices.Equal(got, all) {
			t.Fatalf("pages of %d are %q", limit, got)
		}
	}
	for _, after := range []string{"", "c", "d0/e0/k00", "d1", "d1/", "d1/e1/k9", "d2/e1/k35", "z"} {
		var rest []string
		for _, k := range all {
			if k > after {
				rest = append(rest, k)
			}
		}
		if got := list(t, s, blob.Query{After: after}); !slices.Equal(got, rest) {
			t.Fatalf("after %q are %q", after, got)
		}
	}
	page, err := s.List(t.Context(), here, blob.Query{Limit: 37})
	if err != nil || page.Next != "" {
		t.Fatalf("a full last page has a next one: %q, %v", page.Next, err)
	}
	if _, err := s.SetMetadata(t.Context(), here, all[0], map[string]string{"a": "1"}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	page, err = s.List(t.Context(), here, blob.Query{Limit: 1})
	if err != nil || page.Blobs[0].Metadata["a"] != "1" || page.Blobs[0].Size != 1 {
		t.Fatalf("listed are %+v, %v", page.Blobs, err)
	}
}

func delimiter(t *testing.T, s blob.Store) {
	all := []string{"a", "a/b", "a/b/c", "a/d", "a0", "b//c", "b/c", "c-d-e", "c-f", "dir/", "dir/x", "e/x/y/z"}
	for _, k := range all {
		put(t, s, here, k, "x")
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "b/", "b//", "c", "c-", "dir", "dir/", "e/", "e/x", "zz"} {
		for _, d := range []string{"/", "-", "/c", "x"} {
			for _, limit := range []int{0, 1, 2} {
				if got, want := list(t, s, blob.Query{Prefix: prefix, Delimiter: d, Limit: limit}), rollUp(all, prefix, d); !slices.Equal(got, want) {
					t.Fatalf("prefix %q, delimiter %q, pages of %d: %q, want %q", prefix, d, limit, got, want)
				}
			}
		}
	}
}

func deletion(t *testing.T, s blob.Store) {
	ctx := t.Context()
	put(t, s, here, "a/b/c", "x")
	put(t, s, here, "a/b", "y")
	stage(t, s, "parts", "1", "1")
	stage(t, s, "parts", "2", "2")
	commit(t, s, "parts", "1", "2")
	r, _, err := s.Open(ctx, here, "parts", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a/b/c", "parts"} {
		if err := s.Delete(ctx, here, k, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		wantFault(t, s.Delete(ctx, here, k, blob.Condition{}), fault.Missing, "BlobNotFound")
		_, err := s.Stat(ctx, here, k)
		wantFault(t, err, fault.Missing, "BlobNotFound")
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "12" {
		t.Fatalf("who was reading got %q, %v", b, err)
	}
	r.Close()
	if got := list(t, s, blob.Query{}); !slices.Equal(got, []string{"a/b"}) {
		t.Fatalf("listed are %q", got)
	}
	if got := list(t, s, blob.Query{Delimiter: "/", Prefix: "a/b"}); !slices.Equal(got, []string{"a/b"}) {
		t.Fatalf("an empty folder is listed: %q", got)
	}
	put(t, s, here, "a/b/c", "z")
	want(t, s, here, "a/b/c", "z")
}

func replaced(t *testing.T, s blob.Store) {
	ctx := t.Context()
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%04d", i), 20000) }
	put(t, s, here, "d/k", text(0))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n > 0 {
						return
					}
				default:
				}
				got, info, err := read(ctx, s, here, "d/k", 0, -1)
				if err != nil {
					t.Errorf("read while written: %v", err)
					return
				}
				if len(got) != 80000 || got != strings.Repeat(got[:4], 20000) || info.Metadata["n"] != "" && info.Metadata["n"] != got[:4] {
					t.Errorf("a mix of %d bytes: %s…%s, info %v", len(got), got[:4], got[len(got)-4:], info.Metadata)
					return
				}
			}
		})
	}
	for i := range 40 {
		a := blob.Attributes{Metadata: map[string]string{"n": fmt.Sprintf("%04d", i)}}
		var err error
		if i%2 == 0 {
			_, err = s.Put(ctx, here, "d/k", strings.NewReader(text(i)), -1, a, blob.Condition{})
		} else {
			half := text(i)[:40000]
			for _, id := range []string{"1", "2"} {
				if err := s.Stage(ctx, here, "d/k", id, strings.NewReader(half), -1); err != nil {
					t.Error(err)
				}
			}
			_, err = s.CommitBlocks(ctx, here, "d/k", refs("1", "2"), a, blob.Condition{})
		}
		if err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}
