package mlflow

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"lapis/client"
	"lapis/fault"
)

// server is a store behind an MLflow server.
type server struct {
	base  string
	user  *url.Userinfo
	token string
	http  *http.Client

	mu   sync.Mutex
	runs map[string]serverRun // of the experiment that is read, by id
}

// serverRun is a run as a search answers it.
type serverRun struct {
	Info struct {
		ID         string `json:"run_id"`
		Experiment string `json:"experiment_id"`
		Name       string `json:"run_name"`
		User       string `json:"user_id"`
		Status     string `json:"status"`
		Start      whole  `json:"start_time"`
		End        whole  `json:"end_time"`
		Lifecycle  string `json:"lifecycle_stage"`
		Artifact   string `json:"artifact_uri"`
	} `json:"info"`
	Data struct {
		Params  []Tag          `json:"params"`
		Tags    []Tag          `json:"tags"`
		Metrics []serverMetric `json:"metrics"`
	} `json:"data"`
	Inputs  RunInputs `json:"inputs"`
	Outputs struct {
		Models []struct {
			Model string `json:"model_id"`
			Step  whole  `json:"step"`
		} `json:"model_outputs"`
	} `json:"outputs"`
}

type serverMetric struct {
	Key           string `json:"key"`
	Value         Number `json:"value"`
	Time          whole  `json:"timestamp"`
	Step          whole  `json:"step"`
	Model         string `json:"model_id"`
	DatasetName   string `json:"dataset_name"`
	DatasetDigest string `json:"dataset_digest"`
	Run           string `json:"run_id"`
}

func (m serverMetric) metric() Metric {
	return Metric{m.Key, m.Value, int64(m.Time), int64(m.Step), m.Model, m.DatasetName, m.DatasetDigest, m.Run}
}

func openServer(ctx context.Context, address string, o Options) (Store, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fault.Invalid("%q is not the address of a server; it reads http://HOST:PORT.", address)
	}
	s := &server{user: u.User, token: o.Token, runs: map[string]serverRun{}, http: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 5 * time.Minute, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
	}}}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	s.base = strings.TrimSuffix(u.String(), "/")
	var page struct{}
	if err := s.call(ctx, http.MethodPost, "2.0/mlflow/experiments/search", nil, map[string]any{"max_results": 1}, &page); err != nil {
		return nil, fault.Invalid("%s does not answer as an MLflow server: %v", s.base, err)
	}
	return s, nil
}

// tries is how often a request is sent to a server that does not answer well.
const tries = 4

// send makes a request and returns its answer, whose body the caller closes.
// Answers of 400 and more are faults.
func (s *server) send(ctx context.Context, method, address string, body []byte) (*http.Response, error) {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		switch {
		case s.token != "":
			req.Header.Set("Authorization", "Bearer "+s.token)
		case s.user != nil:
			password, _ := s.user.Password()
			req.SetBasicAuth(s.user.Username(), password)
		}
		res, err := s.http.Do(req)
		if err == nil && res.StatusCode < 400 {
			return res, nil
		}
		again := err != nil
		if err == nil {
			again = res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500
			err = refusal(res)
		} else if u := (*url.Error)(nil); errors.As(err, &u) {
			err = fmt.Errorf("%s does not answer: %w", s.base, u.Err)
		}
		if !again || try == tries || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try*try) * 250 * time.Millisecond):
		}
	}
}

// refusal makes a fault of an answer.
func refusal(res *http.Response) error {
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	var said struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(b, &said)
	if said.Message == "" {
		said.Message = fmt.Sprintf("it answered %s to %s", res.Status, res.Request.URL.Path)
	}
	if res.StatusCode == http.StatusNotFound {
		return fault.NotFound("%s", said.Message).With(said.Code)
	}
	return fault.Invalid("%s", said.Message).With(said.Code)
}

// maxAnswer bounds an answer that is kept in memory, in bytes.
const maxAnswer = 256 << 20

func (s *server) call(ctx context.Context, method, path string, query url.Values, body, reply any) error {
	address := s.base + "/api/" + path
	if strings.HasPrefix(path, "/") {
		address = s.base + path
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return err
		}
	}
	res, err := s.send(ctx, method, address, sent)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	d := json.NewDecoder(io.LimitReader(res.Body, maxAnswer))
	if err := d.Decode(reply); err != nil {
		return fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return nil
}

func (s *server) Experiments(ctx context.Context) ([]Experiment, error) {
	var list []Experiment
	for token := ""; ; {
		var page struct {
			Experiments []struct {
				ID        string `json:"experiment_id"`
				Name      string `json:"name"`
				Artifact  string `json:"artifact_location"`
				Lifecycle string `json:"lifecycle_stage"`
				Created   whole  `json:"creation_time"`
				Updated   whole  `json:"last_update_time"`
				Tags      []Tag  `json:"tags"`
			}
			Next string `json:"next_page_token"`
		}
		body := map[string]any{"max_results": 1000, "view_type": "ALL", "order_by": []string{"creation_time ASC"}}
		if token != "" {
			body["page_token"] = token
		}
		if err := s.call(ctx, http.MethodPost, "2.0/mlflow/experiments/search", nil, body, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Experiments {
			list = append(list, Experiment{e.ID, e.Name, e.Artifact, e.Lifecycle, int64(e.Created), int64(e.Updated), e.Tags})
		}
		if token = page.Next; token == "" {
			return list, nil
		}
	}
}

func (s *server) Runs(ctx context.Context, e Experiment) ([]string, error) {
	var ids []string
	found := map[string]serverRun{}
	for token := ""; ; {
		var page struct {
			Runs []serverRun
			Next string `json:"next_page_token"`
		}
		body := map[string]any{"experiment_ids": []string{e.ID}, "run_view_type": "ALL", "max_results": 1000, "order_by": []string{"attributes.start_time ASC"}}
		if token != "" {
			body["page_token"] = token
		}
		if err := s.call(ctx, http.MethodPost, "2.0/mlflow/runs/search", nil, body, &page); err != nil {
			return nil, err
		}
		for _, r := range page.Runs {
			if _, twice := found[r.Info.ID]; !twice {
				ids = append(ids, r.Info.ID)
			}
			found[r.Info.ID] = r
		}
		if token = page.Next; token == "" {
			break
		}
	}
	s.mu.Lock()
	s.runs = found
	s.mu.Unlock()
	return ids, nil
}

func (s *server) Run(ctx context.Context, e Experiment, id string) (Run, error) {
	s.mu.Lock()
	f, ok := s.runs[id]
	delete(s.runs, id)
	s.mu.Unlock()
	if !ok {
		var reply struct{ Run serverRun }
		if err := s.call(ctx, http.MethodGet, "2.0/mlflow/runs/get", url.Values{"run_id": {id}}, nil, &reply); err != nil {
			return Run{}, err
		}
		f = reply.Run
	}
	r := Run{
		Info: RunInfo{ID: f.Info.ID, Experiment: e.ID, Name: f.Info.Name, User: f.Info.User, Status: f.Info.Status,
			Start: int64(f.Info.Start), End: int64(f.Info.End), Lifecycle: f.Info.Lifecycle, Artifact: f.Info.Artifact},
		Data: RunData{f.Data.Params, f.Data.Tags}, Inputs: f.Inputs,
	}
	for _, m := range f.Outputs.Models {
		r.Outputs.Models = append(r.Outputs.Models, ModelOutput{m.Model, int64(m.Step)})
	}
	h := sha256.New()
	for _, m := range f.Data.Metrics {
		r.keys = append(r.keys, m.Key)
		fmt.Fprintf(h, "%q %v %d %d\n", m.Key, m.Value, m.Time, m.Step)
	}
	r.State = fmt.Sprintf("%x", h.Sum(nil))
	return r, nil
}

func (s *server) Metrics(ctx context.Context, r Run) iter.Seq2[[]Metric, error] {
	return func(yield func([]Metric, error) bool) {
		for _, key := range r.keys {
			for token := ""; ; {
				q := url.Values{"run_id": {r.Info.ID}, "metric_key": {key}, "max_results": {"25000"}}
				if token != "" {
					q.Set("page_token", token)
				}
				var page struct {
					Metrics []serverMetric
					Next    string `json:"next_page_token"`
				}
				if err := s.call(ctx, http.MethodGet, "2.0/mlflow/metrics/get-history", q, nil, &page); err != nil {
					yield(nil, err)
					return
				}
				for len(page.Metrics) > 0 {
					n := min(pieces, len(page.Metrics))
					piece := make([]Metric, n)
					for i, m := range page.Metrics[:n] {
						// Which model a point belongs to is told by the model.
						piece[i] = Metric{Key: m.Key, Value: m.Value, Time: int64(m.Time), Step: int64(m.Step)}
					}
					if !yield(piece, nil) {
						return
					}
					page.Metrics = page.Metrics[n:]
				}
				if token = page.Next; token == "" {
					break
				}
			}
		}
	}
}

// unknown tells the answer of a server that is too old to have a route.
func unknown(err error) bool {
	f := fault.Find(err)
	return f != nil && (f.Kind == fault.Missing && f.Code != "RESOURCE_DOES_NOT_EXIST" || f.Code == "ENDPOINT_NOT_FOUND" || f.Code == "NOT_IMPLEMENTED")
}

func (s *server) Models(ctx context.Context, e Experiment) ([]LoggedModel, error) {
	var list []LoggedModel
	for token := ""; ; {
		var page struct {
			Models []struct {
				Info struct {
					ID         string          `json:"model_id"`
					Name       string          `json:"name"`
					Type       string          `json:"model_type"`
					Run        string          `json:"source_run_id"`
					Artifact   string          `json:"artifact_uri"`
					Status     json.RawMessage `json:"status"`
					Message    string          `json:"status_message"`
					Created    whole           `json:"creation_timestamp_ms"`
					Updated    whole           `json:"last_updated_timestamp_ms"`
					Tags       []Tag           `json:"tags"`
					Experiment string          `json:"experiment_id"`
				}
				Data struct {
					Params  []Tag
					Metrics []serverMetric
				}
			}
			Next string `json:"next_page_token"`
		}
		body := map[string]any{"experiment_ids": []string{e.ID}, "max_results": 50}
		if token != "" {
			body["page_token"] = token
		}
		err := s.call(ctx, http.MethodPost, "2.0/mlflow/logged-models/search", nil, body, &page)
		if unknown(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, f := range page.Models {
			i := f.Info
			status := strings.Trim(string(i.Status), `"`)
			if len(status) == 1 {
				status = modelState(int(status[0] - '0'))
			}
			m := LoggedModel{ID: i.ID, Experiment: e.ID, Name: i.Name, Type: i.Type, SourceRun: i.Run, Artifact: i.Artifact, Status: status,
				Message: i.Message, Created: int64(i.Created), Updated: int64(i.Updated), Tags: i.Tags, Params: f.Data.Params}
			for _, p := range f.Data.Metrics {
				p.Model = i.ID
				m.Metrics = append(m.Metrics, p.metric())
			}
			list = append(list, m)
		}
		if token = page.Next; token == "" {
			return list, nil
		}
	}
}

// onlyPrompts finds prompts, which searches leave out that do not ask for them.
const onlyPrompts = "tags.`mlflow.prompt.is_prompt` = 'true'"

func (s *server) Registered(ctx context.Context) ([]RegisteredModel, error) {
	var list []RegisteredModel
	seen := map[string]bool{}
	for _, filter := range []string{"", onlyPrompts} {
		for token := ""; ; {
			q := url.Values{"max_results": {"100"}}
			if filter != "" {
				q.Set("filter", filter)
			}
			if token != "" {
				q.Set("page_token", token)
			}
			var page struct {
				Models []struct {
					Name        string
					Description string
					Created     whole `json:"creation_timestamp"`
					Updated     whole `json:"last_updated_timestamp"`
					Tags        []Tag
					Aliases     []struct {
						Alias   string
						Version whole
					}
				} `json:"registered_models"`
				Next string `json:"next_page_token"`
			}
			err := s.call(ctx, http.MethodGet, "2.0/mlflow/registered-models/search", q, nil, &page)
			if unknown(err) || err != nil && filter != "" && fault.Find(err) != nil {
				break
			}
			if err != nil {
				return nil, err
			}
			for _, f := range page.Models {
				if seen[f.Name] {
					continue
				}
				seen[f.Name] = true
				m := RegisteredModel{Name: f.Name, Description: f.Description, Created: int64(f.Created), Updated: int64(f.Updated), Tags: f.Tags, Aliases: map[string]string{}}
				for _, a := range f.Aliases {
					m.Aliases[a.Alias] = fmt.Sprint(int64(a.Version))
				}
				if m.Versions, err = s.versions(ctx, m.Name, filter); err != nil {
					return nil, err
				}
				list = append(list, m)
			}
			if token = page.Next; token == "" {
				break
			}
		}
	}
	return list, nil
}

func (s *server) versions(ctx context.Context, name, more string) ([]ModelVersion, error) {
	filter := "name = '" + strings.ReplaceAll(name, "'", "''") + "'"
	if strings.Contains(name, "'") {
		filter = `name = "` + name + `"`
	}
	if more != "" {
		filter += " AND " + more
	}
	var list []ModelVersion
	for token := ""; ; {
		q := url.Values{"filter": {filter}, "max_results": {"1000"}, "order_by": {"version_number ASC"}}
		if token != "" {
			q.Set("page_token", token)
		}
		var page struct {
			Versions []struct {
				Name        string
				Version     string
				Description string
				User        string `json:"user_id"`
				Stage       string `json:"current_stage"`
				Source      string
				Run         string `json:"run_id"`
				Link        string `json:"run_link"`
				Model       string `json:"model_id"`
				Created     whole  `json:"creation_timestamp"`
				Updated     whole  `json:"last_updated_timestamp"`
				Tags        []Tag
			} `json:"model_versions"`
			Next string `json:"next_page_token"`
		}
		if err := s.call(ctx, http.MethodGet, "2.0/mlflow/model-versions/search", q, nil, &page); err != nil {
			return nil, err
		}
		for _, v := range page.Versions {
			list = append(list, ModelVersion{Name: v.Name, Number: v.Version, Description: v.Description, User: v.User, Stage: v.Stage, Source: v.Source,
				Run: v.Run, RunLink: v.Link, Model: v.Model, Created: int64(v.Created), Updated: int64(v.Updated), Tags: v.Tags})
		}
		if token = page.Next; token == "" {
			return list, nil
		}
	}
}

func (s *server) Traces(ctx context.Context, e Experiment) ([]string, error) {
	var ids []string
	for token := ""; ; {
		body := map[string]any{"locations": []traceLocation{inExperiment(e.ID)}, "max_results": 500, "order_by": []string{"timestamp_ms ASC"}}
		if token != "" {
			body["page_token"] = token
		}
		var page struct {
			Traces []struct {
				ID string `json:"trace_id"`
			}
			Next string `json:"next_page_token"`
		}
		err := s.call(ctx, http.MethodPost, "3.0/mlflow/traces/search", nil, body, &page)
		if unknown(err) {
			return s.oldTraces(ctx, e)
		}
		if err != nil {
			return nil, err
		}
		for _, t := range page.Traces {
			ids = append(ids, t.ID)
		}
		if token = page.Next; token == "" {
			return ids, nil
		}
	}
}

// oldTraces are those of a server of release 2.
func (s *server) oldTraces(ctx context.Context, e Experiment) ([]string, error) {
	var ids []string
	for token := ""; ; {
		q := url.Values{"experiment_ids": {e.ID}, "max_results": {"100"}}
		if token != "" {
			q.Set("page_token", token)
		}
		var page struct {
			Traces []struct {
				ID string `json:"request_id"`
			}
			Next string `json:"next_page_token"`
		}
		err := s.call(ctx, http.MethodGet, "2.0/mlflow/traces", q, nil, &page)
		if unknown(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, t := range page.Traces {
			ids = append(ids, t.ID)
		}
		if token = page.Next; token == "" {
			return ids, nil
		}
	}
}

func (s *server) Trace(ctx context.Context, e Experiment, id string) (Trace, error) {
	var reply struct {
		Trace struct {
			Info  Trace `json:"trace_info"`
			Spans []any `json:"spans"`
		}
	}
	var raw json.RawMessage
	err := s.call(ctx, http.MethodGet, "3.0/mlflow/traces/"+url.PathEscape(id), nil, nil, &raw)
	if unknown(err) {
		return s.oldTrace(ctx, e, id)
	}
	if err != nil {
		return Trace{}, err
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return Trace{}, fmt.Errorf("read trace %s: %w", id, err)
	}
	t := reply.Trace.Info
	t.ID, t.Location = id, inExperiment(e.ID)
	// Where the spans are depends on the release.
	if err := s.call(ctx, http.MethodGet, "3.0/mlflow/traces/get", url.Values{"trace_id": {id}}, nil, &raw); err == nil {
		v, err := decode(raw)
		if err != nil {
			return t, err
		}
		for _, m := range list(object(object(v)["trace"])["spans"]) {
			sp, err := spanOf(object(m))
			if err != nil {
				return t, err
			}
			t.Spans = append(t.Spans, sp)
		}
	} else if fault.Find(err) == nil {
		return t, err
	}
	if len(t.Spans) == 0 {
		return t, s.spans(ctx, &t)
	}
	return t, nil
}

func (s *server) oldTrace(ctx context.Context, e Experiment, id string) (Trace, error) {
	var reply struct {
		Info struct {
			Time     whole  `json:"timestamp_ms"`
			Took     *whole `json:"execution_time_ms"`
			Status   string `json:"status"`
			Metadata []Tag  `json:"request_metadata"`
			Tags     []Tag  `json:"tags"`
		} `json:"trace_info"`
	}
	if err := s.call(ctx, http.MethodGet, "2.0/mlflow/traces/"+url.PathEscape(id)+"/info", nil, nil, &reply); err != nil {
		return Trace{}, err
	}
	i := reply.Info
	t := Trace{ID: id, Location: inExperiment(e.ID), Time: stamp(int64(i.Time)), State: i.Status, Metadata: asMap(i.Metadata), Tags: asMap(i.Tags)}
	if i.Took != nil {
		t.Duration = seconds(int64(*i.Took))
	}
	return t, s.spans(ctx, &t)
}

// spans reads those that the server keeps as an artefact of the trace.
func (s *server) spans(ctx context.Context, t *Trace) error {
	var raw json.RawMessage
	err := s.call(ctx, http.MethodGet, "/ajax-api/2.0/mlflow/get-trace-artifact", url.Values{"request_id": {t.ID}}, nil, &raw)
	if fault.Find(err) != nil {
		return nil // there are none
	}
	if err != nil {
		return err
	}
	return t.parseSpans(raw)
}

func (s *server) Files(ctx context.Context, f Folder) ([]File, error) {
	switch {
	case f.Run != "":
		return s.walk(ctx, "2.0/mlflow/artifacts/list", url.Values{"run_id": {f.Run}}, "path", false, func(p string) string {
			return "/get-artifact?" + url.Values{"run_id": {f.Run}, "run_uuid": {f.Run}, "path": {p}}.Encode()
		})
	case f.Model != "":
		base := "/2.0/mlflow/logged-models/" + f.Model + "/artifacts/"
		return s.walk(ctx, base[1:]+"directories", url.Values{}, "artifact_directory_path", false, func(p string) string {
			if at, ok := client.ProxyPath(f.URI); ok {
				return "/api/2.0/mlflow-artifacts/artifacts/" + (&url.URL{Path: at + "/" + p}).EscapedPath()
			}
			return "/ajax-api" + base + "files?" + url.Values{"artifact_file_path": {p}}.Encode()
		})
	}
	at, ok := client.ProxyPath(f.URI)
	if !ok {
		return nil, fault.NotFound("they lie at %s, which the server does not hand out", f.URI)
	}
	return s.walk(ctx, "2.0/mlflow-artifacts/artifacts", url.Values{"path": {at}}, "path", true, func(p string) string {
		return "/api/2.0/mlflow-artifacts/artifacts/" + (&url.URL{Path: at + "/" + p}).EscapedPath()
	})
}

// walk lists a folder and those in it. field is the parameter that names the
// folder; relative tells that the paths of the answer begin there.
func (s *server) walk(ctx context.Context, path string, query url.Values, field string, relative bool, address func(path string) string) ([]File, error) {
	var found []File
	top := query.Get(field)
	for folders := []string{""}; len(folders) > 0; folders = folders[1:] {
		at := folders[0]
		for token := ""; ; {
			q := url.Values{}
			for k, v := range query {
				q[k] = v
			}
			if in := strings.Trim(top+"/"+at, "/"); in != "" {
				q.Set(field, in)
			}
			if token != "" {
				q.Set("page_token", token)
			}
			var page struct {
				Files []struct {
					Path string `json:"path"`
					Dir  bool   `json:"is_dir"`
					Size whole  `json:"file_size"`
				}
				Next string `json:"next_page_token"`
			}
			if err := s.call(ctx, http.MethodGet, path, q, nil, &page); err != nil {
				return nil, err
			}
			for _, f := range page.Files {
				below := strings.Trim(f.Path, "/")
				if relative {
					below = strings.Trim(at+"/"+below, "/")
				}
				if below == "" || below == at {
					continue
				}
				if f.Dir {
					folders = append(folders, below)
					continue
				}
				found = append(found, File{Path: below, Size: cmp.Or(int64(f.Size), -1), Open: func(ctx context.Context) (io.ReadCloser, error) {
					res, err := s.send(ctx, http.MethodGet, s.base+address(below), nil)
					if err != nil {
						return nil, err
					}
					return res.Body, nil
				}})
			}
			if token = page.Next; token == "" {
				break
			}
		}
	}
	return found, nil
}

func (s *server) Left(context.Context) (map[string]int, error) { return nil, nil }

func (s *server) Close() error {
	s.http.CloseIdleConnections()
	return nil
}
