package tracking

import (
	"encoding/json"
	"math"
	"sync/atomic"
)

// Point is one value of a metric.
type Point struct {
	Step  int64
	Time  int64 // Unix ms
	Value float64
}

// Metric is a point with its key. Model and the dataset are set when it was
// measured with a logged model.
type Metric struct {
	Key string
	Point
	Model         string
	DatasetName   string
	DatasetDigest string
}

// After tells whether p is the later of two points of one metric: by step,
// then time, then value. NaN counts as 0.
func (p Point) After(o Point) bool {
	if p.Step != o.Step {
		return p.Step > o.Step
	}
	if p.Time != o.Time {
		return p.Time > o.Time
	}
	return number(p.Value) > number(o.Value)
}

// number is the value as MLflow compares it.
func number(v float64) float64 {
	if v != v {
		return 0
	}
	return v
}

// Record is a run with its params and inputs.
type Record struct {
	Run
	Params       map[string]string
	Datasets     []DatasetInput
	ModelInputs  []string // ids of logged models
	ModelOutputs []ModelOutput
}

// Detail is a record with the latest point of each metric, by key.
type Detail struct {
	Record
	Metrics []Metric

	// Shown is what an edge has made of a detail that is shared and so never
	// changes; nil until one does.
	Shown atomic.Pointer[[]byte]
}

// Latest returns the latest point of a metric.
func (d *Detail) Latest(key string) (Point, bool) {
	lo, hi := 0, len(d.Metrics)
	for lo < hi {
		if mid := (lo + hi) / 2; d.Metrics[mid].Key < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(d.Metrics) && d.Metrics[lo].Key == key {
		return d.Metrics[lo].Point, true
	}
	return Point{}, false
}

// Dataset is data that runs read, unique in its experiment by name and digest.
type Dataset struct {
	Name       string `json:"name"`
	Digest     string `json:"digest"`
	SourceType string `json:"source_type"`
	Source     string `json:"source"`
	Schema     string `json:"schema,omitempty"`
	Profile    string `json:"profile,omitempty"`
}

// DatasetInput is a dataset as a run's input, with the tags of that use.
type DatasetInput struct {
	Tags    []Tag   `json:"tags,omitempty"`
	Dataset Dataset `json:"dataset"`
}

// Tag is a key and its value.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// ModelOutput is a logged model that a run made, at a step.
type ModelOutput struct {
	Model string `json:"model_id"`
	Step  int64  `json:"step"`
}

// LoggedModel is a model that a run logged, before and beside its registration.
type LoggedModel struct {
	Workspace  string `json:"-"`
	ID         string `json:"model_id"` // "m-" and 32 hex digits
	Experiment string `json:"experiment_id"`
	Name       string `json:"name"`
	Type       string `json:"model_type"`
	SourceRun  string `json:"source_run_id"`
	Artifact   string `json:"artifact_uri"`
	Status     string `json:"status"` // LOGGED_MODEL_PENDING, LOGGED_MODEL_READY, LOGGED_MODEL_UPLOAD_FAILED
	Message    string `json:"status_message"`
	Creator    string `json:"creator_id"`
	Created    int64  `json:"creation_timestamp_ms"`
	Updated    int64  `json:"last_updated_timestamp_ms"`
	Deleted    int64  `json:"deleted"`

	Tags    map[string]string `json:"tags"`
	Params  map[string]string `json:"params"`
	Metrics []ModelMetric     `json:"metrics,omitempty"` // all that were ever logged, by key, time and step
}

// ModelMetric is a value that a metric of a logged model had.
type ModelMetric struct {
	Key           string `json:"key"`
	Value         Number `json:"value"`
	Time          int64  `json:"timestamp"`
	Step          int64  `json:"step"`
	Run           string `json:"run_id"`
	DatasetName   string `json:"dataset_name,omitempty"`
	DatasetDigest string `json:"dataset_digest,omitempty"`
}

// Number is a float whose JSON may be "NaN".
type Number float64

// MarshalJSON writes NaN as a string.
func (n Number) MarshalJSON() ([]byte, error) {
	if n != n {
		return []byte(`"NaN"`), nil
	}
	return json.Marshal(float64(n))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == `"NaN"` {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(b, (*float64)(n))
}
