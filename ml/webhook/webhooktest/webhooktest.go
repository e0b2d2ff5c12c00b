// Package webhooktest is the suite that every webhook.Outbox passes.
package webhooktest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"lapis/ml/webhook"
	"lapis/resource"
)

// Subject is a fresh, empty outbox. Add stores deliveries in one commit, or
// none of them if fail. Reopen closes it and opens it again, as a restart of the
// server does.
type Subject struct {
	Outbox webhook.Outbox
	Add    func(ctx context.Context, fail bool, deliveries ...webhook.Delivery) error
	Reopen func() webhook.Outbox
}

// Run tests the outboxes that make makes.
func Run(t *testing.T, make func(t *testing.T) *Subject) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s *Subject)
	}{
		{"deliveries come back as they were stored, oldest first, also after a restart", comesBack},
		{"a commit that fails stores no delivery", wholeCommits},
		{"what is put off is due later and not before", delays},
		{"what is dropped is gone, and nothing else", drops},
		{"a webhook that has too many loses the oldest", bounded},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { c.test(t, make(t)) })
	}
}

var start = time.UnixMilli(1_750_000_000_000)

func hook(t testing.TB, n int) resource.ID {
	t.Helper()
	id, err := resource.ParseID(fmt.Sprintf("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/a/webhooks/00000000-0000-4000-8000-00000000000%d", n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func delivery(t testing.TB, n int, name string) webhook.Delivery {
	return webhook.Delivery{ID: name, Webhook: hook(t, n), Body: []byte(`{"n":"` + name + `"}`), Made: start, Next: start}
}

func add(t testing.TB, s *Subject, deliveries ...webhook.Delivery) {
	t.Helper()
	if err := s.Add(t.Context(), false, deliveries...); err != nil {
		t.Fatal(err)
	}
}

func due(t testing.TB, o webhook.Outbox, n int, at time.Time) string {
	t.Helper()
	list, err := o.Due(t.Context(), hook(t, n), at, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range list {
		all = append(all, d.ID)
	}
	return strings.Join(all, " ")
}

func comesBack(t *testing.T, s *Subject) {
	want := delivery(t, 1, "a")
	want.Attempts = 3
	add(t, s, want, delivery(t, 2, "x"))
	add(t, s, delivery(t, 1, "b"))
	for _, o := range []webhook.Outbox{s.Outbox, nil} {
		if o == nil {
			o = s.Reopen()
		}
		list, err := o.Due(t.Context(), hook(t, 1), start, 1)
		if err != nil || len(list) != 1 {
			t.Fatal(err, len(list))
		}
		got := list[0]
		if got.ID != "a" || !got.Webhook.Same(want.Webhook) || string(got.Body) != string(want.Body) || got.Attempts != 3 || !got.Made.Equal(start) || !got.Next.Equal(start) {
			t.Errorf("stored %+v\nread   %+v", want, got)
		}
		if got := due(t, o, 1, start); got != "a b" {
			t.Errorf("due are %s", got)
		}
		waiting, err := o.Waiting(t.Context(), start)
		if err != nil || len(waiting) != 2 {
			t.Errorf("%v: %v wait", err, waiting)
		}
	}
}

func wholeCommits(t *testing.T, s *Subject) {
	if err := s.Add(t.Context(), true, delivery(t, 1, "a")); err == nil {
		t.Fatal("the commit went through")
	}
	if got := due(t, s.Outbox, 1, start); got != "" {
		t.Errorf("due are %s", got)
	}
	if next, err := s.Outbox.Next(t.Context()); err != nil || !next.IsZero() {
		t.Errorf("%v: the next is due at %v", err, next)
	}
}

func delays(t *testing.T, s *Subject) {
	a := delivery(t, 1, "a")
	add(t, s, a, delivery(t, 1, "b"), delivery(t, 2, "c"))
	later := start.Add(time.Minute)
	a.Next, a.Attempts = later, 1
	if err := s.Outbox.Delay(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := due(t, s.Outbox, 1, later.Add(-time.Millisecond)); got != "b" {
		t.Errorf("due are %s", got)
	}
	if got := due(t, s.Outbox, 1, later); got != "a b" {
		t.Errorf("later, due are %s", got)
	}
	if next, err := s.Outbox.Next(t.Context()); err != nil || !next.Equal(start) {
		t.Errorf("%v: the next is due at %v", err, next)
	}
	if err := s.Outbox.Drop(t.Context(), delivery(t, 1, "b")); err != nil {
		t.Fatal(err)
	}
	if waiting, err := s.Outbox.Waiting(t.Context(), start); err != nil || len(waiting) != 1 || !waiting[0].Same(hook(t, 2)) {
		t.Errorf("%v: %v wait", err, waiting)
	}
}

func drops(t *testing.T, s *Subject) {
	add(t, s, delivery(t, 1, "a"), delivery(t, 1, "b"), delivery(t, 2, "a"))
	for range 2 {
		if err := s.Outbox.Drop(t.Context(), delivery(t, 1, "a")); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := due(t, s.Outbox, 1, start), due(t, s.Outbox, 2, start); a != "b" || b != "a" {
		t.Errorf("left are %q and %q", a, b)
	}
}

func bounded(t *testing.T, s *Subject) {
	add(t, s, delivery(t, 2, "other"))
	var all []webhook.Delivery
	for i := range webhook.MaxWaiting + 200 {
		all = append(all, delivery(t, 1, fmt.Sprint(i)))
	}
	add(t, s, all...)
	list, err := s.Outbox.Due(t.Context(), hook(t, 1), start, webhook.MaxWaiting+1000)
	if err != nil || len(list) < webhook.MaxWaiting || len(list) > webhook.MaxWaiting+100 || list[len(list)-1].ID != all[len(all)-1].ID {
		t.Errorf("%v: %d wait, the last is %s", err, len(list), list[len(list)-1].ID)
	}
	if got := due(t, s.Outbox, 2, start); got != "other" {
		t.Errorf("the other one has %q", got)
	}
}
