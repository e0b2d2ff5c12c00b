// Command serving puts the same load on Lapis and on the servers that people
// serve models with today, one after the other, and writes what they did as a
// table.
//
//	go run ./bench/serving -lapis bin/lapis -python .tools/serving/bin/python -mlserver .tools/mlserver/bin/mlserver -write docs/benchmarks.md
//
// All serve one forest of 100 trees, trained once: Lapis its ONNX form in its
// native runtime, and the same scikit-learn file as the others under its Python
// driver. The load comes from this process, on connections that are kept where
// the server keeps them; peers have their defaults, and as many workers as is said.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lapis/bench/report"
)

//go:embed peers
var peers embed.FS

// bench is a run of all measures.
type bench struct {
	lapis, python, mlserver, nginx string
	folder                         string        // of everything that is written
	forest                         string        // folder with the forest in all its forms
	each                           time.Duration // how long a load lasts
	overload                       time.Duration
	only                           string
	rows                           []*row
	missing                        []missed
	facts                          []string
}

// row is one measure of several servers, in the order of their first mention.
type row struct {
	load, unit string
	less       bool // the smaller the better
	cells      []cell
}

type cell struct {
	server string
	value  float64
	note   string
}

// missed is a figure that a server has not given, and why. The load of one that
// did not answer at all is the beginning of those it was for.
type missed struct{ server, load, why string }

func (b *bench) add(load, unit string, less bool, server string, value float64, note string) {
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.load == load })
	if i < 0 {
		i = len(b.rows)
		b.rows = append(b.rows, &row{load: load, unit: unit, less: less})
	}
	r := b.rows[i]
	r.cells = append(r.cells, cell{server, value, note})
	log.Printf("%-22s %-58s %10.4g %s  %s%s", server, load, value, unit, note, r.ratio(r.cells[len(r.cells)-1]))
}

// ratio is how many times Lapis is better than a cell's server, in brackets; ""
// where there is nothing to compare.
func (r *row) ratio(c cell) string {
	own := slices.IndexFunc(r.cells, func(c cell) bool { return c.server == ours })
	if own < 0 || c.server == ours || c.value <= 0 || r.cells[own].value <= 0 {
		return ""
	}
	ratio := r.cells[own].value / c.value
	if r.less {
		ratio = 1 / ratio
	}
	return fmt.Sprintf(" (%.3g×)", ratio)
}

// miss notes that a server has no figure for a load.
func (b *bench) miss(server, load string, err error) {
	log.Printf("%-22s %-58s          – %.600v", server, load, err)
	b.missing = append(b.missing, missed{server, load, fmt.Sprintf("%.300s", strings.Join(strings.Fields(err.Error()), " "))})
}

// why is the number, from 1, of the reason for which a server has no figure for
// a row; 0 if it was not asked.
func (b *bench) why(server, load string) int {
	return 1 + slices.IndexFunc(b.missing, func(m missed) bool { return m.server == server && strings.HasPrefix(load, m.load) })
}

const ours = "Lapis"

func main() {
	log.SetFlags(0)
	b := &bench{}
	flag.StringVar(&b.lapis, "lapis", "bin/lapis", "the lapis binary")
	flag.StringVar(&b.python, "python", "", "a Python with azureml-inference-server-http, mlflow, flask, gunicorn and skl2onnx")
	flag.StringVar(&b.mlserver, "mlserver", "", "the mlserver command; \"\" leaves it out")
	flag.StringVar(&b.nginx, "nginx", "", "the nginx command; \"\" leaves it out")
	flag.DurationVar(&b.each, "for", 5*time.Second, "how long each load lasts")
	flag.DurationVar(&b.overload, "overload", time.Minute, "how long the overload lasts")
	flag.StringVar(&b.only, "only", "", "the measures to take, by a word of their names: forest, noop, mlflow, proxy, live, scale, overload")
	short := flag.Bool("quick", false, "two seconds for each load, ten for the overload")
	write := flag.String("write", "", "file whose serving section to replace")
	upstream := flag.String("upstream", "", "be a web server that says the same to all, on this port")
	flag.Parse()
	if *upstream != "" {
		log.Fatal(serveFixed(*upstream))
	}
	if *short {
		b.each, b.overload = 2*time.Second, 10*time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := b.run(ctx)
	text := b.table()
	fmt.Print("\n", text) // of a run that did not come to its end, what it has
	if err != nil {
		stop()
		log.Fatal(err)
	}
	if *write != "" {
		if err := report.Write(*write, "serving", text); err != nil {
			log.Fatal(err)
		}
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	for _, path := range []*string{&b.lapis, &b.python, &b.mlserver, &b.nginx} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err = os.Stat(*path); err != nil {
			return err
		}
	}
	if b.folder, err = os.MkdirTemp("", "bench-serving-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.folder) }()
	code, err := fs.Sub(peers, "peers")
	if err == nil {
		err = os.CopyFS(filepath.Join(b.folder, "peers"), code)
	}
	if err != nil {
		return err
	}
	b.forest = filepath.Join(b.folder, "models")
	if _, err := exec.CommandContext(ctx, b.python, b.code("train.py"), b.forest).Output(); err != nil {
		return fmt.Errorf("train the forest: %w", withOutput(err))
	}

	l, err := startLapis(ctx, b.lapis, filepath.Join(b.folder, "lapis"))
	if err != nil {
		return err
	}
	defer l.stop()
	if err := b.conda(ctx, l); err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		take func(context.Context, *lapis)
	}{
		{"forest", b.takeForest}, {"noop", b.takeNoop}, {"mlflow", b.takeMLflow}, {"proxy", b.takeProxy},
		{"live", b.takeLive}, {"scale", b.takeScale}, {"overload", b.takeOverload},
	} {
		if b.only != "" && !slices.Contains(strings.Split(b.only, ","), m.name) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.take(ctx, l)
	}
	return ctx.Err()
}

func withOutput(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}

// conda writes the conda file of the Python deployments: the versions that the
// forest was trained with.
func (b *bench) conda(ctx context.Context, l *lapis) error {
	show := "import sys, sklearn, joblib, numpy, onnxruntime; print('.'.join(map(str, sys.version_info[:2])), *(f'{m.__name__ if m is not sklearn else \"scikit-learn\"}=={m.__version__}' for m in (sklearn, joblib, numpy, onnxruntime)))"
	out, err := exec.CommandContext(ctx, b.python, "-c", show).Output()
	if err != nil {
		return fmt.Errorf("the versions of %s: %w", b.python, withOutput(err))
	}
	words := strings.Fields(string(out))
	text := fmt.Sprintf("name: forest\ndependencies:\n  - python=%s\n  - pip\n  - pip:\n      - %s\n", words[0], strings.Join(words[1:], "\n      - "))
	l.python = filepath.Join(b.folder, "conda.yml")
	return os.WriteFile(l.python, []byte(text), 0o644)
}

// serveFixed answers everything with the same small JSON.
func serveFixed(port string) error {
	return http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("[1]"))
	}))
}

// table is the results as Markdown, with how many times Lapis is better.
func (b *bench) table() string {
	var s strings.Builder
	s.WriteString(report.Measured("serving") + " In brackets, how many times Lapis is better.\n\n")
	for _, m := range b.missing { // a load that no server has a figure for is a row too
		if !slices.ContainsFunc(b.rows, func(r *row) bool { return strings.HasPrefix(r.load, m.load) }) {
			b.rows = append(b.rows, &row{load: m.load, unit: "–"})
		}
	}
	names := []string{ours}
	named := func(server string) {
		if !slices.Contains(names, server) {
			names = append(names, server)
		}
	}
	for _, r := range b.rows {
		for _, c := range r.cells {
			named(c.server)
		}
	}
	for _, m := range b.missing {
		named(m.server)
	}
	fmt.Fprintf(&s, "| load | unit | %s |\n|---|---|%s\n", strings.Join(names, " | "), strings.Repeat("--:|", len(names)))
	for _, r := range b.rows {
		fmt.Fprintf(&s, "| %s | %s |", r.load, r.unit)
		for _, name := range names {
			i := slices.IndexFunc(r.cells, func(c cell) bool { return c.server == name })
			if i < 0 {
				s.WriteString(" –")
				if n := b.why(name, r.load); n > 0 {
					fmt.Fprintf(&s, " [%d]", n)
				}
				s.WriteString(" |")
				continue
			}
			c := r.cells[i]
			s.WriteString(" " + number(c.value))
			if c.note != "" {
				s.WriteString("; " + c.note)
			}
			s.WriteString(r.ratio(c) + " |")
		}
		s.WriteString("\n")
	}
	s.WriteString("\n")
	for i, m := range b.missing {
		fmt.Fprintf(&s, "- [%d] No figure of %s for %s: %s\n", i+1, m.server, m.load, m.why)
	}
	for _, f := range b.facts {
		s.WriteString("- " + f + "\n")
	}
	return s.String()
}

func number(v float64) string {
	if v >= 1000 {
		text := strconv.FormatFloat(v, 'f', 0, 64)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
