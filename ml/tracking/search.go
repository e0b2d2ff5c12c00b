package tracking

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
)

// RunSearch is one page of a search of runs.
type RunSearch struct {
	Experiments []string
	Filter      string
	View        View
	Order       []string
	Limit       int
	Page        string
}

// SearchRuns finds runs. The details are shared: they must not be changed.
func (s *Service) SearchRuns(ctx context.Context, workspace string, q RunSearch) (page []*Detail, next string, err error) {
	page, _, next, err = s.find(ctx, []Source{{Workspace: workspace, Experiments: q.Experiments}}, q)
	return page, next, err
}

// find returns one page of the runs of some sources, and how many there are on
// all pages.
func (s *Service) find(ctx context.Context, sources []Source, q RunSearch) (page []*Detail, total int, next string, err error) {
	f := finding{ctx: ctx, store: s.store, view: q.View}
	if f.clauses, err = RunGrammar.Parse(q.Filter); err != nil {
		return nil, 0, "", err
	}
	if f.order, err = runOrders.orders(q.Order); err != nil {
		return nil, 0, "", err
	}
	t, err := parseToken(q.Page)
	if err != nil {
		return nil, 0, "", err
	}
	// A token tells the last run that was shown, as it was sorted then; one
	// that does not is a number of runs to leave out.
	skip := t.Offset
	if t.Last != nil && len(t.Last.Keys) == len(f.order) {
		f.after = t.Last.hit()
		skip = 0
	}
	f.keep = q.Limit + skip
	if q.Limit <= 0 {
		f.keep = 0
	}
	for _, src := range sources {
		if len(src.Runs) > 0 {
			err = f.runs(src)
		} else {
			err = f.experiments(s, src)
		}
		if err != nil {
			return nil, 0, "", err
		}
	}
	hits := f.sorted()
	hits = hits[min(skip, len(hits)):]
	if page, err = f.details(hits); err != nil {
		return nil, 0, "", err
	}
	if n := len(hits); n > 0 && f.passed-skip > n {
		next = offsetToken{Offset: t.Offset + n, After: hits[n-1].id, Last: hits[n-1].mark()}.String()
	}
	return page, f.total, next, nil
}

// finding is a search of runs under way.
type finding struct {
	ctx     context.Context
	store   Store
	view    View
	clauses []Clause
	order   []Order
	after   *hit // only what comes after it; nil = all
	keep    int  // how many of the first are kept; 0 = all

	total  int // found
	passed int // of those, after the mark
	hits   []hit
	heap   bool // hits is one: the worst of the best on top
}

// hit is a run that a search found, with what it is sorted by.
type hit struct {
	seq   int64
	id    string
	start int64
	keys  []sortValue
	run   *Detail // nil: not read yet
}

// mark is a hit in a page token.
type mark struct {
	ID    string    `json:"id"`
	Start int64     `json:"start"`
	Keys  []keyMark `json:"keys"`
}

type keyMark struct {
	Rank   int8    `json:"r,omitempty"`
	Text   string  `json:"t,omitempty"`
	Number float64 `json:"n,omitempty"`
}

// longMark bounds the texts in a page token.
const longMark = 2000

// mark is nil when a token cannot hold it.
func (h *hit) mark() *mark {
	m := &mark{h.id, h.start, []keyMark{}}
	size := 0
	for _, k := range h.keys {
		if size += len(k.text); math.IsInf(k.number, 0) {
			return nil
		}
		m.Keys = append(m.Keys, keyMark{k.rank, k.text, k.number})
	}
	if size > longMark {
		return nil
	}
	return m
}

func (m *mark) hit() *hit {
	h := &hit{id: m.ID, start: m.Start}
	for _, k := range m.Keys {
		h.keys = append(h.keys, sortValue{k.Rank, k.Text, k.Number})
	}
	return h
}

func (f *finding) compare(a, b *hit) int {
	for i, o := range f.order {
		if c := o.compare(a.keys[i], b.keys[i]); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(b.start, a.start), strings.Compare(a.id, b.id))
}

// offer takes a run that was found. Its keys are copied if it is kept.
func (f *finding) offer(h hit) {
	f.total++
	if f.after != nil && f.compare(&h, f.after) <= 0 {
		return
	}
	f.passed++
	switch {
	case f.keep == 0 || len(f.hits) < f.keep:
		h.keys = slices.Clone(h.keys)
		f.hits = append(f.hits, h)
		return
	case !f.heap:
		f.heap = true
		for i := len(f.hits)/2 - 1; i >= 0; i-- {
			f.sift(i)
		}
	}
	if f.compare(&h, &f.hits[0]) < 0 {
		h.keys = append(f.hits[0].keys[:0], h.keys...)
		f.hits[0] = h
		f.sift(0)
	}
}

func (f *finding) sift(i int) {
	for {
		worst := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(f.hits); c++ {
			if f.compare(&f.hits[c], &f.hits[worst]) > 0 {
				worst = c
			}
		}
		if worst == i {
			return
		}
		f.hits[i], f.hits[worst] = f.hits[worst], f.hits[i]
		i = worst
	}
}

func (f *finding) sorted() []hit {
	slices.SortFunc(f.hits, func(a, b hit) int { return f.compare(&a, &b) })
	return f.hits
}

// runs looks at single runs.
func (f *finding) runs(src Source) error {
	seen := map[int64]bool{}
	for _, id := range src.Runs {
		d, err := f.store.Detail(f.ctx, src.Workspace, id)
		if err != nil {
			return err
		}
		if seen[d.Seq] || !f.view.shows(d.Deleted) || !d.passes(f.clauses) {
			continue
		}
		seen[d.Seq] = true
		h := hit{seq: d.Seq, id: d.ID, start: d.Start, run: d}
		for _, o := range f.order {
			h.keys = append(h.keys, d.value(o))
		}
		f.offer(h)
	}
	return nil
}

// experiments looks through the indexes of experiments.
func (f *finding) experiments(s *Service, src Source) error {
	ids := make([]string, 0, len(src.Experiments))
	for _, id := range src.Experiments {
		id, err := s.resolve(f.ctx, src.Workspace, id)
		if err != nil {
			return err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return f.store.Index(f.ctx, src.Workspace, ids, f.index)
}

// details reads the runs of hits, in their order. One that has gone since is
// left out.
func (f *finding) details(hits []hit) ([]*Detail, error) {
	var seqs []int64
	for i := range hits {
		if hits[i].run == nil {
			seqs = append(seqs, hits[i].seq)
		}
	}
	found, err := f.store.Details(f.ctx, seqs)
	if err != nil {
		return nil, err
	}
	page := make([]*Detail, 0, len(hits))
	for i := range hits {
		d := hits[i].run
		if d == nil {
			d = found[hits[i].seq]
		}
		if d != nil {
			page = append(page, d)
		}
	}
	return page, nil
}

// index looks through the runs of one experiment.
func (f *finding) index(x *Index) error {
	found := make(rows, (len(x.seqs)+63)/64)
	for i := range found {
		w := ^uint64(0)
		if i < len(x.gone) {
			w &^= x.gone[i]
		}
		if f.view != All {
			var deleted uint64
			if i < len(x.deleted) {
				deleted = x.deleted[i]
			}
			if f.view == ActiveOnly {
				deleted = ^deleted
			}
			w &= deleted
		}
		found[i] = w
	}
	if n := len(x.seqs) % 64; n > 0 {
		found[len(found)-1] &= 1<<n - 1
	}
	for i := range f.clauses {
		var err error
		if found, err = x.filter(found, &f.clauses[i], f.read); err != nil {
			return err
		}
	}
	values := make([]func(row uint32) sortValue, len(f.order))
	for i, o := range f.order {
		values[i] = x.values(o)
	}
	keys := make([]sortValue, len(f.order))
	visit := func(row uint32) {
		for i, value := range values {
			keys[i] = value(row)
			// Most runs of many come after the worst that is kept.
			if i == 0 && f.heap && f.after == nil && f.order[0].compare(keys[0], f.hits[0].keys[0]) > 0 {
				f.total++
				f.passed++
				return
			}
		}
		f.offer(hit{seq: x.seqs[row], id: x.ids[row], start: x.starts[row], keys: keys})
	}
	if f.newestFirst() {
		found.eachBack(visit)
	} else {
		found.each(visit)
	}
	return nil
}

// newestFirst tells whether new runs come before old ones, as far as can be
// seen: then those that are kept are found early.
func (f *finding) newestFirst() bool {
	return len(f.order) == 0 || len(f.order) == 1 && f.order[0].of == attribute && f.order[0].Key == "start_time" && f.order[0].Desc
}

// read returns a run whose index does not hold enough of it.
func (f *finding) read(seq int64) (*Detail, error) {
	found, err := f.store.Details(f.ctx, []int64{seq})
	return found[seq], err
}

// filter returns those of the rows that pass a clause.
func (x *Index) filter(from rows, c *Clause, read func(seq int64) (*Detail, error)) (rows, error) {
	to := make(rows, len(from))
	text := func(of func(row uint32) string) {
		from.each(func(row uint32) {
			if c.Matches(of(row)) {
				to.add(row)
			}
		})
	}
	code := func(of *coded, shown func(string) string) {
		pass := make([]bool, len(of.texts))
		for i, s := range of.texts {
			pass[i] = c.Matches(shown(s))
		}
		from.each(func(row uint32) {
			if pass[of.rows[row]] {
				to.add(row)
			}
		})
	}
	switch c.of {
	case metric:
		if col := x.metrics[c.Key]; col != nil {
			pass := c.number()
			for i, row := range col.rows {
				var bit uint64
				if pass(col.values[i]) {
					bit = 1
				}
				to[row>>6] |= bit << (row & 63)
			}
			for i := range to {
				to[i] &= from[i]
			}
		}
		return to, nil
	case param:
		return to, x.filterTexts(from, to, c, x.params[c.Key], nil, read)
	case tag:
		if c.Key == TagName {
			return to, x.filterTexts(from, to, c, x.tags[c.Key], x.names, read)
		}
		return to, x.filterTexts(from, to, c, x.tags[c.Key], nil, read)
	case datasetOf:
		for row, list := range x.datasets {
			if from.has(row) && slices.ContainsFunc(list, func(k datasetKey) bool { return k.passes(c) }) {
				to.add(row)
			}
		}
		return to, nil
	}
	switch c.Key {
	case "start_time", "end_time":
		pass := c.number()
		from.each(func(row uint32) {
			if c.Key == "start_time" && pass(float64(x.starts[row])) || c.Key == "end_time" && x.ends[row] != 0 && pass(float64(x.ends[row])) {
				to.add(row)
			}
		})
	case "run_id":
		text(func(row uint32) string { return x.ids[row] })
	case "run_name":
		text(func(row uint32) string { return x.names[row] })
	case "status":
		code(&x.statuses, func(s string) string { return Status(s).MLflow() })
	case "user_id":
		code(&x.users, func(s string) string { return s })
	case "artifact_uri":
		text(x.uri)
	default:
		text(func(uint32) string { return "" })
	}
	return to, nil
}

// uri is a run's artefact root.
func (x *Index) uri(row uint32) string {
	s := x.artifact.at(row)
	if root, standard := strings.CutPrefix(s, "+"); standard {
		return root + "/" + x.ids[row] + "/artifacts"
	}
	return s[1:]
}

func (k *datasetKey) passes(c *Clause) bool {
	switch c.Key {
	case "name":
		return c.Matches(k.name)
	case "digest":
		return c.Matches(k.digest)
	case "context":
		return k.context != "" && c.Matches(k.context)
	}
	return false
}

// filterTexts adds to to the rows that pass a clause about a param or tag. first
// has the texts of rows that do not stand in the column; nil = no row.
func (x *Index) filterTexts(from, to rows, c *Clause, col *texts, first []string, read func(seq int64) (*Detail, error)) error {
	if col == nil {
		col = &texts{}
	}
	var pass []bool // by code
	if col.codes != nil {
		pass = make([]bool, len(col.texts))
		for i, s := range col.texts {
			pass[i] = c.matchesKey(s, true)
		}
	}
	if first != nil || c.Op == "IS NULL" {
		place := 0
		from.each(func(row uint32) {
			for place < len(col.rows) && col.rows[place] < row {
				place++
			}
			if place < len(col.rows) && col.rows[place] == row {
				return
			}
			if first != nil && first[row] != "" {
				if c.matchesKey(first[row], true) {
					to.add(row)
				}
			} else if c.matchesKey("", false) {
				to.add(row)
			}
		})
	}
	for i, row := range col.rows {
		if !from.has(row) {
			continue
		}
		ok := false
		switch {
		case col.long[row] && c.Op != "IS NULL" && c.Op != "IS NOT NULL":
			d, err := read(x.seqs[row])
			if err != nil {
				return err
			}
			ok = d != nil && d.pass(c)
		case pass != nil:
			ok = pass[col.at[i]]
		default:
			ok = c.matchesKey(col.texts[i], true)
		}
		if ok {
			to.add(row)
		}
	}
	return nil
}

// number is MatchesNumber with the comparison chosen once.
func (c *Clause) number() func(v float64) bool {
	n := c.Number
	switch c.Op {
	case ">":
		return func(v float64) bool { return v > n }
	case ">=":
		return func(v float64) bool { return v >= n }
	case "<":
		return func(v float64) bool { return v < n }
	case "<=":
		return func(v float64) bool { return v <= n }
	}
	return c.MatchesNumber
}

// values returns what rows are sorted by; it is asked for rows in order.
func (x *Index) values(o Order) func(row uint32) sortValue {
	missing := sortValue{rank: 2}
	inTexts := func(col *texts) func(row uint32) sortValue {
		if col == nil {
			return func(uint32) sortValue { return missing }
		}
		place := 0
		return func(row uint32) sortValue {
			for place < len(col.rows) && col.rows[place] < row {
				place++
			}
			if place < len(col.rows) && col.rows[place] == row {
				return sortValue{text: col.text(place)}
			}
			return missing
		}
	}
	switch o.of {
	case metric:
		col := x.metrics[o.Key]
		if col == nil {
			return func(uint32) sortValue { return missing }
		}
		if len(col.rows) == len(x.seqs) { // every row has it
			return func(row uint32) sortValue { return numberValue(col.values[row]) }
		}
		place := 0
		return func(row uint32) sortValue {
			for place < len(col.rows) && col.rows[place] < row {
				place++
			}
			if place < len(col.rows) && col.rows[place] == row {
				return numberValue(col.values[place])
			}
			return missing
		}
	case param:
		return inTexts(x.params[o.Key])
	case tag:
		in := inTexts(x.tags[o.Key])
		if o.Key != TagName {
			return in
		}
		return func(row uint32) sortValue {
			if x.names[row] != "" {
				return sortValue{text: x.names[row]}
			}
			return in(row)
		}
	}
	switch o.Key {
	case "start_time":
		return func(row uint32) sortValue { return numberValue(float64(x.starts[row])) }
	case "end_time":
		return func(row uint32) sortValue {
			if x.ends[row] == 0 {
				return missing
			}
			return numberValue(float64(x.ends[row]))
		}
	case "run_id":
		return func(row uint32) sortValue { return sortValue{text: x.ids[row]} }
	case "run_name":
		return func(row uint32) sortValue { return sortValue{text: x.names[row]} }
	case "status":
		return func(row uint32) sortValue { return sortValue{text: Status(x.statuses.at(row)).MLflow()} }
	case "user_id":
		return func(row uint32) sortValue { return sortValue{text: x.users.at(row)} }
	case "artifact_uri":
		return func(row uint32) sortValue { return sortValue{text: x.uri(row)} }
	}
	return func(uint32) sortValue { return missing }
}

func (d *Detail) passes(clauses []Clause) bool {
	for i := range clauses {
		if !d.pass(&clauses[i]) {
			return false
		}
	}
	return true
}
func (d *Detail) pass(c *Clause) bool {
	switch c.of {
	case metric:
		p, ok := d.Latest(c.Key)
		return ok && c.MatchesNumber(p.Value)
	case param:
		v, ok := d.Params[c.Key]
		return c.matchesKey(v, ok)
	case tag:
		v, ok := d.Tag(c.Key)
		return c.matchesKey(v, ok)
	case datasetOf:
		for _, in := range d.Datasets {
			switch c.Key {
			case "name":
				if c.Matches(in.Dataset.Name) {
					return true
				}
			case "digest":
				if c.Matches(in.Dataset.Digest) {
					return true
				}
			case "context":
				for _, t := range in.Tags {
					if t.Key == "mlflow.data.context" && c.Matches(t.Value) {
						return true
					}
				}
			}
		}
		return false
	}
	switch c.Key {
	case "start_time":
		return c.MatchesNumber(float64(d.Start))
	case "end_time":
		return d.End != 0 && c.MatchesNumber(float64(d.End))
	}
	v, _ := d.attribute(c.Key)
	return c.Matches(v)
}

// attribute is a string attribute of a run.
func (d *Detail) attribute(key string) (string, bool) {
	switch key {
	case "run_id":
		return d.ID, true
	case "run_name":
		return d.Name, true
	case "status":
		return d.Status.MLflow(), true
	case "user_id":
		return d.User, true
	case "artifact_uri":
		return d.Artifact, true
	}
	return "", false
}

func (d *Detail) value(o Order) sortValue {
	switch o.of {
	case metric:
		p, ok := d.Latest(o.Key)
		if !ok {
			return sortValue{rank: 2}
		}
		return numberValue(p.Value)
	case param:
		v, ok := d.Params[o.Key]
		return textValue(v, ok)
	case tag:
		v, ok := d.Tag(o.Key)
		return textValue(v, ok)
	}
	switch o.Key {
	case "start_time":
		return numberValue(float64(d.Start))
	case "end_time":
		if d.End == 0 {
			return sortValue{rank: 2}
		}
		return numberValue(float64(d.End))
	}
	return textValue(d.attribute(o.Key))
}
