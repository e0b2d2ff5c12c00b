package oip

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"lapis/frame"
	"lapis/native/model"
	"lapis/native/scan"
	"lapis/native/tensor"
)

// MaxBody bounds a body after it was unpacked, in bytes.
const MaxBody = 1 << 30

// Serve answers a request whose path begins with /v2. It may keep neither the
// request nor what reply has for bodies.
func (s *Server) Serve(q *frame.Request, path string, a *frame.Reply) error {
	a.Status = 200
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) == 1:
		return s.get(q, a, func() any { return serverMetadata{"lapis", s.Version, extensions} })
	case parts[1] == "health" && len(parts) == 3 && (parts[2] == "live" || parts[2] == "ready"):
		if q.Method != "GET" {
			return notAllowed(q.Method)
		}
		return nil // an instance that answers has its models
	case parts[1] == "models" && len(parts) == 2, parts[1] == "repository" && len(parts) == 3 && parts[2] == "index":
		return s.index(a)
	case parts[1] == "models" && len(parts) == 3 && parts[2] == "stats":
		return s.statistics(q, a, "", "")
	case parts[1] == "models" && len(parts) >= 3 && !(len(parts) > 4 && parts[len(parts)-2] == "trace"):
		name, version, rest := parts[2], "", parts[3:]
		if len(rest) >= 2 && rest[0] == "versions" {
			version, rest = rest[1], rest[2:]
		}
		if len(rest) > 1 {
			break
		}
		action := ""
		if len(rest) == 1 {
			action = rest[0]
		}
		return s.model(q, a, name, version, action)
	case parts[len(parts)-2] == "trace" && parts[len(parts)-1] == "setting":
		return refuse(501, "tracing is not offered; the metrics of the endpoint tell how long requests take")
	case parts[1] == "logging":
		return refuse(501, "log settings are not offered; the deployment's log has what the models print")
	case strings.HasSuffix(parts[1], "sharedmemory"):
		if parts[len(parts)-1] == "status" && q.Method == "GET" {
			return writeJSON(a, []any{})
		}
		return refuse(501, "memory of the caller is not reached from here; send the tensors in the request")
	case parts[1] == "repository" && len(parts) == 5 && parts[2] == "models" && (parts[4] == "load" || parts[4] == "unload"):
		return refuse(400, "explicit model load / unload is not allowed if polling is enabled")
	}
	return refuse(404, "Not Found")
}

type serverMetadata struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

func notAllowed(method string) error { return refuse(405, "Method Not Allowed: %s", method) }

func (s *Server) get(q *frame.Request, a *frame.Reply, what func() any) error {
	if q.Method != "GET" {
		return notAllowed(q.Method)
	}
	return writeJSON(a, what())
}

func writeJSON(a *frame.Reply, what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return err
	}
	a.Headers = append(a.Headers, "Content-Type: application/json\r\n"...)
	a.Body = append(a.Body, b...)
	return nil
}

// model answers what is asked of one model.
func (s *Server) model(q *frame.Request, a *frame.Reply, name, version, action string) error {
	m, err := s.Models.Find(name, version)
	if action == "ready" {
		if q.Method != "GET" {
			return notAllowed(q.Method)
		}
		if err != nil {
			return refuse(400, "Model version not ready")
		}
		return nil
	}
	if err != nil {
		return &Failure{404, err.Error()}
	}
	switch action {
	case "":
		return s.get(q, a, func() any { return s.metadata(m) })
	case "config":
		return s.get(q, a, func() any { return config(m) })
	case "stats":
		return s.statistics(q, a, name, version)
	case "infer":
		if q.Method != "POST" {
			return notAllowed(q.Method)
		}
		return infer(q, a, m)
	}
	return refuse(404, "Not Found")
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

type modelMetadata struct {
	Name     string           `json:"name"`
	Versions []string         `json:"versions"`
	Platform string           `json:"platform"`
	Inputs   []tensorMetadata `json:"inputs"`
	Outputs  []tensorMetadata `json:"outputs"`
}

func (s *Server) metadata(m *model.Model) modelMetadata {
	out := modelMetadata{Name: m.Name, Platform: m.Platform, Inputs: describe(m.Inputs), Outputs: describe(m.Outputs)}
	for _, v := range s.Models.Versions(m.Name) {
		out.Versions = append(out.Versions, v.Version)
	}
	return out
}

func describe(infos []tensor.Info) []tensorMetadata {
	out := []tensorMetadata{}
	for _, i := range infos {
		out = append(out, tensorMetadata{i.Name, i.Type.String(), i.Shape})
	}
	return out
}

// config is the model's configuration in the words of Triton's config.pbtxt.
func config(m *model.Model) map[string]any {
	kind := func(t tensor.Type) string {
		if t == tensor.Bytes {
			return "TYPE_STRING"
		}
		return "TYPE_" + t.String()
	}
	list := func(infos []tensor.Info) []map[string]any {
		out := []map[string]any{}
		for _, i := range infos {
			dims := i.Shape
			if m.MaxBatch > 0 && len(dims) > 0 {
				dims = dims[1:]
			}
			out = append(out, map[string]any{"name": i.Name, "data_type": kind(i.Type), "dims": dims})
		}
		return out
	}
	backend := strings.TrimSuffix(m.Platform, "_onnx")
	return map[string]any{"name": m.Name, "platform": m.Platform, "backend": backend, "max_batch_size": m.MaxBatch,
		"input": list(m.Inputs), "output": list(m.Outputs)}
}

type indexEntry struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
}

func (s *Server) index(a *frame.Reply) error {
	out := []indexEntry{}
	for _, name := range s.Models.Names() {
		for _, m := range s.Models.Versions(name) {
			out = append(out, indexEntry{m.Name, m.Version, "READY"})
		}
	}
	return writeJSON(a, out)
}

func (s *Server) statistics(q *frame.Request, a *frame.Reply, name, version string) error {
	type entry struct {
		Name       string `json:"name"`
		Version    string `json:"version"`
		Last       int64  `json:"last_inference"`
		Inferences int64  `json:"inference_count"`
		Executions int64  `json:"execution_count"`

		Stats   map[string]duration `json:"inference_stats"`
		Batches []any               `json:"batch_stats"`
	}
	out := []entry{}
	for _, n := range s.Models.Names() {
		for _, m := range s.Models.Versions(n) {
			if (name == "" || name == n) && (version == "" || version == m.Version) {
				c := &m.Counted
				out = append(out, entry{n, m.Version, c.Last.Load(), c.Rows.Load(), c.Runs.Load(), durations(m), []any{}})
			}
		}
	}
	return s.get(q, a, func() any { return map[string]any{"model_stats": out} })
}

// duration is a part of the time that inferences took.
type duration struct {
	Count int64 `json:"count"`
	NS    int64 `json:"ns"`
}

// durationNames are the parts in the order of Triton's InferStatistics. What comes
// before a run and after it is not measured apart.
var durationNames = []string{"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}

func durations(m *model.Model) map[string]duration {
	c := &m.Counted
	runs, took := c.Runs.Load(), c.Took.Load()
	return map[string]duration{
		"success": {runs, took}, "fail": {c.Failed.Load(), c.FailedIn.Load()}, "queue": {runs, 0}, "compute_input": {runs, 0},
		"compute_infer": {runs, took}, "compute_output": {runs, 0}, "cache_hit": {}, "cache_miss": {},
	}
}

// infer computes outputs from a body of JSON and, perhaps, raw tensors.
func infer(q *frame.Request, a *frame.Reply, m *model.Model) error {
	ends := deadline(q)
	body, err := unpack(q)
	if err != nil {
		return err
	}
	var ask request
	text, raw := body, []byte(nil)
	if h := frame.Header(q.Headers, "Inference-Header-Content-Length"); h != "" {
		n, err := strconv.Atoi(h)
		if err != nil {
			return refuse(400, "Unable to parse Inference-Header-Content-Length, got: %s", h)
		}
		if n < 0 || n > len(body) {
			return refuse(400, "inference header size should be in range (0, %d), got: %d", len(body), n)
		}
		text, raw = body[:n], body[n:]
	}
	if len(text) == 0 && len(raw) > 0 {
		err = ask.whole(m, raw)
	} else {
		if err = ask.parse(text, m); err == nil {
			err = ask.take(raw, m)
		}
	}
	if err != nil {
		return err
	}
	out, err := ask.run(m, ends)
	if err != nil {
		return err
	}
	if err := reply(&ask, m, out, a); err != nil {
		return err
	}
	return pack(q, a)
}

// unpack undoes the coding of the body.
func unpack(q *frame.Request) ([]byte, error) {
	var r io.Reader
	var err error
	switch coding := frame.Header(q.Headers, "Content-Encoding"); coding {
	case "", "identity":
		return q.Body, nil
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(q.Body))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(q.Body))
	default:
		return nil, refuse(415, "Unsupported Content-Encoding: %s", coding)
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, MaxBody+1))
	}
	if err != nil {
		return nil, refuse(400, "the body is not in the coding that its Content-Encoding names: %v", err)
	}
	if len(b) > MaxBody {
		return nil, refuse(413, "the body has more than %d bytes when it is unpacked", MaxBody)
	}
	return b, nil
}

// pack codes the reply if the caller asked for that.
func pack(q *frame.Request, a *frame.Reply) error {
	accept := frame.Header(q.Headers, "Accept-Encoding")
	if accept == "" || len(a.Body) == 0 {
		return nil
	}
	coding := ""
	for part := range strings.SplitSeq(accept, ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name = strings.TrimSpace(name); (name == "gzip" || name == "deflate") && strings.TrimSpace(weight) != "q=0" && coding == "" {
			coding = name
		}
	}
	// What fits a packet gains nothing; a client that unpacks takes it as it is.
	if coding == "" || len(a.Body) < 1400 {
		return nil
	}
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "deflate" {
		w = zlib.NewWriter(&b)
	}
	if _, err := w.Write(a.Body); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	a.Headers = frame.AppendHeader(a.Headers, "Content-Encoding", coding)
	a.Body = append(a.Body[:0], b.Bytes()...)
	return nil
}

// whole takes a body without JSON: one input whose shape can be told from the
// number of bytes.
func (q *request) whole(m *model.Model, raw []byte) error {
	const cannot = "Raw request must only have 1 input (found %d) to be deduced but got %d inputs in '%s' model configuration"
	if len(m.Inputs) != 1 {
		return refuse(400, cannot, 1, len(m.Inputs), m.Name)
	}
	want := m.Inputs[0]
	t := tensor.Tensor{Name: want.Name, Type: want.Type, Shape: append([]int64(nil), want.Shape...)}
	open, known := -1, int64(1)
	for i, d := range want.Shape {
		switch {
		case d >= 0:
			known *= d
		case open < 0:
			open = i
		default:
			return refuse(400, "The shape of Raw input '%s' can not be deduced because there are more than one variable-sized dimension", want.Name)
		}
	}
	if want.Type == tensor.Bytes {
		if known != 1 {
			return refuse(400, "For BYTE datatype raw input, the model must have input shape [1]")
		}
		t.Strings = []string{string(raw)}
		if open >= 0 {
			t.Shape[open] = 1
		}
	} else {
		t.Data = raw
		if open >= 0 {
			if each := known * int64(want.Type.Size()); each > 0 {
				t.Shape[open] = int64(len(raw)) / each
			}
		}
	}
	if err := t.Check(); err != nil {
		return refuse(400, "the body of %d bytes does not fill input '%s' of shape %s", len(raw), want.Name, tensor.Text(want.Shape))
	}
	q.inputs = []input{{Tensor: t, datatype: want.Type.String(), size: -1, given: true}}
	q.binary = true
	return nil
}

// malformed is a body that is no JSON.
func malformed(err error) error {
	var at *scan.Error
	if errors.As(err, &at) {
		return refuse(500, "failed to parse the request JSON buffer: %s at %d", at.Reason, at.At)
	}
	return err
}

// parse reads the JSON of a request.
func (q *request) parse(text []byte, m *model.Model) error {
	s := scan.New(text)
	inputs := false
	if s.Peek() != 0 && s.Peek() != '{' {
		if err := s.Skip(); err != nil {
			return malformed(err)
		}
		return refuse(500, "Unable to parse 'inputs': attempt to access JSON non-object as object")
	}
	if s.Peek() == 0 {
		return refuse(500, "failed to parse the request JSON buffer: The document is empty. at 0")
	}
	err := s.Object(func(name string) error {
		switch name {
		case "id":
			if s.Peek() == '"' {
				var err error
				q.id, err = s.String()
				return err
			}
			n, err := s.Number()
			if err == nil && n.Whole {
				q.id = strconv.FormatInt(n.Int, 10)
			}
			return err
		case "inputs":
			if s.Peek() != '[' {
				return refuse(500, "Unable to parse 'inputs': attempt to access JSON non-array as array")
			}
			inputs = true
			return s.Array(func(int) error {
				q.inputs = append(q.inputs, input{size: -1})
				return q.input(s, &q.inputs[len(q.inputs)-1], m)
			})
		case "outputs":
			if s.Peek() != '[' {
				return refuse(500, "Unable to parse 'outputs': attempt to access JSON non-array as array")
			}
			return s.Array(func(int) error { return q.output(s) })
		case "parameters":
			return q.parameters(s, func(name string) error {
				if name == "binary_data_output" {
					var err error
					q.binary, err = s.Bool()
					return err
				}
				return s.Skip()
			})
		}
		return s.Skip()
	})
	if err == nil {
		err = s.End()
	}
	if err != nil {
		return malformed(err)
	}
	if !inputs {
		return refuse(500, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'")
	}
	return nil
}

func (q *request) parameters(s *scan.Scanner, member func(string) error) error {
	if s.Peek() != '{' {
		return refuse(500, "Unable to parse 'parameters': attempt to access JSON non-object as object")
	}
	return s.Object(member)
}

// input reads one of the inputs. Its data is read at once when type and shape
// stand before it, as clients send them.
func (q *request) input(s *scan.Scanner, in *input, m *model.Model) error {
	if s.Peek() != '{' {
		return refuse(500, "Unable to parse 'inputs': attempt to access JSON non-object as object")
	}
	shape, data := false, -1
	read := func() error {
		if in.Type = tensor.Parse(in.datatype); in.Type == tensor.None {
			return refuse(400, "invalid datatype for input '%s': %s", in.Name, in.datatype)
		}
		if in.Type == tensor.Float16 || in.Type == tensor.BFloat16 {
			return refuse(400, "receiving %s data via JSON is not supported. Please use the binary data format for input %s", in.Type, in.Name)
		}
		in.given = true
		return readData(s, &in.Tensor)
	}
	err := s.Object(func(name string) (err error) {
		switch name {
		case "name":
			in.Name, err = s.String()
			return err
		case "datatype":
			in.datatype, err = s.String()
			return err
		case "shape":
			if s.Peek() != '[' {
				return refuse(500, "Unable to parse 'shape': attempt to access JSON non-array as array")
			}
			shape = true
			in.Shape = in.Shape[:0]
			return s.Array(func(int) error {
				n, err := s.Number()
				if err == nil && !n.Whole {
					err = refuse(500, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer")
				} else if err == nil && n.Int < 0 {
					err = refuse(500, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer")
				}
				in.Shape = append(in.Shape, n.Int)
				return err
			})
		case "data":
			if in.datatype != "" && shape {
				return read()
			}
			s.Peek()
			data = s.Offset()
			return s.Skip()
		case "parameters":
			return q.parameters(s, func(name string) error {
				if name != "binary_data_size" {
					return s.Skip()
				}
				n, err := s.Number()
				if err == nil && (!n.Whole || n.Int < 0 || n.Int > MaxBody) {
					err = refuse(500, "Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-integer as unsigned-integer")
				}
				in.size = int(n.Int)
				return err
			})
		}
		return s.Skip()
	})
	if err != nil {
		return err
	}
	for _, member := range []struct {
		name string
		ok   bool
	}{{"name", in.Name != ""}, {"datatype", in.datatype != ""}, {"shape", shape}} {
		if !member.ok {
			return refuse(500, "Unable to parse '%s': attempt to access non-existing object member '%s'", member.name, member.name)
		}
	}
	if m.Input(in.Name) < 0 {
		return refuse(400, "unexpected inference input '%s' for model '%s'", in.Name, m.Name)
	}
	if in.Type = tensor.Parse(in.datatype); in.Type == tensor.None {
		return refuse(400, "invalid datatype for input '%s': %s", in.Name, in.datatype)
	}
	if data >= 0 {
		back := s.Jump(data)
		if err := read(); err != nil {
			return err
		}
		s.Jump(back)
	}
	if !in.given && in.size < 0 {
		return refuse(500, "Unable to parse 'data': attempt to access non-existing object member 'data'")
	}
	if in.given {
		n, ok := tensor.Elements(in.Shape)
		if !ok || in.Len() != n {
			return refuse(500, "Unable to parse 'data': Shape does not match true shape of 'data' field")
		}
	}
	return nil
}

// readData reads elements, flat or nested.
func readData(s *scan.Scanner, t *tensor.Tensor) error {
	if s.Peek() != '[' {
		return refuse(500, "Unable to parse 'data': attempt to access JSON non-array as array")
	}
	if n, ok := tensor.Elements(t.Shape); ok && t.Type != tensor.Bytes && cap(t.Data) == 0 {
		// No more than the text can hold: an element has a byte at least, and a comma.
		t.Data = make([]byte, 0, min(n, s.Left()/2+1)*t.Type.Size())
	}
	return s.Array(func(int) error { return readElement(s, t) })
}

func readElement(s *scan.Scanner, t *tensor.Tensor) error {
	wrong := func(as string) error {
		return refuse(500, "Unable to parse 'data': attempt to access JSON non-%s as %s", as, as)
	}
	switch c := s.Peek(); {
	case c == '[':
		return s.Array(func(int) error { return readElement(s, t) })
	case t.Type == tensor.Bytes:
		if c != '"' {
			return wrong("string")
		}
		text, err := s.String()
		t.Strings = append(t.Strings, text)
		return err
	case t.Type == tensor.Bool:
		switch {
		case s.Word("true"):
			t.Data = append(t.Data, 1)
		case s.Word("false"):
			t.Data = append(t.Data, 0)
		case c == '"' || c == '{' || c == 'n':
			return wrong("boolean")
		default:
			n, err := s.Number()
			if err != nil {
				return err
			}
			t.Data = tensor.AppendFloat(t.Data, t.Type, n.Float)
		}
		return nil
	case t.Type == tensor.Float32 || t.Type == tensor.Float64:
		if c == '"' || c == '{' || c == 'n' || c == 't' || c == 'f' {
			return wrong("double")
		}
		f, err := s.Float()
		if t.Type == tensor.Float32 {
			t.Data = tensor.AppendFloat32(t.Data, float32(f))
		} else {
			t.Data = tensor.AppendFloat(t.Data, t.Type, f)
		}
		return err
	}
	as := "signed-integer"
	if t.Type <= tensor.Uint64 {
		as = "unsigned-integer"
	}
	if c := s.Peek(); c == '"' || c == '{' || c == 'n' || c == 't' || c == 'f' {
		return wrong(as)
	}
	n, err := s.Number()
	switch {
	case err != nil:
		return err
	case n.Whole:
		t.Data = tensor.AppendInt(t.Data, t.Type, n.Int)
	case n.Large && n.Uint != 0:
		t.Data = tensor.AppendInt(t.Data, t.Type, int64(n.Uint))
	default:
		return wrong(as)
	}
	return nil
}

func (q *request) output(s *scan.Scanner) error {
	if s.Peek() != '{' {
		return refuse(500, "Unable to parse 'outputs': attempt to access JSON non-object as object")
	}
	var o output
	err := s.Object(func(name string) (err error) {
		switch name {
		case "name":
			o.name, err = s.String()
			return err
		case "parameters":
			return q.parameters(s, func(name string) error {
				switch name {
				case "binary_data":
					o.set = true
					o.binary, err = s.Bool()
					return err
				case "classification":
					n, err := s.Number()
					if err == nil && n.Float > 0 {
						err = refuse(400, "classification of outputs is not offered here; take output '%s' and sort it", o.name)
					}
					return err
				}
				return s.Skip()
			})
		}
		return s.Skip()
	})
	if err == nil && o.name == "" {
		return refuse(500, "Unable to parse 'name': attempt to access non-existing object member 'name'")
	}
	q.outputs = append(q.outputs, o)
	return err
}

// take gives the inputs their parts of the binary tensors.
func (q *request) take(raw []byte, m *model.Model) error {
	for i := range q.inputs {
		in := &q.inputs[i]
		if in.size < 0 || in.given {
			continue
		}
		if in.size > len(raw) {
			return refuse(400, "unexpected size for input '%s', expecting %d additional bytes for model '%s'", in.Name, in.size-len(raw), m.Name)
		}
		part := raw[:in.size]
		raw = raw[in.size:]
		in.given = true
		if err := fill(&in.Tensor, part, m.Name, q.label()); err != nil {
			return err
		}
	}
	if len(raw) > 0 {
		return refuse(400, "unexpected additional input data for model '%s'", m.Name)
	}
	return nil
}

// fill gives a tensor its elements from raw bytes.
func fill(t *tensor.Tensor, raw []byte, name, label string) error {
	n, ok := tensor.Elements(t.Shape)
	if !ok {
		return refuse(400, "%sinput '%s' of model '%s' has a shape %s that no tensor can have", label, t.Name, name, tensor.Text(t.Shape))
	}
	if t.Type != tensor.Bytes {
		if len(raw) != n*t.Type.Size() {
			return refuse(400, "%sinput byte size mismatch for input '%s' for model '%s'. Expected %d, got %d", label, t.Name, name, n*t.Type.Size(), len(raw))
		}
		t.Data = raw
		return nil
	}
	t.Strings = make([]string, 0, min(n, len(raw)/4))
	for len(raw) > 0 {
		if len(raw) < 4 || uint64(binary.LittleEndian.Uint32(raw)) > uint64(len(raw)-4) {
			return refuse(400, "%sincomplete string data for inference input '%s', expecting string of length that the %d bytes left do not hold", label, t.Name, len(raw))
		}
		end := 4 + int(binary.LittleEndian.Uint32(raw))
		t.Strings = append(t.Strings, string(raw[4:end]))
		raw = raw[end:]
	}
	if len(t.Strings) != n {
		return refuse(400, "%sexpected %d string elements for inference input '%s', got %d", label, n, t.Name, len(t.Strings))
	}
	return nil
}

// raw appends the elements of a tensor as raw bytes.
func appendRaw(b []byte, t *tensor.Tensor) []byte {
	if t.Type != tensor.Bytes {
		return append(b, t.Data...)
	}
	for _, s := range t.Strings {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}

func rawSize(t *tensor.Tensor) int {
	n := len(t.Data)
	for _, s := range t.Strings {
		n += 4 + len(s)
	}
	return n
}

// reply writes the outputs.
func reply(q *request, m *model.Model, out []tensor.Tensor, a *frame.Reply) error {
	b := a.Body
	b = append(b, '{')
	if q.id != "" {
		b = append(b, `"id":`...)
		b = appendText(b, q.id)
		b = append(b, ',')
	}
	b = append(b, `"model_name":`...)
	b = appendText(b, m.Name)
	b = append(b, `,"model_version":`...)
	b = appendText(b, m.Version)
	b = append(b, `,"outputs":[`...)
	var raw []*tensor.Tensor
	for i := range out {
		t := &out[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendText(b, t.Name)
		b = append(b, `,"datatype":"`...)
		b = append(b, t.Type.String()...)
		b = append(b, `","shape":[`...)
		for j, d := range t.Shape {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, d, 10)
		}
		b = append(b, ']')
		isRaw := q.binary
		if i < len(q.outputs) && q.outputs[i].set {
			isRaw = q.outputs[i].binary
		}
		if isRaw {
			raw = append(raw, t)
			b = fmt.Appendf(b, `,"parameters":{"binary_data_size":%d}}`, rawSize(t))
			continue
		}
		if t.Type == tensor.Float16 || t.Type == tensor.BFloat16 {
			return refuse(400, "sending %s data via JSON is not supported. Please use the binary data format for output %s", t.Type, t.Name)
		}
		b = append(b, `,"data":[`...)
		for j := range t.Len() {
			if j > 0 {
				b = append(b, ',')
			}
			b = t.AppendJSON(b, j)
		}
		b = append(b, "]}"...)
	}
	b = append(b, "]}"...)
	if raw == nil {
		a.Headers = append(a.Headers, "Content-Type: application/json\r\n"...)
		a.Body = b
		return nil
	}
	a.Headers = append(a.Headers, "Content-Type: application/octet-stream\r\n"...)
	a.Headers = frame.AppendHeader(a.Headers, "Inference-Header-Content-Length", strconv.Itoa(len(b)))
	for _, t := range raw {
		b = appendRaw(b, t)
	}
	a.Body = b
	return nil
}

func appendText(b []byte, s string) []byte { return tensor.AppendString(b, s) }
