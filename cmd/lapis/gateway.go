package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"lapis/edge/gateway"
	"lapis/fault"
	"lapis/ml/serving"
	"lapis/processors"
	"lapis/socket"
)

// The gateway is a process of its own: it has the port that callers of online
// endpoints use, and goes on when the server ends.

// defaultScoring is where the gateway listens if nobody says otherwise.
const defaultScoring = "localhost:7444"

// Bounds of the gateway's life.
const (
	gatewayReadyWithin = 20 * time.Second
	gatewayAlone       = 10 * time.Second // it has no deployments and no server for so long: it ends
	gatewayDrain       = 10 * time.Second // what a stop waits for requests that are under way
	gatewayAgain       = time.Second      // the longest that a dead gateway stays dead
	maxSocketPath      = 100              // bytes; the kernel's limit is 108
)

// gatewayCommand is the process itself; the server starts it.
func gatewayCommand() *cobra.Command {
	var data, listenOn string
	var inherited int
	cmd := &cobra.Command{
		Use:    "gateway",
		Short:  "Answer the callers of online endpoints; the server starts this",
		Hidden: true,
		Args:   noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := openFolder(data)
			if err != nil {
				return err
			}
			var listeners []net.Listener
			for n := range inherited {
				file := os.NewFile(uintptr(3+n), "listener")
				l, err := net.FileListener(file)
				file.Close()
				if err != nil {
					return fmt.Errorf("take over a listener: %w", err)
				}
				listeners = append(listeners, l)
			}
			return serveGateway(cmd.Context(), f, listenOn, listeners, false, func() {})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder")
	cmd.Flags().StringVar(&listenOn, "listen", defaultScoring, "address that callers use")
	cmd.Flags().IntVar(&inherited, "inherited", 0, "listeners that are open already")
	return cmd
}

// upGateway runs the gateway in the foreground, for a machine of its own or a
// service manager.
func upGateway(ctx context.Context, s settings, out io.Writer) error {
	f, err := makeFolder(s.Data)
	if err != nil {
		return err
	}
	if _, err := f.loadIdentity(); err != nil {
		return f.explain(err)
	}
	address := s.Scoring
	if address == "" {
		address = defaultScoring
		if last := f.lastScoring(); last != "" {
			address = last
		}
	}
	listeners, port, err := listen("--scoring-listen", address)
	if err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(address)
	address = net.JoinHostPort(host, port)
	return serveGateway(ctx, f, address, listeners, true, func() {
		fmt.Fprintf(out, "The gateway of online endpoints listens on %s (pid %d, data in %s).\n", address, os.Getpid(), f.dir)
	})
}

// gatewayFolder is what the gateway keeps.
func (f *folder) gatewayFolder() string { return f.path("gateway") }

// gatewaySocket is the path of the gateway's control socket: in its folder, or,
// where that path is too long for a socket, in a private folder elsewhere.
func (f *folder) gatewaySocket() string {
	if path := f.path("gateway", "control.sock"); len(path) <= maxSocketPath {
		return path
	}
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" || len(base) > maxSocketPath/2 {
		base = os.TempDir()
	}
	if len(base) > maxSocketPath/2 {
		base = "/tmp"
	}
	sum := sha256.Sum256([]byte(f.dir))
	return filepath.Join(base, fmt.Sprintf("lapis-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:8])), "control.sock")
}

// makeSocketFolder sees to a folder for the socket that is the caller's alone.
func (f *folder) makeSocketFolder() error {
	dir := filepath.Dir(f.gatewaySocket())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fault.Denied("The folder %s for the gateway's socket is not this user's alone. Remove it, or set XDG_RUNTIME_DIR.", dir)
	}
	return nil
}

const scoringFile = "listen.json"

// lastScoring is where the gateway of this folder listened last, "" if it never did.
func (f *folder) lastScoring() string {
	b, err := os.ReadFile(f.path("gateway", scoringFile))
	if err != nil {
		return ""
	}
	var kept struct{ Listen string }
	_ = json.Unmarshal(b, &kept) // one that is damaged says nothing
	return kept.Listen
}

// serveGateway is the life of a gateway: until ctx ends, it is asked to stop,
// or, unless it stays, has nothing to do.
func serveGateway(ctx context.Context, f *folder, address string, listeners []net.Listener, stays bool, ready func()) (err error) {
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	dir := f.gatewayFolder()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := lockGateway(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	file, err := openLog(f.path("logs", "gateway.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, nil))
	if len(listeners) == 0 {
		if listeners, _, err = listen("--scoring-listen", address); err != nil {
			return err
		}
	}
	b, _ := json.Marshal(struct{ Listen string }{address})
	if err := f.write(filepath.Join("gateway", scoringFile), b, 0o600); err != nil {
		return err
	}
	g, err := gateway.Open(gateway.Config{Dir: dir, Log: log})
	if err != nil {
		return f.explain(err)
	}
	defer func() { err = errors.Join(err, g.Close()) }()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := f.makeSocketFolder(); err != nil {
		return err
	}
	controlSocket := f.gatewaySocket()
	_ = os.Remove(controlSocket) // of one that was killed; we hold the lock
	control, err := net.Listen("unix", controlSocket)
	if err != nil {
		return err
	}
	if elsewhere := filepath.Dir(controlSocket); elsewhere != dir {
		defer os.Remove(elsewhere)
	}
	info := gateway.Info{Protocol: gateway.Protocol, PID: os.Getpid(), Version: version(), Listen: address}
	errorLog := stdlog.New(logWriter{log}, "", 0)
	ctl := &http.Server{Handler: g.Control(info, stop), ErrorLog: errorLog, ReadHeaderTimeout: 30 * time.Second}

	group, ctx := errgroup.WithContext(ctx)
	split := newSplitter(listeners[0].Addr(), log)
	for _, l := range listeners {
		group.Go(func() error { return split.run(ctx, socket.Listen(l)) })
	}
	serve := func() *http.Server {
		s := newHTTPServer(g, errorLog)
		s.ReadTimeout, s.WriteTimeout = 15*time.Minute, 30*time.Minute
		s.ConnContext, s.ConnState = g.ConnContext, g.ConnState
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetHTTP2(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000}
		return s
	}
	secure, plainHTTP := serve(), serve()
	pair := &keyPair{f: f}
	secure.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.certificate}
	group.Go(func() error { return unlessClosed(secure.ServeTLS(split.tls, "", "")) })
	group.Go(func() error { return unlessClosed(plainHTTP.Serve(gateway.Guard(split.http))) })
	group.Go(func() error { return unlessClosed(ctl.Serve(control)) })
	group.Go(func() error { return giveBack(ctx) })
	group.Go(func() error {
		processors.Fit(ctx, g.Looked)
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatewayDrain)
		defer cancel()
		if err := errors.Join(secure.Shutdown(last), plainHTTP.Shutdown(last)); err != nil {
			log.Warn("stop", "err", err)
			secure.Close()
			plainHTTP.Close()
		}
		return ctl.Close()
	})
	group.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if now, err := os.Stat(dir); err != nil || !lockedIn(lock, now) {
				stop()
				return nil
			}
			if since, idle := g.Idle(); idle && !stays && time.Since(since) > gatewayAlone {
				log.Info("no server and no deployments")
				stop()
				return nil
			}
		}
	})
	log.Info("ready", "pid", info.PID, "listen", address, "version", info.Version)
	ready()
	return group.Wait()
}

const gatewayLock = "lock"

// lockGateway makes this process the gateway of the folder.
func lockGateway(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, gatewayLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		return nil, fault.New(fault.Locked, "GatewayRuns", "The gateway with pid %d runs on the data folder %s already.", readPid(file), filepath.Dir(dir))
	}
	if err := errors.Join(file.Truncate(0), second(file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0))); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func second(_ int, err error) error { return err }

// lockedIn tells whether the lock that we hold is still the one in its folder.
func lockedIn(lock *os.File, dir fs.FileInfo) bool {
	ours, err := lock.Stat()
	if err != nil || !dir.IsDir() {
		return false
	}
	there, err := os.Stat(lock.Name())
	return err == nil && os.SameFile(ours, there)
}

// gatewayPid is the pid of the gateway that runs on the folder, 0 if none does.
func (f *folder) gatewayPid() (int, error) { return holder(f.path("gateway", gatewayLock)) }

// keyPair is the certificate in the data folder, which the server sees to. It
// is read again when its file has changed.
type keyPair struct {
	f *folder

	mu      sync.Mutex
	looked  time.Time
	written time.Time
	pair    *tls.Certificate
}

const certificateLook = 10 * time.Second

func (k *keyPair) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && time.Since(k.looked) < certificateLook {
		return k.pair, nil
	}
	st, err := os.Stat(k.f.path("keys", "server.crt"))
	if err != nil {
		return k.pair, err
	}
	if k.looked = time.Now(); k.pair != nil && st.ModTime().Equal(k.written) {
		return k.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(k.f.path("keys", "server.crt"), k.f.path("keys", "server.key"))
	if err != nil {
		return k.pair, err // it is being replaced: the one before still serves
	}
	k.pair, k.written = &pair, st.ModTime()
	return k.pair, nil
}

// gatewayProcess is the gateway as the server sees it: it finds one that runs
// or starts one, and starts it again when it dies.
type gatewayProcess struct {
	f      *folder
	log    *slog.Logger
	client *gateway.Client
	listen string // HOST:PORT that callers use
	moved  string // why that is not the address one would expect; "" if it is

	// The server keeps the listeners open too: while a gateway that died is
	// started again, callers wait and are not refused. Empty when it was found.
	listeners []net.Listener
}

// startGateway sees to a gateway that listens where the settings say. It may
// not be ready yet when this returns.
func startGateway(ctx context.Context, s settings, f *folder, log *slog.Logger) (*gatewayProcess, error) {
	if err := os.MkdirAll(f.gatewayFolder(), 0o700); err != nil {
		return nil, f.explain(err)
	}
	p := &gatewayProcess{f: f, log: log, client: gateway.NewClient(f.gatewaySocket())}
	wanted := s.Scoring
	if wanted != "" {
		host, port, err := net.SplitHostPort(wanted)
		if err != nil {
			return nil, fault.Invalid("--scoring-listen %q is not of the form HOST:PORT, such as %s.", wanted, defaultScoring).From(err)
		}
		if last := f.lastScoring(); port == "0" && strings.HasPrefix(last, host+":") {
			wanted = last // any port, the same each time
		}
	}
	if info, ok := p.running(ctx); ok {
		if info.Protocol == gateway.Protocol && (wanted == "" || wanted == info.Listen) {
			p.listen = info.Listen
			log.Info("gateway found", "pid", info.PID, "listen", info.Listen, "version", info.Version)
			return p, nil
		}
		log.Info("gateway is replaced", "pid", info.PID, "listen", info.Listen, "wanted", wanted)
		if err := p.stop(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.open(s.Scoring, wanted); err != nil {
		return nil, err
	}
	return p, p.spawn()
}

// open takes the port: the one that was asked for, else the last one, else the
// usual one, else any that is free.
func (p *gatewayProcess) open(asked, wanted string) error {
	address := wanted
	if asked == "" {
		if address = p.f.lastScoring(); address == "" {
			address = defaultScoring
		}
	}
	listeners, port, err := listen("--scoring-listen", address)
	host, busy, _ := net.SplitHostPort(address)
	if f := fault.Find(err); f != nil && f.Code == "PortInUse" && (asked == "" || strings.HasSuffix(asked, ":0")) {
		listeners, port, err = listen("--scoring-listen", net.JoinHostPort(host, "0"))
		p.moved = fmt.Sprintf("Port %s is in use, so online endpoints are called on port %s; --scoring-listen chooses another.", busy, port)
	}
	if err != nil {
		return err
	}
	p.listeners, p.listen = listeners, net.JoinHostPort(host, port)
	return nil
}

// spawn starts the process in a session of its own, so that it outlives us and
// the terminal.
func (p *gatewayProcess) spawn() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.f.path("logs", "gateway.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return p.f.explain(err)
	}
	defer log.Close()
	cmd := exec.Command(exe, "gateway", "--data", p.f.dir, "--listen", p.listen, "--inherited", strconv.Itoa(len(p.listeners)))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = p.f.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, l := range p.listeners {
		file, err := l.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	p.log.Info("gateway started", "pid", cmd.Process.Pid, "listen", p.listen)
	go cmd.Wait() // its end is noticed by its silence; this gives the pid back
	return nil
}

// running asks the gateway, if one is there.
func (p *gatewayProcess) running(ctx context.Context) (gateway.Info, bool) {
	pid, err := p.f.gatewayPid()
	if err != nil || pid == 0 {
		return gateway.Info{}, false
	}
	if err := p.ready(ctx); err != nil {
		return gateway.Info{PID: pid}, true
	}
	info, err := p.client.Info(ctx)
	return info, err == nil
}

// ready waits until the gateway answers.
func (p *gatewayProcess) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, gatewayReadyWithin)
	defer cancel()
	for {
		_, err := p.client.Info(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "GatewayUnavailable", "The gateway of online endpoints does not start. Its log is %s.", p.f.path("logs", "gateway.log")).From(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// run keeps a gateway up until ctx ends.
func (p *gatewayProcess) run(ctx context.Context) error {
	for wait := 10 * time.Millisecond; ; {
		began := time.Now()
		err := p.client.Watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 10*time.Second {
			wait = 10 * time.Millisecond
		}
		pid, lockErr := p.f.gatewayPid()
		if pid != 0 || lockErr != nil { // it starts, or ends
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		p.log.Warn("the gateway is gone", "err", err)
		if len(p.listeners) == 0 { // the one we found had them
			p.listeners, _, err = listen("--scoring-listen", p.listen)
			if err != nil {
				p.log.Error("listen for the gateway", "err", err)
			}
		}
		if len(p.listeners) > 0 {
			if err := p.spawn(); err != nil {
				p.log.Error("gateway", "err", err)
			} else if err := p.ready(ctx); err != nil && ctx.Err() == nil {
				p.log.Error("gateway", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, gatewayAgain)
	}
}

// Client is how the server speaks with the gateway.
func (p *gatewayProcess) Client() serving.Gateway { return p.client }

// Base is scheme://host:port of the gateway for someone who reaches the server
// at the origin: plain HTTP on this machine, TLS from elsewhere.
func (p *gatewayProcess) Base(origin string) string {
	host, port, _ := net.SplitHostPort(p.listen)
	if host == "localhost" || loopbackHost(host) {
		return "http://" + net.JoinHostPort("localhost", port)
	}
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() == "" || u.Hostname() == "localhost" || loopbackHost(u.Hostname()) {
		return "http://" + net.JoinHostPort("localhost", port)
	}
	return "https://" + net.JoinHostPort(u.Hostname(), port)
}

func loopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// leave is the server's farewell: a gateway without deployments ends with it. It
// returns how many deployments the gateway goes on with.
func (p *gatewayProcess) leave(ctx context.Context) (deployments int) {
	ctx, cancel := context.WithTimeout(ctx, gatewayDrain)
	defer cancel()
	if pid, err := p.f.gatewayPid(); pid == 0 && err == nil {
		return 0
	}
	if err := p.ready(ctx); err != nil {
		return 0
	}
	state, err := p.client.State(ctx)
	for _, e := range state.Endpoints {
		deployments += len(e.Deployments)
	}
	if err == nil && deployments == 0 {
		if err := p.stop(ctx); err != nil {
			p.log.Error("stop the gateway", "err", err)
		}
	}
	return deployments
}

// close lets go of the listeners.
func (p *gatewayProcess) Close() error {
	for _, l := range p.listeners {
		l.Close()
	}
	return nil
}

// stop ends the gateway and waits until it is gone.
func (p *gatewayProcess) stop(ctx context.Context) error { return p.f.stopGateway(ctx, p.client) }

func (f *folder) stopGateway(ctx context.Context, client *gateway.Client) error {
	pid, err := f.gatewayPid()
	if err != nil || pid == 0 {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, 2*time.Second)
	err = client.Stop(asked)
	cancel()
	if err != nil {
		// It does not answer. The lock says that this is its pid.
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fault.Denied("The gateway with pid %d cannot be stopped: %v. Stop it as the user who started it.", pid, err).From(err)
		}
	}
	for end := time.Now().Add(gatewayDrain + 10*time.Second); time.Now().Before(end); {
		now, err := f.gatewayPid()
		if err != nil || now != pid {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fault.New(fault.Unavailable, "GatewayStillRunning", "The gateway with pid %d has not stopped. Its log is %s.", pid, f.path("logs", "gateway.log"))
}
