package gateway

import (
	"fmt"
	"net/http"

	"lapis/fault"
)

// refusal is why the gateway answers itself. Endpoints of Kubernetes have a
// status of their own for some.
type refusal struct {
	status     int
	k8s        int
	code       string
	reason     string // x-aml-reason: one word for it
	message    string
	model      int // what it counts as, when the model is to blame
	retryAfter string
	grpc       int // the status of a gRPC call
}

// The refusals that say the same each time.
var (
	unauthorized = &refusal{status: 401, k8s: 401, code: "Unauthorized", reason: "unauthorized", grpc: 16,
		message: "The key or token is missing, wrong or expired. Send a valid one as 'Authorization: Bearer ...'."}
	busy = &refusal{status: 429, k8s: 503, code: "TooManyRequests", reason: "too_many_concurrent_requests", retryAfter: "1", grpc: 8,
		message: "All instances are busy and as many requests wait as may. Try again, or raise instance_count or request_settings.max_concurrent_requests_per_instance."}
	tooOften = &refusal{status: 429, k8s: 429, code: "TooManyRequests", reason: "request_rate_limit", retryAfter: "1", grpc: 8,
		message: "This key has sent more requests per second than the endpoint allows. Slow down."}
	crowded = &refusal{status: 429, k8s: 503, code: "TooManyRequests", reason: "memory", retryAfter: "1", grpc: 8,
		message: "The gateway holds as many large bodies as it may. Try again."}
	noInstance = &refusal{status: 503, k8s: 503, code: "NoInstance", reason: "no_instance", retryAfter: "1", grpc: 14,
		message: "The deployment has no instance at this moment. Try again."}
	notWoken = &refusal{status: 503, k8s: 503, code: "ColdStart", reason: "cold_start", retryAfter: "2", grpc: 14,
		message: "The deployment was idle, and no instance was up in time. Try again."}
	waitedLong = &refusal{status: 503, k8s: 503, code: "QueueTimeout", reason: "max_queue_wait", retryAfter: "1", grpc: 8,
		message: "The request waited longer than request_settings.max_queue_wait_ms for an instance."}
	late = &refusal{status: 408, k8s: 504, code: "RequestTimeout", reason: "request_timeout", grpc: 4,
		message: "upstream request timeout: the deployment took longer than its request_settings.request_timeout_ms."}
	crashed = &refusal{status: 424, k8s: 502, code: "ModelCrashed", reason: "instance_crashed", model: 502, grpc: 13,
		message: "The instance ended while it worked on the request. The deployment's log says why."}
	badReply = &refusal{status: 424, k8s: 502, code: "InvalidModelReply", reason: "invalid_reply", model: 502, grpc: 13,
		message: "What the instance answered is no valid reply. The deployment's log may say why."}
	unreachable = &refusal{status: 424, k8s: 503, code: "InstanceUnreachable", reason: "instance_unreachable", model: 503, retryAfter: "1", grpc: 14,
		message: "No instance of the deployment takes requests at this moment. The deployment's log may say why."}
	callerLeft = &refusal{status: 499, k8s: 499, code: "ClientClosedRequest", reason: "client_closed_request", grpc: 1,
		message: "The caller has closed the connection."}
	badBody = &refusal{status: 400, k8s: 400, code: "InvalidBody", reason: "invalid_body", grpc: 3,
		message: "The request's body ended before it was whole. Send it again."}
	twoLengths = &refusal{status: 400, k8s: 400, code: "InvalidRequest", reason: "ambiguous_length", grpc: 3,
		message: "The request has both Content-Length and Transfer-Encoding. Send one of them."}
	longTarget = &refusal{status: 414, k8s: 414, code: "UriTooLong", reason: "uri_too_long", grpc: 3,
		message: "The request's path and query are longer than 65535 bytes."}
)

func unknownEndpoint(name string) *refusal {
	message := "The request names no endpoint. Send it to /endpoints/NAME/score, or to a host name that begins with the endpoint's name."
	if name != "" {
		message = fmt.Sprintf("There is no online endpoint %q.", fault.Clip(name))
	}
	return &refusal{status: 404, k8s: 404, code: "EndpointNotFound", reason: "endpoint_not_found", message: message, grpc: 5}
}

func unknownDeployment(endpoint, name string) *refusal {
	return &refusal{status: 404, k8s: 404, code: "DeploymentNotFound", reason: "deployment_not_found", grpc: 5,
		message: fmt.Sprintf("The endpoint %q has no deployment %q, which the header azureml-model-deployment names.", endpoint, fault.Clip(name))}
}

func noTraffic(endpoint string) *refusal {
	return &refusal{status: 404, k8s: 404, code: "NoTraffic", reason: "no_traffic", grpc: 5,
		message: fmt.Sprintf("No deployment of the endpoint %q gets traffic. Give one a share, or name one in the header azureml-model-deployment.", endpoint)}
}

func bodyTooLarge(size, limit int64) *refusal {
	message := fmt.Sprintf("The request's body is larger than the limit of %d bytes.", limit)
	if size >= 0 {
		message = fmt.Sprintf("The request's body of %d bytes is larger than the limit of %d bytes.", size, limit)
	}
	return &refusal{status: http.StatusRequestEntityTooLarge, k8s: http.StatusRequestEntityTooLarge, code: "RequestBodyTooLarge", reason: "body_too_large", message: message, grpc: 8}
}
