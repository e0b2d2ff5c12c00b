package model

import (
	"slices"
	"sync"
	"time"

	"lapis/native/tensor"
)

// batcher puts requests together along the first axis. It waits for others
// only while a run is under way or others are known to come, so that a caller
// alone is not slower for it.
type batcher struct {
	model *Model
	under Runner
	size  int // rows
	delay time.Duration

	mu      sync.Mutex
	open    *batch // takes requests; nil for none
	running int
}

// batch is requests that run as one.
type batch struct {
	requests []*queued
	rows     int
	full     chan struct{} // closed when no more fit
	closed   bool
}

type queued struct {
	inputs []tensor.Tensor
	rows   int
	out    []tensor.Tensor
	err    error
	done   chan struct{}
}

// Batched returns a runner that puts requests of the model together: up to so
// many rows, waiting no longer than the delay. A model whose tensors do not all
// begin with an open axis is left as it is.
func Batched(m *Model, rows int, delay time.Duration) Runner {
	for _, infos := range [][]tensor.Info{m.Inputs, m.Outputs} {
		for _, i := range infos {
			if len(i.Shape) == 0 || i.Shape[0] >= 0 {
				return m.Runner
			}
		}
	}
	return &batcher{model: m, under: m.Runner, size: rows, delay: delay}
}

func (b *batcher) Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error) {
	rows := 0
	for i := range inputs {
		if len(inputs[i].Shape) == 0 || rows != 0 && int(inputs[i].Shape[0]) != rows {
			return b.under.Run(inputs, wanted, deadline)
		}
		rows = int(inputs[i].Shape[0])
	}
	if rows == 0 || rows >= b.size {
		return b.under.Run(inputs, wanted, deadline)
	}
	q := &queued{inputs: inputs, rows: rows, done: make(chan struct{})}
	b.mu.Lock()
	if b.running == 0 && b.open == nil {
		// Nobody to wait for.
		b.running++
		b.mu.Unlock()
		defer b.ended()
		return b.under.Run(inputs, wanted, deadline)
	}
	if o := b.open; o != nil && (o.rows+rows > b.size || !alike(o.requests[0].inputs, inputs)) {
		b.close(o)
	}
	leads := b.open == nil
	if leads {
		b.open = &batch{full: make(chan struct{})}
	}
	mine := b.open
	mine.requests = append(mine.requests, q)
	if mine.rows += rows; mine.rows >= b.size {
		b.close(mine)
	}
	b.mu.Unlock()
	if leads {
		b.lead(mine)
	}
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-q.done:
	case <-late:
		return nil, ErrDeadline
	}
	if q.err != nil {
		// One that is wrong spoils it for all; each alone gets its own answer.
		if len(mine.requests) > 1 {
			return b.under.Run(inputs, wanted, deadline)
		}
		return nil, q.err
	}
	out := make([]tensor.Tensor, len(wanted))
	for i, n := range wanted {
		out[i] = q.out[n]
	}
	return out, nil
}

// close lets no more into the batch; the caller holds b.mu.
func (b *batcher) close(o *batch) {
	if !o.closed {
		o.closed = true
		close(o.full)
	}
	if b.open == o {
		b.open = nil
	}
}

func (b *batcher) ended() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
	// Whoever waits for more waits in vain when nothing else is under way.
	if b.running == 0 && b.open != nil {
		b.close(b.open)
	}
}

// lead waits until the batch is closed and runs it.
func (b *batcher) lead(o *batch) {
	t := time.NewTimer(b.delay)
	select {
	case <-o.full:
	case <-t.C:
	}
	t.Stop()
	b.mu.Lock()
	b.close(o)
	b.running++
	b.mu.Unlock()
	defer b.ended()
	// The deadlines of the requests are watched by those who wait for them.
	all, err := b.under.Run(join(o), b.model.AllOutputs(), time.Time{})
	for i := range all {
		if err == nil && (len(all[i].Shape) == 0 || int(all[i].Shape[0]) != o.rows) {
			err = &InputError{"output " + all[i].Name + " has not a row for each row of the inputs, so requests cannot be put together"}
		}
	}
	from := 0
	for _, q := range o.requests {
		q.err = err
		if err == nil {
			for i := range all {
				q.out = append(q.out, cut(&all[i], from, q.rows))
			}
		}
		from += q.rows
		close(q.done)
	}
}

// alike tells whether tensors can be put together along the first axis.
func alike(a, b []tensor.Tensor) bool {
	for i := range a {
		if a[i].Type != b[i].Type || len(a[i].Shape) != len(b[i].Shape) || !slices.Equal(a[i].Shape[1:], b[i].Shape[1:]) {
			return false
		}
	}
	return true
}

func join(o *batch) []tensor.Tensor {
	if len(o.requests) == 1 {
		return o.requests[0].inputs
	}
	out := slices.Clone(o.requests[0].inputs)
	for i := range out {
		size := 0
		for _, q := range o.requests {
			size += len(q.inputs[i].Data)
		}
		t := &out[i]
		t.Shape = slices.Clone(t.Shape)
		t.Shape[0] = int64(o.rows)
		t.Data, t.Strings = make([]byte, 0, size), nil
		for _, q := range o.requests {
			t.Data = append(t.Data, q.inputs[i].Data...)
			t.Strings = append(t.Strings, q.inputs[i].Strings...)
		}
	}
	return out
}

// cut is rows of a tensor.
func cut(t *tensor.Tensor, from, rows int) tensor.Tensor {
	c := *t
	c.Shape = slices.Clone(t.Shape)
	c.Shape[0] = int64(rows)
	each := 1
	for _, d := range t.Shape[1:] {
		each *= int(d)
	}
	if t.Type == tensor.Bytes {
		c.Strings = t.Strings[from*each : (from+rows)*each]
	} else {
		each *= t.Type.Size()
		c.Data = t.Data[from*each : (from+rows)*each]
	}
	return c
}
