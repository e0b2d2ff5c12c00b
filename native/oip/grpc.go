package oip

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"lapis/frame"
	"lapis/native/model"
	"lapis/native/tensor"
)

// Service is the path that calls over gRPC begin with.
const Service = "/inference.GRPCInferenceService/"

// The statuses of gRPC that are used here.
const (
	grpcInvalid       = 3
	grpcDeadline      = 4
	grpcNotFound      = 5
	grpcUnimplemented = 12
	grpcInternal      = 13
	grpcUnavailable   = 14
)

// ServeGRPC answers one message of a call. The body is a message after its five
// bytes of flag and length, and so is that of the reply; the status of the call
// is in the headers Grpc-Status and Grpc-Message. Of a stream, each message is
// a request of its own, and its errors are in the reply. The only error is
// model.ErrDeadline.
func (s *Server) ServeGRPC(q *frame.Request, path string, a *frame.Reply) error {
	method := strings.TrimPrefix(path, Service)
	a.Status = 200
	a.Headers = append(a.Headers, "Content-Type: application/grpc\r\n"...)
	message, err := s.message(q)
	var out []byte
	if err == nil {
		out, err = s.call(q, method, message)
	}
	if errors.Is(err, model.ErrDeadline) && q.Timeout > 0 {
		return err
	}
	if err != nil && method == "ModelStreamInfer" {
		_, text := status(err)
		out, err = appendWord(nil, 1, text), nil
	} else if method == "ModelStreamInfer" {
		out = appendBytes(nil, 2, out)
	}
	if err != nil {
		code, text := status(err)
		a.Headers = frame.AppendHeader(a.Headers, "Grpc-Status", strconv.Itoa(code))
		a.Headers = frame.AppendHeader(a.Headers, "Grpc-Message", percent(text))
		return nil
	}
	a.Headers = append(a.Headers, "Grpc-Status: 0\r\n"...)
	a.Body = append(a.Body, 0)
	a.Body = binary.BigEndian.AppendUint32(a.Body, uint32(len(out)))
	a.Body = append(a.Body, out...)
	return nil
}

// status is the status of an error, and its text.
func status(err error) (int, string) {
	var refusal *Failure
	switch {
	case errors.As(err, &refusal) && refusal.Status == 404:
		return grpcNotFound, refusal.Text
	case errors.As(err, &refusal) && refusal.Status == 501:
		return grpcUnimplemented, refusal.Text
	case errors.As(err, &refusal) && refusal.Status == 503:
		return grpcUnavailable, refusal.Text
	case errors.As(err, &refusal):
		return grpcInvalid, refusal.Text
	case errors.Is(err, errWire):
		return grpcInvalid, err.Error()
	case errors.Is(err, model.ErrDeadline):
		return grpcDeadline, err.Error()
	}
	fmt.Fprintln(os.Stderr, "gRPC:", err)
	return grpcInternal, "internal error"
}

// percent codes a message as gRPC wants it in a header.
func percent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 0x20 && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// message takes the message out of its envelope.
func (s *Server) message(q *frame.Request) ([]byte, error) {
	b := q.Body
	if len(b) < 5 || uint64(binary.BigEndian.Uint32(b[1:5])) != uint64(len(b)-5) {
		return nil, refuse(400, "the call has no whole message")
	}
	if b[0]&1 == 0 {
		return b[5:], nil
	}
	var r io.Reader
	var err error
	switch coding := frame.Header(q.Headers, "Grpc-Encoding"); coding {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(b[5:]))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(b[5:]))
	default:
		return nil, refuse(501, "messages coded as %q are not taken", coding)
	}
	var out []byte
	if err == nil {
		out, err = io.ReadAll(io.LimitReader(r, MaxBody+1))
	}
	if err != nil || len(out) > MaxBody {
		return nil, refuse(400, "the message cannot be unpacked, or has more than %d bytes", MaxBody)
	}
	return out, nil
}

// call answers a message with a message.
func (s *Server) call(q *frame.Request, method string, message []byte) ([]byte, error) {
	switch method {
	case "ServerLive", "ServerReady":
		return appendVarint(nil, 1, 1), nil
	case "ServerMetadata":
		b := appendWord(appendWord(nil, 1, "lapis"), 2, s.Version)
		for _, e := range extensions {
			b = appendWord(b, 3, e)
		}
		return b, nil
	case "ModelInfer", "ModelStreamInfer":
		return s.inferGRPC(q, message)
	case "RepositoryIndex":
		var b []byte
		for _, name := range s.Models.Names() {
			for _, m := range s.Models.Versions(name) {
				b = appendBytes(b, 1, appendWord(appendWord(appendWord(nil, 1, name), 2, m.Version), 3, "READY"))
			}
		}
		return b, nil
	case "SystemSharedMemoryStatus", "CudaSharedMemoryStatus":
		return nil, nil // none
	case "RepositoryModelLoad", "RepositoryModelUnload":
		return nil, refuse(503, "explicit model load / unload is not allowed if polling is enabled")
	case "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics":
	default:
		return nil, refuse(501, "the method %s is not offered", method)
	}
	var name, version string
	err := eachField(message, func(f field) error {
		switch f.number {
		case 1:
			name = f.text()
		case 2:
			version = f.text()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m, err := s.Models.Find(name, version)
	if method == "ModelReady" {
		if err != nil {
			return nil, nil // ready is false
		}
		return appendVarint(nil, 1, 1), nil
	}
	if method == "ModelStatistics" && name == "" {
		var b []byte
		for _, n := range s.Models.Names() {
			for _, m := range s.Models.Versions(n) {
				b = appendBytes(b, 1, statistics(m))
			}
		}
		return b, nil
	}
	if err != nil {
		return nil, &Failure{404, err.Error()}
	}
	switch method {
	case "ModelStatistics":
		return appendBytes(nil, 1, statistics(m)), nil
	case "ModelConfig":
		return appendBytes(nil, 1, configMessage(m)), nil
	}
	meta := s.metadata(m)
	b := appendWord(nil, 1, m.Name)
	for _, v := range meta.Versions {
		b = appendWord(b, 2, v)
	}
	b = appendWord(b, 3, m.Platform)
	for i, list := range [][]tensorMetadata{meta.Inputs, meta.Outputs} {
		for _, t := range list {
			b = appendBytes(b, 4+i, appendShape(appendWord(appendWord(nil, 1, t.Name), 2, t.Datatype), 3, t.Shape))
		}
	}
	return b, nil
}

func statistics(m *model.Model) []byte {
	b := appendWord(appendWord(nil, 1, m.Name), 2, m.Version)
	c := &m.Counted
	b = appendVarint(b, 3, uint64(c.Last.Load()))
	b = appendVarint(b, 4, uint64(c.Rows.Load()))
	b = appendVarint(b, 5, uint64(c.Runs.Load()))
	var parts []byte
	all := durations(m)
	for i, name := range durationNames {
		d := all[name]
		parts = appendBytes(parts, i+1, appendVarint(appendVarint(nil, 1, uint64(d.Count)), 2, uint64(d.NS)))
	}
	return appendBytes(b, 6, parts)
}

func configMessage(m *model.Model) []byte {
	b := appendWord(appendWord(nil, 1, m.Name), 2, m.Platform)
	b = appendVarint(b, 4, uint64(m.MaxBatch))
	for i, list := range [][]tensor.Info{m.Inputs, m.Outputs} {
		for _, t := range list {
			dims := t.Shape
			if m.MaxBatch > 0 && len(dims) > 0 {
				dims = dims[1:]
			}
			// Our numbers of types are those of Triton's DataType.
			one := appendVarint(appendWord(nil, 1, t.Name), 2, uint64(t.Type))
			b = appendBytes(b, 5+i, appendShape(one, 4-i, dims))
		}
	}
	return appendWord(b, 17, strings.TrimSuffix(m.Platform, "_onnx"))
}

// inferGRPC computes outputs.
func (s *Server) inferGRPC(q *frame.Request, message []byte) ([]byte, error) {
	ends := deadline(q)
	var ask request
	var name, version string
	var raw [][]byte
	err := eachField(message, func(f field) error {
		switch f.number {
		case 1:
			name = f.text()
		case 2:
			version = f.text()
		case 3:
			ask.id = f.text()
		case 5:
			in, err := readInput(f.bytes)
			ask.inputs = append(ask.inputs, in)
			return err
		case 6:
			var o output
			err := eachField(f.bytes, func(f field) error {
				if f.number == 1 {
					o.name = f.text()
				}
				return nil
			})
			ask.outputs = append(ask.outputs, o)
			return err
		case 7:
			raw = append(raw, f.bytes)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m, err := s.Models.Find(name, version)
	if err != nil {
		return nil, &Failure{404, err.Error()}
	}
	if len(raw) > 0 && len(raw) != len(ask.inputs) {
		return nil, refuse(400, "%sexpected number of raw input contents to be %d for model '%s', got %d", ask.label(), len(ask.inputs), m.Name, len(raw))
	}
	for i := range ask.inputs {
		in := &ask.inputs[i]
		if m.Input(in.Name) < 0 {
			return nil, refuse(400, "unexpected inference input '%s' for model '%s'", in.Name, m.Name)
		}
		if in.Type = tensor.Parse(in.datatype); in.Type == tensor.None {
			return nil, refuse(400, "invalid datatype for input '%s': %s", in.Name, in.datatype)
		}
		if len(raw) > 0 {
			if in.given {
				return nil, refuse(400, "%scontents field must not be specified when using raw_input_contents for '%s' for model '%s'", ask.label(), in.Name, m.Name)
			}
			if err := fill(&in.Tensor, raw[i], m.Name, ask.label()); err != nil {
				return nil, err
			}
			continue
		}
		if err := in.fromContents(&ask, m); err != nil {
			return nil, err
		}
	}
	out, err := ask.run(m, ends)
	if err != nil {
		return nil, err
	}
	b := appendWord(appendWord(appendWord(nil, 1, m.Name), 2, m.Version), 3, ask.id)
	for i := range out {
		b = appendBytes(b, 5, appendShape(appendWord(appendWord(nil, 1, out[i].Name), 2, out[i].Type.String()), 3, out[i].Shape))
	}
	for i := range out {
		b = binary.AppendUvarint(appendTag(b, 6, wireBytes), uint64(rawSize(&out[i])))
		b = appendRaw(b, &out[i])
	}
	return b, nil
}

// readInput reads an InferInputTensor. Its contents are read once its type is
// known.
func readInput(b []byte) (input, error) {
	in := input{size: -1}
	in.Shape = []int64{}
	err := eachField(b, func(f field) error {
		switch f.number {
		case 1:
			in.Name = f.text()
		case 2:
			in.datatype = f.text()
		case 3:
			return f.eachNumber(wireVarint, func(v uint64) { in.Shape = append(in.Shape, int64(v)) })
		case 5:
			in.given = true
			in.contents = f.bytes
		}
		return nil
	})
	return in, err
}

// contentsOf are the fields of InferTensorContents that a type's elements are
// in, and how they are written.
var contentsOf = [...]struct{ number, kind int }{
	tensor.Bool: {1, wireVarint}, tensor.Int8: {2, wireVarint}, tensor.Int16: {2, wireVarint}, tensor.Int32: {2, wireVarint}, tensor.Int64: {3, wireVarint},
	tensor.Uint8: {4, wireVarint}, tensor.Uint16: {4, wireVarint}, tensor.Uint32: {4, wireVarint}, tensor.Uint64: {5, wireVarint},
	tensor.Float32: {6, wireFixed32}, tensor.Float64: {7, wireFixed64}, tensor.Bytes: {8, wireBytes}, tensor.BFloat16: {}, tensor.Float16: {},
}

// fromContents gives an input its elements from the typed contents.
func (in *input) fromContents(q *request, m *model.Model) error {
	want := contentsOf[in.Type]
	if want.number == 0 {
		return refuse(400, "%sinput '%s' of type %s is taken as raw_input_contents only", q.label(), in.Name, in.Type)
	}
	err := eachField(in.contents, func(f field) error {
		if f.number != want.number {
			return refuse(400, "%sunexpected explicit tensor data for input tensor '%s' for model '%s' of type '%s'", q.label(), in.Name, m.Name, in.Type)
		}
		if in.Type == tensor.Bytes {
			in.Strings = append(in.Strings, f.text())
			return nil
		}
		return f.eachNumber(want.kind, func(v uint64) {
			switch in.Type {
			case tensor.Float32:
				in.Data = tensor.AppendFloat32(in.Data, float32(float32Of(v)))
			case tensor.Float64:
				in.Data = binary.LittleEndian.AppendUint64(in.Data, v)
			case tensor.Bool:
				in.Data = append(in.Data, byte(min(v, 1)))
			default:
				in.Data = tensor.AppendInt(in.Data, in.Type, int64(v))
			}
		})
	})
	if err != nil {
		return err
	}
	if n, ok := tensor.Elements(in.Shape); !ok || in.Len() != n {
		return refuse(400, "%sunable to load explicit data for input '%s' of model '%s': its shape %s asks for %d elements, and there are %d", q.label(), in.Name, m.Name, tensor.Text(in.Shape), n, in.Len())
	}
	return nil
}
