package tracking

import (
	"math/bits"
	"slices"
	"strings"
)

// Index is what the runs of one experiment are searched by, column by column: a
// search reads the columns that it names and nothing else of a run. Rows are in
// the order of Seq. It is not safe for use while it changes.
type Index struct {
	seqs    []int64
	gone    rows // removed since
	deleted rows
	left    int // rows that are gone

	ids      []string
	names    []string
	starts   []int64
	ends     []int64
	statuses coded
	users    coded
	artifact coded // "+" and the root, or "=" and the whole URI

	metrics  map[string]*numbers
	params   map[string]*texts
	tags     map[string]*texts
	datasets map[uint32][]datasetKey

	size int // bytes, about
}

// datasetKey is what datasets are searched by.
type datasetKey struct{ name, digest, context string }

// NewIndex returns an index of no runs.
func NewIndex() *Index {
	return &Index{metrics: map[string]*numbers{}, params: map[string]*texts{}, tags: map[string]*texts{}, datasets: map[uint32][]datasetKey{}}
}

// Len is how many runs it has.
func (x *Index) Len() int { return len(x.seqs) - x.left }

// Size is about how much memory it takes, in bytes.
func (x *Index) Size() int { return x.size }

// Sparse tells that so many runs are gone that it is better made anew.
func (x *Index) Sparse() bool { return x.left > 1000 && x.left > len(x.seqs)/2 }

// row finds the row of a run.
func (x *Index) row(seq int64) (uint32, bool) {
	i, ok := slices.BinarySearch(x.seqs, seq)
	return uint32(i), ok
}

// Begin makes or empties the row of a run, whose fields, metrics, params, tags
// and datasets are then set. It is false when the run is older than all that the
// index has and not among them: then the index must be made anew.
func (x *Index) Begin(r *Run) (row uint32, ok bool) {
	row, found := x.row(r.Seq)
	if !found {
		if n := len(x.seqs); n > 0 && x.seqs[n-1] > r.Seq {
			return 0, false
		}
		row = uint32(len(x.seqs))
		x.seqs = append(x.seqs, r.Seq)
		x.ids = append(x.ids, r.ID)
		x.names = append(x.names, "")
		x.starts = append(x.starts, 0)
		x.ends = append(x.ends, 0)
		x.statuses.grow()
		x.users.grow()
		x.artifact.grow()
		x.size += 8 + 16 + len(r.ID) + 16 + 8 + 8 + 12
	} else {
		if x.gone.has(row) {
			x.gone.drop(row)
			x.left--
		}
		for _, t := range x.tags {
			t.remove(row)
		}
		delete(x.datasets, row)
	}
	if x.names[row] != r.Name {
		x.size += len(r.Name)
		x.names[row] = r.Name
	}
	x.starts[row], x.ends[row] = r.Start, r.End
	x.statuses.set(row, string(r.Status))
	x.users.set(row, r.User)
	if root, standard := strings.CutSuffix(r.Artifact, "/"+r.ID+"/artifacts"); standard {
		x.artifact.set(row, "+"+root)
	} else {
		x.artifact.set(row, "="+r.Artifact)
		x.size += len(r.Artifact)
	}
	if r.Deleted != 0 {
		x.deleted.add(row)
	} else {
		x.deleted.drop(row)
	}
	return row, true
}

// Metric sets the latest value of a metric.
func (x *Index) Metric(row uint32, key []byte, v float64) {
	c := x.metrics[string(key)]
	if c == nil {
		c = &numbers{}
		x.metrics[string(key)] = c
		x.size += 160 + len(key)
	}
	if c.set(row, v) {
		x.size += 12
	}
}

// Param sets a param.
func (x *Index) Param(row uint32, key, value []byte) { x.text(x.params, row, key, value) }

// Tag sets a tag as MLflow sees it. The run's name is none of them: Begin has it.
func (x *Index) Tag(row uint32, key, value []byte) { x.text(x.tags, row, key, value) }

func (x *Index) text(columns map[string]*texts, row uint32, key, value []byte) {
	c := columns[string(key)]
	if c == nil {
		c = &texts{codes: map[string]uint32{}}
		columns[string(key)] = c
		x.size += 300 + len(key)
	}
	x.size += c.set(row, value)
}

// Dataset adds a dataset that a run read.
func (x *Index) Dataset(row uint32, in *DatasetInput) {
	k := datasetKey{name: in.Dataset.Name, digest: in.Dataset.Digest}
	for _, t := range in.Tags {
		if t.Key == "mlflow.data.context" {
			k.context = t.Value
		}
	}
	x.datasets[row] = append(x.datasets[row], k)
	x.size += 100
}

// Set puts a run as it is now into the index; false as with Begin.
func (x *Index) Set(d *Detail) bool {
	row, ok := x.Begin(&d.Run)
	if !ok {
		return false
	}
	for i := range d.Metrics {
		x.Metric(row, []byte(d.Metrics[i].Key), d.Metrics[i].Value)
	}
	for k, v := range d.Params {
		x.Param(row, []byte(k), []byte(v))
	}
	d.EachTag(func(k, v string) {
		if k != TagName || d.Name == "" {
			x.Tag(row, []byte(k), []byte(v))
		}
	})
	for i := range d.Datasets {
		x.Dataset(row, &d.Datasets[i])
	}
	return true
}

// Remove takes a run out.
func (x *Index) Remove(seq int64) {
	if row, ok := x.row(seq); ok && !x.gone.has(row) {
		x.gone.add(row)
		x.left++
	}
}

// rows is a set of rows.
type rows []uint64

func (s rows) has(row uint32) bool {
	i := int(row >> 6)
	return i < len(s) && s[i]>>(row&63)&1 != 0
}

func (s *rows) add(row uint32) {
	for int(row>>6) >= len(*s) {
		*s = append(*s, 0)
	}
	(*s)[row>>6] |= 1 << (row & 63)
}

func (s rows) drop(row uint32) {
	if i := int(row >> 6); i < len(s) {
		s[i] &^= 1 << (row & 63)
	}
}

// each visits the rows in order.
func (s rows) each(visit func(row uint32)) {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			visit(uint32(i<<6 + bits.TrailingZeros64(w)))
		}
	}
}

// eachBack visits the rows, the last first.
func (s rows) eachBack(visit func(row uint32)) {
	for i := len(s) - 1; i >= 0; i-- {
		for w := s[i]; w != 0; {
			bit := 63 - bits.LeadingZeros64(w)
			w &^= 1 << bit
			visit(uint32(i<<6 + bit))
		}
	}
}

// coded is a column that every row has, of few different texts.
type coded struct {
	code  map[string]uint32
	texts []string
	rows  []uint32
}

func (c *coded) grow() { c.rows = append(c.rows, 0) }

func (c *coded) set(row uint32, s string) {
	n, ok := c.code[s]
	if !ok {
		if c.code == nil {
			c.code = map[string]uint32{}
		}
		s = strings.Clone(s)
		n = uint32(len(c.texts))
		c.texts = append(c.texts, s)
		c.code[s] = n
	}
	c.rows[row] = n
}

func (c *coded) at(row uint32) string { return c.texts[c.rows[row]] }

// numbers is a column of numbers that some rows have.
type numbers struct {
	rows   []uint32
	values []float64
}

// set tells whether the row is new to the column.
func (c *numbers) set(row uint32, v float64) bool {
	if n := len(c.rows); n == 0 || c.rows[n-1] < row {
		c.rows, c.values = append(c.rows, row), append(c.values, v)
		return true
	}
	i, ok := slices.BinarySearch(c.rows, row)
	if ok {
		c.values[i] = v
		return false
	}
	c.rows, c.values = slices.Insert(c.rows, i, row), slices.Insert(c.values, i, v)
	return true
}

// longText is the length from which on a text is not held: only how it begins.
const longText = 512

// texts is a column of texts that some rows have: numbered, as long as many are
// the same.
type texts struct {
	rows  []uint32
	codes map[string]uint32 // nil: each row has its own
	texts []string          // by code, or by place
	at    []uint32          // codes by place
	long  map[uint32]bool   // rows whose text goes on
}

// set returns by how many bytes the column has grown.
func (c *texts) set(row uint32, value []byte) (grown int) {
	if len(value) > longText {
		value = value[:longText]
		if c.long == nil {
			c.long = map[uint32]bool{}
		}
		c.long[row] = true
	} else if c.long[row] {
		delete(c.long, row)
	}
	place, ok := len(c.rows), false
	if n := len(c.rows); n > 0 && c.rows[n-1] >= row {
		place, ok = slices.BinarySearch(c.rows, row)
	}
	if !ok {
		c.rows = slices.Insert(c.rows, place, row)
		grown += 4
	}
	if c.codes == nil {
		if !ok {
			c.texts = slices.Insert(c.texts, place, "")
		}
		c.texts[place] = string(value)
		return grown + 16 + len(value)
	}
	code, known := c.codes[string(value)]
	if !known {
		code = uint32(len(c.texts))
		s := string(value)
		c.codes[s] = code
		c.texts = append(c.texts, s)
		grown += 60 + len(value)
	}
	if !ok {
		c.at = slices.Insert(c.at, place, code)
		grown += 4
	}
	c.at[place] = code
	if len(c.texts) > 1000 && 2*len(c.texts) > len(c.rows) {
		own := make([]string, len(c.rows))
		for i, code := range c.at {
			own[i] = c.texts[code]
		}
		grown -= 40 * len(c.texts)
		c.codes, c.at, c.texts = nil, nil, own
	}
	return grown
}

func (c *texts) remove(row uint32) {
	place, ok := slices.BinarySearch(c.rows, row)
	if !ok {
		return
	}
	c.rows = slices.Delete(c.rows, place, place+1)
	if c.codes == nil {
		c.texts = slices.Delete(c.texts, place, place+1)
	} else {
		c.at = slices.Delete(c.at, place, place+1)
	}
	delete(c.long, row)
}

// text is what stands at a place.
func (c *texts) text(place int) string {
	if c.codes == nil {
		return c.texts[place]
	}
	return c.texts[c.at[place]]
}
