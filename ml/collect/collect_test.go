package collect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/backend/spool"
	"lapis/backend/sqldb"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/collect"
	"lapis/resource"
)

const (
	workspaceID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
	blueID      = workspaceID + "/onlineEndpoints/house/deployments/blue"
	guid        = "11111111-2222-3333-4444-555555555555"
)

// world is a spool, a store with one deployment, and a collector between them.
type world struct {
	t     *testing.T
	dir   string
	store *sqldb.Resources
	disk  *disk.Store
	blobs blob.Store
	site  ml.Site
	made  []string // assets that were registered
}

func newWorld(t *testing.T, collector string) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, dir: dir, store: sqldb.NewResources(db)}
	if w.disk, err = disk.New(filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	w.blobs = w.disk
	for id, r := range map[string]resource.Resource{
		workspaceID: {Status: json.RawMessage(`{"workspaceId":"` + guid + `","storageAccountName":"acc"}`), Properties: json.RawMessage("{}")},
		blueID:      {Properties: json.RawMessage(`{"dataCollector":` + collector + `}`)},
	} {
		if r.ID, err = resource.ParseID(id); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Absent}}}); err != nil {
			t.Fatal(err)
		}
	}
	id, _ := resource.ParseID(workspaceID)
	if w.site, err = ml.SiteOf(t.Context(), w.store, id); err != nil {
		t.Fatal(err)
	}
	if err := w.blobs.CreateContainer(t.Context(), w.site.Blobs()); err != nil {
		t.Fatal(err)
	}
	return w
}

func line(id, collection, at, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"azureml.inference.%s","datacontenttype":"application/json","time":%q,"data":%s}`, id, blueID, collection, at, data) + "\n"
}

// put writes a whole file of the gateway's.
func (w *world) put(collection, name string, lines ...string) {
	w.t.Helper()
	at := filepath.Join(w.dir, "gateway", "house", "blue", collection)
	if err := os.MkdirAll(at, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, name+".jsonl"), []byte(strings.Join(lines, "")), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// append adds to the file of an instance's collection.
func (w *world) append(collection, text string) {
	w.t.Helper()
	at := filepath.Join(w.dir, "groups", "house", "blue")
	if err := os.MkdirAll(at, 0o700); err != nil {
		w.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(at, collection+".jsonl"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
}

// run is a server that starts, and is told to stop at once: it leaves nothing
// behind that it could store.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	cancel()
	c := collect.New(collect.Config{Spool: spool.New(filepath.Join(w.dir, "gateway"), filepath.Join(w.dir, "groups")), Blobs: w.blobs, Resources: w.store,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().UTC() },
		Register: func(_ context.Context, id resource.ID, properties any) error {
			raw, _ := json.Marshal(properties)
			w.made = append(w.made, id.Name()+" of "+id.Parent().Name()+" "+string(raw))
			return nil
		}})
	if err := c.Run(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// stored is all blobs below the collections, name → content.
func (w *world) stored() map[string]string {
	w.t.Helper()
	page, err := w.disk.List(w.t.Context(), w.site.Blobs(), blob.Query{Prefix: "modelDataCollector/"})
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]string{}
	for _, b := range page.Blobs {
		r, _, err := w.disk.Open(w.t.Context(), w.site.Blobs(), b.Key, 0, -1)
		if err != nil {
			w.t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		all[strings.TrimPrefix(b.Key, "modelDataCollector/")] = string(raw)
	}
	return all
}

func TestEventsLieInTheFolderOfTheirHour(t *testing.T) {
	w := newWorld(t, `{"collections":{"request":{"dataCollectionMode":"Enabled"}}}`)
	w.put("request", "1", line("a", "request", "2026-03-01T10:59:59.9Z", "[1]"), line("b", "request", "2026-03-01T11:00:00Z", "[2]"))
	w.put("response", "1", line("c", "response", "2026-03-01T11:00:00Z", "[3]"))
	w.append("model_inputs", line("d", "model_inputs", "2026-03-01T11:00:01Z", "[4]")+`{"id":"half`)
	w.run()
	got := w.stored()
	for name, want := range map[string]string{
		"house/blue/request/2026/03/01/10/house-blue.jsonl":      "[1]",
		"house/blue/request/2026/03/01/11/house-blue.jsonl":      "[2]",
		"house/blue/response/2026/03/01/11/house-blue.jsonl":     "[3]",
		"house/blue/model_inputs/2026/03/01/11/house-blue.jsonl": "[4]",
	} {
		if strings.Count(got[name], "\n") != 1 || !strings.Contains(got[name], `"data":`+want) {
			t.Errorf("%s holds %q, want one event with %s", name, got[name], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d blobs, want 4: %v", len(got), got)
	}
	if len(w.made) != 3 || !strings.Contains(strings.Join(w.made, "\n"), "1 of house-blue-request {") {
		t.Errorf("registered: %v", w.made)
	}
	// The half line is stored once it is whole, and what was stored is not again.
	w.append("model_inputs", `-a-line"}`+"\n")
	w.put("request", "2", line("e", "request", "2026-03-01T11:30:00Z", "[5]"))
	w.run()
	got = w.stored()
	if s := got["house/blue/request/2026/03/01/11/house-blue.jsonl"]; strings.Count(s, "\n") != 2 {
		t.Errorf("after another event: %q", s)
	}
	half := 0
	for _, content := range got {
		half += strings.Count(content, "half-a-line")
	}
	if half != 1 {
		t.Errorf("a line that was half there at first is stored %d times", half)
	}
}

func TestTheRollingRateDecidesTheFolder(t *testing.T) {
	for rate, want := range map[string]string{"Minute": "2026/03/01/10/59/", "Day": "2026/03/01/", "Month": "2026/03/", "Year": "2026/", "Hour": "2026/03/01/10/"} {
		w := newWorld(t, `{"rollingRate":"`+rate+`","collections":{}}`)
		w.put("request", "1", line("a", "request", "2026-03-01T10:59:59Z", "1"))
		w.run()
		if name := "house/blue/request/" + want + "house-blue.jsonl"; w.stored()[name] == "" {
			t.Errorf("%s: %v, want %s", rate, w.stored(), name)
		}
	}
}

// breaking is a store that dies after its nth write is on the disk and before
// anyone hears of it.
type breaking struct {
	blob.Store
	left int
}

var errDied = errors.New("died")

func (b *breaking) Put(ctx context.Context, c blob.Container, key string, r io.Reader, size int64, a blob.Attributes, cond blob.Condition) (blob.Info, error) {
	if b.left < 0 {
		return blob.Info{}, errDied
	}
	info, err := b.Store.Put(ctx, c, key, r, size, a, cond)
	if b.left--; b.left < 0 && err == nil {
		return blob.Info{}, errDied
	}
	return info, err
}

func TestAServerThatIsKilledLosesNoEventAndStoresNoneTwice(t *testing.T) {
	w := newWorld(t, `{"collections":{}}`)
	n := 0
	for round := range 40 {
		hour := 10 + round/10
		for range 3 {
			w.put("request", fmt.Sprintf("%04d", n), line(fmt.Sprint("r", n), "request", fmt.Sprintf("2026-03-01T%02d:59:59Z", hour), "1"),
				line(fmt.Sprint("s", n), "request", fmt.Sprintf("2026-03-01T%02d:00:01Z", hour+1), "1"))
			w.append("model_inputs", line(fmt.Sprint("m", n), "model_inputs", fmt.Sprintf("2026-03-01T%02d:59:59Z", hour), "1"))
			n++
		}
		w.blobs = &breaking{w.disk, round % 4}
		w.run()
	}
	w.blobs = w.disk
	w.run()
	seen := map[string]int{}
	for _, content := range w.stored() {
		for raw := range strings.SplitSeq(strings.TrimSpace(content), "\n") {
			var e struct{ ID string }
			if err := json.Unmarshal([]byte(raw), &e); err != nil {
				t.Fatalf("%q: %v", raw, err)
			}
			seen[e.ID]++
		}
	}
	for i := range n {
		for _, kind := range []string{"r", "s", "m"} {
			if id := fmt.Sprint(kind, i); seen[id] != 1 {
				t.Errorf("event %s is stored %d times", id, seen[id])
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(w.dir, "gateway", "*", "*", "*", "*.jsonl"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}

func TestLongAndBinaryPayloadsLieInBlobsOfTheirOwn(t *testing.T) {
	w := newWorld(t, `{"collections":{}}`)
	long := `"` + strings.Repeat("x", 5<<20) + `"`
	binary := strings.Replace(line("bin", "request", "2026-03-01T10:00:00Z", "1"), `"data":1`, `"data_base64":"AAEC/w=="`, 1)
	w.put("request", "1", line("long", "request", "2026-03-01T10:00:00Z", long), binary)
	w.run()
	got := w.stored()
	folder := "house/blue/request/2026/03/01/10/"
	if got[folder+"raw/bin"] != "\x00\x01\x02\xff" || len(got[folder+"raw/long"]) != 5<<20 {
		t.Errorf("raw blobs: %q, %d bytes", got[folder+"raw/bin"], len(got[folder+"raw/long"]))
	}
	for raw := range strings.SplitSeq(strings.TrimSpace(got[folder+"house-blue.jsonl"]), "\n") {
		var e struct{ ID, Data, DataInBlob string }
		if err := json.Unmarshal([]byte(raw), &e); err != nil || e.DataInBlob != "true" || !strings.HasSuffix(e.Data, "/2026/03/01/10/raw/"+e.ID) || !strings.HasPrefix(e.Data, "azureml://") {
			t.Errorf("%.300s: %v", raw, err)
		}
	}
}

func TestABlobThatIsFullIsFollowedByAnother(t *testing.T) {
	w := newWorld(t, `{"collections":{}}`)
	big := `"` + strings.Repeat("y", 3<<20) + `"`
	for i := range 12 {
		w.put("request", fmt.Sprintf("%02d", i), line(fmt.Sprint("e", i), "request", "2026-03-01T10:00:00Z", big))
		w.run()
	}
	events, blobs := 0, 0
	for name, content := range w.stored() {
		blobs++
		events += strings.Count(content, "\n")
		if len(content) > 20<<20 {
			t.Errorf("%s has %d bytes", name, len(content))
		}
	}
	if events != 12 || blobs < 2 {
		t.Errorf("%d events in %d blobs, want 12 in some", events, blobs)
	}
}
