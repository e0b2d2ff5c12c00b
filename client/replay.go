package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lapis/fault"
)

// Collected brings what was collected of a deployment ("request", "response")
// into a folder; it gives the number of files. Nothing collected is no error.
func (c *Client) Collected(ctx context.Context, endpoint, deployment, collection, dir string) (int, error) {
	name := strings.ToLower(endpoint + "-" + deployment + "-" + collection)
	raw, err := c.Get(ctx, c.Path("data", name, "versions", "1"))
	if fault.Is(err, fault.Missing) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var a struct {
		Properties struct{ DataURI string }
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return 0, fmt.Errorf("read data asset: %w", err)
	}
	at := datastoreURI.FindStringSubmatch(a.Properties.DataURI)
	if at == nil {
		return 0, fault.Invalid("The data asset %q lies at %s, which is no datastore, so it cannot be read.", name, a.Properties.DataURI)
	}
	k, _, err := c.datastore(ctx, at[1])
	if err != nil {
		return 0, err
	}
	return c.downloadTo(ctx, k, strings.TrimSuffix(at[2], "/")+"/", dir, name)
}

// Captured is a request as it was collected, with the answer that it got if that
// was collected too.
type Captured struct {
	ID          string
	Method      string
	Path        string // "/score"
	ContentType string
	Body        []byte
	Answer      []byte // nil: it is not known
}

// captured is one line of what is collected.
type captured struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Content string          `json:"datacontenttype"`
	Data    json.RawMessage `json:"data"`
	Binary  *string         `json:"data_base64"`
	InBlob  string          `json:"datainblob"`
	Path    string          `json:"path"`
	Method  string          `json:"method"`
	Request string          `json:"xrequestid"`
}

// payload is what was sent: text stands in JSON as a text.
func (e captured) payload() ([]byte, bool) {
	if e.InBlob == "true" {
		return nil, false
	}
	if e.Binary != nil {
		b, err := base64.StdEncoding.DecodeString(*e.Binary)
		return b, err == nil
	}
	var text string
	if !strings.Contains(e.Content, "json") && json.Unmarshal(e.Data, &text) == nil {
		return []byte(text), true
	}
	return e.Data, len(e.Data) > 0
}

// maxCaptured bounds a line of a collection.
const maxCaptured = 64 << 20

// ReadCaptured reads requests from a file, or from all files that end in .jsonl
// in a folder and below, in the order of their names; and their answers from
// what stands beside them or in the folders given. Lines that are only the body
// of a request are taken too. It gives how many could not be read.
func ReadCaptured(from string, answers ...string) (requests []Captured, unread int, err error) {
	replies := map[string][]byte{}
	for i, root := range append([]string{from}, answers...) {
		err := eachLine(root, func(line []byte) {
			var e captured
			if json.Unmarshal(line, &e) != nil || e.Type == "" {
				if i == 0 && json.Valid(line) {
					requests = append(requests, Captured{Method: http.MethodPost, ContentType: "application/json", Body: bytes.Clone(line)})
				} else {
					unread++
				}
				return
			}
			body, ok := e.payload()
			switch {
			case !ok:
				unread++
			case strings.HasSuffix(e.Type, ".request"):
				requests = append(requests, Captured{ID: e.Request, Method: e.Method, Path: e.Path, ContentType: e.Content, Body: bytes.Clone(body)})
			case strings.HasSuffix(e.Type, ".response") && !refusal(body):
				replies[e.Request] = bytes.Clone(body)
			}
		})
		if err != nil {
			return nil, 0, err
		}
	}
	for i := range requests {
		requests[i].Answer = replies[requests[i].ID]
	}
	return requests, unread, nil
}

// refusal tells whether an answer is the gateway's: it found no place for the
// request, which says nothing of the model.
func refusal(body []byte) bool {
	var e struct{ Error struct{ Code string } }
	return bytes.HasPrefix(body, []byte(`{"error"`)) && json.Unmarshal(body, &e) == nil && e.Error.Code == "TooManyRequests"
}

func eachLine(root string, take func([]byte)) error {
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (path == root || strings.HasSuffix(path, ".jsonl")) {
			files = append(files, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fault.NotFound("There is no file or folder %s.", root)
	}
	if err != nil {
		return fault.Invalid("%s cannot be read: %v.", root, err)
	}
	slices.Sort(files)
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return fault.Invalid("%s cannot be read: %v.", file, err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(make([]byte, 64<<10), maxCaptured)
		for lines.Scan() {
			if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
				take(line)
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return fault.Invalid("%s cannot be read: %v.", file, err)
		}
	}
	return nil
}

// Replay says how captured requests are sent again.
type Replay struct {
	Deployment string // the candidate that answers
	Against    string // a deployment that is asked the same; "": its captured answers are compared with
	Width      int    // requests at a time
	Tell       func(done, total int)
}

// Replayed is how a candidate's answers differ from those that they are compared
// with. Of two numbers the first is theirs and the second the candidate's.
type Replayed struct {
	Deployment string           `json:"deployment"`
	Against    string           `json:"against"` // a deployment, or "captured"
	Requests   int              `json:"requests"`
	Pairs      int              `json:"pairs"` // answers compared
	Equal      int              `json:"equal"`
	Failures   [2]int           `json:"failures"` // answers that were not 2xx
	P50        [2]float64       `json:"p50Ms"`
	P99        [2]float64       `json:"p99Ms"`
	Fields     map[string]int   `json:"fields"`   // JSON path → answers that differ there
	Examples   []ReplayedAnswer `json:"examples"` // at most 20
}

// ReplayedAnswer is one pair of answers that differ.
type ReplayedAnswer struct {
	Request string `json:"request"`
	Path    string `json:"path"`
	Was     string `json:"was"`
	Is      string `json:"is"`
}

// maxReplayExamples bounds the examples of a report.
const maxReplayExamples = 20

// Replay sends captured requests to a deployment, whatever share of the traffic
// it has, and compares its answers.
func (c *Client) Replay(ctx context.Context, e *Endpoint, requests []Captured, how Replay) (Replayed, error) {
	out := Replayed{Deployment: how.Deployment, Against: how.Against, Requests: len(requests), Fields: map[string]int{}, Examples: []ReplayedAnswer{}}
	if out.Against == "" {
		out.Against = "captured"
	}
	send, err := c.scorer(ctx, e)
	if err != nil {
		return out, err
	}
	var mu sync.Mutex
	var took [2][]float64
	done := 0
	var jobs []func(context.Context) error
	for _, q := range requests {
		jobs = append(jobs, func(ctx context.Context) error {
			was := answered{status: http.StatusOK, body: q.Answer}
			known := q.Answer != nil
			if how.Against != "" {
				var err error
				if was, err = send(ctx, how.Against, q); err != nil {
					return err
				}
				known = true
			}
			is, err := send(ctx, how.Deployment, q)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			out.add(q, was, is, known)
			took[1] = append(took[1], is.took)
			if how.Against != "" {
				took[0] = append(took[0], was.took)
			}
			if done++; how.Tell != nil {
				how.Tell(done, len(requests))
			}
			return nil
		})
	}
	if err := inParallel(ctx, max(how.Width, 1), jobs); err != nil {
		return out, err
	}
	for i := range took {
		slices.Sort(took[i])
		out.P50[i], out.P99[i] = quantile(took[i], 0.5), quantile(took[i], 0.99)
	}
	return out, nil
}

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// answered is an answer to a request that was sent again.
type answered struct {
	status int
	body   []byte
	took   float64 // ms
}

func (a answered) well() bool { return a.status >= 200 && a.status <= 299 }

func (r *Replayed) add(q Captured, was, is answered, known bool) {
	for i, a := range []answered{was, is} {
		if !a.well() && (i == 1 || known) {
			r.Failures[i]++
		}
	}
	if !known {
		return
	}
	r.Pairs++
	var found []ReplayedAnswer
	if was.well() != is.well() {
		found = []ReplayedAnswer{{Path: "status", Was: fmt.Sprint(was.status), Is: fmt.Sprint(is.status) + " " + brief(is.body)}}
	} else {
		found = differ(was.body, is.body)
	}
	if len(found) == 0 {
		r.Equal++
		return
	}
	seen := map[string]bool{}
	for _, d := range found {
		if !seen[d.Path] {
			r.Fields[d.Path]++
			seen[d.Path] = true
		}
	}
	if len(r.Examples) < maxReplayExamples {
		found[0].Request = q.ID
		r.Examples = append(r.Examples, found[0])
	}
}

// scorer makes what sends requests to an endpoint, over connections that stay.
func (c *Client) scorer(ctx context.Context, e *Endpoint) (func(context.Context, string, Captured) (answered, error), error) {
	base, err := url.Parse(e.Properties.ScoringURI)
	if err != nil || base.Host == "" {
		return nil, fault.Conflicts("The endpoint %q has no address yet: it is %s.", e.Name, e.Properties.ProvisioningState)
	}
	authorized := http.Header{}
	if err := c.authorize(ctx, e, authorized); err != nil {
		return nil, err
	}
	client := c.scoring()
	if t, ok := client.Transport.(*http.Transport); ok {
		t.DisableKeepAlives, t.MaxIdleConnsPerHost = false, 64
	}
	prefix := strings.TrimSuffix(base.Path, "/score")
	return func(ctx context.Context, deployment string, q Captured) (answered, error) {
		address := *base
		if q.Path != "" && strings.HasPrefix(q.Path, "/") && strings.HasSuffix(base.Path, "/score") {
			address.Path = prefix + q.Path
		}
		method := q.Method
		if method == "" {
			method = http.MethodPost
		}
		// One that finds all places taken says nothing of the model: it comes again.
		for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
			req, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(q.Body))
			if err != nil {
				return answered{}, err
			}
			req.Header = authorized.Clone()
			req.Header.Set("Content-Type", q.ContentType)
			req.Header.Set("azureml-model-deployment", deployment)
			began := time.Now()
			res, err := client.Do(req)
			if err != nil {
				if ctx.Err() != nil {
					return answered{}, ctx.Err()
				}
				return answered{}, fault.New(fault.Unavailable, "NoGateway", "Nobody answers at %s: %v.", e.Properties.ScoringURI, cause(err)).From(err)
			}
			body, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
			res.Body.Close()
			took := float64(time.Since(began)) / float64(time.Millisecond)
			switch {
			case err != nil:
				return answered{status: http.StatusBadGateway, took: took}, nil
			case res.StatusCode == http.StatusTooManyRequests:
				if err := sleep(ctx, pause); err != nil {
					return answered{}, err
				}
				continue
			case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusNotFound && res.Header.Get("x-aml-reason") != "":
				return answered{}, fault.New(fault.Conflict, "ReplayRefused", "The endpoint %q does not let the request through: %d %s", e.Name, res.StatusCode, brief(body))
			}
			return answered{res.StatusCode, body, took}, nil
		}
	}, nil
}

// closeTo is by how much numbers that count as equal may differ.
const closeTo = 1e-6

// differ tells where two answers say something else.
func differ(was, is []byte) []ReplayedAnswer {
	if bytes.Equal(bytes.TrimSpace(was), bytes.TrimSpace(is)) {
		return nil
	}
	var a, b any
	if json.Unmarshal(was, &a) != nil || json.Unmarshal(is, &b) != nil {
		return []ReplayedAnswer{{Path: "$", Was: brief(was), Is: brief(is)}}
	}
	var out []ReplayedAnswer
	differAt("$", a, b, &out)
	return out
}

func differAt(path string, a, b any, out *[]ReplayedAnswer) {
	if len(*out) >= 100 {
		return
	}
	switch x := a.(type) {
	case float64:
		if y, ok := b.(float64); ok && math.Abs(x-y) <= closeTo*max(1, math.Abs(x), math.Abs(y)) {
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				differAt(fmt.Sprintf("%s[%d]", path, i), x[i], y[i], out)
			}
			return
		}
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			all := maps.Clone(x)
			maps.Copy(all, y)
			for _, name := range slices.Sorted(maps.Keys(all)) {
				v, inX := x[name]
				w, inY := y[name]
				if inX && inY {
					differAt(path+"."+name, v, w, out)
				} else {
					*out = append(*out, ReplayedAnswer{Path: path + "." + name, Was: short(v, inX), Is: short(w, inY)})
				}
			}
			return
		}
	default:
		if a == b {
			return
		}
	}
	*out = append(*out, ReplayedAnswer{Path: path, Was: short(a, true), Is: short(b, true)})
}

func short(v any, there bool) string {
	if !there {
		return ""
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return brief(raw)
}

func brief(b []byte) string {
	const most = 200
	if len(b) > most {
		b = append(bytes.Clone(b[:most]), "…"...)
	}
	return strings.ToValidUTF8(string(b), "?")
}
