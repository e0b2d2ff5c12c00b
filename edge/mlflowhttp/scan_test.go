package mlflowhttp

import (
	"math"
	"reflect"
	"testing"

	"lapis/ml/tracking"
)

// slowBatch reads a batch in the general way.
func slowBatch(body []byte) (string, tracking.Batch, error) {
	m := newMessage(body)
	run := m.run()
	b := tracking.Batch{Params: m.tags("params", required), Tags: m.tags("tags", required)}
	for _, x := range m.messages("metrics", false) {
		b.Metrics = append(b.Metrics, x.metric())
	}
	return run, b, m.err
}

// comparable takes NaN out, which is not equal to itself.
func comparable(list []tracking.Metric) []tracking.Metric {
	same := make([]tracking.Metric, len(list))
	for i, m := range list {
		if m.Value != m.Value {
			m.Value, m.DatasetName = 0, m.DatasetName+" NaN"
		}
		same[i] = m
	}
	return same
}

func FuzzTheScannerAgreesWithTheGeneralWay(f *testing.F) {
	for _, s := range []string{
		`{"run_id": "r", "run_uuid": "r", "metrics": [{"key": "a", "value": 1.5e-3, "timestamp": 1, "step": -2}, {"key":"a","value":"NaN","timestamp":0}], "params": [{"key":"p","value":"v"}], "tags": []}`,
		`{"run_id":"r","metrics":[{"key":"ä","value":-0,"timestamp":1,"model_id":"m","dataset_name":"d","dataset_digest":"x"}]}`,
		`{"run_id":"r","key":"k","value":"Infinity","timestamp":999999999999999999}`,
		`{"run_id":"r","key":"k","value":01,"timestamp":1.0}`,
		`{"run_id":"r","key":"k\u0041","value":1e400,"timestamp":"5","step":null}`,
		`{"runId":"r","key":"","value":.5,"timestamp":5.,"step":+1}`,
		`{"run_id":"r","run_id":"q","key":"k","value":1,"value":2,"timestamp":1} x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if run, got, ok := scanBatch(body); ok {
			wantRun, want, err := slowBatch(body)
			if err != nil || run != wantRun || !reflect.DeepEqual(comparable(got.Metrics), comparable(want.Metrics)) ||
				len(got.Params)+len(want.Params) > 0 && !reflect.DeepEqual(got.Params, want.Params) ||
				len(got.Tags)+len(want.Tags) > 0 && !reflect.DeepEqual(got.Tags, want.Tags) {
				t.Errorf("batch %q:\nscanner %q %+v\ngeneral %q %+v %v", body, run, got, wantRun, want, err)
			}
		}
		if run, got, ok := scanMetric(body); ok {
			m := newMessage(body)
			wantRun, want := m.run(), m.metric()
			if m.err != nil || run != wantRun || !reflect.DeepEqual(comparable([]tracking.Metric{got}), comparable([]tracking.Metric{want})) {
				t.Errorf("metric %q:\nscanner %q %+v\ngeneral %q %+v %v", body, run, got, wantRun, want, m.err)
			}
		}
	})
}

func TestTheScannerTakesWhatClientsWrite(t *testing.T) {
	run, m, ok := scanMetric([]byte(`{"run_uuid": "r", "run_id": "r", "key": "loss", "value": "NaN", "timestamp": 1795267635939, "step": 7}`))
	if !ok || run != "r" || m.Key != "loss" || !math.IsNaN(m.Value) || m.Time != 1795267635939 || m.Step != 7 {
		t.Errorf("%q %+v %v", run, m, ok)
	}
	_, b, ok := scanBatch([]byte("{\n  \"run_id\": \"r\",\n  \"metrics\": [\n    {\n      \"key\": \"a\",\n      \"value\": 0.25,\n      \"timestamp\": 1,\n      \"step\": 0\n    }\n  ],\n  \"params\": [],\n  \"tags\": [{\"key\": \"t\", \"value\": \"\"}]\n}"))
	if !ok || len(b.Metrics) != 1 || b.Metrics[0].Value != 0.25 || len(b.Tags) != 1 {
		t.Errorf("%+v %v", b, ok)
	}
}
