package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row of the iris flowers, as each server wants it.
const (
	plainBody    = `{"data":[[5.1,3.5,1.4,0.2]]}`
	mlflowBody   = `{"inputs":[[5.1,3.5,1.4,0.2]]}`
	mlserverBody = `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[5.1,3.5,1.4,0.2]}]}`
)

// latency takes a load with 1 client and with 8.
func (b *bench) latency(load, server string, t target) {
	b.loads(load, server, t, 1, 8)
}

func (b *bench) loads(load, server string, t target, clients ...int) {
	for _, n := range clients {
		name := fmt.Sprintf("%s, %d clients", load, n)
		if n == 1 {
			name = load + ", 1 client"
		}
		o, err := closed(t, n, b.each)
		if err == nil && o.failed > 0 && float64(o.failed) > o.rate*b.each.Seconds()/100 {
			err = fmt.Errorf("%d failed: %s", o.failed, o.first)
		}
		switch {
		case err != nil:
			b.miss(server, name, err)
		case n == 1:
			b.add(name, "µs, p50", true, server, float64(o.p50.Nanoseconds())/1000, "p99 "+short(o.p99))
		default:
			b.add(name, "requests/s", false, server, o.rate, o.String())
		}
	}
}

// serve deploys something on Lapis, has it measured and takes it away.
func (b *bench) serve(ctx context.Context, l *lapis, load, name, yaml, path, body string, measure func(t target)) {
	t, err := l.deploy(ctx, name, yaml)
	if err != nil {
		b.miss(ours, load, err)
	} else {
		if path != "" {
			t.path = strings.TrimSuffix(t.path, "/score") + path
		}
		t.body = body
		measure(t)
	}
	if err := l.remove(ctx, name); err != nil {
		log.Printf("remove %s: %v", name, err)
	}
}

// peer starts a server, has it measured and stops it.
func (b *bench) peer(ctx context.Context, load, name string, t target, environ []string, measure func(t target), command string, args ...string) {
	if command == "" {
		return
	}
	port, err := freePort()
	if err == nil {
		t.address = fmt.Sprintf("127.0.0.1:%d", port)
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "{port}", fmt.Sprint(port))
		}
		for i, e := range environ {
			environ[i] = strings.ReplaceAll(e, "{port}", fmt.Sprint(port))
		}
		folder := filepath.Join(b.folder, fmt.Sprintf("peer-%d", port))
		var p *process
		if p, err = start(ctx, folder, environ, command, args...); err == nil {
			defer p.stop()
			err = p.answers(t)
		}
	}
	if err != nil {
		b.miss(name, load, err)
		return
	}
	measure(t)
}

func (b *bench) code(name string) string { return filepath.Join(b.folder, "peers", name) }

// tool is a command beside the Python.
func (b *bench) tool(name string) string { return filepath.Join(filepath.Dir(b.python), name) }

const azure, mlserver, mlflow, gunicorn, nginx = "Azure inference server", "MLServer", "MLflow", "gunicorn + Flask", "nginx"

func (b *bench) azure(ctx context.Context, load, script string, workers int, body string, measure func(t target)) {
	b.peer(ctx, load, azure, target{path: "/score", body: body}, []string{"AZUREML_MODEL_DIR=" + b.forest, "AML_APP_ROOT=" + b.code(script)}, measure,
		b.tool("azmlinfsrv"), "--port", "{port}", "--worker_count", fmt.Sprint(workers), "--entry_script", filepath.Join(b.code(script), "score.py"))
}

func (b *bench) gunicorn(ctx context.Context, load, path string, workers int, measure func(t target)) {
	b.peer(ctx, load, gunicorn, target{path: path, body: plainBody}, []string{"MODEL=" + filepath.Join(b.forest, "forest", "forest.joblib")}, measure,
		b.tool("gunicorn"), "-b", "127.0.0.1:{port}", "-w", fmt.Sprint(workers), "--chdir", b.code(""), "flask_app:app")
}

// takeForest: the forest, JSON in and out.
func (b *bench) takeForest(ctx context.Context, l *lapis) {
	const load = "forest of 100 trees, 1 row"
	native := fmt.Sprintf("instance_count: 1\nmodel:\n  path: %s\n  type: custom_model\nrequest_settings:\n  request_timeout_ms: 60000\n  max_concurrent_requests_per_instance: 16\n",
		filepath.Join(b.forest, "forest.onnx"))
	b.serve(ctx, l, load, "forest-native", native, "", plainBody, func(t target) { b.latency(load, ours, t) })
	b.azure(ctx, load, "forest", 1, plainBody, func(t target) { b.latency(load, azure, t) })
	if b.mlserver != "" {
		folder := filepath.Join(b.forest, "mlserver")
		grpc, _ := freePort()
		metrics, _ := freePort()
		environ := []string{"MLSERVER_HTTP_PORT={port}", fmt.Sprint("MLSERVER_GRPC_PORT=", grpc), fmt.Sprint("MLSERVER_METRICS_PORT=", metrics), "MLSERVER_HOST=127.0.0.1"}
		b.peer(ctx, load, mlserver, target{path: "/v2/models/forest/infer", body: mlserverBody}, environ, func(t target) { b.latency(load, mlserver, t) }, b.mlserver, "start", folder)
	}
	b.mlflow(ctx, load, func(t target) { b.latency(load, mlflow, t) })
	b.gunicorn(ctx, load, "/score", 1, func(t target) { b.latency(load, gunicorn, t) })

	const python, session = "scikit-learn forest in run()", "ONNX forest in run()"
	for _, n := range []struct{ workers, clients int }{{1, 1}, {4, 8}} {
		load := fmt.Sprintf("%s, workers: %d", python, n.workers)
		b.serve(ctx, l, load, fmt.Sprintf("forest-python-%d", n.workers), l.script(b.code("forest"), filepath.Join(b.forest, "forest"), n.workers), "", plainBody, func(t target) {
			b.loads(load, ours, t, n.clients)
			if n.clients == 1 {
				b.besideLoop(ctx, t)
			}
		})
		b.azure(ctx, load, "forest", n.workers, plainBody, func(t target) { b.loads(load, azure, t, n.clients) })
		b.gunicorn(ctx, load, "/score", n.workers, func(t target) { b.loads(load, gunicorn, t, n.clients) })
		load = fmt.Sprintf("%s, workers: %d", session, n.workers)
		b.serve(ctx, l, load, fmt.Sprintf("forest-onnx-%d", n.workers), l.script(b.code("onnx"), filepath.Join(b.forest, "forest.onnx"), n.workers), "", plainBody, func(t target) { b.loads(load, ours, t, n.clients) })
		b.azure(ctx, load, "onnx", n.workers, plainBody, func(t target) { b.loads(load, azure, t, n.clients) })
	}
}

// besideLoop says how much later the answers of a deployment come than calls of
// predict in a loop. The loop runs before each of some short loads and after it,
// since the machine is not equally fast all the time.
func (b *bench) besideLoop(ctx context.Context, t target) {
	const rounds = 5
	var loops, more []time.Duration
	for n := 0; ; n++ {
		loop, err := b.predict(ctx)
		if err != nil {
			b.facts = append(b.facts, fmt.Sprintf("`predict` in a loop was not measured: %v", err))
			return
		}
		if loops = append(loops, loop); n > 0 {
			more[n-1] -= (loops[n-1] + loop) / 2
		}
		if n == rounds {
			break
		}
		o, err := closed(t, 1, b.each/2)
		if err != nil {
			b.facts = append(b.facts, fmt.Sprintf("the deployment beside `predict` in a loop was not measured: %v", err))
			return
		}
		more = append(more, o.p50)
	}
	slices.Sort(loops)
	slices.Sort(more)
	b.facts = append(b.facts, fmt.Sprintf("`predict` of the scikit-learn forest on one row, called in a loop: %s (p50). Its deployment answers %s later (p50; the median of %d rounds, %s to %s).",
		short(loops[len(loops)/2]), short(more[rounds/2]), rounds, short(more[0]), short(more[rounds-1])))
}

// predict is the median time of predict of the forest, called in a loop.
func (b *bench) predict(ctx context.Context) (time.Duration, error) {
	out, err := exec.CommandContext(ctx, b.python, b.code("loop.py"), b.forest, fmt.Sprint(b.each.Seconds()/2)).Output()
	if err != nil {
		return 0, withOutput(err)
	}
	µs, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return time.Duration(µs * 1000), err
}

func (b *bench) mlflow(ctx context.Context, load string, measure func(t target)) {
	b.peer(ctx, load, mlflow, target{path: "/invocations", body: mlflowBody}, []string{"MLFLOW_DISABLE_TELEMETRY=true", "PATH=" + filepath.Dir(b.python) + ":" + os.Getenv("PATH")}, measure,
		b.tool("mlflow"), "models", "serve", "-m", filepath.Join(b.forest, "mlflow"), "--env-manager", "local", "-h", "127.0.0.1", "-p", "{port}")
}

// takeNoop: a run() that does nothing, with one worker for one client, and four
// for eight: an endpoint admits twice as many requests as it works on.
func (b *bench) takeNoop(ctx context.Context, l *lapis) {
	for _, n := range []struct{ workers, clients int }{{1, 1}, {4, 8}} {
		load := fmt.Sprintf("run() that does nothing, workers: %d", n.workers)
		b.serve(ctx, l, load, fmt.Sprintf("noop-%d", n.workers), l.script(b.code("noop"), "", n.workers), "", plainBody, func(t target) { b.loads(load, ours, t, n.clients) })
		b.azure(ctx, load, "noop", n.workers, plainBody, func(t target) { b.loads(load, azure, t, n.clients) })
		b.gunicorn(ctx, load, "/noop", n.workers, func(t target) { b.loads(load, gunicorn, t, n.clients) })
	}
}

// takeMLflow: an MLflow model without code.
func (b *bench) takeMLflow(ctx context.Context, l *lapis) {
	const load = "MLflow model of the forest"
	model := filepath.Join(b.folder, "mlflow-model")
	if err := os.CopyFS(model, os.DirFS(filepath.Join(b.forest, "mlflow"))); err != nil {
		b.miss(ours, load, err)
		return
	}
	// The environment of the model is that of the others: the versions it was trained with, and MLflow's.
	text, err := os.ReadFile(l.python)
	if err == nil {
		err = os.WriteFile(filepath.Join(model, "conda.yaml"), append(text, "      - mlflow==3.17.2\n      - cloudpickle\n      - pandas\n"...), 0o644)
	}
	if err != nil {
		b.miss(ours, load, err)
		return
	}
	yaml := fmt.Sprintf("instance_count: 1\nmodel:\n  path: %s\n  type: mlflow_model\nrequest_settings:\n  request_timeout_ms: 60000\n  max_concurrent_requests_per_instance: 4\n", model)
	b.serve(ctx, l, load, "forest-mlflow", yaml, "/invocations", mlflowBody, func(t target) { b.latency(load, ours, t) })
	b.mlflow(ctx, load, func(t target) { b.latency(load, mlflow, t) })
}

// takeProxy: the gateway before a web server, beside nginx before the same.
func (b *bench) takeProxy(ctx context.Context, l *lapis) {
	const load = "before a web server that always says the same"
	own, err := os.Executable()
	if err != nil {
		b.miss(ours, load, err)
		return
	}
	port, err := freePort()
	if err != nil {
		b.miss(ours, load, err)
		return
	}
	direct := target{address: fmt.Sprintf("127.0.0.1:%d", port), path: "/score", body: plainBody}
	p, err := start(ctx, filepath.Join(b.folder, "upstream"), nil, own, "-upstream", fmt.Sprint(port))
	if err == nil {
		defer p.stop()
		err = p.answers(direct)
	}
	if err != nil {
		b.miss("the web server itself", load, err)
		return
	}
	o, err := closed(direct, 1, b.each)
	if err != nil {
		b.miss("the web server itself", load, err)
		return
	}
	base := o.p50
	b.facts = append(b.facts, fmt.Sprintf("The web server that gateway and nginx stand before answers in %s (p50) by itself.", short(base)))
	added := func(server string, t target, pids func() []int) {
		o, err := closed(t, 1, b.each)
		if err != nil {
			b.miss(server, load, err)
			return
		}
		b.add("added "+load+", 1 client", "µs, p50", true, server, float64((o.p50-base).Nanoseconds())/1000, "p99 "+short(o.p99))
		before := spent(pids())
		begun := time.Now()
		if o, err = closed(t, 8, b.each); err != nil {
			b.miss(server, load, err)
			return
		}
		used := spent(pids()) - before
		b.add("processor time of a request "+load, "µs", true, server, float64(used.Microseconds())/(o.rate*time.Since(begun).Seconds()), fmt.Sprintf("%.0f requests/s", o.rate))
	}
	command := fmt.Sprintf("exec %s -upstream $PORT", own)
	yaml := fmt.Sprintf(`environment:
  image: library/python:latest
  inference_config:
    liveness_route: {port: 8000, path: /}
    readiness_route: {port: 8000, path: /}
    scoring_route: {port: 8000, path: /score}
properties:
  serving.command: %q
instance_count: 1
request_settings:
  request_timeout_ms: 60000
  max_concurrent_requests_per_instance: 64
`, command)
	b.serve(ctx, l, load, "proxy", yaml, "", plainBody, func(t target) {
		added(ours, t, func() []int { return running(filepath.Base(b.lapis), " gateway", l.data()) })
	})
	if b.nginx == "" {
		b.facts = append(b.facts, "nginx was not found and is left out.")
		return
	}
	folder := filepath.Join(b.folder, "nginx")
	front, err := freePort()
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "nginx.conf"), fmt.Appendf(nil, `daemon off; user root; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 2;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream web { server %[2]s; keepalive 64; }
  server { listen 127.0.0.1:%[3]d; keepalive_requests 100000000; location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
`, folder, direct.address, front), 0o644)
	}
	if err != nil {
		b.miss(nginx, load, err)
		return
	}
	n, err := start(ctx, folder, nil, b.nginx, "-p", folder, "-c", filepath.Join(folder, "nginx.conf"), "-e", filepath.Join(folder, "error.log"))
	if err != nil {
		b.miss(nginx, load, err)
		return
	}
	defer n.stop()
	t := target{address: fmt.Sprintf("127.0.0.1:%d", front), path: "/score", body: plainBody}
	if err := n.answers(t); err != nil {
		b.miss(nginx, load, err)
		return
	}
	added(nginx, t, func() []int { return family(n.cmd.Process.Pid) })
}

// takeLive: from the request for a deployment to its first answer.
func (b *bench) takeLive(ctx context.Context, l *lapis) {
	for _, m := range []struct{ load, name, yaml string }{
		{"native deployment, asked for until it answers", "live-native", fmt.Sprintf("instance_count: 1\nmodel:\n  path: %s\n  type: custom_model\n", filepath.Join(b.forest, "forest.onnx"))},
		{"Python deployment, environment there, asked for until it answers", "live-python", l.script(b.code("forest"), filepath.Join(b.forest, "forest"), 1)},
	} {
		best := 0.0
		for range 3 { // the first one may bring the runtime or the environment
			begun := time.Now()
			answered := false
			b.serve(ctx, l, m.load, m.name, m.yaml, "", plainBody, func(t target) {
				c := client{address: t.address}
				defer c.close()
				if status, err := c.do(t.request()); err != nil || status != 200 {
					b.miss(ours, m.load, fmt.Errorf("%d %v %s", status, err, c.body))
					return
				}
				answered = true
				if took := time.Since(begun).Seconds(); best == 0 || took < best {
					best = took
				}
			})
			if !answered {
				break
			}
		}
		if best > 0 {
			b.add(m.load, "s", true, ours, best, "with the endpoint's making and four commands")
		}
	}
}

// takeScale: from the request for a second instance to its first answer.
func (b *bench) takeScale(ctx context.Context, l *lapis) {
	const load = "a second instance, asked for until it answers"
	folder := filepath.Join(b.folder, "pid")
	err := os.MkdirAll(folder, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "score.py"), []byte("import os\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    return os.getpid()\n"), 0o644)
	}
	if err != nil {
		b.miss(ours, load, err)
		return
	}
	b.serve(ctx, l, load, "scale", l.script(folder, "", 1), "", plainBody, func(t target) {
		c := client{address: t.address}
		defer c.close()
		if status, err := c.do(t.request()); err != nil || status != 200 {
			b.miss(ours, load, fmt.Errorf("%d %v %s", status, err, c.body))
			return
		}
		first := string(c.body)
		begun := time.Now()
		changed := make(chan error, 1)
		go func() {
			_, err := l.run(ctx, "online-deployment", "update", "--name", "blue", "--endpoint-name", "scale", "--set", "instance_count=2")
			changed <- err
		}()
		for time.Since(begun) < time.Minute {
			if status, err := c.do(t.request()); err == nil && status == 200 && string(c.body) != first {
				b.add(load, "s", true, ours, time.Since(begun).Seconds(), "")
				<-changed
				return
			}
		}
		err := <-changed
		if err == nil {
			err = errors.New("not within a minute")
		}
		b.miss(ours, load, err)
	})
}

// takeOverload: three times what a deployment can do, and what it does then.
func (b *bench) takeOverload(ctx context.Context, l *lapis) {
	const load = "three times the peak"
	b.serve(ctx, l, load, "overload", l.script(b.code("forest"), filepath.Join(b.forest, "forest"), 1), "", plainBody, func(t target) {
		o, err := closed(t, 2, b.each) // as many as are admitted at once
		if err != nil {
			b.miss(ours, load, err)
			return
		}
		good, _ := open(ctx, t, 3*o.rate, 64, b.overload)
		begun := time.Now()
		sum := 0
		for _, n := range good[1:] {
			sum += n
		}
		goodput := float64(sum) / float64(len(good)-1)
		last := recovered(t, begun)
		again, err := closed(t, 2, b.each)
		if err != nil {
			b.miss(ours, load, err)
			return
		}
		peak := (o.rate + again.rate) / 2 // the machine's speed changes
		b.add(fmt.Sprintf("%s for %.0f s: good answers, of the peak", load, b.overload.Seconds()), "%", false, ours, 100*goodput/peak, fmt.Sprintf("peak %.0f/s before, %.0f/s after", o.rate, again.rate))
		b.add(load+": until no request fails any more", "s", true, ours, last.Sub(begun).Seconds(), "")
	})
}

// recovered is when the last request failed, of those sent one after the other
// for five seconds; begun if none did.
func recovered(t target, begun time.Time) time.Time {
	c := client{address: t.address}
	defer c.close()
	last := begun
	for time.Since(begun) < 5*time.Second {
		if status, err := c.do(t.request()); err != nil || status != 200 {
			last = time.Now()
		}
	}
	return last
}
