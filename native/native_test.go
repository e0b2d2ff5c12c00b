package native

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lapis/frame"
	"lapis/native/catalog"
	"lapis/native/score"
)

// stump is a LightGBM model of one split: x below 0.5 or missing gives 1, else 2;
// a second column is not looked at.
const stump = `tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
objective=regression
feature_names=x y
feature_infos=[0:1] [0:1]

Tree=0
num_leaves=2
num_cat=0
split_feature=0
threshold=0.5
decision_type=10
left_child=-1
right_child=-2
leaf_value=1 2
is_linear=0
shrinkage=1


end of trees
`

// serve loads the stump and returns the instance.
func serve(t testing.TB) *Instance {
	t.Helper()
	file := filepath.Join(t.TempDir(), "model.txt")
	if err := os.WriteFile(file, []byte(stump), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := catalog.Load(catalog.Source{Path: file, Flavor: "lightgbm", ID: "stump:2"})
	if err != nil {
		t.Fatal(err)
	}
	return New("e/d/1/1", "test", &loaded.Models, score.New(loaded))
}

func ask(t testing.TB, n *Instance, q frame.Request) frame.Reply {
	t.Helper()
	var a frame.Reply
	if err := n.answer(&q, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

const typeJSON = "Content-Type: application/json\r\n"

func TestRequestsAreAnsweredInTheFormTheyCameIn(t *testing.T) {
	n := serve(t)
	for _, c := range []struct {
		target, body string
		status       int
		reply        string
	}{
		{"/score", `{"input_data": [[0.4, 1], [0.6, 1], [NaN, 1]]}`, 200, `[1.0, 2.0, 1.0]`},
		{"/score", `[[0.4, 1], [null, 1]]`, 200, `[1.0, 1.0]`},
		{"/score", `{"data": [[0.5, 1]]}`, 200, `[1.0]`},
		{"/score?x=1", `{"input_data": {"columns": ["x", "y"], "index": [0], "data": [[0.7, 1]]}}`, 200, `[2.0]`},
		{"/score", `{"inputs": [[0.7, 1]]}`, 200, `{"predictions": [2.0]}`},
		{"/invocations", `{"dataframe_records": [{"x": 0.7, "y": 1}]}`, 200, `{"predictions": [2.0]}`},
		{"/invocations", `{"input_data": [[0.7, 1]]}`, 200, `[2.0]`},
		{"/score", `{"input_data": [[1]]}`, 400, `{"message": "The number of features in data (1) is not the same as it was in training data (2)."}`},
		{"/score", `{"input_data": [[1,2],[3]]}`, 400, `inhomogeneous`},
		{"/score", `{"input_data": [["a",2]]}`, 400, `no numbers: a`},
		{"/score", `{"other": 1}`, 400, `{"message": "A value is not provided for the 'input_data' parameter."}`},
		{"/score", ``, 400, `{"message": "POST body is empty. Expecting a JSON dictionary."}`},
		{"/score", `{"input_data": [[1,2]`, 400, `POST body could not be decoded as JSON`},
		{"/v2/models/stump/infer", `{"id":"7","inputs":[{"name":"input","datatype":"FP64","shape":[2,2],"data":[[0.4,1],[0.6,1]]}]}`, 200,
			`{"id":"7","model_name":"stump","model_version":"2","outputs":[{"name":"output","datatype":"FP64","shape":[2],"data":[1.0,2.0]}]}`},
		{"/v2/models/stump/infer", `{"inputs":[{"data":[0.4,1],"shape":[1,2],"datatype":"FP64","name":"input"}],"outputs":[{"name":"none"}]}`, 400,
			`{"error":"unexpected inference output 'none' for model 'stump'"}`},
		{"/v2/models/stump/infer", `{"inputs":[{"name":"input","datatype":"FP64","shape":[2,2],"data":[1]}]}`, 500, `Shape does not match true shape of 'data' field`},
		{"/v2/models/stump/infer", `{"inputs":[{"name":"input","datatype":"FP64","shape":[1000000,100000],"data":[1]}]}`, 500, `Shape does not match true shape of 'data' field`},
		{"/v2/models/stump/infer", `{"inputs":[{"name":"input","datatype":"FP64","shape":[1,2],"data":["a",1]}]}`, 500, `attempt to access JSON non-double as double`},
		{"/v2/models/stump/versions/3/infer", `{}`, 404, `{"error":"Request for unknown model: 'stump' version 3 is not found"}`},
		{"/v3", ``, 404, `{"error":"Not Found"}`},
	} {
		a := ask(t, n, frame.Request{Method: "POST", Target: c.target, Headers: []byte(typeJSON), Body: []byte(c.body)})
		if a.Status != c.status || !strings.Contains(string(a.Body), c.reply) {
			t.Errorf("%s %s: %d %s, and should be %d %s", c.target, c.body, a.Status, a.Body, c.status, c.reply)
		}
	}
}

func TestRawTensorsAreCheckedAgainstTheirSizes(t *testing.T) {
	n := serve(t)
	var raw []byte
	for _, f := range []uint64{0x3fd999999999999a, 0x3ff0000000000000} { // 0.4, 1
		raw = binary.LittleEndian.AppendUint64(raw, f)
	}
	head := func(size int) string {
		return fmt.Sprintf(`{"inputs":[{"name":"input","datatype":"FP64","shape":[1,2],"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, size)
	}
	send := func(text string, n2 int, raw []byte) frame.Reply {
		return ask(t, n, frame.Request{Method: "POST", Target: "/v2/models/stump/infer", Headers: fmt.Appendf(nil, "Inference-Header-Content-Length: %d\r\n", n2), Body: append([]byte(text), raw...)})
	}
	a := send(head(16), len(head(16)), raw)
	if a.Status != 200 || frame.Header(a.Headers, "Inference-Header-Content-Length") == "" || !strings.HasSuffix(string(a.Body), "\x00\x00\xf0\x3f") {
		t.Errorf("a raw request has a raw reply: %d %s %q", a.Status, a.Headers, a.Body)
	}
	for _, c := range []struct {
		text string
		head int
		raw  []byte
		says string
	}{
		{head(16), len(head(16)), raw[:10], "unexpected size for input 'input', expecting 6 additional bytes for model 'stump'"},
		{head(16), len(head(16)), append(raw, 1), "unexpected additional input data for model 'stump'"},
		{head(16), 99999, raw, fmt.Sprintf("inference header size should be in range (0, %d), got: 99999", len(head(16))+16)},
		{head(8), len(head(8)), raw[:8], "input byte size mismatch for input 'input'"},
	} {
		if a := send(c.text, c.head, c.raw); a.Status != 400 || !strings.Contains(string(a.Body), c.says) {
			t.Errorf("%d %s, and should say %s", a.Status, a.Body, c.says)
		}
	}
}

func TestAnInstanceFinishesWhatItWorksOn(t *testing.T) {
	n := serve(t)
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := Listen(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(ctx, l) }()
	conn, err := net.Dial("unix", Socket(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := frame.NewReader(conn, 0)
	_, hello, err := r.Next()
	var h frame.Hello
	if err != nil || json.Unmarshal(hello, &h) != nil || h.Instance != "e/d/1/1" || h.PID != os.Getpid() {
		t.Fatalf("it says hello: %s %v", hello, err)
	}
	for range 3 {
		out, err := frame.AppendRequest(nil, frame.Request{Method: "POST", Target: "/score", Headers: []byte(typeJSON), Body: []byte(`[[0.6,1]]`)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(out); err != nil {
			t.Fatal(err)
		}
		_, p, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a, err := frame.ParseReply(p); err != nil || string(a.Body) != "[2.0]" {
			t.Fatalf("%s %v", a.Body, err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, _, err := r.Next(); err == nil {
		t.Error("the idle connection is ended")
	}
}

// Whatever comes, the answer is a reply of a status that names whose fault it
// is, and never "internal error".
func FuzzInfer(f *testing.F) {
	n := serve(f)
	f.Add("/v2/models/stump/infer", typeJSON, []byte(`{"inputs":[{"name":"input","datatype":"FP64","shape":[1,2],"data":[0.4,1]}],"outputs":[{"name":"output","parameters":{"binary_data":true}}]}`))
	f.Add("/v2/models/stump/infer", "Inference-Header-Content-Length: 95\r\n", append([]byte(`{"inputs":[{"name":"input","datatype":"FP64","shape":[1,2],"parameters":{"binary_data_size":16}}]}`), make([]byte, 16)...))
	f.Add("/v2/models/stump/infer", "Content-Encoding: gzip\r\n", []byte("\x1f\x8b\x08\x00"))
	f.Add("/score", typeJSON, []byte(`{"input_data":{"columns":["x","y"],"data":[[1,2]]},"params":{"a":1}}`))
	f.Add("/score", typeJSON, []byte(`[[1,[2]],"\ud83d\ude00",{"a":-0.0e-5}]`))
	f.Add("/invocations", typeJSON, []byte(`{"dataframe_records":[{"x":1},{"y":null}]}`))
	f.Add("/invocations", "Content-Type: text/csv\r\n", []byte("x,y\n1,2\n,\n"))
	f.Add("/inference.GRPCInferenceService/ModelInfer", "", append([]byte{0, 0, 0, 0, 9}, "\x0a\x05stump\x3a\x00"...))
	f.Add("/inference.GRPCInferenceService/ModelMetadata", "", append([]byte{0, 0, 0, 0, 7}, "\x0a\x05stump"...))
	f.Fuzz(func(t *testing.T, target, headers string, body []byte) {
		q := frame.Request{Method: "POST", Target: target, Headers: []byte(headers), Body: body}
		var a frame.Reply
		if err := n.answer(&q, &a); err != nil {
			t.Fatalf("there is no deadline: %v", err)
		}
		if a.Status < 200 || a.Status > 599 || strings.Contains(string(a.Body), "internal error") || strings.Contains(string(a.Headers), "Grpc-Status: 13") {
			t.Errorf("%s: %d %s", target, a.Status, a.Body)
		}
		if strings.HasPrefix(string(a.Headers), typeJSON) && len(a.Body) > 1 && frame.Header(a.Headers, "Content-Encoding") == "" && a.Status != 200 && a.Status != 504 && !json.Valid(a.Body) {
			t.Errorf("an error is JSON: %d %s", a.Status, a.Body)
		}
	})
}
