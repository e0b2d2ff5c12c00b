package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// placed is one version of a model in a repository of Triton's layout:
// {name}/{version}/model.onnx, beside it {name}/config.pbtxt.
type placed struct {
	name, version, file string
	number              int
	config              settings
}

// settings are the parts of config.pbtxt that matter here.
type settings struct {
	maxBatch int
	batching bool
	delay    time.Duration
	latest   int // versions that are served; 0: all
	specific map[int]bool
}

// repository finds the models of a repository, versions from the lowest. The
// folder may be the repository, or hold it.
func repository(folder string) ([]placed, error) {
	var found []placed
	seen := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxFiles {
			return fmt.Errorf("the model repository has more than %d files", maxFiles)
		}
		version := filepath.Dir(path)
		n, err := strconv.Atoi(filepath.Base(version))
		if d.Name() != "model.onnx" || err != nil || n < 1 {
			return nil
		}
		// model.onnx may be a folder with the model and its weights.
		if d.IsDir() {
			inner := filepath.Join(path, "model.onnx")
			if _, err := os.Stat(inner); err != nil {
				return nil
			}
			path = inner
		}
		p := placed{name: filepath.Base(filepath.Dir(version)), version: strconv.Itoa(n), number: n, file: path}
		if p.config, err = readConfig(filepath.Join(filepath.Dir(version), "config.pbtxt"), &p.name); err != nil {
			return fmt.Errorf("model %s: %w", p.name, err)
		}
		found = append(found, p)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("there is no model in the model repository: {name}/{version}/model.onnx is needed, with a whole number as version")
	}
	sort.SliceStable(found, func(i, j int) bool {
		if found[i].name != found[j].name {
			return found[i].name < found[j].name
		}
		return found[i].number < found[j].number
	})
	var served []placed
	for i, p := range found {
		later := 0
		for j := i + 1; j < len(found) && found[j].name == p.name; j++ {
			later++
		}
		if p.config.specific != nil && !p.config.specific[p.number] || p.config.latest > 0 && later >= p.config.latest {
			continue
		}
		served = append(served, p)
	}
	if len(served) == 0 {
		return nil, errors.New("the version_policy of the model repository leaves no version to serve")
	}
	return served, nil
}

// readConfig reads a config.pbtxt, which need not be there.
func readConfig(file string, name *string) (settings, error) {
	s := settings{latest: 1} // as Triton does
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	m, err := parseText(string(b))
	if err != nil {
		return s, fmt.Errorf("config.pbtxt: %w", err)
	}
	if given := m.word("name"); given != "" {
		*name = given
	}
	if p := m.word("platform") + m.word("backend"); p != "" && !strings.Contains(p, "onnxruntime") {
		return s, fmt.Errorf("config.pbtxt asks for %q; models are served natively that run on onnxruntime", p)
	}
	if s.maxBatch, err = m.whole("max_batch_size"); err != nil {
		return s, err
	}
	if d := m.message("dynamic_batching"); d != nil && s.maxBatch > 1 {
		micros, err := d.whole("max_queue_delay_microseconds")
		if err != nil {
			return s, err
		}
		s.batching, s.delay = true, time.Duration(micros)*time.Microsecond
	}
	policy := m.message("version_policy")
	if policy == nil {
		return s, nil
	}
	if latest := policy.message("latest"); latest != nil {
		if s.latest, err = latest.whole("num_versions"); s.latest < 1 {
			s.latest = 1
		}
		return s, err
	}
	if policy.message("all") != nil {
		s.latest = 0
	}
	if specific := policy.message("specific"); specific != nil {
		s.latest, s.specific = 0, map[int]bool{}
		for _, v := range specific["versions"] {
			n, err := strconv.Atoi(v.word)
			if err != nil {
				return s, fmt.Errorf("config.pbtxt: versions must be whole numbers, and one is %q", v.word)
			}
			s.specific[n] = true
		}
	}
	return s, nil
}

// message is a protocol buffer in its text form.
type message map[string][]value

type value struct {
	word string
	in   message
}

func (m message) word(name string) string {
	if v := m[name]; len(v) > 0 {
		return v[len(v)-1].word
	}
	return ""
}

func (m message) whole(name string) (int, error) {
	w := m.word(name)
	if w == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(w)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("config.pbtxt: %s must be a whole number, and is %q", name, w)
	}
	return n, nil
}

func (m message) message(name string) message {
	if v := m[name]; len(v) > 0 {
		return v[len(v)-1].in
	}
	return nil
}

// words splits the text form into words, strings and signs.
func words(text string) ([]string, error) {
	var out []string
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == ';':
			i++
		case strings.IndexByte("{}[]:<>", c) >= 0:
			out = append(out, string(c))
			i++
		case c == '"' || c == '\'':
			j := i + 1
			for j < len(text) && text[j] != c {
				if text[j] == '\\' {
					j++
				}
				j++
			}
			if j >= len(text) {
				return nil, errors.New("a string does not end")
			}
			out = append(out, `"`+text[i+1:j])
			i = j + 1
		default:
			j := i
			for j < len(text) && strings.IndexByte("{}[]:<>#\"' \t\r\n,;", text[j]) < 0 {
				j++
			}
			out = append(out, text[i:j])
			i = j
		}
	}
	return out, nil
}

func parseText(text string) (message, error) {
	w, err := words(text)
	if err != nil {
		return nil, err
	}
	m, rest, err := fields(w, 0)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected %q", rest[0])
	}
	return m, err
}

// fields reads fields up to the end or a closing bracket.
func fields(w []string, depth int) (message, []string, error) {
	if depth > 20 {
		return nil, nil, errors.New("messages lie too deep in each other")
	}
	m := message{}
	for len(w) > 0 && w[0] != "}" && w[0] != ">" {
		name := w[0]
		if strings.ContainsAny(name, "{}[]:<>\"") {
			return nil, nil, fmt.Errorf("unexpected %q", name)
		}
		w = w[1:]
		if len(w) > 0 && w[0] == ":" {
			w = w[1:]
		}
		list := len(w) > 0 && w[0] == "["
		if list {
			w = w[1:]
		}
		for {
			if len(w) == 0 {
				return nil, nil, fmt.Errorf("%s has no value", name)
			}
			if list && w[0] == "]" {
				w = w[1:]
				break
			}
			v := value{word: strings.TrimPrefix(w[0], `"`)}
			if w[0] == "{" || w[0] == "<" {
				var err error
				if v.in, w, err = fields(w[1:], depth+1); err != nil {
					return nil, nil, err
				}
				if len(w) == 0 {
					return nil, nil, fmt.Errorf("%s does not end", name)
				}
				v.word = ""
			}
			w = w[1:]
			m[name] = append(m[name], v)
			if !list {
				break
			}
		}
	}
	return m, w, nil
}
