package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/resource"
)

// Delivery is one event on its way to one webhook. In the Rows of a
// resource.Batch it is stored together with what happened.
type Delivery struct {
	ID       string // GUID, the same at each attempt
	Webhook  resource.ID
	Body     []byte
	Made     time.Time
	Attempts int       // that failed
	Next     time.Time // of the next attempt
}

// Outbox keeps deliveries until they have been made. A webhook that holds
// MaxWaiting of them, and at most a hundred more, loses the oldest.
type Outbox interface {
	// Waiting returns the webhooks that have deliveries due at that time.
	Waiting(ctx context.Context, at time.Time) ([]resource.ID, error)

	// Due returns up to limit deliveries of a webhook that are due at that
	// time, oldest first.
	Due(ctx context.Context, webhook resource.ID, at time.Time, limit int) ([]Delivery, error)

	// Delay stores when a delivery is tried next, and how often it was.
	Delay(ctx context.Context, d Delivery) error

	// Drop removes a delivery.
	Drop(ctx context.Context, d Delivery) error

	// Next is when the first of all deliveries is due; the zero time if there
	// are none.
	Next(ctx context.Context) (time.Time, error)
}

const (
	// MaxWaiting bounds the deliveries that wait for one webhook.
	MaxWaiting = 10_000

	// keepFor is how long a delivery is tried: a weekend, and some.
	keepFor = 72 * time.Hour

	// The pause after a failed attempt doubles from the first to the longest.
	firstPause, longestPause = time.Second, 10 * time.Minute

	// together bounds the webhooks that are served at once.
	together = 16

	// lookAfter bounds how long a delivery waits that nobody told of.
	lookAfter = 30 * time.Second
)

// Rows are the deliveries of an event to those who want to hear of it; they go
// into the commit that makes it happen. Wake is called after it.
func (s *Service) Rows(ctx context.Context, site ml.Site, e Event, data any) ([]any, error) {
	if s == nil {
		return nil, nil
	}
	page, err := s.Store.List(ctx, resource.Query{Type: Type, Parent: site.ID, Newest: true, Limit: maxWebhooks})
	if err != nil {
		return nil, err
	}
	var body []byte
	var rows []any
	for _, r := range page.Resources {
		w, err := of(r)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", r.ID, err)
		}
		if w.Disabled || !w.wants(e) {
			continue
		}
		if body == nil {
			if body, err = s.body(ctx, site, e, data); err != nil {
				return nil, err
			}
		}
		now := s.Now().UTC()
		rows = append(rows, Delivery{ID: resource.NewGUID(), Webhook: r.ID, Body: body, Made: now, Next: now})
	}
	return rows, nil
}

func (w *Webhook) wants(e Event) bool {
	for _, x := range w.Events {
		if x == e {
			return true
		}
	}
	return false
}

// body is what is sent of an event.
func (s *Service) body(ctx context.Context, site ml.Site, e Event, data any) ([]byte, error) {
	b := struct {
		Event
		Timestamp string `json:"timestamp"`
		Data      any    `json:"data"`
		Workspace string `json:"workspace,omitempty"`
	}{Event: e, Timestamp: s.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00"), Data: data}
	if s.Workspace != nil {
		b.Workspace = s.Workspace(ctx, site)
	}
	return json.Marshal(b)
}

// Wake makes Run look for new deliveries at once.
func (s *Service) Wake() {
	if s == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run makes deliveries until ctx ends. Those of one webhook are made one after
// the other, and a webhook that does not answer does not hold up others.
func (s *Service) Run(ctx context.Context) error {
	b := bearer{Service: s, pause: map[string]time.Time{}, busy: map[string]bool{}, slots: make(chan struct{}, together)}
	defer b.working.Wait()
	for {
		wait, err := b.pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !fault.Is(err, fault.StorageFull) && !fault.Is(err, fault.Unavailable) {
			return fmt.Errorf("webhooks: %w", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// bearer is the state of Run.
type bearer struct {
	*Service
	working sync.WaitGroup
	slots   chan struct{}

	mu    sync.Mutex
	pause map[string]time.Time // webhooks that failed, and until when they are left alone
	busy  map[string]bool      // webhooks that are being served
}

// pass starts to serve the webhooks that have something waiting, and tells how
// long to wait for the next pass.
func (b *bearer) pass(ctx context.Context) (time.Duration, error) {
	now := b.Now()
	waiting, err := b.Outbox.Waiting(ctx, now)
	if err != nil {
		return lookAfter, err
	}
	wait := lookAfter
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, until := range b.pause {
		if !until.After(now) {
			delete(b.pause, key)
		}
	}
	for _, id := range waiting {
		if until, ok := b.pause[id.Key()]; ok {
			wait = min(wait, until.Sub(now))
			continue
		}
		if b.busy[id.Key()] {
			continue
		}
		select {
		case b.slots <- struct{}{}:
		default:
			continue // one that ends wakes the next pass
		}
		b.busy[id.Key()] = true
		b.working.Go(func() {
			until := b.serve(ctx, id)
			b.mu.Lock()
			delete(b.busy, id.Key())
			if !until.IsZero() {
				b.pause[id.Key()] = until
			}
			b.mu.Unlock()
			<-b.slots
			b.Wake()
		})
	}
	next, err := b.Outbox.Next(ctx)
	if err == nil && next.After(now) {
		wait = min(wait, next.Sub(now))
	}
	return max(wait, time.Millisecond), err
}

// serve makes the deliveries of a webhook that are due. When one fails it
// returns until when the webhook is left alone.
func (b *bearer) serve(ctx context.Context, id resource.ID) (until time.Time) {
	for ctx.Err() == nil {
		due, err := b.Outbox.Due(ctx, id, b.Now(), 32)
		if err != nil {
			return b.Now().Add(firstPause)
		}
		if len(due) == 0 {
			return time.Time{}
		}
		for _, d := range due {
			pause, err := b.deliver(ctx, d)
			if ctx.Err() != nil {
				return time.Time{} // tried again at the next start
			}
			if err != nil {
				return b.Now().Add(firstPause)
			}
			if pause > 0 {
				return b.Now().Add(min(pause, time.Minute))
			}
		}
	}
	return time.Time{}
}

// deliver makes one delivery, or puts it off, and returns for how long. The
// error is of the store.
func (b *bearer) deliver(ctx context.Context, d Delivery) (pause time.Duration, err error) {
	r, err := b.Store.Get(ctx, d.Webhook)
	if fault.Is(err, fault.Missing) {
		return 0, b.Outbox.Drop(ctx, d)
	}
	if err != nil {
		return 0, err
	}
	w, err := of(r)
	if err != nil || w.Disabled {
		return 0, errors.Join(err, b.Outbox.Drop(ctx, d))
	}
	answer, err := b.send(ctx, r.ID, w.URL, d)
	if err != nil && ctx.Err() != nil {
		return 0, nil // the server stops
	}
	ctx = context.WithoutCancel(ctx) // what came of it is noted all the same
	why := ""
	switch {
	case err != nil:
		why = err.Error()
		if f := fault.Find(err); f != nil && f.Kind == fault.BadRequest {
			// The address leads where nothing may be sent.
			b.Failed(d, why)
			return 0, b.Outbox.Drop(ctx, d)
		}
	case answer.Status == 429 || answer.Status == 408 || answer.Status >= 500:
		why = "it answers " + strconv.Itoa(answer.Status)
	case answer.Status >= 300:
		b.Failed(d, "it answers "+strconv.Itoa(answer.Status))
		return 0, b.Outbox.Drop(ctx, d)
	default:
		return 0, b.Outbox.Drop(ctx, d)
	}
	if b.Now().Sub(d.Made) > keepFor {
		b.Failed(d, why)
		return 0, b.Outbox.Drop(ctx, d)
	}
	pause = min(firstPause<<min(d.Attempts, 16), longestPause)
	pause = max(pause, min(answer.RetryAfter, longestPause))
	pause += rand.N(firstPause) // those who failed together do not come back together
	d.Attempts++
	d.Next = b.Now().Add(pause)
	return pause, b.Outbox.Delay(ctx, d)
}

// send posts a delivery, signed if the webhook has a secret. The time in it is
// that of the attempt, so that receivers can refuse old messages played again.
func (s *Service) send(ctx context.Context, id resource.ID, url string, d Delivery) (Answer, error) {
	key, err := s.secret(ctx, id)
	if err != nil {
		return Answer{}, err
	}
	at := strconv.FormatInt(s.Now().Unix(), 10)
	header := map[string]string{"Content-Type": "application/json", "X-MLflow-Delivery-Id": d.ID, "X-MLflow-Timestamp": at}
	if len(key) > 0 {
		header["X-MLflow-Signature"] = sign(key, d.ID, at, d.Body)
	}
	return s.Courier.Send(ctx, Message{URL: url, Header: header, Body: d.Body})
}

// sign makes the signature that MLflow's receivers check.
func sign(key []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (s *Service) secret(ctx context.Context, id resource.ID) ([]byte, error) {
	sealed, err := s.Store.Secret(ctx, id, secretName)
	if err != nil || sealed == nil {
		return nil, err
	}
	key, err := s.Sealer.Open(id.Key(), secretName, sealed)
	if err != nil {
		return nil, fmt.Errorf("open the secret of %s: %w", id, err)
	}
	return key, nil
}
