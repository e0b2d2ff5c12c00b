package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lapis/backend/pyenv"
	"lapis/fault"
)

func doctorCommand() *cobra.Command {
	var data, listenOn, output string
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Look at what a server and its clients need, and say the remedy",
		GroupID: groupServer,
		Example: `  lapis doctor
  lapis doctor -o json`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fault.Invalid("--output %q is not known; take table or json.", output)
			}
			findings, err := examine(cmd.Context(), data, listenOn)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), output, findings)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder of the server")
	cmd.Flags().StringVar(&listenOn, "listen", defaultSettings().Listen, "address the server is to listen on, if none runs")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// finding is what one look showed. A remedy stands by all that is not fine.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

const (
	fine    = "ok"
	warning = "warning" // something will be missing or slow
	failing = "failed"  // it will not work
)

// examine looks at everything at once: some looks start programs.
func examine(ctx context.Context, data, address string) ([]finding, error) {
	dir, err := folderPath(data)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	one := func(look func(context.Context, *folder) finding) func(context.Context, *folder) []finding {
		return func(ctx context.Context, f *folder) []finding { return []finding{look(ctx, f)} }
	}
	looks := []func(context.Context, *folder) []finding{
		one(lookAtFolder),
		one(lookAtDisk),
		one(func(ctx context.Context, f *folder) finding { return lookAtServer(ctx, f, address) }),
		one(lookAtAuthority),
		one(lookAtClock),
		one(lookAtShell),
		one(lookAtLoopback),
		one(lookAtBash),
		lookAtTools,
		one(lookAtMemory),
		one(lookAtFiles),
	}
	parts := make([][]finding, len(looks))
	var all sync.WaitGroup
	for i, look := range looks {
		all.Go(func() { parts[i] = look(ctx, f) })
	}
	all.Wait()
	return slices.Concat(parts...), nil
}

func report(out io.Writer, format string, findings []finding) error {
	bad := 0
	for _, f := range findings {
		if f.Status == failing {
			bad++
		}
	}
	if format == "json" {
		b, _ := json.MarshalIndent(findings, "", "  ")
		fmt.Fprintf(out, "%s\n", b)
	} else {
		for _, f := range findings {
			fmt.Fprintf(out, "%-8s %-12s %s\n", f.Status, f.Check, f.Found)
			if f.Remedy != "" {
				fmt.Fprintf(out, "%-8s %-12s → %s\n", "", "", f.Remedy)
			}
		}
	}
	if bad > 0 {
		return fault.Conflicts("%d of %d checks failed.", bad, len(findings))
	}
	return nil
}

func lookAtFolder(_ context.Context, f *folder) finding {
	r := finding{Check: "data folder", Status: fine, Found: f.dir}
	info, err := os.Stat(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		r.Found += ", not made yet"
		for dir := filepath.Dir(f.dir); ; dir = filepath.Dir(dir) { // the nearest that is there
			if _, err := os.Stat(dir); err == nil {
				if syscall.Access(dir, 2 /* W_OK */) != nil {
					r.Status, r.Remedy = failing, "You may not write in "+dir+": name another folder with --data."
				}
				return r
			}
			if dir == filepath.Dir(dir) {
				return r
			}
		}
	}
	switch {
	case err != nil:
		r.Status, r.Found, r.Remedy = failing, err.Error(), "Run this as the owner of the folder, or name another with --data."
	case !info.IsDir():
		r.Status, r.Remedy = failing, "It is a file. Name a folder with --data."
	case syscall.Access(f.dir, 2) != nil:
		r.Status, r.Remedy = failing, "You may not write there. Run this as the owner of the folder, or name another with --data."
	default:
		if _, err := os.Stat(f.path("keys")); errors.Is(err, fs.ErrNotExist) {
			r.Found += ", not used yet"
			return r
		}
		if err := f.private(); err != nil {
			r.Status, r.Remedy = failing, err.Error()
		} else if b, err := os.ReadFile(f.path("version")); err == nil && strings.TrimSpace(string(b)) != fmt.Sprint(layoutVersion) {
			r.Status, r.Remedy = failing, "It was written by another version of lapis: use that one, or name another folder with --data."
		}
	}
	return r
}

const (
	diskLow   = 5 << 30   // bytes: an environment with a large framework takes as much
	diskEmpty = 200 << 20 // bytes
	inodesLow = 100_000   // an environment has tens of thousands of files
)

func lookAtDisk(_ context.Context, f *folder) finding {
	r := finding{Check: "disk", Status: fine}
	dir := f.dir
	var st syscall.Statfs_t
	for syscall.Statfs(dir, &st) != nil {
		if dir == filepath.Dir(dir) {
			r.Status, r.Found, r.Remedy = warning, "cannot be measured", "Look with: df -h "+quote(f.dir)
			return r
		}
		dir = filepath.Dir(dir)
	}
	free := st.Bavail * uint64(st.Bsize)
	r.Found = fmt.Sprintf("%.1f GB free", float64(free)/1e9)
	switch {
	case free < diskEmpty:
		r.Status, r.Remedy = failing, "Make room, or take a data folder on a larger disk with --data."
	case free < diskLow:
		r.Status, r.Remedy = warning, "Environments may not fit. Make room, or take a data folder on a larger disk with --data."
	case st.Files > 0 && st.Ffree < inodesLow:
		r.Status, r.Found, r.Remedy = warning, r.Found+fmt.Sprintf(", %d inodes", st.Ffree), "Environments have many files: take a file system with more inodes."
	}
	return r
}

func lookAtServer(ctx context.Context, f *folder, address string) finding {
	r := finding{Check: "server", Status: fine}
	pid, err := f.serverPid()
	if err != nil {
		r.Status, r.Found, r.Remedy = failing, err.Error(), "Run this as the owner of the data folder."
		return r
	}
	info, infoErr := f.readServer()
	if pid == 0 {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			r.Status, r.Found, r.Remedy = failing, "--listen "+address, "Give it the form HOST:PORT."
			return r
		}
		listeners, _, err := listen("--listen", address)
		for _, l := range listeners {
			l.Close()
		}
		if err != nil {
			r.Status, r.Found, r.Remedy = failing, "not running, and cannot listen on "+address, err.Error()
			return r
		}
		r.Found = "not running; port " + port + " is free"
		return r
	}
	if infoErr != nil {
		r.Status, r.Found, r.Remedy = warning, fmt.Sprintf("pid %d, not ready", pid), "Wait a moment; its log is "+f.path("logs", "server.log")
		return r
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, info.Plain+"/healthz", nil)
	if err != nil {
		r.Status, r.Found, r.Remedy = failing, err.Error(), "Start the server anew: its server.json is damaged."
		return r
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		r.Status, r.Found, r.Remedy = failing, fmt.Sprintf("pid %d does not answer at %s", pid, info.Plain), "Look into "+f.path("logs", "server.log")+", and start it anew: `lapis down`, `lapis up`."
		return r
	}
	resp.Body.Close()
	r.Found = fmt.Sprintf("pid %d answers at %s in %d ms", pid, info.URL, time.Since(start).Milliseconds())
	if resp.StatusCode != http.StatusOK {
		r.Status, r.Remedy = failing, fmt.Sprintf("It says %s. Look into %s.", resp.Status, f.path("logs", "server.log"))
	}
	return r
}

func lookAtAuthority(_ context.Context, f *folder) finding {
	r := finding{Check: "certificates", Status: fine}
	read := func(name string) (*x509.Certificate, error) {
		b, err := os.ReadFile(f.path("keys", name))
		if err != nil {
			return nil, err
		}
		return parseCertificate(b)
	}
	ca, err := read("ca.crt")
	if errors.Is(err, fs.ErrNotExist) {
		r.Found = "made at the first start"
		return r
	}
	if err == nil {
		var server *x509.Certificate
		if server, err = read("server.crt"); err == nil {
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			_, err = server.Verify(x509.VerifyOptions{Roots: roots})
			r.Found = fmt.Sprintf("authority until %s, server until %s for %s", ca.NotAfter.Format(time.DateOnly), server.NotAfter.Format(time.DateOnly),
				strings.Join(append(slices.Clone(server.DNSNames), texts(server.IPAddresses)...), ", "))
		}
	}
	if err != nil {
		r.Status, r.Found, r.Remedy = failing, err.Error(), "Start the server anew: it makes a new certificate. If keys/ca.* are damaged, remove both and connect again."
	}
	return r
}

func texts(ips []net.IP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

// lookAtClock compares the clock with what it showed before: tokens and
// certificates stop working when it is set back.
func lookAtClock(_ context.Context, f *folder) finding {
	now := time.Now()
	r := finding{Check: "clock", Status: fine, Found: now.Format(time.RFC3339)}
	for _, name := range []string{"server.json", "logs/server.log", "keys/server.crt"} {
		info, err := os.Stat(f.path(name))
		if err == nil && info.ModTime().After(now.Add(5*time.Minute)) {
			r.Status, r.Found = failing, r.Found+fmt.Sprintf(", but %s was written %s later", name, info.ModTime().Sub(now).Round(time.Second))
			r.Remedy = "Set the clock right; tokens are good for 5 minutes' difference, no more."
			return r
		}
	}
	if now.Year() < 2024 {
		r.Status, r.Remedy = failing, "Set the clock right: certificates will not be taken."
	}
	return r
}

// lookAtShell tells whether clients that are started here find the server.
func lookAtShell(_ context.Context, f *folder) finding {
	r := finding{Check: "this shell", Status: fine}
	bundle := os.Getenv("REQUESTS_CA_BUNDLE")
	if os.Getenv(connectedName) == "" {
		r.Status, r.Found, r.Remedy = warning, "not connected", `eval "$(lapis connect)"`
		return r
	}
	info, err := f.readServer()
	url := os.Getenv("ARM_CLOUD_METADATA_URL")
	r.Found = "connected to " + strings.TrimSuffix(url, "/metadata/endpoints?api-version=2019-05-01")
	if err == nil && !slices.ContainsFunc(append(info.URLs, info.URL), func(u string) bool {
		return strings.HasPrefix(url, strings.TrimSuffix(u, "/")+"/")
	}) {
		r.Status, r.Remedy = warning, `The server of this data folder is `+info.URL+`: eval "$(lapis connect)"`
		return r
	}
	trusted, err := os.ReadFile(bundle)
	ours, caErr := os.ReadFile(f.path("keys", "ca.crt"))
	if err != nil || caErr == nil && !strings.Contains(string(trusted), strings.TrimSpace(string(ours))) {
		r.Status, r.Found, r.Remedy = failing, r.Found+", but REQUESTS_CA_BUNDLE does not hold its authority", `eval "$(lapis connect)"`
	}
	return r
}

func lookAtLoopback(ctx context.Context, _ *folder) finding {
	r := finding{Check: "localhost", Status: fine}
	addresses, err := net.DefaultResolver.LookupHost(ctx, "localhost")
	r.Found = strings.Join(addresses, ", ")
	if err != nil || !slices.ContainsFunc(addresses, func(a string) bool { return net.ParseIP(a).IsLoopback() }) {
		r.Status, r.Found, r.Remedy = failing, "does not mean this machine", "Have `127.0.0.1 localhost` in /etc/hosts."
	}
	return r
}

func lookAtBash(_ context.Context, _ *folder) finding {
	path, err := exec.LookPath("bash")
	if err != nil {
		return finding{"bash", failing, "not on PATH", "Jobs are run by bash: install it."}
	}
	return finding{"bash", fine, path, ""}
}

// lookAtTools tells what environments can be built with: Python and uv.
func lookAtTools(ctx context.Context, f *folder) []finding {
	tools := pyenv.Inspect(ctx, pythonConfig(f))
	python := finding{Check: "Python", Status: fine, Found: strings.Join(tools.Pythons, ", ")}
	uv := finding{Check: "uv", Status: fine, Found: tools.UVVersion + " (" + tools.UV + ")"}
	if tools.UV == "" {
		uv.Status, uv.Found, uv.Remedy = warning, "none found", "Environments are built much faster with it: pip install uv"
	} else if tools.UVVersion == "" {
		uv.Status, uv.Found, uv.Remedy = warning, tools.UV+" does not run", "Install it anew: pip install --force-reinstall uv"
	}
	switch {
	case len(tools.Pythons) == 0:
		python.Status, python.Found, python.Remedy = failing, "none found", "Install Python 3.10 or later: apt install python3 python3-venv"
	case tools.Default == "":
		python.Status, python.Remedy = warning, "None of them is good for jobs that name no environment: install Python 3.10 or later."
	}
	return []finding{python, uv}
}

// lookAtMemory tells whether a job's memory can be limited, by making a control
// group as a job would.
func lookAtMemory(_ context.Context, _ *folder) finding {
	r := finding{Check: "memory limit", Status: warning}
	const root = "/sys/fs/cgroup"
	const remedy = "Jobs run without a hard limit of memory. Start the server as root, or by the systemd unit with Delegate=yes."
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		r.Found, r.Remedy = "the kernel has no control groups", "Jobs run without a hard limit of memory."
		return r
	}
	unified := false
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		unified = true
	}
	var parents []string
	for line := range strings.Lines(string(own)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if unified && fields[1] == "" {
			for dir := fields[2]; ; dir = filepath.Dir(dir) {
				shared, _ := os.ReadFile(filepath.Join(root, dir, "cgroup.subtree_control"))
				if slices.Contains(strings.Fields(string(shared)), "memory") {
					parents = append(parents, filepath.Join(root, dir))
				}
				if dir == "/" || dir == "." {
					break
				}
			}
		}
		if !unified && slices.Contains(strings.Split(fields[1], ","), "memory") {
			parents = append(parents, filepath.Join(root, "memory", fields[2]), filepath.Join(root, "memory"))
		}
	}
	for _, parent := range parents {
		dir, err := os.MkdirTemp(parent, "lapis-doctor-")
		if err != nil {
			continue
		}
		defer os.Remove(dir)
		for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				r.Status, r.Found = fine, "hard, by control groups"
				return r
			}
		}
	}
	r.Found, r.Remedy = "no control group can be made", remedy
	return r
}

const filesWanted = 4096

func lookAtFiles(_ context.Context, _ *folder) finding {
	r := finding{Check: "open files", Status: fine}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		r.Status, r.Found, r.Remedy = warning, err.Error(), "Look with: ulimit -n"
		return r
	}
	r.Found = fmt.Sprintf("up to %d", limit.Max)
	if limit.Max < filesWanted {
		r.Status, r.Remedy = warning, fmt.Sprintf("Many clients at once need more: ulimit -n %d", filesWanted)
	}
	return r
}
