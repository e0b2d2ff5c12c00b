package gateway

import (
	"net/http"
	"slices"
)

// cors answers a browser's preflight and lets pages of the endpoint's origins
// read replies. It returns true when the request is answered.
func (x *exchange) cors() bool {
	origin := x.r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	h := x.w.Header()
	h.Add("Vary", "Origin")
	if !slices.Contains(x.rt.CORS, "*") && !slices.Contains(x.rt.CORS, origin) {
		return false
	}
	h["Access-Control-Allow-Origin"] = []string{origin}
	method := x.r.Header.Get("Access-Control-Request-Method")
	if x.r.Method != http.MethodOptions || method == "" {
		h["Access-Control-Expose-Headers"] = []string{"x-request-id, x-ms-client-request-id, azureml-model-deployment, x-aml-reason, x-ms-run-fn-exec-ms, x-ms-run-function-failed, ms-azureml-model-error-statuscode, ms-azureml-model-error-reason"}
		return false
	}
	h["Access-Control-Allow-Methods"] = []string{method}
	if headers := x.r.Header.Get("Access-Control-Request-Headers"); headers != "" {
		h["Access-Control-Allow-Headers"] = []string{headers}
	}
	h["Access-Control-Max-Age"] = []string{"600"}
	h["Content-Length"] = []string{"0"}
	x.w.WriteHeader(http.StatusOK)
	return true
}
