package tracking

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
)

// LogMetric logs one point.
func (s *Service) LogMetric(ctx context.Context, workspace, run string, m Metric) error {
	if err := checkMetric(&m, ""); err != nil {
		return err
	}
	m.Value = finite(m.Value)
	return s.store.Log(ctx, workspace, run, []Metric{m}, nil)
}

// finite is v as MLflow keeps it: an infinity is the largest number there is.
func finite(v float64) float64 {
	if math.IsInf(v, 0) {
		return math.Copysign(math.MaxFloat64, v)
	}
	return v
}

// LogParam logs a param, which cannot be changed later.
func (s *Service) LogParam(ctx context.Context, workspace, run string, p Tag) error {
	if err := checkParam(&p, ""); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		if old, ok := r.Params[p.Key]; ok && old != p.Value {
			return invalid("Changing param values is not allowed. Param with key='%s' was already logged with value='%s' for run ID='%s'. Attempted logging new value '%s'.", p.Key, old, run, p.Value)
		}
		r.setParam(p)
		return nil
	})
}

func (r *Record) setParam(p Tag) {
	if r.Params == nil {
		r.Params = map[string]string{}
	}
	r.Params[p.Key] = p.Value
}

// SetTag sets a tag.
func (s *Service) SetTag(ctx context.Context, workspace, run string, t Tag) error {
	if err := checkTag(&t, ""); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		r.setTag(t)
		return nil
	})
}

// DeleteTag removes a tag.
func (s *Service) DeleteTag(ctx context.Context, workspace, run, key string) error {
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		if _, ok := r.Tag(key); !ok {
			return missing("No tag with name: %s in run with id %s", key, run)
		}
		switch key {
		case TagNote:
			r.Description = ""
		case TagParent:
			r.Parent = ""
		}
		delete(r.Tags, key)
		return nil
	})
}

// Batch is what one request logs, all of it or nothing.
type Batch struct {
	Metrics []Metric
	Params  []Tag
	Tags    []Tag
}

// LogBatch logs metrics, params and tags in one step.
func (s *Service) LogBatch(ctx context.Context, workspace, run string, b *Batch) error {
	if err := checkRunID(run); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	var change func(r *Record) error
	if len(b.Params)+len(b.Tags) > 0 {
		change = func(r *Record) error { return b.apply(r, run) }
	}
	return s.store.Log(ctx, workspace, run, b.Metrics, change)
}

func (b *Batch) check() error {
	limits := []struct {
		what       string
		got, limit int
	}{
		{"metrics", len(b.Metrics), maxBatchMetrics},
		{"params", len(b.Params), maxBatchParamsTags},
		{"tags", len(b.Tags), maxBatchParamsTags},
		{"metrics, params, and tags", len(b.Metrics) + len(b.Params) + len(b.Tags), maxBatch},
	}
	for _, l := range limits {
		if l.got > l.limit {
			return invalid("A batch logging request can contain at most %d %s. Got %d %s. Please split up %s across multiple requests and try again.", l.limit, l.what, l.got, l.what, l.what)
		}
	}
	last := ""
	for i := range b.Metrics {
		m := &b.Metrics[i]
		if m.Key != last || i == 0 || m.Time < 0 { // or the key was checked just before
			if err := checkMetric(m, ""); err != nil {
				return checkMetric(m, "metrics["+strconv.Itoa(i)+"].")
			}
		}
		m.Value = finite(m.Value)
		last = m.Key
	}
	seen := map[string]bool{}
	var twice []string
	for i := range b.Params {
		if err := checkParam(&b.Params[i], "params["+strconv.Itoa(i)+"]."); err != nil {
			return err
		}
		if k := b.Params[i].Key; seen[k] && !contains(twice, k) {
			twice = append(twice, k)
		}
		seen[b.Params[i].Key] = true
	}
	if len(twice) > 0 {
		return invalid("Duplicate parameter keys have been submitted: ['%s']. Please ensure the request contains only one param value per param key.", strings.Join(twice, "', '"))
	}
	for i := range b.Tags {
		if err := checkTag(&b.Tags[i], "tags["+strconv.Itoa(i)+"]."); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) apply(r *Record, run string) error {
	var changed []string
	for _, p := range b.Params {
		if old, ok := r.Params[p.Key]; ok && old != p.Value {
			changed = append(changed, "{'key': "+repr(p.Key)+", 'old_value': "+repr(old)+", 'new_value': "+repr(p.Value)+"}")
			continue
		}
		r.setParam(p)
	}
	if len(changed) > 0 {
		return invalid("Changing param values is not allowed. Params were already logged='[%s]' for run ID='%s'.", strings.Join(changed, ", "), run)
	}
	for _, t := range b.Tags {
		r.setTag(t)
	}
	return nil
}

// Limits of a dataset, in characters.
const (
	maxDatasetName    = 500
	maxDatasetDigest  = 36
	maxDatasetSchema  = 1<<20 - 1
	maxDatasetSource  = 1<<16 - 1
	maxDatasetProfile = 1<<24 - 1
	maxInputTagKey    = 255
	maxInputTagValue  = 500
)

// checkDatasets refuses datasets whose fields are too long.
func checkDatasets(datasets []DatasetInput) error {
	for _, d := range datasets {
		for _, l := range []struct {
			what, text string
			limit      int
		}{
			{"name", d.Dataset.Name, maxDatasetName}, {"digest", d.Dataset.Digest, maxDatasetDigest},
			{"schema", d.Dataset.Schema, maxDatasetSchema}, {"source", d.Dataset.Source, maxDatasetSource},
			{"profile", d.Dataset.Profile, maxDatasetProfile},
		} {
			if longer(l.text, l.limit) {
				return invalid("Dataset %s exceeds the maximum length of %d", l.what, l.limit)
			}
		}
		for _, t := range d.Tags {
			if longer(t.Key, maxInputTagKey) {
				return invalid("InputTag key exceeds the maximum length of %d", maxInputTagKey)
			}
			if longer(t.Value, maxInputTagValue) {
				return invalid("InputTag value exceeds the maximum length of %d", maxInputTagValue)
			}
		}
	}
	return nil
}

// LogInputs says what a run read: datasets, and logged models by id.
func (s *Service) LogInputs(ctx context.Context, workspace, run string, datasets []DatasetInput, models []string) error {
	if err := checkRunID(run); err != nil {
		return err
	}
	if err := checkDatasets(datasets); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		r.Datasets = append(r.Datasets, datasets...)
		for _, m := range models {
			if !contains(r.ModelInputs, m) {
				r.ModelInputs = append(r.ModelInputs, m)
			}
		}
		return nil
	})
}

// LogOutputs says which logged models a run made.
func (s *Service) LogOutputs(ctx context.Context, workspace, run string, models []ModelOutput) error {
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		for _, m := range models {
			// Once for each model: a request that is sent again changes nothing.
			if !slices.ContainsFunc(r.ModelOutputs, func(old ModelOutput) bool { return old.Model == m.Model }) {
				r.ModelOutputs = append(r.ModelOutputs, m)
			}
		}
		return nil
	})
}

// LogModelHistory appends a model to the run's tag of models, as older clients do.
func (s *Service) LogModelHistory(ctx context.Context, workspace, run string, model json.RawMessage) error {
	const key = "mlflow.log-model.history"
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		var history []json.RawMessage
		if old := r.Tags[key]; old != "" {
			if err := json.Unmarshal([]byte(old), &history); err != nil {
				return invalid("The run's tag %s is not a JSON list.", key)
			}
		}
		text, err := json.Marshal(append(history, model))
		if err != nil {
			return err
		}
		r.setTag(Tag{key, string(text)})
		return nil
	})
}
