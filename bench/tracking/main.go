// Command tracking puts the same load on Lapis, MLflow's own server and
// FastTrackML, one after the other, and writes what they did as a table.
//
//	go run ./bench/tracking -lapis bin/lapis -mlflow .tools/sdk/bin/mlflow -fasttrackml .tools/fasttrackml/bin/fml -write docs/benchmarks.md
//
// Every server starts with an empty SQLite database and its own defaults. Each
// client keeps one connection, writes to a run of its own and sends bodies that
// were built before; only time stamps change, so that no point is sent twice.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"lapis/bench/report"
)

// python has MLflow's client; artefacts are sent with it.
var python = flag.String("python", "", "a Python with mlflow; default: the one beside the mlflow command")

func main() {
	log.SetFlags(0)
	lapis := flag.String("lapis", "bin/lapis", "the lapis binary")
	mlflow := flag.String("mlflow", "", "the mlflow command; \"\" leaves MLflow out")
	fasttrackml := flag.String("fasttrackml", "", "the fml command; \"\" leaves FastTrackML out")
	short := flag.Bool("quick", false, "one second for each load, and none of the large ones")
	each := flag.Duration("for", 0, "how long each load lasts, in place of 5 s")
	within := flag.Duration("within", 0, "how long a server may take to be filled for one measure, in place of 3 min")
	write := flag.String("write", "", "file whose tracking section to replace")
	flag.Parse()
	if *python == "" {
		*python = filepath.Join(filepath.Dir(*mlflow), "python")
	}
	p := whole
	if *short {
		p = quick
	}
	p.each, p.within = cmp.Or(*each, p.each), cmp.Or(*within, p.within)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var all []*results
	for _, s := range []starter{
		{"Lapis", *lapis, startLapis, "data/lapis.db"}, {"MLflow", *mlflow, startMLflow, "mlflow.db"}, {"FastTrackML", *fasttrackml, startFastTrackML, "fml.db"},
	} {
		if s.command == "" {
			continue
		}
		command, err := filepath.Abs(s.command)
		if err == nil {
			_, err = os.Stat(command)
		}
		if err != nil {
			log.Fatal(err)
		}
		s.command = command
		r, err := p.measure(ctx, s)
		if err != nil {
			if ctx.Err() != nil || s.name == "Lapis" {
				log.Fatalf("%s: %v", s.name, err)
			}
			log.Printf("%s: %v", s.name, err)
			continue
		}
		all = append(all, r)
	}
	text := table(all)
	fmt.Print("\n", text)
	if *write != "" {
		text = report.Measured("tracking") + " Every answered write is on disk.\n\n" + text
		if err := report.Write(*write, "tracking", text); err != nil {
			log.Fatal(err)
		}
	}
}

// table is the results as Markdown, with how many times Lapis is better.
func table(all []*results) string {
	var b strings.Builder
	b.WriteString("| load | unit |")
	for _, r := range all {
		b.WriteString(" " + r.name + " |")
	}
	for _, r := range all[1:] {
		b.WriteString(" × " + r.name + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("--:|", 2*len(all)-1) + "\n")
	for _, row := range all[0].rows {
		fmt.Fprintf(&b, "| %s | %s |", row.load, row.unit)
		for _, r := range all {
			if other, ok := r.find(row.load); ok {
				fmt.Fprintf(&b, " %s |", other)
			} else {
				b.WriteString(" – |")
			}
		}
		for _, r := range all[1:] {
			other, ok := r.find(row.load)
			ratio := row.value / other.value
			if row.less {
				ratio = other.value / row.value
			}
			if ok && other.value > 0 && row.value > 0 {
				fmt.Fprintf(&b, " %.3g |", ratio)
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
