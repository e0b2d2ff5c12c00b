package trace

import (
	"encoding/json"
	"testing"
)

// A request with one span, as OpenTelemetry's JSON has it.
const request = `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331",
	"parentSpanId":"00f067aa0ba902b7","name":"GET /\u00e4","kind":2,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,
	"attributes":[{"key":"s","value":{"stringValue":"v"}},{"key":"i","value":{"intValue":"-7"}},{"key":"d","value":{"doubleValue":0.5}},
	{"key":"b","value":{"boolValue":false}},{"key":"l","value":{"arrayValue":{"values":[{"intValue":1},{"kvlistValue":{"values":[{"key":"k","value":{"stringValue":""}}]}}]}}}],
	"events":[{"timeUnixNano":"5","name":"e"}],"links":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331"}],
	"status":{"code":"STATUS_CODE_ERROR","message":"no"}}]}]}]}`

func TestASpanIsShownAsMLflowShowsIt(t *testing.T) {
	spans, _, err := ParseJSON([]byte(request))
	if err != nil || len(spans) != 1 {
		t.Fatal(spans, err)
	}
	s := spans[0]
	if s.Trace != "tr-0af7651916cd43dd8448eb211c80319c" || s.ID != "t61rcWkgMzE=" || s.Status != "STATUS_CODE_ERROR" || s.Parent == "" {
		t.Errorf("%+v", s)
	}
	const want = `{"trace_id":"CvdlGRbNQ92ESOshHIAxnA==","span_id":"t61rcWkgMzE=","parent_span_id":"APBnqgupArc=","name":"GET /ä",` +
		`"start_time_unix_nano":1544712660000000000,"end_time_unix_nano":1544712661000000000,"attributes":[` +
		`{"key":"s","value":{"string_value":"v"}},` +
		`{"key":"i","value":{"int_value":-7}},{"key":"d","value":{"double_value":0.5}},{"key":"b","value":{"bool_value":false}},` +
		`{"key":"l","value":{"array_value":{"values":[{"int_value":1},{"kvlist_value":{"values":[{"key":"k","value":{"string_value":""}}]}}]}}},` +
		`{"key":"mlflow.traceRequestId","value":{"string_value":"tr-0af7651916cd43dd8448eb211c80319c"}}],` +
		`"events":[{"time_unix_nano":5,"name":"e"}],"links":[{"trace_id":"CvdlGRbNQ92ESOshHIAxnA==","span_id":"t61rcWkgMzE="}],` +
		`"status":{"message":"no","code":"STATUS_CODE_ERROR"}}`
	if string(s.JSON) != want {
		t.Errorf("got\n%s\nwant\n%s", s.JSON, want)
	}
	back, err := ParseSpan(s.Trace, s.JSON)
	if err != nil || back.ID != s.ID || back.Name != s.Name || back.Start != s.Start || back.End != s.End || back.Status != s.Status || back.Parent != s.Parent {
		t.Errorf("%+v %v", back, err)
	}
}

// message is a protobuf field that holds bytes.
func message(number int, body ...byte) []byte {
	return append([]byte{byte(number<<3 | 2), byte(len(body))}, body...)
}

func TestASpanIsReadFromProtobuf(t *testing.T) {
	span := message(1, 1, 2, 3)
	span = append(span, message(2, 4)...)
	span = append(span, message(5, 'n')...)
	span = append(span, message(9, append(message(1, 'k'), message(2, 0x18, 42)...)...)...)
	span = append(span, message(15, 0x18, 1)...)
	spans, _, err := ParseProto(message(1, message(2, message(2, span...)...)...))
	if err != nil || len(spans) != 1 || spans[0].Name != "n" || spans[0].Status != "STATUS_CODE_OK" || spans[0].Trace != "tr-00000000000000000000000000010203" {
		t.Fatal(spans, err)
	}
	if v := spans[0].attribute("k"); v == nil || v.plain() != "42" {
		t.Errorf("k is %+v", v)
	}
	for _, bad := range [][]byte{{0x0a}, {0x0a, 0xff}, []byte("garbage"), message(1, message(2, message(2, message(5, 'n')...)...)...)} {
		if spans, _, err := ParseProto(bad); err == nil && len(spans) > 0 {
			t.Errorf("%q: %v", bad, spans)
		}
	}
}

func FuzzOTLP(f *testing.F) {
	f.Add([]byte(request), true)
	f.Add(message(1, message(2, message(2, append(message(1, 1), message(2, 2)...)...)...)...), false)
	f.Add([]byte(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},"scopeSpans":[{"spans":[{"traceId":"01","spanId":"02",
		"attributes":[{"key":"j","value":{"stringValue":"{\"model\": \"m\", \"x\": [NaN, -1.5e3, \"\\ud83d\\ude00\", null]}"}},
		{"key":"mlflow.spanInputs","value":{"stringValue":"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"hi\"}]}]}"}},
		{"key":"gen_ai.usage.input_tokens","value":{"intValue":3}},{"key":"y","value":{"bytesValue":"AAECJw=="}}]}]}]}]}`), true)
	f.Fuzz(func(t *testing.T, body []byte, text bool) {
		parse := ParseProto
		if text {
			parse = ParseJSON
		}
		spans, _, err := parse(body)
		if err != nil {
			return
		}
		for _, s := range spans {
			if !json.Valid(s.JSON) {
				t.Fatalf("%q is no JSON", s.JSON)
			}
			back, err := ParseSpan(s.Trace, s.JSON)
			if err != nil {
				t.Fatalf("%q: %v", s.JSON, err)
			}
			// What is read back is what came, and as MLflow's own JSON it is JSON.
			if v := back.attribute(traceAttribute); back.ID != s.ID || back.Name != s.Name || back.Start != s.Start || v == nil || v.plain() != s.Trace {
				t.Fatalf("%q is read as %+v", s.JSON, back)
			}
			if v, ok := readJSON(back.plain(nil)); !ok || v.kind != aList {
				t.Fatalf("%q is no JSON", back.plain(nil))
			}
		}
	})
}
