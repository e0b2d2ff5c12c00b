// Package host keeps the instances of a group up (see ml/serving): it starts
// them, sees when they are ready, starts one that died again, and takes its
// orders in frames over a socket. What an instance is (a copy of the user's
// program, a runner of a native model) is a Kind.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/cage"
	"lapis/ml/serving"
)

// Kind is what the instances of a group are.
type Kind interface {
	// Prepare returns how instance n is started now. Instances are numbered
	// from 1.
	Prepare(n int) (Start, error)
}

// Start is one start of an instance.
type Start struct {
	Cmd     *exec.Cmd // without output and process attributes, which the host sets
	Network string
	Address string

	// Await returns when the instance answers, and where; an error tells why it
	// never will, and the process is killed. ctx ends with the process.
	Await func(ctx context.Context, pid int) (network, address string, err error)

	// Waiting tells why the instance does not answer yet; nil: nothing is known.
	Waiting func() string

	// After is called when the process has gone; what it returns, if anything,
	// tells better why it ended than its exit code. nil: there is nothing to do.
	After func() string
}

// FatalError is why starting an instance again cannot help. The first line
// says what is wrong.
type FatalError struct{ Reason string }

func (e *FatalError) Error() string { return e.Reason }

// Config is what a group is told at its start.
type Config struct {
	Folder string // of the sockets
	Name   string // of the group
	Count  int    // instances to begin with
	Grace  time.Duration
	Kind   Kind
	Cages  []cage.Group // that hold instances to their limits
	Memory string       // what is said of one that was killed for the memory it used
	Out    io.Writer    // what the instances print
	Err    io.Writer
}

// MaxInstances bounds a group.
const MaxInstances = 1000

// FromEnvironment reads what ml/serving says of the variables of a group.
func FromEnvironment() (Config, error) {
	cfg := Config{
		Folder: os.Getenv(serving.GroupFolder), Name: os.Getenv(serving.GroupName),
		Count: 1, Grace: 30 * time.Second, Out: os.Stdout, Err: os.Stderr,
	}
	cfg.Memory = os.Getenv(serving.GroupMemory)
	var err error
	if cfg.Cages, err = cage.FromEnvironment(); err != nil {
		return cfg, err
	}
	if !filepath.IsAbs(cfg.Folder) {
		return cfg, fmt.Errorf("%s must name a folder by its whole path, and is %q", serving.GroupFolder, cfg.Folder)
	}
	if s := os.Getenv(serving.GroupCount); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > MaxInstances {
			return cfg, fmt.Errorf("%s must be a number of instances, 0 to %d, and is %q", serving.GroupCount, MaxInstances, s)
		}
		cfg.Count = n
	}
	if s := os.Getenv(serving.GroupGrace); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return cfg, fmt.Errorf("%s must be milliseconds, and is %q", serving.GroupGrace, s)
		}
		cfg.Grace = time.Duration(n) * time.Millisecond
	}
	return cfg, nil
}

// Group is the instances and who keeps them.
type Group struct {
	cfg Config

	mu    sync.Mutex
	slots map[int]*slot
	ended bool
	wg    sync.WaitGroup
}

// slot is the place of one instance.
type slot struct {
	n    int
	stop context.CancelFunc // tells the instance to go

	mu    sync.Mutex
	state serving.GroupInstance
	why   func() string // it does not answer yet; nil: nothing is known
	again bool          // wanted once more after it was told to go
}

// New makes a group. Run runs it.
func New(cfg Config) *Group { return &Group{cfg: cfg, slots: map[int]*slot{}} }

// Run keeps the instances up until ctx ends, and then until they are gone.
func (g *Group) Run(ctx context.Context) error {
	l, err := g.listen()
	if err != nil {
		return err
	}
	serve, stop := context.WithCancel(context.Background())
	var control sync.WaitGroup
	control.Go(func() { g.serve(serve, l) })
	g.Resize(g.cfg.Count)
	<-ctx.Done()
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.resize(0)
	g.wg.Wait()
	stop()
	_ = l.Close() // what it held is freed with the process
	control.Wait()
	return nil
}

// Resize sets how many instances there are to be. They come and go by
// themselves.
func (g *Group) Resize(count int) {
	g.mu.Lock()
	ended := g.ended
	g.mu.Unlock()
	if !ended {
		g.resize(count)
	}
}

func (g *Group) resize(count int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n := 1; n <= count; n++ {
		if s := g.slots[n]; s != nil {
			s.mu.Lock()
			if s.state.State == serving.Stopping {
				s.again = true
			}
			s.mu.Unlock()
			continue
		}
		g.add(n)
	}
	for n, s := range g.slots {
		if n > count {
			s.mu.Lock()
			s.again = false
			s.set(serving.Stopping)
			s.mu.Unlock()
			s.stop()
		}
	}
}

// add opens the place of instance n; the caller holds g.mu.
func (g *Group) add(n int) {
	ctx, stop := context.WithCancel(context.Background())
	s := &slot{n: n, stop: stop}
	s.state = serving.GroupInstance{Number: n, State: serving.Starting, Since: time.Now().UTC()}
	g.slots[n] = s
	g.wg.Go(func() {
		g.keep(ctx, s)
		stop()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.slots, n)
		s.mu.Lock()
		again := s.again
		s.mu.Unlock()
		if again && !g.ended {
			g.add(n)
		}
	})
}

// State is what the group tells of itself.
func (g *Group) State() serving.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := serving.Group{Instances: []serving.GroupInstance{}}
	for n := 1; len(out.Instances) < len(g.slots); n++ {
		if s := g.slots[n]; s != nil {
			s.mu.Lock()
			state := s.state
			if state.State == serving.Starting && s.why != nil {
				state.Error = s.why()
			}
			out.Instances = append(out.Instances, state)
			s.mu.Unlock()
		}
	}
	return out
}

// set changes the state of the instance; the caller holds s.mu.
func (s *slot) set(state string) {
	if s.state.State != state {
		s.state.State, s.state.Since = state, time.Now().UTC()
	}
}

// update changes the state of an instance that was not told to go.
func (s *slot) update(change func(*serving.GroupInstance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stopping := s.state.State == serving.Stopping
	was := s.state
	change(&s.state)
	if stopping {
		s.state.State, s.state.Since = was.State, was.Since
	} else if s.state.State != was.State {
		s.state.Since = time.Now().UTC()
	}
}

// pause is how long an instance waits after its nth death in a row before it is
// started again.
func pause(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(time.Second<<min(deaths-2, 5), 30*time.Second)
}

// steady is how long an instance is Ready before its deaths are forgotten.
const steady = time.Minute

// hopeless is how often an instance dies without having been ready once before
// starting it again counts as no help.
const hopeless = 3

// keep starts the instance again and again until ctx ends.
func (g *Group) keep(ctx context.Context, s *slot) {
	deaths, never := 0, true
	for ctx.Err() == nil {
		s.update(func(i *serving.GroupInstance) { i.State, i.PID = serving.Starting, 0 })
		readyFor, err := g.once(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if readyFor > 0 {
			never = false
		}
		if readyFor >= steady {
			deaths = 0
		}
		deaths++
		var fatal *FatalError
		lost := errors.As(err, &fatal) || never && deaths >= hopeless
		s.update(func(i *serving.GroupInstance) {
			i.State, i.PID, i.Restarts, i.Error, i.Fatal = serving.Failed, 0, deaths, err.Error(), lost
		})
		fmt.Fprintf(g.cfg.Err, "Instance %d failed: %s\n", s.n, firstLine(err.Error()))
		wait := pause(deaths)
		if lost {
			wait = 30 * time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// once starts the instance and returns when it is gone: how long it was ready,
// and why it ended.
func (g *Group) once(ctx context.Context, s *slot) (time.Duration, error) {
	start, err := g.cfg.Kind.Prepare(s.n)
	if err != nil {
		return 0, err
	}
	s.update(func(i *serving.GroupInstance) { i.Network, i.Address = start.Network, start.Address })
	s.mu.Lock()
	s.why = start.Waiting
	s.mu.Unlock()
	held, err := cage.Open(g.cfg.Cages, s.n)
	if err != nil {
		fmt.Fprintf(g.cfg.Err, "Instance %d is not held to all its limits of memory and CPU: %v\n", s.n, err)
	}
	defer held.Close()
	held.Hold(start.Cmd)
	kills := held.Kills()
	p, err := launch(start.Cmd, g.cfg.Out, g.cfg.Err)
	if err != nil {
		return 0, err
	}
	s.update(func(i *serving.GroupInstance) { i.PID = p.pid })
	readyFor, err := g.follow(ctx, s, start, p)
	if start.After != nil {
		if why := start.After(); why != "" && ctx.Err() == nil {
			return readyFor, s.killed(why, readyFor, p)
		}
	}
	if held.Kills() > kills && ctx.Err() == nil {
		return readyFor, s.killed(g.cfg.Memory, readyFor, p)
	}
	return readyFor, err
}

// killed notes that the instance was killed for the memory it used. One that was
// not even ready will need as much the next time.
func (s *slot) killed(why string, readyFor time.Duration, p *process) error {
	s.update(func(i *serving.GroupInstance) { i.Killed, i.KilledAt = why, time.Now().UTC() })
	err := errors.New(why)
	if readyFor == 0 {
		err = &FatalError{why}
	}
	return withLog(err, p.tail())
}

// follow watches a process to its end.
func (g *Group) follow(ctx context.Context, s *slot, start Start, p *process) (time.Duration, error) {
	awaiting, done := context.WithCancel(ctx)
	defer done()
	type answer struct {
		network, address string
		err              error
	}
	answered := make(chan answer, 1)
	go func() {
		network, address, err := start.Await(awaiting, p.pid)
		answered <- answer{network, address, err}
	}()

	var ready time.Time
	for {
		select {
		case <-p.gone:
			done()
			reason := p.reason()
			if ready.IsZero() {
				// What the instance said of itself tells more than its exit code.
				if a := <-answered; a.err != nil && !errors.Is(a.err, context.Canceled) && !errors.Is(a.err, io.EOF) {
					reason = a.err
				}
				return 0, withLog(reason, p.tail())
			}
			return max(time.Since(ready), 1), withLog(reason, p.tail())
		case a := <-answered:
			answered = nil
			if a.err != nil {
				if ctx.Err() != nil {
					continue // it is told to go below
				}
				if errors.Is(a.err, io.EOF) {
					// It ends by itself; its exit code and log say why.
					select {
					case <-p.gone:
						return 0, withLog(p.reason(), p.tail())
					case <-time.After(10 * time.Second):
					case <-ctx.Done():
					}
				}
				p.end(g.cfg.Grace)
				return 0, withLog(a.err, p.tail())
			}
			ready = time.Now()
			s.update(func(i *serving.GroupInstance) {
				i.State, i.Network, i.Address, i.Error, i.Fatal = serving.Ready, a.network, a.address, "", false
			})
		case <-s.steady(ready):
			s.update(func(i *serving.GroupInstance) { i.Restarts = 0 })
		case <-ctx.Done():
			p.end(g.cfg.Grace)
			return 0, ctx.Err()
		}
	}
}

// steady ends when the instance has been ready for long, and has restarts to
// forget.
func (s *slot) steady(ready time.Time) <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ready.IsZero() || s.state.Restarts == 0 {
		return nil
	}
	return time.After(time.Until(ready.Add(steady)))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// withLog adds the end of the log below the reason.
func withLog(reason error, tail []string) error {
	text := reason.Error()
	if len(tail) > 0 {
		text += "\n" + strings.Join(tail, "\n")
	}
	var fatal *FatalError
	if errors.As(reason, &fatal) {
		return &FatalError{text}
	}
	return errors.New(text)
}
