// Package collect brings what online deployments collect (payloads of requests
// and responses, and the collections of scoring scripts) from the spool into the
// datastore, where Azure ML's users look for it. Each event arrives there once,
// also when the server is killed on the way.
package collect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/ml/endpoint"
	"lapis/resource"
)

// Spool is where collected events wait, as CloudEvents in JSON, one on a line.
type Spool interface {
	// Pieces are whole lines that wait, by collection and oldest first; of each
	// collection at most about limit bytes.
	Pieces(ctx context.Context, limit int64) ([]Piece, error)

	// Taken tells that a piece is stored elsewhere: it is not given again.
	Taken(ctx context.Context, p Piece) error
}

// Piece is a part of the spool.
type Piece struct {
	ID                               string // of what it is a part of; unique, without '=' and ';'
	Endpoint, Deployment, Collection string
	From, To                         int64 // bytes
	Lines                            []byte
	Since                            time.Time // it waits since then
}

// Config is what a collector works with.
type Config struct {
	Spool     Spool
	Blobs     blob.Store
	Resources resource.Store

	// Register stores an asset version on the one road of writes.
	Register func(ctx context.Context, id resource.ID, properties any) error

	Log *slog.Logger
	Now func() time.Time
}

// Collector makes passes over the spool.
type Collector struct {
	Config
	registered map[string]bool // data asset's key
	failed     map[string]bool // collection whose failure was logged
}

// New makes a collector.
func New(c Config) *Collector {
	return &Collector{Config: c, registered: map[string]bool{}, failed: map[string]bool{}}
}

// The bounds of what is written at once. A blob grows by being written anew, so
// that a large one does not grow by each line, and none grows for ever.
const (
	passEvery  = time.Second
	takeAtOnce = 8 << 20  // bytes of a collection in a pass
	smallBlob  = 1 << 20  // up to here a blob grows at once
	fullBlob   = 16 << 20 // from here on the next one is begun
	waitAtMost = 30 * time.Second
	lastPass   = 20 * time.Second // at the end
	inlineMost = 4 << 20          // data that is longer lies in a blob of its own
	marksKept  = 200
)

// Run makes passes until ctx ends, and then one that leaves nothing behind.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(passEvery)
	defer tick.Stop()
	for {
		if err := c.pass(ctx, false); err != nil && ctx.Err() == nil {
			c.Log.Error("collect", "err", err)
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPass)
			defer cancel()
			if err := c.pass(last, true); err != nil {
				c.Log.Error("collect", "err", err)
			}
			return nil
		case <-tick.C:
		}
	}
}

// pass stores what waits. What is to be written to a large blob may wait a while,
// unless all is to be stored.
func (c *Collector) pass(ctx context.Context, whole bool) error {
	pieces, err := c.Spool.Pieces(ctx, takeAtOnce)
	if err != nil {
		return err
	}
	byCollection := map[string][]Piece{}
	var order []string
	for _, p := range pieces {
		k := p.Endpoint + "/" + p.Deployment + "/" + p.Collection
		if byCollection[k] == nil {
			order = append(order, k)
		}
		byCollection[k] = append(byCollection[k], p)
	}
	for _, k := range order {
		err := c.store(ctx, byCollection[k], whole)
		if err != nil && ctx.Err() == nil && !c.failed[k] {
			c.Log.Error("store collected events; they wait in the spool", "collection", k, "err", err)
		}
		c.failed[k] = err != nil
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// event is the part of a CloudEvent that decides where it goes.
type event struct {
	ID     string          `json:"id"`
	Source string          `json:"source"`
	Time   string          `json:"time"`
	Type   string          `json:"datacontenttype"`
	Data   json.RawMessage `json:"data"`
	Binary *string         `json:"data_base64"`
}

// place is where the events of a collection go.
type place struct {
	container blob.Container
	folder    string // ends in "/"
	uri       string // of the folder, without the "/"
	rolling   string
	site      ml.Site
}

// store brings pieces of one collection into their blobs.
func (c *Collector) store(ctx context.Context, pieces []Piece, whole bool) error {
	at, err := c.place(ctx, pieces)
	if fault.Is(err, fault.Missing) {
		// Its workspace or datastore is gone, and all that was collected with it.
		c.Log.Warn("collected events have no place any more", "endpoint", pieces[0].Endpoint, "deployment", pieces[0].Deployment, "err", err)
		return c.taken(ctx, pieces)
	}
	if err != nil {
		return err
	}
	waited := false
	lines := map[string][]line{} // folder of a time → lines
	var folders []string
	for _, p := range pieces {
		waited = waited || c.Now().Sub(p.Since) >= waitAtMost
		end := p.From
		for raw := range bytes.SplitSeq(p.Lines, []byte("\n")) {
			end += int64(len(raw)) + 1
			if len(bytes.TrimSpace(raw)) == 0 {
				continue
			}
			folder := at.folder + c.folderOf(raw, at.rolling)
			if lines[folder] == nil {
				folders = append(folders, folder)
			}
			lines[folder] = append(lines[folder], line{p.ID, end, raw})
		}
	}
	stem := strings.ToLower(pieces[0].Endpoint + "-" + pieces[0].Deployment)
	written := true
	for _, folder := range folders {
		done, err := c.grow(ctx, at, folder, stem, lines[folder], pieces, whole || waited)
		if err != nil {
			return err
		}
		written = written && done
	}
	if !written {
		return nil
	}
	if err := c.taken(ctx, pieces); err != nil {
		return err
	}
	return nil
}

// line is one event, with where it ends in its spool.
type line struct {
	piece string
	end   int64
	raw   []byte
}

func (c *Collector) taken(ctx context.Context, pieces []Piece) error {
	var errs []error
	for _, p := range pieces {
		errs = append(errs, c.Spool.Taken(ctx, p))
	}
	return errors.Join(errs...)
}

// markName is the member of a blob's metadata that says which lines are in it:
// pieces and where in them, of what was added last. It is stored with the bytes
// in one step, so a line that a crash makes us see again is known.
const markName = "lapisspool"

func marks(metadata map[string]string) map[string]int64 {
	m := map[string]int64{}
	for _, one := range strings.Split(metadata[markName], ";") {
		if id, to, ok := strings.Cut(one, "="); ok {
			m[id], _ = strconv.ParseInt(to, 10, 64)
		}
	}
	return m
}

// grow adds lines to the last blob of a folder; false if that can wait until
// there are more.
func (c *Collector) grow(ctx context.Context, at place, folder, stem string, lines []line, pieces []Piece, now bool) (bool, error) {
	name, info, found, err := c.last(ctx, at.container, folder, stem)
	if err != nil {
		return false, err
	}
	in := map[string]int64{}
	if found {
		in = marks(info.Metadata)
	}
	var add bytes.Buffer
	for _, l := range lines {
		if to, ok := in[l.piece]; ok && l.end <= to {
			continue
		}
		raw, err := c.inline(ctx, at, folder, l.raw)
		if err != nil {
			return false, err
		}
		add.Write(raw)
		add.WriteByte('\n')
	}
	if add.Len() == 0 {
		return true, nil
	}
	if found && !now && info.Size > smallBlob && int64(add.Len())*4 < info.Size {
		return false, nil
	}
	cond := blob.Condition{IfNoneMatch: "*"}
	var content io.Reader = &add
	size := int64(add.Len())
	if found && info.Size >= fullBlob {
		name = next(folder, stem, name)
		found = false
	}
	if found {
		old, seen, err := c.Blobs.Open(ctx, at.container, name, 0, -1)
		if err != nil {
			return false, err
		}
		defer old.Close()
		content, size = io.MultiReader(old, &add), size+seen.Size
		cond = blob.Condition{IfMatch: seen.ETag}
	}
	var mark []string
	for _, p := range pieces[max(0, len(pieces)-marksKept):] {
		mark = append(mark, p.ID+"="+strconv.FormatInt(p.To, 10))
	}
	_, err = c.Blobs.Put(ctx, at.container, name, content, size, blob.Attributes{ContentType: "application/x-ndjson",
		Metadata: map[string]string{markName: strings.Join(mark, ";")}}, cond)
	return err == nil, err
}

// last is the blob of a folder that grows: stem.jsonl, then stem-1.jsonl and so on.
func (c *Collector) last(ctx context.Context, in blob.Container, folder, stem string) (name string, info blob.Info, found bool, err error) {
	name = folder + stem + ".jsonl"
	for {
		i, err := c.Blobs.Stat(ctx, in, name)
		if fault.Is(err, fault.Missing) {
			if !found {
				return name, info, false, nil
			}
			return info.Key, info, true, nil
		}
		if err != nil {
			return "", info, false, err
		}
		info, found = i, true
		info.Key = name
		if info.Size < fullBlob {
			return name, info, true, nil
		}
		name = next(folder, stem, name)
	}
}

// next is the name of the blob after that one.
func next(folder, stem, name string) string {
	n := 0
	if rest, ok := strings.CutPrefix(strings.TrimSuffix(name, ".jsonl"), folder+stem+"-"); ok {
		n, _ = strconv.Atoi(rest)
	}
	return fmt.Sprintf("%s%s-%d.jsonl", folder, stem, n+1)
}

// folderOf is the folder of an event's time, below its collection's.
func (c *Collector) folderOf(raw []byte, rolling string) string {
	var e struct {
		Time string `json:"time"`
	}
	t := c.Now()
	if json.Unmarshal(raw, &e) == nil {
		if parsed, err := time.Parse(time.RFC3339Nano, e.Time); err == nil {
			t = parsed
		}
	}
	form := "2006/01/02/15/"
	switch strings.ToLower(rolling) {
	case "minute":
		form += "04/"
	case "day":
		form = "2006/01/02/"
	case "month":
		form = "2006/01/"
	case "year":
		form = "2006/"
	}
	return t.UTC().Format(form)
}

// inline is the line as it is stored: data that is long or no text lies in a blob
// beside, and the line says where.
func (c *Collector) inline(ctx context.Context, at place, folder string, raw []byte) ([]byte, error) {
	if len(raw) <= inlineMost && !bytes.Contains(raw, []byte(`"data_base64"`)) {
		return raw, nil
	}
	var e event
	doc, err := resource.ParseDocument(raw)
	if err != nil || json.Unmarshal(raw, &e) != nil || e.Binary == nil && len(e.Data) <= inlineMost {
		return raw, nil
	}
	content, kind := []byte(e.Data), "application/json"
	var text string
	switch {
	case e.Binary != nil:
		if content, err = base64.StdEncoding.DecodeString(*e.Binary); err != nil {
			return raw, nil
		}
		kind = "application/octet-stream"
		doc.Set("datainblob", "true")
	case json.Unmarshal(e.Data, &text) == nil:
		content, kind = []byte(text), "text/plain"
	}
	if e.Type != "" {
		kind = e.Type
	}
	name := folder + "raw/" + safe(e.ID)
	// Written twice it is the same: its name is the event's.
	if _, err := c.Blobs.Put(ctx, at.container, name, bytes.NewReader(content), int64(len(content)), blob.Attributes{ContentType: kind}, blob.Condition{}); err != nil {
		return nil, err
	}
	delete(doc, "data_base64")
	doc.Set("datainblob", "true")
	doc.Set("data", at.uri+"/"+strings.TrimPrefix(name, at.folder))
	return doc.Raw(), nil
}

func safe(id string) string {
	id = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' {
			return r
		}
		return -1
	}, id)
	if id == "" || len(id) > 100 {
		return resource.NewGUID()
	}
	return id
}

// place finds where a collection goes: where the data asset that the deployment
// names points to, else the documented folder of the default datastore.
func (c *Collector) place(ctx context.Context, pieces []Piece) (place, error) {
	p := pieces[0]
	id, err := c.deployment(ctx, p)
	if err != nil {
		return place{}, err
	}
	site, err := ml.SiteOf(ctx, c.Resources, id)
	if err != nil {
		return place{}, err
	}
	e, d := strings.ToLower(id.Parent().Name()), strings.ToLower(id.Name())
	folder := path.Join("modelDataCollector", e, d, p.Collection)
	at := place{container: site.Blobs(), folder: folder + "/", uri: site.DatastoreURI(ml.BlobStore, folder), rolling: "Hour", site: site}
	asset := site.ID.Child("data", e+"-"+d+"-"+p.Collection).Child("versions", "1")
	var props endpoint.Deployment
	r, err := c.Resources.Get(ctx, id)
	switch {
	case fault.Is(err, fault.Missing): // deleted since
	case err != nil:
		return place{}, err
	case json.Unmarshal(r.Properties, &props) == nil && props.Collector != nil:
		if props.Collector.RollingRate != "" {
			at.rolling = props.Collector.RollingRate
		}
		for name, of := range props.Collector.Collections {
			if !strings.EqualFold(name, p.Collection) || of.DataID == "" {
				continue
			}
			l, err := data.Locate(ctx, c.Resources, id, of.DataID)
			if err == nil {
				at.container, at.folder = l.Container, strings.TrimSuffix(l.Path, "/")+"/"
				at.uri = site.DatastoreURI(l.Datastore, strings.TrimSuffix(l.Path, "/"))
				return at, nil
			}
			if !fault.Is(err, fault.Missing) {
				return place{}, err
			}
			if named, err := resource.ParseID(of.DataID); err == nil && named.Ancestor(ml.Workspaces).Same(site.ID) {
				asset = named
			}
		}
	}
	return at, c.asset(ctx, asset, at)
}

// asset registers the data asset of a collection, if nobody has.
func (c *Collector) asset(ctx context.Context, id resource.ID, at place) error {
	if id.Zero() || c.registered[id.Key()] {
		return nil
	}
	_, err := c.Resources.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		err = c.Register(ctx, id, map[string]any{"dataType": "uri_folder", "dataUri": at.uri, "description": "Collected by an online deployment."})
	}
	if err == nil {
		c.registered[id.Key()] = true
	}
	return err
}

// deployment is the ARM id that the events name as their source.
func (c *Collector) deployment(ctx context.Context, p Piece) (resource.ID, error) {
	first, _, _ := bytes.Cut(bytes.TrimLeft(p.Lines, "\n"), []byte("\n"))
	var e event
	if json.Unmarshal(first, &e) == nil {
		if id, err := resource.ParseID(e.Source); err == nil && id.Is(endpoint.DeploymentType) {
			return id, nil
		}
	}
	q := resource.Query{Type: endpoint.DeploymentType, Limit: 1000}
	for {
		page, err := c.Resources.List(ctx, q)
		if err != nil {
			return resource.ID{}, err
		}
		at := slices.IndexFunc(page.Resources, func(r resource.Resource) bool {
			return strings.EqualFold(r.ID.Name(), p.Deployment) && strings.EqualFold(r.ID.Parent().Name(), p.Endpoint)
		})
		if at >= 0 {
			return page.Resources[at].ID, nil
		}
		if q.After = page.Next; q.After == "" {
			return resource.ID{}, fault.NotFound("there is no online deployment '%s' of '%s'", p.Deployment, p.Endpoint)
		}
	}
}
