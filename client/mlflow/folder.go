package mlflow

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lapis/fault"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// folder is a store of files, such as ./mlruns.
type folder struct {
	root string
	disk disk
	at   map[string]string // experiment → its folder
}

const trash = ".trash"

func openFolder(root string, o Options) (Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if !storeOfFiles(abs) && storeOfFiles(filepath.Join(abs, "mlruns")) {
		abs = filepath.Join(abs, "mlruns")
	}
	if !storeOfFiles(abs) {
		return nil, fault.Invalid("%s is not an MLflow store: no folder in it holds a meta.yaml. Name the folder that MLflow was given as its tracking URI, as a rule ./mlruns.", root)
	}
	where, err := newDisk(filepath.Dir(abs), o.Artifacts, filepath.Base(abs), "mlartifacts")
	if err != nil {
		return nil, err
	}
	return &folder{root: abs, disk: where, at: map[string]string{}}, nil
}

func storeOfFiles(dir string) bool {
	for _, pattern := range []string{"*", filepath.Join(trash, "*")} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern, "meta.yaml")); len(found) > 0 {
			return true
		}
	}
	return false
}

// maxMeta bounds the files that describe things, in bytes.
const maxMeta = 32 << 20

// meta reads a YAML file; it is false where there is none.
func meta(path string, to any) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size() > maxMeta {
		return false, fault.Invalid("%s is too large to be a description", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	if err := yaml.Unmarshal(b, to); err != nil {
		return false, fault.Invalid("%s: %v", path, err)
	}
	return true, nil
}

// dirs are the folders in a folder, by name.
func dirs(path string) []string {
	entries, _ := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// values reads a folder of files, each a value under its name. A name may hold
// slashes: it is a path then.
func values(path string) ([]Tag, error) {
	list, err := files(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var tags []Tag
	for _, f := range list {
		if f.Size > maxMeta {
			return nil, fault.Invalid("%s is too large for a value", filepath.Join(path, f.Path))
		}
		b, err := os.ReadFile(filepath.Join(path, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		tags = append(tags, Tag{f.Path, string(b)})
	}
	return tags, err
}

// folders are those of the experiments, deleted ones too.
func (s *folder) folders() []string {
	var list []string
	for _, base := range []string{s.root, filepath.Join(s.root, trash)} {
		for _, name := range dirs(base) {
			if name != trash && !(base == s.root && name == "models") {
				list = append(list, filepath.Join(base, name))
			}
		}
	}
	return list
}

func (s *folder) Experiments(context.Context) ([]Experiment, error) {
	var list []Experiment
	for _, dir := range s.folders() {
		var m struct {
			ID        string `yaml:"experiment_id"`
			Name      string `yaml:"name"`
			Artifact  string `yaml:"artifact_location"`
			Lifecycle string `yaml:"lifecycle_stage"`
			Created   int64  `yaml:"creation_time"`
			Updated   int64  `yaml:"last_update_time"`
		}
		ok, err := meta(filepath.Join(dir, "meta.yaml"), &m)
		if err != nil {
			return nil, err
		}
		if !ok || m.ID == "" {
			continue
		}
		e := Experiment{ID: m.ID, Name: m.Name, Artifact: m.Artifact, Lifecycle: m.Lifecycle, Created: m.Created, Updated: m.Updated}
		if e.Tags, err = values(filepath.Join(dir, "tags")); err != nil {
			return nil, err
		}
		s.at[e.ID] = dir
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Experiment) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), strings.Compare(a.ID, b.ID))
	})
	return list, nil
}

type runMeta struct {
	ID        string    `yaml:"run_id"`
	UUID      string    `yaml:"run_uuid"`
	Name      string    `yaml:"run_name"`
	OldName   string    `yaml:"name"`
	User      string    `yaml:"user_id"`
	Status    yaml.Node `yaml:"status"`
	Start     int64     `yaml:"start_time"`
	End       *int64    `yaml:"end_time"`
	Lifecycle string    `yaml:"lifecycle_stage"`
	Artifact  string    `yaml:"artifact_uri"`
	Deleted   *int64    `yaml:"deleted_time"`
}

// runStates are the states of a run by their number.
var runStates = []string{"", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}

func (s *folder) Runs(_ context.Context, e Experiment) ([]string, error) {
	type run struct {
		id    string
		start int64
	}
	var list []run
	for _, name := range dirs(s.at[e.ID]) {
		switch name {
		case "tags", "datasets", "traces", "models":
			continue
		}
		var m runMeta
		ok, err := meta(filepath.Join(s.at[e.ID], name, "meta.yaml"), &m)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, run{name, m.Start})
		}
	}
	slices.SortFunc(list, func(a, b run) int { return cmp.Or(cmp.Compare(a.start, b.start), strings.Compare(a.id, b.id)) })
	ids := make([]string, len(list))
	for i, r := range list {
		ids[i] = r.id
	}
	return ids, nil
}

func (s *folder) Run(_ context.Context, e Experiment, id string) (Run, error) {
	dir := filepath.Join(s.at[e.ID], id)
	r := Run{dir: dir}
	var m runMeta
	ok, err := meta(filepath.Join(dir, "meta.yaml"), &m)
	if err != nil {
		return r, err
	}
	if !ok {
		return r, fault.NotFound("%s has no meta.yaml", dir)
	}
	r.Info = RunInfo{
		ID: id, Experiment: e.ID, Name: cmp.Or(m.Name, m.OldName), User: m.User,
		Start: m.Start, Lifecycle: m.Lifecycle, Artifact: m.Artifact, Status: m.Status.Value,
	}
	if n, err := strconv.Atoi(m.Status.Value); err == nil && n >= 0 && n < len(runStates) {
		r.Info.Status = runStates[n]
	}
	if m.End != nil {
		r.Info.End = *m.End
	}
	if m.Deleted != nil {
		r.Info.Deleted = *m.Deleted
	}
	if r.Data.Params, err = values(filepath.Join(dir, "params")); err != nil {
		return r, err
	}
	for i, p := range r.Data.Params {
		r.Data.Params[i].Value = strings.TrimSpace(p.Value)
	}
	if r.Data.Tags, err = values(filepath.Join(dir, "tags")); err != nil {
		return r, err
	}
	if err := s.inputs(e, dir, &r); err != nil {
		return r, err
	}
	h := sha256.New()
	metrics, err := files(filepath.Join(dir, "metrics"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	for _, f := range metrics {
		r.keys = append(r.keys, f.Path)
		fmt.Fprintln(h, f.Path, f.Size)
	}
	r.State = fmt.Sprintf("%x", h.Sum(nil))
	return r, nil
}

func (s *folder) inputs(e Experiment, dir string, r *Run) error {
	for _, name := range dirs(filepath.Join(dir, "inputs")) {
		var use struct {
			SourceType      string            `yaml:"source_type"`
			Source          string            `yaml:"source_id"`
			DestinationType string            `yaml:"destination_type"`
			Destination     string            `yaml:"destination_id"`
			Tags            map[string]string `yaml:"tags"`
		}
		if ok, err := meta(filepath.Join(dir, "inputs", name, "meta.yaml"), &use); !ok || err != nil {
			return err
		}
		if use.DestinationType == "MODEL_INPUT" {
			r.Inputs.Models = append(r.Inputs.Models, ModelInput{use.Destination})
			continue
		}
		var d struct {
			Name       string `yaml:"name"`
			Digest     string `yaml:"digest"`
			SourceType string `yaml:"source_type"`
			Source     string `yaml:"source"`
			Schema     string `yaml:"schema"`
			Profile    string `yaml:"profile"`
		}
		if !plainName(use.Source) {
			continue
		}
		if ok, err := meta(filepath.Join(s.at[e.ID], "datasets", use.Source, "meta.yaml"), &d); err != nil {
			return err
		} else if !ok {
			continue
		}
		in := DatasetInput{Dataset: Dataset(d)}
		for _, k := range sorted(use.Tags) {
			in.Tags = append(in.Tags, Tag{k, use.Tags[k]})
		}
		r.Inputs.Datasets = append(r.Inputs.Datasets, in)
	}
	for _, name := range dirs(filepath.Join(dir, "outputs")) {
		var use struct {
			Destination string `yaml:"destination_id"`
			Step        int64  `yaml:"step"`
		}
		if ok, err := meta(filepath.Join(dir, "outputs", name, "meta.yaml"), &use); !ok || err != nil {
			return err
		}
		r.Outputs.Models = append(r.Outputs.Models, ModelOutput{use.Destination, use.Step})
	}
	return nil
}

// plainName tells a name that leads nowhere else.
func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, `/\`)
}

func (s *folder) Metrics(ctx context.Context, r Run) iter.Seq2[[]Metric, error] {
	return func(yield func([]Metric, error) bool) {
		page := make([]Metric, 0, pieces)
		for _, key := range r.keys {
			err := points(filepath.Join(r.dir, "metrics", filepath.FromSlash(key)), func(words []string, m Metric) bool {
				m.Key = key
				if page = append(page, m); len(page) < pieces {
					return true
				}
				ok := yield(page, nil)
				page = make([]Metric, 0, pieces)
				return ok && ctx.Err() == nil
			})
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
		if len(page) > 0 {
			yield(page, nil)
		}
	}
}

var errStopped = errors.New("stopped")

// points reads a file of points, a line each: time, value and step; words are
// what the line holds besides.
func points(path string, visit func(words []string, m Metric) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		var m Metric
		if len(words) < 2 {
			return fault.Invalid("%s, line %d: it is not a time, a value and a step", path, n)
		}
		if m.Time, err = strconv.ParseInt(words[0], 10, 64); err != nil {
			return fault.Invalid("%s, line %d: %q is not a time", path, n, words[0])
		}
		if m.Value, err = parseNumber(words[1]); err != nil {
			return fault.Invalid("%s, line %d: %v", path, n, err)
		}
		if len(words) > 2 {
			if m.Step, err = strconv.ParseInt(words[2], 10, 64); err != nil {
				return fault.Invalid("%s, line %d: %q is not a step", path, n, words[2])
			}
		}
		if !visit(words[min(3, len(words)):], m) {
			return errStopped
		}
	}
	return lines.Err()
}

func (s *folder) Models(_ context.Context, e Experiment) ([]LoggedModel, error) {
	var list []LoggedModel
	base := filepath.Join(s.at[e.ID], "models")
	for _, name := range dirs(base) {
		dir := filepath.Join(base, name)
		var d struct {
			ID        string `yaml:"model_id"`
			Name      string `yaml:"name"`
			Artifact  string `yaml:"artifact_location"`
			Created   int64  `yaml:"creation_timestamp"`
			Updated   int64  `yaml:"last_updated_timestamp"`
			Status    int    `yaml:"status"`
			Message   string `yaml:"status_message"`
			Type      string `yaml:"model_type"`
			Run       string `yaml:"source_run_id"`
			Lifecycle string `yaml:"lifecycle_stage"`
		}
		ok, err := meta(filepath.Join(dir, "meta.yaml"), &d)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		m := LoggedModel{ID: d.ID, Experiment: e.ID, Name: d.Name, Type: d.Type, SourceRun: d.Run, Artifact: d.Artifact, Status: modelState(d.Status),
			Message: d.Message, Created: d.Created, Updated: d.Updated, dir: dir}
		if d.Lifecycle == "deleted" {
			m.Deleted = d.Updated
		}
		if m.Tags, err = values(filepath.Join(dir, "tags")); err != nil {
			return nil, err
		}
		if m.Params, err = values(filepath.Join(dir, "params")); err != nil {
			return nil, err
		}
		metrics, err := files(filepath.Join(dir, "metrics"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, f := range metrics {
			err := points(filepath.Join(dir, "metrics", filepath.FromSlash(f.Path)), func(words []string, p Metric) bool {
				p.Key, p.Model = f.Path, m.ID
				if len(words) > 0 {
					p.Run = words[0]
				}
				if len(words) > 2 {
					p.DatasetName, p.DatasetDigest = words[1], words[2]
				}
				m.Metrics = append(m.Metrics, p)
				return true
			})
			if err != nil {
				return nil, err
			}
		}
		list = append(list, m)
	}
	return list, nil
}

func (s *folder) Registered(context.Context) ([]RegisteredModel, error) {
	var list []RegisteredModel
	for _, name := range dirs(filepath.Join(s.root, "models")) {
		dir := filepath.Join(s.root, "models", name)
		var d struct {
			Name        string `yaml:"name"`
			Description string `yaml:"description"`
			Created     int64  `yaml:"creation_timestamp"`
			Updated     int64  `yaml:"last_updated_timestamp"`
		}
		ok, err := meta(filepath.Join(dir, "meta.yaml"), &d)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		m := RegisteredModel{Name: d.Name, Description: d.Description, Created: d.Created, Updated: d.Updated}
		if m.Tags, err = values(filepath.Join(dir, "tags")); err != nil {
			return nil, err
		}
		aliases, err := values(filepath.Join(dir, "aliases"))
		if err != nil {
			return nil, err
		}
		m.Aliases = asMap(aliases)
		for _, version := range dirs(dir) {
			if !strings.HasPrefix(version, "version-") {
				continue
			}
			var d struct {
				Number      int64  `yaml:"version"`
				Description string `yaml:"description"`
				User        string `yaml:"user_id"`
				Stage       string `yaml:"current_stage"`
				Source      string `yaml:"source"`
				Run         string `yaml:"run_id"`
				Link        string `yaml:"run_link"`
				Model       string `yaml:"model_id"`
				Storage     string `yaml:"storage_location"`
				Created     int64  `yaml:"creation_timestamp"`
				Updated     int64  `yaml:"last_updated_timestamp"`
			}
			if ok, err := meta(filepath.Join(dir, version, "meta.yaml"), &d); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			m.Last = max(m.Last, d.Number)
			if d.Stage == deletedStage {
				continue
			}
			v := ModelVersion{Name: m.Name, Number: strconv.FormatInt(d.Number, 10), Description: d.Description, User: d.User, Stage: d.Stage,
				Source: d.Source, Run: d.Run, RunLink: d.Link, Model: d.Model, Storage: d.Storage, Created: d.Created, Updated: d.Updated}
			if v.Tags, err = values(filepath.Join(dir, version, "tags")); err != nil {
				return nil, err
			}
			m.Versions = append(m.Versions, v)
		}
		slices.SortFunc(m.Versions, func(a, b ModelVersion) int {
			return cmp.Or(cmp.Compare(len(a.Number), len(b.Number)), strings.Compare(a.Number, b.Number))
		})
		list = append(list, m)
	}
	return list, nil
}

func (s *folder) Traces(_ context.Context, e Experiment) ([]string, error) {
	return dirs(filepath.Join(s.at[e.ID], "traces")), nil
}

func (s *folder) Trace(_ context.Context, e Experiment, id string) (Trace, error) {
	dir := filepath.Join(s.at[e.ID], "traces", id)
	t := Trace{ID: id, Location: inExperiment(e.ID)}
	var d struct {
		Client    string `yaml:"client_request_id"`
		Request   string `yaml:"request_preview"`
		Response  string `yaml:"response_preview"`
		Time      any    `yaml:"request_time"` // of release 3
		Took      *int64 `yaml:"execution_duration_ms"`
		State     string `yaml:"state"`
		Stamp     int64  `yaml:"timestamp_ms"` // of release 2
		Execution *int64 `yaml:"execution_time_ms"`
		Status    string `yaml:"status"`
	}
	ok, err := meta(filepath.Join(dir, "trace_info.yaml"), &d)
	if err != nil {
		return t, err
	}
	if !ok {
		return t, fault.NotFound("%s has no trace_info.yaml", dir)
	}
	t.ClientRequest, t.Request, t.Response, t.State = d.Client, d.Request, d.Response, cmp.Or(d.State, d.Status)
	switch at := d.Time.(type) {
	case time.Time:
		t.Time = stamp(at.UnixMilli())
	case string:
		t.Time = at
	default:
		t.Time = stamp(d.Stamp)
	}
	if d.Took == nil {
		d.Took = d.Execution
	}
	if d.Took != nil {
		t.Duration = seconds(*d.Took)
	}
	tags, err := values(filepath.Join(dir, "tags"))
	if err != nil {
		return t, err
	}
	metadata, err := values(filepath.Join(dir, "request_metadata"))
	if err != nil {
		return t, err
	}
	t.Tags, t.Metadata = asMap(tags), asMap(metadata)
	assessments, _ := filepath.Glob(filepath.Join(dir, "assessments", "*.yaml"))
	for _, path := range assessments {
		var a map[string]any
		if _, err := meta(path, &a); err != nil {
			return t, err
		}
		raw, err := json.Marshal(a)
		if err != nil {
			return t, fault.Invalid("%s: %v", path, err)
		}
		t.Assessments = append(t.Assessments, raw)
	}
	content, err := os.ReadFile(filepath.Join(dir, "artifacts", "traces.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return t, t.readSpans(s.disk)
	}
	if err != nil {
		return t, err
	}
	return t, t.parseSpans(content)
}

func (s *folder) Files(_ context.Context, f Folder) ([]File, error) {
	if f.dir != "" {
		list, err := files(filepath.Join(f.dir, "artifacts"))
		if err == nil && len(list) > 0 || f.URI == "" {
			return list, nil
		}
	}
	return s.disk.folder(f.URI)
}

func (s *folder) Left(context.Context) (map[string]int, error) { return nil, nil }

func (s *folder) Close() error { return nil }
