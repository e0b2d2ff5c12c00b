// Package score answers calls of /score and /invocations for models that are
// run natively: in the form of Azure's no-code deployments ({"input_data": ...},
// answered bare), in MLflow's ({"dataframe_split": ...} and the others, answered
// as {"predictions": ...}), and with plain arrays.
package score

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"lapis/frame"
	"lapis/native/catalog"
	"lapis/native/model"
	"lapis/native/scan"
	"lapis/native/tensor"
)

// Server answers from one model.
type Server struct {
	model   *model.Model // nil when the source has several
	mlmodel *catalog.MLmodel
	flavor  string
	swagger []byte
}

// New returns a server of what was loaded.
func New(l *catalog.Loaded) *Server {
	s := &Server{mlmodel: l.MLflow, flavor: l.Flavor}
	if l.Flavor != "triton" {
		s.model, _ = l.Models.Only()
	}
	s.swagger = swagger(s)
	return s
}

// Version of MLflow whose replies these are.
const mlflowVersion = "3.17.2"

// Serve answers, and tells whether the path is one of its own.
func (s *Server) Serve(q *frame.Request, path string, a *frame.Reply) bool {
	switch path {
	case "/score", "/invocations":
		if s.model == nil {
			return false
		}
		s.score(q, path, a)
	case "/swagger.json":
		a.Status, a.Headers, a.Body = 200, append(a.Headers, contentJSON...), append(a.Body, s.swagger...)
	case "/ping", "/health", "/version":
		if q.Method != "GET" {
			a.Status, a.Headers, a.Body = 405, append(a.Headers, "Allow: GET\r\n"+contentJSON...), append(a.Body, `{"detail":"Method Not Allowed"}`...)
			return true
		}
		if path == "/version" {
			a.Status, a.Headers, a.Body = 200, append(a.Headers, contentJSON...), append(a.Body, mlflowVersion...)
			return true
		}
		a.Status, a.Headers, a.Body = 200, append(a.Headers, contentJSON...), append(a.Body, '\n')
	default:
		return false
	}
	return true
}

const contentJSON = "Content-Type: application/json\r\n"

// score answers one request to score.
func (s *Server) score(q *frame.Request, path string, a *frame.Reply) {
	begun := time.Now()
	var ends time.Time
	if q.Timeout > 0 {
		ends = begun.Add(q.Timeout)
	}
	if q.Method != "POST" {
		s.method(q, path, a)
		return
	}
	c := call{server: s, path: path, azure: path == "/score"}
	err := c.read(q)
	var out []tensor.Tensor
	if err == nil {
		out, err = c.run(ends)
	}
	if err == nil {
		err = c.write(out, a)
	}
	if err == nil {
		a.Status = 200
		a.Headers = append(a.Headers, contentJSON...)
		if c.azure {
			took := time.Since(begun)
			a.Headers = fmt.Appendf(append(a.Headers, "X-Ms-Run-Function-Failed: False\r\n"...), "X-Ms-Run-Fn-Exec-Ms: %.3f\r\n", float64(took.Microseconds())/1000)
		}
		return
	}
	c.refuse(err, a)
}

// method answers requests that are no POST.
func (s *Server) method(q *frame.Request, path string, a *frame.Reply) {
	if path == "/invocations" {
		a.Status, a.Headers, a.Body = 405, append(a.Headers, "Allow: POST\r\n"+contentJSON...), append(a.Body, `{"detail":"Method Not Allowed"}`...)
		return
	}
	a.Headers = append(a.Headers, "X-Ms-Run-Function-Failed: False\r\n"...)
	switch q.Method {
	case "OPTIONS":
		a.Status, a.Headers = 200, append(a.Headers, "Content-Type: text/html; charset=utf-8\r\n"...)
		return
	case "HEAD", "GET":
		a.Body = append(a.Body, `{"message": "Method not allowed"}`...)
	default:
		a.Body = append(a.Body, `{"message": "The method is not allowed for the requested URL."}`...)
	}
	a.Status, a.Headers = 405, append(a.Headers, contentJSON...)
}

// The kinds of refusals.
type (
	// badBody is a body that cannot be read as what it should be.
	badBody struct {
		text  string
		trace bool // MLflow says where in its code it arose
	}
	// badSchema is data that breaks the signature of the model.
	badSchema struct{ data, text string }
	// badParam is a parameter that breaks the signature.
	badParam struct{ text string }
	// badType is a body of another type.
	badType struct{ text string }
	// badRun is data that the model does not take.
	badRun struct{ text string }
)

func (e *badBody) Error() string   { return e.text }
func (e *badSchema) Error() string { return e.text }
func (e *badParam) Error() string  { return e.text }
func (e *badType) Error() string   { return e.text }
func (e *badRun) Error() string    { return e.text }

func invalid(format string, args ...any) error { return &badBody{text: fmt.Sprintf(format, args...)} }

// traced is a refusal of a body that MLflow answers with a stack trace.
func traced(err error) error {
	var b *badBody
	if errors.As(err, &b) {
		b.trace = true
	}
	return err
}

// mlflowError is the body of MLflow's errors.
type mlflowError struct{ code, text, state, class, trace string }

func (e *mlflowError) append(b []byte) []byte {
	b = append(b, '{')
	for i, m := range [][2]string{{"error_code", e.code}, {"message", e.text}, {"sqlstate", e.state}, {"error_class", e.class}, {"stack_trace", e.trace}} {
		if i == 4 && e.trace == "" {
			break
		}
		if i > 0 {
			b = append(b, ", "...)
		}
		b = tensor.AppendString(append(tensor.AppendString(b, m[0]), ": "...), m[1])
	}
	return append(b, '}')
}

// refuse writes why there is no answer.
func (c *call) refuse(err error, a *frame.Reply) {
	a.Headers, a.Body = a.Headers[:0], a.Body[:0]
	var (
		body   *badBody
		schema *badSchema
		param  *badParam
		kind   *badType
		run    *badRun
		input  *model.InputError
		broken *scan.Error
	)
	if c.azure {
		status, failed, text := 400, "False", err.Error()
		switch {
		case errors.As(err, &kind):
			status = 415
		case errors.As(err, &broken):
			text = "POST body could not be decoded as JSON: " + broken.Error()
		case errors.As(err, &body):
		case c.server.mlmodel != nil && (errors.As(err, &schema) || errors.As(err, &param) || errors.As(err, &run) || errors.As(err, &input)):
			// What the script of a no-code deployment would raise.
			fmt.Fprintln(os.Stderr, "Encountered Exception:", text)
			status, failed, text = 500, "True", "An unexpected error occurred in scoring script. Check the logs for more info."
		case errors.As(err, &schema) || errors.As(err, &param) || errors.As(err, &run) || errors.As(err, &input):
		case errors.Is(err, model.ErrDeadline):
			status, failed, text = 500, "True", "Scoring timeout"
		default:
			fmt.Fprintln(os.Stderr, "Encountered Exception:", text)
			status, text = 500, "An unexpected internal error occurred. Check the logs for more info."
		}
		a.Status = status
		a.Headers = frame.AppendHeader(append(a.Headers, contentJSON...), "X-Ms-Run-Function-Failed", failed)
		a.Body = append(tensor.AppendString(append(a.Body, `{"message": `...), text), '}')
		return
	}
	a.Status = 400
	reply := mlflowError{code: "BAD_REQUEST", state: "KAM00", class: "INVALID_PARAMETER_VALUE"}
	switch {
	case errors.As(err, &kind):
		a.Status = 415
		a.Headers = append(a.Headers, "Content-Type: text/plain; charset=utf-8\r\n"...)
		a.Body = append(a.Body, kind.text...)
		return
	case errors.As(err, &broken):
		reply.text = "Invalid input. Ensure that input is a valid JSON formatted string. Error: 'JSONDecodeError(\"" + broken.Reason + fmt.Sprintf(": char %d\")'\nInput: \n%s\n", broken.At, clip(c.text))
	case errors.As(err, &body):
		reply.text = body.text
		if body.trace {
			reply.trace = body.text
		}
	case errors.As(err, &schema):
		reply.code, reply.state, reply.class = "INVALID_PARAMETER_VALUE", "KAM01", "SCHEMA_ENFORCEMENT_FAILED"
		reply.text = fmt.Sprintf("Failed to predict data '%s'. \nError: Failed to enforce schema of data '%s' with schema '%s'. Error: %s", schema.data, schema.data, c.server.schema(), schema.text)
	case errors.As(err, &param):
		reply.code = "INVALID_PARAMETER_VALUE"
		reply.text = fmt.Sprintf("Failed to predict data '%s'. \nError: %s", c.data.String(), param.text)
	case errors.As(err, &run) || errors.As(err, &input):
		reply.text = "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe is compatible with the model for inference."
		reply.trace = err.Error()
	case errors.Is(err, model.ErrDeadline):
		a.Status, a.Headers, a.Body = 504, append(a.Headers, contentJSON...), append(a.Body, "Request processing time exceeded limit"...)
		return
	default:
		fmt.Fprintln(os.Stderr, "Encountered Exception:", err)
		a.Status, a.Headers, a.Body = 500, append(a.Headers, "Content-Type: text/plain; charset=utf-8\r\n"...), append(a.Body, "Internal Server Error"...)
		return
	}
	a.Headers, a.Body = append(a.Headers, contentJSON...), reply.append(a.Body)
}

// clip bounds what errors repeat.
func clip(b []byte) string {
	const most = 2000
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "") + "..."
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
