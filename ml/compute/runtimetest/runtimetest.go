// Package runtimetest is the suite that every compute.Runtime passes. It runs
// real commands: bash and the usual small programs must be where tasks run.
package runtimetest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

// Subject is a runtime under test.
type Subject struct {
	Runtime compute.Runtime
	Blobs   blob.Store // what the runtime stages from and collects to

	// Reopen makes another Runtime of the same tasks, as a server finds them
	// that starts after the first one is gone.
	Reopen func() compute.Runtime
}

// Places of the blobs that the suite uses.
var (
	data      = blob.Container{Account: "lapis", Name: "data"}
	artefacts = blob.Container{Account: "lapis", Name: "artifacts"}
)

// patience bounds how long a task of the suite may take on a busy machine.
const patience = 60 * time.Second

type suite struct {
	*testing.T
	Subject
}

// Run runs the suite; open makes a Subject without tasks.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(s *suite)
	}{
		{"the exit code of the command is that of the task", exitCodes},
		{"a signal that ends the command is named", signalled},
		{"the log has the notes, then both streams in order, as they are written", log},
		{"the last words are kept", lastWords},
		{"the environment is small, and what the task adds to it", environment},
		{"the environment's bin comes first on PATH", binFirst},
		{"inputs and outputs are found by variable and by placeholder", inputsAndOutputs},
		{"names with blanks, quotes and other scripts survive", oddNames},
		{"what the command does to an input that is written back is done to its source", writtenBack},
		{"a file that is written back is replaced, or deleted", fileWrittenBack},
		{"an input that is not written back leaves its source alone", notWrittenBack},
		{"a large output comes back whole", largeOutput},
		{"an output that was not made is left out", missingOutput},
		{"a file in place of a folder, and the reverse, are collected", swappedOutput},
		{"outputs and logs of the working folder are artefacts", artefactsOfWork},
		{"artefacts may be deleted and made anew by the command", artefactsAnew},
		{"links out of the task's folder are not followed", links},
		{"a web address is fetched, and its query is kept out of messages", webInput},
		{"a missing input is named, and nothing stays", missingInput},
		{"paths that lead out of the folder are refused", traversal},
		{"an unknown placeholder is refused", unknownPlaceholder},
		{"a command that is too long is refused", tooLong},
		{"a timeout ends the task, with TERM first", timeout},
		{"a stop ends the command and all that it started", stopAll},
		{"a command that ignores TERM is killed after the grace", stubborn},
		{"each process is told once, and has the grace though its shell is gone", graceful},
		{"what the command leaves running ends with it", leftBehind},
		{"a stop while inputs are staged keeps the command from running", stopWhileStaging},
		{"a stop at any moment of the launch ends the task", stopAtAnyMoment},
		{"programs can make sockets in TMPDIR", sockets},
		{"stopping twice, late, or what is unknown is no error", stopAgain},
		{"launching twice is one launch", launchTwice},
		{"a hundred launches of one task at once are one launch", launchAtOnce},
		{"another server finds the task running, and follows it", restart},
		{"another server can stop the task", restartStop},
		{"a log can be read while the task runs, from any offset", logWhileRunning},
		{"logs lie only inside the artefact folder", logTraversal},
		{"collecting twice gives the same", collectTwice},
		{"what runs is neither collected nor removed", notYet},
		{"a removed task is forgotten, and may be launched again", remove},
		{"tasks run side by side", sideBySide},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &suite{t, open(t)}
			for _, c := range []blob.Container{data, artefacts} {
				s.ok(s.Blobs.CreateContainer(t.Context(), c))
			}
			c.test(s)
		})
	}
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) put(key, text string) {
	s.Helper()
	_, err := s.Blobs.Put(s.Context(), data, key, strings.NewReader(text), int64(len(text)), blob.Attributes{}, blob.Condition{})
	s.ok(err)
}

func (s *suite) get(c blob.Container, key string) string {
	s.Helper()
	r, _, err := s.Blobs.Open(s.Context(), c, key, 0, -1)
	s.ok(err)
	defer r.Close()
	b, err := io.ReadAll(r)
	s.ok(err)
	return string(b)
}

// keys lists what is below the prefix, without the prefix.
func (s *suite) keys(c blob.Container, prefix string) []string {
	s.Helper()
	var keys []string
	for after := ""; ; {
		page, err := s.Blobs.List(s.Context(), c, blob.Query{Prefix: prefix, After: after})
		s.ok(err)
		for _, b := range page.Blobs {
			keys = append(keys, strings.TrimPrefix(b.Key, prefix))
		}
		if after = page.Next; after == "" {
			return keys
		}
	}
}

func task(name, command string) compute.Task {
	return compute.Task{
		ID:      "1f0e3dad-9c0b-4b1e-8a5e-000000000001/" + name,
		Command: command,
		Logs:    compute.Tree{Container: artefacts, Prefix: "ExperimentRun/dcid." + name + "/"},
	}
}

func from(prefix string) compute.Tree { return compute.Tree{Container: data, Prefix: prefix} }

func (s *suite) look(r compute.Runtime, id string) (compute.Observed, bool) {
	s.Helper()
	all, err := r.List(s.Context())
	s.ok(err)
	for _, o := range all {
		if o.ID == id {
			return o, true
		}
	}
	return compute.Observed{}, false
}

// await waits for the end of the task, by the runtime's own signal.
func (s *suite) await(r compute.Runtime, id string) compute.Observed {
	s.Helper()
	late := time.After(patience)
	for {
		if o, ok := s.look(r, id); ok && o.Phase == compute.Exited {
			return o
		}
		select {
		case <-r.Ended():
		case <-time.After(time.Second):
		case <-late:
			o, ok := s.look(r, id)
			s.Fatalf("%s has not ended after %s: %+v %v", id, patience, o, ok)
		}
	}
}

// run launches the task and waits for its end.
func (s *suite) run(t compute.Task) compute.Observed {
	s.Helper()
	s.ok(s.Runtime.Launch(s.Context(), t))
	return s.await(s.Runtime, t.ID)
}

func (s *suite) log(id string) string {
	s.Helper()
	r, _, err := s.Runtime.OpenLog(s.Context(), id, "user_logs/std_log.txt", 0)
	s.ok(err)
	defer r.Close()
	b, err := io.ReadAll(r)
	s.ok(err)
	return string(b)
}

// awaitLog waits until the log holds the text.
func (s *suite) awaitLog(id, text string) {
	s.Helper()
	for end := time.Now().Add(patience); !strings.Contains(s.log(id), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("the log of %s has no %q after %s: %q", id, text, patience, s.log(id))
		}
	}
}

func (s *suite) equal(what string, got, want any) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("%s: got %q, want %q", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

func (s *suite) refused(err error, k fault.Kind, words ...string) {
	s.Helper()
	if !fault.Is(err, k) {
		s.Fatalf("got %v (%T), want a fault of kind %d", err, err, k)
	}
	for _, w := range words {
		if !strings.Contains(fault.Find(err).Message, w) {
			s.Errorf("the message %q does not say %q", fault.Find(err).Message, w)
		}
	}
}

func exitCodes(s *suite) {
	for _, code := range []int{0, 1, 3, 255} {
		o := s.run(task(fmt.Sprint("code", code), fmt.Sprint("exit ", code)))
		s.equal("exit", o.Exit, compute.Exit{Code: code})
		if o.Started.IsZero() || o.Ended.Before(o.Started) || time.Since(o.Ended) > patience {
			s.Errorf("began %s, ended %s", o.Started, o.Ended)
		}
	}
	s.equal("a program that is not there", s.run(task("none", "no-such-program-at-all")).Exit.Code, 127)
}

func signalled(s *suite) {
	o := s.run(task("sig", "kill -SEGV $$"))
	s.equal("code", o.Exit.Code, 128+11)
	s.equal("signal", o.Exit.Signal, "SIGSEGV")
	if o.Exit.Stopped || o.Exit.TimedOut || o.Exit.Lost != "" {
		s.Errorf("%+v", o.Exit)
	}
}

func log(s *suite) {
	t := task("log", "echo one; echo two >&2; echo three")
	t.Notes = []string{"lapis: first", "lapis: second"}
	s.run(t)
	s.equal("log", s.log(t.ID), "lapis: first\nlapis: second\none\ntwo\nthree\n")
}

func lastWords(s *suite) {
	o := s.run(task("words", "echo before; echo 'about to fail: ÄÖ'; echo; echo '  '; exit 3"))
	s.equal("last lines", o.Exit.LastLine, "before\nabout to fail: ÄÖ")
	o = s.run(task("long", "head -c 100000 /dev/zero | tr '\\0' x"))
	s.equal("length", len(o.Exit.LastLine), 2000)
	s.equal("silent", s.run(task("silent", "true")).Exit.LastLine, "")
}

func environment(s *suite) {
	// Parallel tests cannot take a variable back, and this one may stay.
	os.Setenv("LAPIS_SUITE_SECRET", "of the server")
	t := task("env", `env -0 | tr '\0' '\n' | sort; test -d "$TMPDIR" && test -w "$TMPDIR" && echo tmp; pwd; umask`)
	t.Env = map[string]string{"PLAIN": "a b", "ODD": "quote ' \" $HOME `x` \\ ü", "EMPTY": "", "TOKEN": "hush", "LANG": "de_DE.UTF-8"}
	t.Secrets = []string{"TOKEN"}
	s.run(t)
	text := s.log(t.ID)
	for _, want := range []string{"PLAIN=a b\n", "ODD=quote ' \" $HOME `x` \\ ü\n", "EMPTY=\n", "TOKEN=hush\n", "LANG=de_DE.UTF-8\n", "PYTHONUNBUFFERED=1\n", "\ntmp\n"} {
		if !strings.Contains("\n"+text, want) {
			s.Errorf("no %q in %s", want, text)
		}
	}
	if strings.Contains(text, "of the server") || strings.Contains(text, "GOGC") {
		s.Errorf("the server's own environment leaks: %s", text)
	}
}

func binFirst(s *suite) {
	t := task("bin", "command -v tool-of-the-suite; tool-of-the-suite")
	t.Bin = s.TempDir()
	s.ok(os.WriteFile(t.Bin+"/tool-of-the-suite", []byte("#!/bin/sh\necho ran\n"), 0o755))
	s.run(t)
	s.equal("log", s.log(t.ID), t.Bin+"/tool-of-the-suite\nran\n")
	t.ID, t.Env = t.ID+"2", map[string]string{"PATH": "/usr/bin:/bin"}
	s.run(t)
	s.equal("with a PATH of its own", s.log(t.ID), t.Bin+"/tool-of-the-suite\nran\n")
	t = task("nobin", "true")
	t.Bin = "/no/such/environment"
	s.refused(s.Runtime.Launch(s.Context(), t), fault.Conflict, t.Bin)
}

func inputsAndOutputs(s *suite) {
	s.put("iris.csv", "a,b\n")
	s.put("set/one.txt", "1")
	s.put("set/deep/two.txt", "2")
	s.put("settle/other.txt", "not of the set")
	s.put("code/train.sh", "#!/bin/bash\ncat \"$1\"; echo $PWD | sed s:.*/::\n")
	s.put("code/sub/x", "x")
	t := task("io", `./train.sh ${{inputs.iris}}; cat sub/x; (cd ${{ inputs.set }}; find . -type f | sort)
		cmp "$AZURE_ML_INPUT_iris" ${{inputs.iris}} && cmp ${{inputs.iris}} "$COPY" && echo same
		echo model > ${{outputs.model}}/m.bin; mkdir ${{outputs.model}}/d; echo 22 > "$AZURE_ML_OUTPUT_model/d/n"; echo 4444 > ${{outputs.score}}`)
	t.Code = []compute.Tree{from("code/")}
	t.Env = map[string]string{"COPY": "${{inputs.iris}}"}
	t.Inputs = []compute.Input{
		{Name: "iris", Path: "inputs/iris/iris.csv", File: true, From: from("iris.csv")},
		{Name: "set", Path: "inputs/set", From: from("set")},
	}
	t.Outputs = []compute.Output{
		{Name: "model", Path: "outputs/model", To: compute.Tree{Container: data, Prefix: "azureml/io/model/"}},
		{Name: "score", Path: "outputs/score/score.txt", File: true, To: compute.Tree{Container: data, Prefix: "azureml/io/score.txt"}},
	}
	o := s.run(t)
	s.equal("log", s.log(t.ID), "a,b\nwd\nx./deep/two.txt\n./one.txt\nsame\n")
	s.equal("code", o.Exit.Code, 0)
	sizes, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("sizes", sizes, map[string]int64{"model": 9, "score": 5})
	s.equal("model", s.keys(data, "azureml/io/model/"), []string{"d/n", "m.bin"})
	s.equal("score", s.get(data, "azureml/io/score.txt"), "4444\n")
	s.equal("log", s.get(artefacts, "ExperimentRun/dcid.io/user_logs/std_log.txt"), s.log(t.ID))
}

func oddNames(s *suite) {
	for i, name := range []string{"two words.csv", "it's.csv", `"double".csv`, "$HOME `id`.csv", "höhe-数据.csv", "back\\slash.csv", "new\nline.csv", "-rf", "*", "…"} {
		s.put("odd/"+name, "text of it")
		t := task(fmt.Sprintf("odd ' \" $x/../ü %d", i), `cat -- ${{inputs.f}} && cat -- "${{inputs.f}}" && cat -- '${{inputs.f}}' && cat -- "$V" && echo && ls ${{inputs.all}} | wc -l && cp -- ${{inputs.f}} ${{outputs.o}}/`)
		t.Logs.Prefix = fmt.Sprint("odd", i, "/")
		t.Env = map[string]string{"V": "${{inputs.f}}"}
		t.Inputs = []compute.Input{
			{Name: "f", Path: "inputs/f/" + name, File: true, From: from("odd/" + name)},
			{Name: "all", Path: "inputs/all folder", From: from("odd")},
		}
		t.Outputs = []compute.Output{{Name: "o", Path: "outputs/o 'o", To: from(fmt.Sprintf("out%d", i))}}
		o := s.run(t)
		if text := s.log(t.ID); o.Exit.Code != 0 || !strings.HasPrefix(text, strings.Repeat("text of it", 4)+"\n") {
			s.Errorf("%q: %+v %s", name, o.Exit, text)
		}
		_, err := s.Runtime.Collect(s.Context(), t.ID)
		s.ok(err)
		s.equal("copy of "+name, s.get(data, fmt.Sprintf("out%d/%s", i, name)), "text of it")
	}
}

func writtenBack(s *suite) {
	for _, name := range []string{"kept", "grown", "same-size", "deleted", "deep/moved", "theirs", "ours"} {
		s.put("rw/"+name, "before")
	}
	s.put("rwother/x", "not of the folder")
	kept, err := s.Blobs.Stat(s.Context(), data, "rw/kept")
	s.ok(err)
	t := task("back", `cd ${{inputs.rw}}; echo more >> grown; printf AFTER! > same-size; rm deleted; mv deep/moved deep/here
		mkdir new; echo n > new/n; ln -s /etc/hostname link; printf mine > ours; echo first > "$AZURE_ML_INPUT_empty/first"; echo done; sleep 600`)
	t.Inputs = []compute.Input{
		{Name: "rw", Path: "inputs/rw", Back: true, From: from("rw")},
		{Name: "empty", Path: "inputs/empty", Back: true, From: from("empty/")},
	}
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "done")
	// What others do meanwhile.
	s.put("rw/theirs", "meanwhile")
	s.put("rw/ours", "meanwhile")
	s.put("rw/added", "meanwhile")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	s.await(s.Runtime, t.ID)
	for range 2 {
		s.ok(second(s.Runtime.Collect(s.Context(), t.ID)))
		s.equal("keys", s.keys(data, "rw/"), []string{"added", "deep/here", "grown", "kept", "new/n", "ours", "same-size", "theirs"})
		s.equal("grown", s.get(data, "rw/grown"), "beforemore\n")
		s.equal("same-size", s.get(data, "rw/same-size"), "AFTER!")
		s.equal("deep/here", s.get(data, "rw/deep/here"), "before")
		s.equal("new/n", s.get(data, "rw/new/n"), "n\n")
		s.equal("theirs", s.get(data, "rw/theirs"), "meanwhile")
		s.equal("ours", s.get(data, "rw/ours"), "mine")
		s.equal("empty/first", s.get(data, "empty/first"), "first\n")
		s.equal("beside", s.get(data, "rwother/x"), "not of the folder")
		now, err := s.Blobs.Stat(s.Context(), data, "rw/kept")
		s.ok(err)
		s.equal("etag of what was left alone", now.ETag, kept.ETag)
	}
}

func fileWrittenBack(s *suite) {
	s.put("rwf/a.csv", "before")
	s.put("rwf/b.csv", "before")
	t := task("backfile", `echo after > ${{inputs.a}}.new && mv ${{inputs.a}}.new ${{inputs.a}} && rm ${{inputs.b}}`)
	t.Inputs = []compute.Input{
		{Name: "a", Path: "inputs/a/a.csv", File: true, Back: true, From: from("rwf/a.csv")},
		{Name: "b", Path: "inputs/b/b.csv", File: true, Back: true, From: from("rwf/b.csv")},
	}
	s.run(t)
	s.ok(second(s.Runtime.Collect(s.Context(), t.ID)))
	s.equal("keys", s.keys(data, "rwf/"), []string{"a.csv"})
	s.equal("a.csv", s.get(data, "rwf/a.csv"), "after\n")
}

func notWrittenBack(s *suite) {
	s.put("ro/x", "before")
	t := task("notback", `echo after > ${{inputs.ro}}/x; echo new > ${{inputs.ro}}/y`)
	t.Inputs = []compute.Input{{Name: "ro", Path: "inputs/ro", From: from("ro")}}
	s.run(t)
	s.ok(second(s.Runtime.Collect(s.Context(), t.ID)))
	s.equal("keys", s.keys(data, "ro/"), []string{"x"})
	s.equal("x", s.get(data, "ro/x"), "before")
}

func largeOutput(s *suite) {
	t := task("large", "head -c 60000000 /dev/zero | tr '\\0' y > outputs/big; head -c 5000000 /dev/zero | tr '\\0' z")
	s.run(t)
	_, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	for key, size := range map[string]int64{"outputs/big": 60_000_000, "user_logs/std_log.txt": 5_000_000} {
		info, err := s.Blobs.Stat(s.Context(), artefacts, t.Logs.Prefix+key)
		s.ok(err)
		s.equal(key, info.Size, size)
	}
}

func missingOutput(s *suite) {
	t := task("noout", "rmdir ${{outputs.gone}}")
	t.Outputs = []compute.Output{
		{Name: "file", Path: "outputs/file", File: true, To: from("o/file")},
		{Name: "gone", Path: "outputs/gone", To: from("o/gone/")},
		{Name: "empty", Path: "outputs/empty", To: from("o/empty/")},
	}
	s.run(t)
	sizes, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("sizes", sizes, map[string]int64{"empty": 0})
}

func swappedOutput(s *suite) {
	t := task("swap", "mkdir ${{outputs.file}}; echo in > ${{outputs.file}}/a; rmdir ${{outputs.folder}}; echo out > ${{outputs.folder}}")
	t.Outputs = []compute.Output{
		{Name: "file", Path: "outputs/file", File: true, To: from("w/file")},
		{Name: "folder", Path: "outputs/folder", To: from("w/folder/")},
	}
	s.run(t)
	sizes, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("sizes", sizes, map[string]int64{"file": 3, "folder": 4})
	s.equal("keys", s.keys(data, "w/"), []string{"file/a", "folder/folder"})
}

func artefactsOfWork(s *suite) {
	s.put("c/outputs/from-code", "c")
	t := task("art", "echo m > outputs/model; mkdir -p outputs/a/b; echo n > outputs/a/b/n; echo l > logs/train.log; echo no > elsewhere; mkdir outputs/empty")
	t.Code = []compute.Tree{from("c/")}
	s.run(t)
	want := []string{"logs/train.log", "outputs/a/b/n", "outputs/from-code", "outputs/model", "user_logs/std_log.txt"}
	names, err := s.Runtime.Logs(s.Context(), t.ID)
	s.ok(err)
	s.equal("logs", slices.Sorted(maps.Keys(names)), want)
	s.equal("size", names["outputs/a/b/n"], 2)
	_, err = s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("collected", s.keys(artefacts, t.Logs.Prefix), want)
	r, size, err := s.Runtime.OpenLog(s.Context(), t.ID, "logs/train.log", 0)
	s.ok(err)
	r.Close()
	s.equal("size", size, 2)
}

func artefactsAnew(s *suite) {
	t := task("anew", "rm -r outputs && mkdir outputs && echo x > outputs/x; rm -r logs; echo file > logs")
	s.equal("code", s.run(t).Exit.Code, 0)
	_, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("collected", s.keys(artefacts, t.Logs.Prefix), []string{"outputs/x", "user_logs/std_log.txt"})
}

func links(s *suite) {
	t := task("links", `echo t > kept; ln -s ../kept outputs/relative; ln -s $PWD/kept outputs/absolute
		ln -s /etc/passwd outputs/out; ln -s /etc outputs/dir; ln -s loop outputs/loop; mkfifo outputs/pipe; rmdir logs; ln -s /etc logs`)
	s.equal("code", s.run(t).Exit.Code, 0)
	_, _, err := s.Runtime.OpenLog(s.Context(), t.ID, "outputs/out", 0)
	s.refused(err, fault.Missing)
	_, _, err = s.Runtime.OpenLog(s.Context(), t.ID, "outputs/dir/passwd", 0)
	s.refused(err, fault.Missing)
	_, _, err = s.Runtime.OpenLog(s.Context(), t.ID, "outputs/pipe", 0)
	s.refused(err, fault.Missing)
	_, err = s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
	s.equal("collected", s.keys(artefacts, t.Logs.Prefix), []string{"outputs/absolute", "outputs/relative", "user_logs/std_log.txt"})
}

func webInput(s *suite) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/iris.csv" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "from the web "+r.URL.RawQuery)
	}))
	defer web.Close()
	t := task("web", "cat ${{inputs.w}}")
	t.Inputs = []compute.Input{{Name: "w", Path: "inputs/w/iris.csv", File: true, URL: web.URL + "/iris.csv?sig=1"}}
	s.run(t)
	s.equal("log", s.log(t.ID), "from the web sig=1")
	t = task("webfolder", "cd ${{inputs.w}} && ls && cat iris.csv")
	t.Inputs = []compute.Input{{Name: "w", Path: "inputs/w", URL: web.URL + "/iris.csv?sig=1"}}
	s.run(t)
	s.equal("log of a folder with the one file", s.log(t.ID), "iris.csv\nfrom the web sig=1")
	for _, address := range []string{web.URL + "/none?sig=hush", "ftp://x/y?sig=hush", "http://127.0.0.1:1/x?sig=hush"} {
		t = task("web404", "true")
		t.Inputs = []compute.Input{{Name: "w", Path: "inputs/w", File: true, URL: address}}
		err := s.Runtime.Launch(s.Context(), t)
		f := fault.Find(err)
		if f == nil || f.Kind != fault.Missing && f.Kind != fault.BadRequest || strings.Count(f.Message, `input "w"`) != 1 || strings.Contains(f.Message, "hush") {
			s.Errorf("%s: %v", address, err)
		}
	}
}

func missingInput(s *suite) {
	s.put("there/x", "x")
	for _, in := range []compute.Input{
		{Name: "absent", Path: "inputs/absent", File: true, From: from("nowhere.csv")},
		{Name: "absent", Path: "inputs/absent", From: from("nowhere/")},
		{Name: "absent", Path: "inputs/absent", From: compute.Tree{Container: blob.Container{Account: "lapis", Name: "none"}, Prefix: "x/"}},
	} {
		t := task("missing", "echo ran")
		t.Inputs = []compute.Input{{Name: "there", Path: "inputs/there", From: from("there")}, in}
		s.refused(s.Runtime.Launch(s.Context(), t), fault.Missing, `input "absent"`)
		if o, ok := s.look(s.Runtime, t.ID); ok {
			s.Errorf("%+v is still there", o)
		}
	}
	t := task("missing", "true")
	t.Code = []compute.Tree{from("no-code/")}
	s.refused(s.Runtime.Launch(s.Context(), t), fault.Missing, "code")
	t.Code = nil
	s.equal("after the mistake is mended", s.run(t).Exit.Code, 0)
}

func traversal(s *suite) {
	s.put("x", "x")
	for _, p := range []string{"../x", "inputs/../../x", "/etc/x", "", ".", "inputs", "task.json", "lock", "inputs/../lock", "tmp/../../x"} {
		t := task("up", "true")
		t.Inputs = []compute.Input{{Name: "i", Path: p, File: true, From: from("x")}}
		s.refused(s.Runtime.Launch(s.Context(), t), fault.BadRequest, `"i"`)
		t.Inputs = nil
		t.Outputs = []compute.Output{{Name: "i", Path: p, To: from("o/")}}
		s.refused(s.Runtime.Launch(s.Context(), t), fault.BadRequest, `"i"`)
	}
	for _, name := range []string{"", "a b", "a=b", "../x", "-x", "a\x00b"} {
		t := task("name", "true")
		t.Inputs = []compute.Input{{Name: name, Path: "inputs/x", File: true, From: from("x")}}
		s.refused(s.Runtime.Launch(s.Context(), t), fault.BadRequest)
	}
	for _, name := range []string{"..", "../../x", "/", "/etc", "a/b/../../..", strings.Repeat("n", 300), "ü"} {
		t := task(name, "exit 5")
		t.Logs.Prefix = "odd/"
		s.equal(name, s.run(t).Exit.Code, 5)
	}
}

func unknownPlaceholder(s *suite) {
	s.refused(s.Runtime.Launch(s.Context(), task("ph", "cat ${{inputs.nope}}")), fault.BadRequest, "${{inputs.nope}}")
	t := task("ph", "true")
	t.Env = map[string]string{"X": "${{outputs.nope}}"}
	s.refused(s.Runtime.Launch(s.Context(), t), fault.BadRequest, "${{outputs.nope}}")
	t = task("ph", "echo '${{other.x}}'")
	s.run(t)
	s.equal("others are left alone", s.log(t.ID), "${{other.x}}\n")
}

func tooLong(s *suite) {
	s.refused(s.Runtime.Launch(s.Context(), task("tl", ": "+strings.Repeat("x", 1<<20))), fault.TooLarge, "command")
	t := task("tl", "true")
	t.Env = map[string]string{"BIG": strings.Repeat("x", 1<<20)}
	s.refused(s.Runtime.Launch(s.Context(), t), fault.TooLarge, "BIG")
	t = task("just", ": "+strings.Repeat("x", 100_000))
	s.equal("one that fits", s.run(t).Exit.Code, 0)
}

func timeout(s *suite) {
	t := task("slow", "trap 'echo told; exit 9' TERM; echo on; sleep 100 & wait")
	t.Timeout = time.Second
	began := time.Now()
	o := s.run(t)
	if !o.Exit.TimedOut || o.Exit.Stopped || o.Exit.Code != 9 || !strings.HasPrefix(s.log(t.ID), "on\ntold\n") {
		s.Errorf("%+v %q", o.Exit, s.log(t.ID))
	}
	if took := o.Ended.Sub(began); took < time.Second || took > 20*time.Second {
		s.Errorf("took %s", took)
	}
	t = task("fast", "true")
	t.Timeout = time.Hour
	s.equal("one that keeps to it", s.run(t).Exit, compute.Exit{})
}

// family starts a child, a grandchild in a session of its own, and one that
// has also lost its parent; each appends to a file as long as it lives.
const family = `beat() { while :; do echo $1 >> outputs/beats; sleep 0.05; done; }
export -f beat
beat child &
setsid bash -c 'beat grandchild' &
(setsid bash -c 'beat orphan' &)
env -i PATH="$PATH" bash -c 'while :; do echo bare >> outputs/beats; sleep 0.05; done' &
until [ "$(sort -u outputs/beats 2>/dev/null | wc -l)" = 4 ]; do sleep 0.02; done
echo all here
`

// still checks that nobody of the family writes any more.
func (s *suite) still(id string) {
	s.Helper()
	size := func() int64 {
		names, err := s.Runtime.Logs(s.Context(), id)
		s.ok(err)
		return names["outputs/beats"]
	}
	before := size()
	if before == 0 {
		s.Error("nobody has written")
	}
	time.Sleep(300 * time.Millisecond)
	if after := size(); after != before {
		s.Errorf("someone still writes: %d bytes, then %d", before, after)
	}
}

func stopAll(s *suite) {
	t := task("stop", family+"wait")
	t.Grace = 2 * time.Second
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "all here")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	o := s.await(s.Runtime, t.ID)
	if !o.Exit.Stopped || o.Exit.TimedOut || o.Exit.Lost != "" || o.Exit.Code != 128+15 {
		s.Errorf("%+v", o.Exit)
	}
	s.still(t.ID)
}

func stubborn(s *suite) {
	t := task("stubborn", "trap '' TERM; echo on; while :; do sleep 0.1; done")
	t.Grace = 500 * time.Millisecond
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "on")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	o := s.await(s.Runtime, t.ID)
	if !o.Exit.Stopped || o.Exit.Signal != "SIGKILL" || o.Exit.Code != 137 {
		s.Errorf("%+v", o.Exit)
	}
}

func graceful(s *suite) {
	t := task("graceful", `bash -c 'trap "echo told; for i in 1 2 3 4 5 6; do sleep 0.1; done; echo saved; exit 0" TERM; echo on; while :; do sleep 0.05; done'; true`)
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "on")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	s.await(s.Runtime, t.ID)
	if text := s.log(t.ID); strings.Count(text, "told") != 1 || !strings.HasSuffix(text, "saved\n") {
		s.Errorf("the log is %q", text)
	}
}

func leftBehind(s *suite) {
	t := task("left", family+"exit 4")
	o := s.run(t)
	s.equal("code", o.Exit.Code, 4)
	s.still(t.ID)
}

func stopWhileStaging(s *suite) {
	asked := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(asked)
		<-r.Context().Done()
	}))
	defer web.Close()
	t := task("staging", "echo ran")
	t.Inputs = []compute.Input{{Name: "w", Path: "inputs/w", File: true, URL: web.URL}}
	var launched sync.WaitGroup
	launched.Go(func() {
		if err := s.Runtime.Launch(s.Context(), t); err != nil {
			s.Error(err)
		}
	})
	select {
	case <-asked:
	case <-time.After(patience):
		s.Fatal("the input was not asked for")
	}
	o, ok := s.look(s.Runtime, t.ID)
	s.equal("phase", fmt.Sprintln(o.Phase, ok), "Staging true\n")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	launched.Wait()
	o = s.await(s.Runtime, t.ID)
	if !o.Exit.Stopped || !o.Started.IsZero() || strings.Contains(s.log(t.ID), "ran") {
		s.Errorf("%+v", o)
	}
	_, err := s.Runtime.Collect(s.Context(), t.ID)
	s.ok(err)
}

func stopAtAnyMoment(s *suite) {
	s.put("moment/code.txt", "x")
	for i := range 40 {
		t := task(fmt.Sprint("moment", i), "sleep 1000")
		t.Code = []compute.Tree{from("moment/")}
		var launched sync.WaitGroup
		launched.Go(func() {
			if err := s.Runtime.Launch(s.Context(), t); err != nil {
				s.Error(err)
			}
		})
		// A stop before there is a task stops nothing.
		for ok := false; !ok; _, ok = s.look(s.Runtime, t.ID) {
		}
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		s.ok(s.Runtime.Stop(s.Context(), t.ID))
		launched.Wait()
		if o := s.await(s.Runtime, t.ID); !o.Exit.Stopped || o.Exit.Lost != "" {
			s.Errorf("%+v", o.Exit)
		}
	}
}

func sockets(s *suite) {
	if _, err := exec.LookPath("python3"); err != nil {
		s.Skip("there is no python3 here")
	}
	t := task("sockets", `python3 -c 'import multiprocessing.connection as c; c.Listener(family="AF_UNIX").close(); print("made")'`)
	s.run(t)
	s.equal("log", s.log(t.ID), "made\n")
	s.ok(s.Runtime.Remove(s.Context(), t.ID))
}

func stopAgain(s *suite) {
	s.ok(s.Runtime.Stop(s.Context(), "1/unknown"))
	t := task("again", "sleep 100")
	s.ok(s.Runtime.Launch(s.Context(), t))
	for range 3 {
		s.ok(s.Runtime.Stop(s.Context(), t.ID))
	}
	s.equal("stopped", s.await(s.Runtime, t.ID).Exit.Stopped, true)
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	t = task("late", "true")
	s.run(t)
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	s.equal("a stop that comes late", s.await(s.Runtime, t.ID).Exit.Stopped, false)
}

func launchTwice(s *suite) {
	t := task("twice", "echo ran; sleep 0.3")
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.ok(s.Reopen().Launch(s.Context(), t))
	s.await(s.Runtime, t.ID)
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.ok(s.Reopen().Launch(s.Context(), t))
	s.await(s.Runtime, t.ID)
	s.equal("log", s.log(t.ID), "ran\n")
}

func launchAtOnce(s *suite) {
	t := task("once", "echo ran")
	other := s.Reopen()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			r := s.Runtime
			if i%2 == 1 {
				r = other
			}
			if err := r.Launch(s.Context(), t); err != nil {
				s.Error(err)
			}
		})
	}
	all.Wait()
	s.await(s.Runtime, t.ID)
	s.equal("log", s.log(t.ID), "ran\n")
}

func restart(s *suite) {
	t := task("restart", "echo one; until [ -e outputs/go ]; do sleep 0.05; done; echo two; exit 6")
	s.put("go", "")
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "one")
	other := s.Reopen()
	o, ok := s.look(other, t.ID)
	if !ok || o.Phase != compute.Running || o.Started.IsZero() {
		s.Fatalf("the second server sees %+v", o)
	}
	before, _ := s.look(s.Runtime, t.ID)
	s.equal("began", o.Started, before.Started)
	s.ok(other.Stop(s.Context(), "1/unknown"))
	short := task("helper", "true")
	s.ok(other.Launch(s.Context(), short))
	s.await(other, short.ID)
	s.ok(other.Stop(s.Context(), t.ID))
	o = s.await(other, t.ID)
	s.equal("stopped", o.Exit.Stopped, true)
	s.equal("seen by both", s.await(s.Runtime, t.ID).Exit, o.Exit)
}

func restartStop(s *suite) {
	t := task("follow", "sleep 1; echo done; exit 7")
	s.ok(s.Runtime.Launch(s.Context(), t))
	other := s.Reopen()
	began := time.Now()
	select {
	case <-other.Ended():
	case <-time.After(patience):
		s.Fatal("the second server is not told of the end")
	}
	if time.Since(began) > 30*time.Second {
		s.Errorf("told after %s", time.Since(began))
	}
	o := s.await(other, t.ID)
	s.equal("exit", o.Exit, compute.Exit{Code: 7, LastLine: "done"})
	s.ok(second(other.Collect(s.Context(), t.ID)))
	s.equal("log", s.get(artefacts, t.Logs.Prefix+"user_logs/std_log.txt"), "done\n")
}

func second[T any](_ T, err error) error { return err }

func logWhileRunning(s *suite) {
	t := task("live", "echo first line; until [ -e outputs/go ]; do sleep 0.02; done; echo last")
	s.ok(s.Runtime.Launch(s.Context(), t))
	s.awaitLog(t.ID, "first line\n")
	r, size, err := s.Runtime.OpenLog(s.Context(), t.ID, "user_logs/std_log.txt", 6)
	s.ok(err)
	b, err := io.ReadAll(r)
	s.ok(err)
	r.Close()
	s.equal("from 6", string(b), "line\n")
	s.equal("size", size, 11)
	r, _, err = s.Runtime.OpenLog(s.Context(), t.ID, "user_logs/std_log.txt", 11)
	s.ok(err)
	r.Close()
	for _, offset := range []int64{12, -1} {
		_, _, err = s.Runtime.OpenLog(s.Context(), t.ID, "user_logs/std_log.txt", offset)
		s.refused(err, fault.RangeUnsatisfiable, strconv.FormatInt(offset, 10))
	}
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	s.await(s.Runtime, t.ID)
}

func logTraversal(s *suite) {
	t := task("lt", "echo x")
	s.run(t)
	for _, name := range []string{"", ".", "..", "../task.json", "user_logs", "user_logs/../../task.json", "/etc/passwd", "outputs/../../lock", "no"} {
		_, _, err := s.Runtime.OpenLog(s.Context(), t.ID, name, 0)
		s.refused(err, fault.Missing)
	}
	_, _, err := s.Runtime.OpenLog(s.Context(), "1/unknown", "user_logs/std_log.txt", 0)
	s.refused(err, fault.Missing)
	_, err = s.Runtime.Logs(s.Context(), "1/unknown")
	s.refused(err, fault.Missing)
}

func collectTwice(s *suite) {
	t := task("ct", "echo x > outputs/x; echo y > ${{outputs.o}}/y")
	t.Outputs = []compute.Output{{Name: "o", Path: "outputs/o", To: from("ct/")}}
	s.run(t)
	for _, r := range []compute.Runtime{s.Runtime, s.Runtime, s.Reopen()} {
		sizes, err := r.Collect(s.Context(), t.ID)
		s.ok(err)
		s.equal("sizes", sizes, map[string]int64{"o": 2})
		s.equal("artefacts", s.keys(artefacts, t.Logs.Prefix), []string{"outputs/x", "user_logs/std_log.txt"})
		s.equal("output", s.get(data, "ct/y"), "y\n")
	}
}

func notYet(s *suite) {
	t := task("ny", "sleep 100")
	s.ok(s.Runtime.Launch(s.Context(), t))
	_, err := s.Runtime.Collect(s.Context(), t.ID)
	s.refused(err, fault.Conflict, "ny")
	s.refused(s.Runtime.Remove(s.Context(), t.ID), fault.Conflict, "ny")
	s.ok(s.Runtime.Stop(s.Context(), t.ID))
	s.await(s.Runtime, t.ID)
	_, err = s.Runtime.Collect(s.Context(), "1/unknown")
	s.refused(err, fault.Missing, "unknown")
}

func remove(s *suite) {
	t := task("rm", "mkdir outputs/d; echo x > outputs/d/x; chmod 0 outputs/d")
	s.run(t)
	s.ok(s.Runtime.Remove(s.Context(), t.ID))
	s.ok(s.Runtime.Remove(s.Context(), t.ID))
	if o, ok := s.look(s.Runtime, t.ID); ok {
		s.Errorf("%+v is still there", o)
	}
	_, err := s.Runtime.Logs(s.Context(), t.ID)
	s.refused(err, fault.Missing)
	t.Command = "exit 8"
	s.equal("the second life", s.run(t).Exit.Code, 8)
}

func sideBySide(s *suite) {
	const n = 12
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := s.Runtime.Launch(s.Context(), task(fmt.Sprint("side", i), fmt.Sprintf("echo %d; sleep 0.2; exit %d", i, i))); err != nil {
				s.Error(err)
			}
		})
	}
	all.Wait()
	for i := range n {
		t := task(fmt.Sprint("side", i), "")
		s.equal(t.ID, s.await(s.Runtime, t.ID).Exit, compute.Exit{Code: i, LastLine: fmt.Sprint(i)})
	}
}
