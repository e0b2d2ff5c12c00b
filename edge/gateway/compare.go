package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"lapis/ml/serving"
)

// Bounds of a report.
const (
	reportFields   = 200
	reportExamples = 20
	reportText     = 200 // bytes
	otherFields    = "…" // stands for the fields beyond
)

// tolerance is by how much numbers that count as equal may differ, absolute
// below 1 and relative above.
const tolerance = 1e-6

// report compares the answers of copies with those that callers got.
type report struct {
	mu       sync.Mutex
	live     map[string]bool
	pairs    int64
	equal    int64
	failures [2]int64
	latency  [2]serving.Histogram
	fields   map[string]int64
	examples []serving.Difference
}

func (r *report) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live, r.fields, r.examples = nil, nil, nil
	r.pairs, r.equal, r.failures, r.latency = 0, 0, [2]int64{}, [2]serving.Histogram{}
}

func (r *report) add(id, name string, live, shadow answerOf) {
	differences := differences(live, shadow)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live == nil {
		r.live, r.fields = map[string]bool{}, map[string]int64{}
		for side := range r.latency {
			r.latency[side].Counts = make([]int64, serving.Buckets())
		}
	}
	r.live[name] = true
	r.pairs++
	for side, a := range []answerOf{live, shadow} {
		if a.status/100 != 2 {
			r.failures[side]++
		}
		r.latency[side].Counts[serving.Bucket(a.took)]++
		r.latency[side].Count++
	}
	if len(differences) == 0 {
		r.equal++
		return
	}
	seen := map[string]bool{}
	for _, d := range differences {
		path := d.Path
		if _, known := r.fields[path]; !known && len(r.fields) >= reportFields {
			path = otherFields
		}
		if !seen[path] {
			seen[path] = true
			r.fields[path]++
		}
	}
	if len(r.examples) < reportExamples {
		first := differences[0]
		first.RequestID = id
		r.examples = append(r.examples, first)
	}
}

// Compared is the shadow report of a deployment.
func (g *Gateway) Compared(endpoint, deployment string) serving.Comparison {
	out := serving.Comparison{Shadow: deployment, Fields: map[string]int64{}, Examples: []serving.Difference{}}
	rt := g.table.Load().named[strings.ToLower(endpoint)]
	if rt == nil || rt.deployments[strings.ToLower(deployment)] == nil {
		return out
	}
	r := &rt.deployments[strings.ToLower(deployment)].mirror.report
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Live = strings.Join(slices.Sorted(maps.Keys(r.live)), ",")
	out.Pairs, out.Equal, out.Failures = r.pairs, r.equal, r.failures
	for side, h := range r.latency {
		out.P50[side] = milliseconds(h.Percentile(0.5))
		out.P99[side] = milliseconds(h.Percentile(0.99))
	}
	maps.Copy(out.Fields, r.fields)
	out.Examples = append(out.Examples, r.examples...)
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// statusPath stands for the status where answers differ in it.
const statusPath = "status"

// differences tells where two answers say something else, at most some of the
// places.
func differences(live, shadow answerOf) []serving.Difference {
	var out []serving.Difference
	if live.status != shadow.status {
		out = append(out, serving.Difference{Path: statusPath, Live: fmt.Sprint(live.status), Shadow: fmt.Sprint(shadow.status)})
	}
	if live.cut || shadow.cut {
		if live.cut != shadow.cut {
			out = append(out, serving.Difference{Path: "$", Live: brief(live.body), Shadow: brief(shadow.body)})
		}
		return out
	}
	if bytes.Equal(live.body, shadow.body) {
		return out
	}
	a, aErr := decode(live.body)
	b, bErr := decode(shadow.body)
	if aErr != nil || bErr != nil {
		return append(out, serving.Difference{Path: "$", Live: brief(live.body), Shadow: brief(shadow.body)})
	}
	compare("$", a, b, &out)
	return out
}

func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(bareWords(b)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one value")
	}
	return v, nil
}

// bareWords makes strings of NaN and Infinity, which Python writes into JSON.
func bareWords(b []byte) []byte {
	if json.Valid(b) || !bytes.Contains(b, []byte("NaN")) && !bytes.Contains(b, []byte("Infinity")) {
		return b
	}
	var out []byte
	quoted := false
	for n := 0; n < len(b); n++ {
		switch {
		case quoted && b[n] == '\\' && n+1 < len(b):
			out = append(out, b[n], b[n+1])
			n++
			continue
		case b[n] == '"':
			quoted = !quoted
		case !quoted:
			word := ""
			for _, w := range []string{"NaN", "-Infinity", "Infinity"} {
				if bytes.HasPrefix(b[n:], []byte(w)) {
					word = w
					break
				}
			}
			if word != "" {
				out = append(append(append(out, '"'), word...), '"')
				n += len(word) - 1
				continue
			}
		}
		out = append(out, b[n])
	}
	return out
}

// differencesMost bounds what is listed of one pair.
const differencesMost = 100

func compare(path string, a, b any, out *[]serving.Difference) {
	if len(*out) >= differencesMost {
		return
	}
	differ := func() {
		*out = append(*out, serving.Difference{Path: path, Live: text(a), Shadow: text(b)})
	}
	switch a := a.(type) {
	case json.Number:
		if b, ok := b.(json.Number); !ok || !near(a, b) {
			differ()
		}
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			differ()
			return
		}
		for n := range a {
			compare(fmt.Sprintf("%s[%d]", path, n), a[n], b[n], out)
		}
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			differ()
			return
		}
		all := map[string]bool{}
		for k := range a {
			all[k] = true
		}
		for k := range b {
			all[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(all)) {
			av, aOK := a[k]
			bv, bOK := b[k]
			if aOK && bOK {
				compare(path+"."+k, av, bv, out)
				continue
			}
			d := serving.Difference{Path: path + "." + k}
			if aOK {
				d.Live = text(av)
			} else {
				d.Shadow = text(bv)
			}
			*out = append(*out, d)
		}
	default:
		if a != b {
			differ()
		}
	}
}

func near(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, err1 := a.Float64()
	y, err2 := b.Float64()
	return err1 == nil && err2 == nil && math.Abs(x-y) <= tolerance*max(1, math.Abs(x), math.Abs(y))
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return brief(b)
}

func brief(b []byte) string {
	if len(b) > reportText {
		b = b[:reportText]
	}
	return strings.ToValidUTF8(string(b), "")
}
