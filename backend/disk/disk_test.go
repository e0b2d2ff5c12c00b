package disk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/blob/blobtest"
)

var here = blob.Container{Account: "store1", Name: "data"}

func TestDisk(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func filled(t *testing.T, dir string) *Store {
	t.Helper()
	s := open(t, dir)
	if err := s.CreateContainer(t.Context(), here); err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, key, text string) {
	t.Helper()
	if _, err := s.Put(t.Context(), here, key, strings.NewReader(text), -1, blob.Attributes{}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func putBlocks(t *testing.T, s *Store, key string, texts ...string) {
	t.Helper()
	var refs []blob.BlockRef
	for i, text := range texts {
		id := strconv.Itoa(i)
		if err := s.Stage(t.Context(), here, key, id, strings.NewReader(text), -1); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, blob.BlockRef{ID: id})
	}
	if _, err := s.CommitBlocks(t.Context(), here, key, refs, blob.Attributes{}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, s *Store, key, text string) {
	t.Helper()
	r, _, err := s.Open(t.Context(), here, key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != text {
		t.Fatalf("%q holds %.60q (%v), want %.60q", key, b, err, text)
	}
}

// files lists the regular files below a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			found = append(found, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReplacedAndDeletedBlobsLeaveNoFiles(t *testing.T) {
	dir := t.TempDir()
	s := filled(t, dir)
	for range 3 {
		put(t, s, "a/b/c", "text")
		putBlocks(t, s, "a/b/c", "1", "2", "3")
		putBlocks(t, s, "a/b/d", "one")
	}
	// Held open while it is replaced: gone when it is let go.
	r, _, err := s.Open(t.Context(), here, "a/b/c", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a/b/c", "new")
	if b, err := io.ReadAll(r); err != nil || string(b) != "123" {
		t.Fatalf("who was reading got %q, %v", b, err)
	}
	r.Close()
	if got := files(t, dir); len(got) != 4 {
		t.Fatalf("two blobs have the files %q", got)
	}
	for _, k := range []string{"a/b/c", "a/b/d"} {
		if err := s.Delete(t.Context(), here, k, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadDir(filepath.Join(dir, treeDir(here))); err != nil || len(got) != 0 {
		t.Fatalf("left over: %v, %v", got, err)
	}
}

func TestBlobsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s := filled(t, dir)
	put(t, s, "k", "text")
	putBlocks(t, s, "parts", "one ", "two")
	if err := s.Stage(t.Context(), here, "later", "b", strings.NewReader("staged"), 6); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, tmpDir(here), "half"), []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	want(t, s, "k", "text")
	want(t, s, "parts", "one two")
	if _, err := s.CommitBlocks(t.Context(), here, "later", []blob.BlockRef{{ID: "b"}}, blob.Attributes{}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	want(t, s, "later", "staged")
	if got := files(t, filepath.Join(dir, tmpDir(here))); len(got) > 0 {
		t.Fatalf("half-written files are kept: %q", got)
	}
}

func TestSweepRemovesWhatNobodyCommitted(t *testing.T) {
	dir := t.TempDir()
	s := filled(t, dir)
	put(t, s, "a/k", "text")
	put(t, s, "long/"+strings.Repeat("x", 300), "text")
	putBlocks(t, s, "a/parts", "1", "2")
	tree := filepath.Join(dir, treeDir(here))
	sound := files(t, tree)
	// What crashes leave: bytes beside a header, bytes without one, parts.
	for _, name := range []string{"a.d/k." + token() + ".v", "a.d/none." + token() + ".v"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte("orphan"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parts := filepath.Join(tree, "a.d/parts."+token()+".p")
	if err := os.MkdirAll(parts, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parts, "00000"), []byte("orphan"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Stage(t.Context(), here, "staged", "b", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	staged := filepath.Join(dir, stagedDir(here))
	before := files(t, dir)
	if err := s.Sweep(t.Context(), 7*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); !slices.Equal(got, before) {
		t.Fatalf("what is young was swept: %q of %q is left", got, before)
	}
	s.now = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	r, _, err := s.Open(t.Context(), here, "a/parts", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a/parts", "new") // the old bytes are an orphan that is being read
	if err := s.Sweep(t.Context(), 7*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "12" {
		t.Fatalf("who was reading got %q, %v", b, err)
	}
	r.Close()
	if got := files(t, tree); len(got) != len(sound)-1 { // one file now in place of two parts
		t.Fatalf("left are %q, sound were %q", got, sound)
	}
	if got := files(t, staged); len(got) > 0 {
		t.Fatalf("blocks that are a week old are kept: %q", got)
	}
	want(t, s, "a/k", "text")
	want(t, s, "long/"+strings.Repeat("x", 300), "text")
	want(t, s, "a/parts", "new")
}

func TestOpenFileGivesOneFileThatStays(t *testing.T) {
	s := filled(t, t.TempDir())
	ctx := t.Context()
	putBlocks(t, s, "k", "one ", "two ", "three")
	before, err := s.Stat(ctx, here, "k")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first joins the parts
		f, info, err := s.OpenFile(ctx, here, "k")
		if err != nil {
			t.Fatal(err)
		}
		if info.ETag != before.ETag {
			t.Fatalf("joining the parts changed the ETag: %+v", info)
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != "one two three" {
			t.Fatalf("it holds %q, %v", b, err)
		}
		f.Close()
	}
	want(t, s, "k", "one two three")
	// The joined blob's blocks can still be used again.
	if err := s.Stage(ctx, here, "k", "9", strings.NewReader("four"), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitBlocks(ctx, here, "k", []blob.BlockRef{{ID: "2"}, {ID: "9"}, {ID: "0"}}, blob.Attributes{}, blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	want(t, s, "k", "threefourone ")
	f, _, err := s.OpenFile(ctx, here, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Delete(ctx, here, "k", blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "threefourone " {
		t.Fatalf("after the blob was deleted it holds %q, %v", b, err)
	}
	_, _, err = s.OpenFile(ctx, here, "k")
	if !fault.Is(err, fault.Missing) {
		t.Fatal(err)
	}
}

func TestBytesThatAreLostAreNoMissingBlob(t *testing.T) {
	dir := t.TempDir()
	s := filled(t, dir)
	put(t, s, "k", "text")
	for _, f := range files(t, filepath.Join(dir, treeDir(here))) {
		if strings.HasSuffix(f, fileEnd) {
			os.Remove(filepath.Join(dir, treeDir(here), f))
		}
	}
	_, _, err := s.Open(t.Context(), here, "k", 0, -1)
	if err == nil || fault.Find(err) != nil {
		t.Fatalf("damage is the operator's business, not the caller's: %v", err)
	}
}

func TestAFullDiskChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no small disk to fill: mount: %v", err)
	}
	s := filled(t, dir)
	t.Cleanup(func() {
		s.Close()
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	put(t, s, "k", "old")
	big := strings.Repeat("x", 8<<20)
	full := func(err error) {
		t.Helper()
		if !fault.Is(err, fault.StorageFull) {
			t.Fatalf("the error is %v", err)
		}
	}
	_, err := s.Put(ctx, here, "k", strings.NewReader(big), -1, blob.Attributes{}, blob.Condition{})
	full(err)
	full(s.Stage(ctx, here, "k", "b", strings.NewReader(big), -1))
	for i := 0; err == nil || i == 0; i++ { // to the last byte, in small blobs
		_, err = s.Put(ctx, here, fmt.Sprintf("small/%d", i), strings.NewReader(big[:50000]), -1, blob.Attributes{}, blob.Condition{})
	}
	full(err)
	want(t, s, "k", "old")
	if _, err := s.List(ctx, here, blob.Query{}); err != nil {
		t.Fatal(err)
	}
	if got := files(t, filepath.Join(dir, tmpDir(here))); len(got) > 0 {
		t.Fatalf("half-written files take room: %q", got)
	}
	if err := s.Delete(ctx, here, "small/0", blob.Condition{}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "new")
	want(t, s, "k", "new")
}

// A process that writes is killed again and again. What it said it wrote is
// there; what it did not is whole or absent; nothing is left after a sweep.
func TestAKillLeavesOldOrNew(t *testing.T) {
	if dir := os.Getenv("LAPIS_DISK_WRITER"); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("LAPIS_SOAK_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	filled(t, dir).Close()
	r := rand.New(rand.NewPCG(3, 4))
	acked := map[string]int{}
	for range kills {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestAKillLeavesOldOrNew$")
		cmd.Env = append(os.Environ(), "LAPIS_DISK_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(100+r.IntN(300))*time.Millisecond, func() { cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var key string
			var n int
			if _, err := fmt.Sscanf(lines.Text(), "acked %s %d", &key, &n); err == nil {
				acked[key] = n
			}
		}
		cmd.Wait()
		timer.Stop()

		s, err := New(dir)
		if err != nil {
			t.Fatal(err)
		}
		for key, n := range acked {
			got := version(t, s, key)
			if got != n && got != n+1 { // the next one may be written and not yet acknowledged
				t.Fatalf("%s is version %d, %d was acknowledged", key, got, n)
			}
			acked[key] = got
		}
		s.Close()
	}
	if len(acked) == 0 {
		t.Fatal("the writer never wrote")
	}
	s := open(t, dir)
	if err := s.Sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	blobs := 0
	for key := range acked {
		version(t, s, key)
		if err := s.Delete(t.Context(), here, key, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
		blobs++
	}
	if got := files(t, dir); len(got) > 0 {
		t.Fatalf("%d blobs were deleted, and there is still %q", blobs, got)
	}
}

// version reads a blob that writeUntilKilled wrote and checks that it is whole.
func version(t *testing.T, s *Store, key string) int {
	t.Helper()
	r, info, err := s.Open(t.Context(), here, key, 0, -1)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	sum := sha256.Sum256(b)
	if info.Metadata["sum"] != hex.EncodeToString(sum[:]) {
		t.Fatalf("%s has %d bytes and the metadata of others: %v", key, len(b), info.Metadata)
	}
	n, err := strconv.Atoi(info.Metadata["n"])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func writeUntilKilled(t *testing.T, dir string) {
	s := open(t, dir)
	for n := 1; ; n++ {
		for k := range 6 {
			key := fmt.Sprintf("d%d/k%d", k%2, k)
			next := 1
			if info, err := s.Stat(t.Context(), here, key); err == nil {
				old, _ := strconv.Atoi(info.Metadata["n"])
				next = old + 1
			}
			body := bytes.Repeat([]byte(fmt.Sprintf("%s %d;", key, next)), 2000)
			sum := sha256.Sum256(body)
			set := blob.Attributes{Metadata: map[string]string{"n": strconv.Itoa(next), "sum": hex.EncodeToString(sum[:])}}
			var err error
			if k%3 == 0 {
				var refs []blob.BlockRef
				for i := range 3 {
					id := strconv.Itoa(i)
					part := body[i*len(body)/3 : (i+1)*len(body)/3]
					if err := s.Stage(t.Context(), here, key, id, bytes.NewReader(part), -1); err != nil {
						t.Fatal(err)
					}
					refs = append(refs, blob.BlockRef{ID: id})
				}
				_, err = s.CommitBlocks(t.Context(), here, key, refs, set, blob.Condition{})
			} else {
				_, err = s.Put(t.Context(), here, key, bytes.NewReader(body), -1, set, blob.Condition{})
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("acked %s %d\n", key, next)
		}
	}
}

// Two keys never share a place, and no place lies outside of the tree.
func FuzzLocate(f *testing.F) {
	for _, k := range []string{"a", "a/b", "../x", "a.d/x.b", strings.Repeat("x", 400), "a//", "%2e%2e/", "a\x00"} {
		f.Add(k, "b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if blob.CheckKey(a) != nil {
			return
		}
		at := locate(here, a)
		for _, p := range []string{at.header(), at.data(token(), false), at.data(token(), true)} {
			if !filepath.IsLocal(p) || !strings.HasPrefix(p, treeDir(here)+"/") || filepath.Clean(p) != p {
				t.Fatalf("%q lies at %q", a, p)
			}
			for name := range strings.SplitSeq(p, "/") {
				if len(name) > 255 {
					t.Fatalf("%q has a name of %d bytes", a, len(name))
				}
			}
		}
		if a != b && blob.CheckKey(b) == nil && at.header() == locate(here, b).header() {
			t.Fatalf("%q and %q are one file", a, b)
		}
	})
}

func BenchmarkSmallPuts(b *testing.B) {
	s, err := New(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.CreateContainer(b.Context(), here); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Put(b.Context(), here, "many/"+token(), strings.NewReader("some bytes"), -1, blob.Attributes{}, blob.Condition{}); err != nil {
				b.Error(err)
			}
		}
	})
}
