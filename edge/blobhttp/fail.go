package blobhttp

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"time"

	"lapis/edge"
	"lapis/fault"
)

// The words of Blob Storage for faults that carry a word of another protocol.
var codes = map[string]string{
	"InvalidRequest":             "InvalidInput",
	"InvalidAuthenticationToken": "InvalidAuthenticationInfo",
	"AuthorizationFailed":        "AuthorizationPermissionMismatch",
	"PreconditionFailed":         "ConditionNotMet",
}

// fail sends an error in the dialect: a header with its code, and XML.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	h := w.Header()
	id := h.Get("x-ms-request-id")
	f := fault.Find(err)
	if f == nil {
		f = fault.New(fault.Internal, "InternalError", "Internal error. The server's log has it under the request id %s.", id)
		if errors.Is(err, context.Canceled) {
			s.cfg.Log.Debug("blob request given up by the client", "request", id)
		} else {
			s.cfg.Log.Error("blob request", "request", id, "method", r.Method, "path", fault.Clip(r.URL.Path), "err", err)
		}
	} else if f.Cause != nil {
		s.cfg.Log.Warn("blob request", "request", id, "method", r.Method, "path", fault.Clip(r.URL.Path), "err", f, "cause", f.Cause)
	}
	code := f.Code
	if c, ok := codes[code]; ok {
		code = c
	}
	status := edge.Status(f.Kind)
	h.Set("x-ms-error-code", code)
	if status == http.StatusUnauthorized {
		edge.Challenge(w, f)
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	sendXML(w, status, struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: fmt.Sprintf("%s\nRequestId:%s\nTime:%s", f.Message, id, s.cfg.Now().UTC().Format(time.RFC3339Nano))})
}

func sendXML(w http.ResponseWriter, status int, v any) {
	b, err := xml.Marshal(v)
	if err != nil {
		panic(err) // the types that are sent can all be encoded
	}
	b = append([]byte(xml.Header), b...)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}
