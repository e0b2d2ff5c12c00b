package gateway

import (
	"net/http"
	"strings"
)

func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

func (t *table) findGRPC(r *http.Request) *route { return t.named[r.Header.Get("Azureml-Endpoint")] }
func (x *exchange) grpc()                        {}
func (x *exchange) refuseGRPC(no *refusal)       {}
