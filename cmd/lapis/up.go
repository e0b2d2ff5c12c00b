package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"lapis/fault"
)

func upCommand() *cobra.Command {
	s := defaultSettings()
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Start the server in the foreground",
		GroupID: groupServer,
		Long: `Start the server in the foreground. The first start makes a data folder with a
local certificate authority, a subscription, a resource group, a workspace and
an administrator. Ctrl-C stops the server; jobs that run go on, and the next
start finds them.`,
		Example: `  lapis up
  lapis up --data /srv/lapis --listen localhost:8443
  lapis up --listen 0.0.0.0:7443 --url https://lapis.example.com:7443`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.Only != "" {
				if err := s.Check(); err != nil {
					return err
				}
				return upGateway(cmd.Context(), s, cmd.OutOrStdout())
			}
			return up(cmd.Context(), s, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Data, "data", s.Data, "data folder (default $LAPIS_DATA, else $XDG_DATA_HOME/lapis)")
	f.StringVar(&s.Listen, "listen", s.Listen, "address to listen on")
	f.StringVar(&s.Scoring, "scoring-listen", "", "address that online endpoints are called on (default localhost:7444, or where it was the last time)")
	f.StringVar(&s.Only, "only", "", "run this part alone: gateway")
	f.StringArrayVar(&s.URLs, "url", nil, "address the server goes by, may be repeated (default https://localhost:PORT)")
	f.IntVar(&s.Slots, "slots", s.Slots, "jobs that may run at once")
	f.IntVar(&s.Instances, "instances", s.Instances, "instances of online deployments that may run at once")
	f.IntVar(&s.TrashDays, "trash-days", s.TrashDays, "days until deleted runs and experiments are removed for good; 0: never")
	f.BoolVar(&s.PrivateWebhooks, "private-webhooks", false, "webhooks may reach private and loopback addresses")
	f.BoolVar(&s.Debug, "debug", false, "log reads too")
	return cmd
}

// How long a stop waits for requests that are under way.
const stopWithin = 10 * time.Second

// up runs the server until ctx ends.
func up(ctx context.Context, s settings, out io.Writer) (err error) {
	start := time.Now()
	if err := s.Check(); err != nil {
		return err
	}
	f, err := makeFolder(s.Data)
	if err != nil {
		return err
	}
	lock, err := f.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := f.admitVersion(); err != nil {
		return err
	}
	file, err := openLog(f.path("logs", "server.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	level := slog.LevelInfo
	if s.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level}))

	listeners, port, err := listen("--listen", s.Listen)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	v, err := newServer(ctx, s, f, port, log)
	if err != nil {
		return f.explain(err)
	}
	defer v.close()
	if err := v.scoring.ready(ctx); err != nil {
		return err
	}
	if err := v.keepPort(ctx); err != nil {
		return err
	}

	info := serverInfo{URL: v.origins.Default(), URLs: s.URLs, Plain: v.plainURL(), Port: port, Pid: os.Getpid(), Version: version(), Started: start.UTC()}
	if err := f.writeServer(info); err != nil {
		return err
	}
	defer func() {
		info.Pid = 0
		err = errors.Join(err, f.writeServer(info))
	}()
	log.Info("ready", "url", info.URL, "pid", info.Pid, "version", info.Version, "took", time.Since(start))
	fmt.Fprintf(out, "Lapis is ready at %s after %.1f s (pid %d, data in %s).\n", info.URL, time.Since(start).Seconds(), info.Pid, f.dir)
	if v.scoring.moved != "" {
		fmt.Fprintln(out, v.scoring.moved)
	}
	fmt.Fprintf(out, "  Clients:  eval \"$(lapis connect%s)\"\n  Stop:     Ctrl-C; jobs that run go on\n", dataFlag(s))

	err = v.run(ctx, listeners)

	// The store is still open: say what goes on without us.
	if n := v.scoring.leave(context.WithoutCancel(ctx)); n > 0 {
		fmt.Fprintf(out, "%s, answered on %s; `lapis down%s` stops them.\n", deploymentsGoOn(n), v.scoring.listen, dataFlag(s))
	}
	n, countErr := v.openJobs(context.WithoutCancel(ctx))
	switch {
	case countErr != nil:
		log.Error("count open jobs", "err", countErr)
	case n > 0:
		fmt.Fprintf(out, "Stopped. %s; `lapis up%s` finds them again, `lapis down --jobs` would have canceled them.\n", jobsGoOn(n), dataFlag(s))
	default:
		fmt.Fprintln(out, "Stopped. No job is running.")
	}
	log.Info("stopped", "jobs", n, "err", err)
	return err
}

func jobsGoOn(n int) string {
	if n == 1 {
		return "1 job goes on"
	}
	return fmt.Sprintf("%d jobs go on", n)
}

func deploymentsGoOn(n int) string {
	if n == 1 {
		return "1 deployment goes on"
	}
	return fmt.Sprintf("%d deployments go on", n)
}

func dataFlag(s settings) string {
	if s.Data == "" {
		return ""
	}
	return " --data " + quote(s.Data)
}

// keepPort refuses a port other than the last while jobs run: they have the
// old one in their environment.
func (v *server) keepPort(ctx context.Context) error {
	last, err := v.folder.readServer()
	if err != nil || last.Port == "" || last.Port == v.port {
		return nil
	}
	n, err := v.openJobs(ctx)
	if err != nil || n == 0 {
		return err
	}
	return fault.Conflicts("%s that knows the server on port %s. Start it there (--listen localhost:%s), or wait until they have ended.", jobsGoOn(n), last.Port, last.Port)
}

// run serves until ctx ends or a part fails, then stops them all.
func (v *server) run(ctx context.Context, listeners []net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	split := newSplitter(listeners[0].Addr(), v.log)
	for _, l := range listeners {
		group.Go(func() error { return split.run(ctx, l) })
	}

	errorLog := stdlog.New(logWriter{v.log}, "", 0)
	secure := newHTTPServer(v.handler, errorLog)
	secure.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: v.authority.certificate}
	plainHTTP := newHTTPServer(v.handler, errorLog)
	group.Go(func() error { return unlessClosed(secure.ServeTLS(split.tls, "", "")) })
	group.Go(func() error { return unlessClosed(plainHTTP.Serve(split.http)) })
	group.Go(func() error {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err := errors.Join(secure.Shutdown(last), plainHTTP.Shutdown(last))
		if err != nil { // someone still reads a long reply
			v.log.Warn("stop", "err", err)
			secure.Close()
			plainHTTP.Close()
		}
		return nil
	})
	for _, l := range v.loops {
		group.Go(func() error {
			err := l.run(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			return fmt.Errorf("%s: %w", l.name, err)
		})
	}
	return group.Wait()
}

func newHTTPServer(h http.Handler, errorLog *stdlog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          errorLog,
	}
}

func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// logWriter takes what net/http has to say: failed handshakes, mostly.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug("http", "message", string(b))
	return len(b), nil
}
