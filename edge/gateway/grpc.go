package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lapis/ml/serving"
)

// A gRPC call travels message by message: each is one request to the
// instance, with its five-byte prefix, and its reply carries the status of the
// call in the headers Grpc-Status and Grpc-Message. A status that is not 0 ends
// the call.

// headerEndpoint names the endpoint of a call whose host does not.
const headerEndpoint = "Azureml-Endpoint"

const grpcInternal = 13 // the status of calls that fail in ways that have no status

func isGRPC(r *http.Request) bool {
	if r.ProtoMajor != 2 {
		return false
	}
	v := r.Header["Content-Type"]
	return len(v) == 1 && strings.HasPrefix(v[0], "application/grpc")
}

// findGRPC returns the endpoint of a call that neither the host nor the path
// names: the one in its metadata, else the one whose key it carries.
func (t *table) findGRPC(r *http.Request) *route {
	if name := r.Header.Get(headerEndpoint); name != "" {
		return t.named[strings.ToLower(name)]
	}
	if word := bearer(r.Header); word != "" {
		return t.keyed[keyHash(sha256.Sum256([]byte(word)))]
	}
	return nil
}

// grpc answers a call.
func (x *exchange) grpc() {
	x.calls = true
	limit := x.rt.Limits.MaxBody
	if limit <= 0 {
		limit = serving.DefaultMaxBody
	}
	h := x.w.Header()
	h["Content-Type"] = []string{"application/grpc"}
	for messages := 0; ; messages++ {
		x.began, x.status, x.model, x.sent, x.untaken = time.Now(), 0, 0, 0, 0
		if no := x.begin(http.MethodPost, x.target); no != nil {
			x.refuse(no)
			return
		}
		err := x.message(limit)
		switch {
		case err == io.EOF && messages > 0:
			x.trail("0", "")
			return
		case err == io.EOF:
			x.refuseGRPC(&refusal{grpc: grpcInternal, message: "The call holds no message."})
			return
		case errors.Is(err, errMessageTooLarge):
			x.refuse(bodyTooLarge(-1, limit))
			x.finish()
			return
		case err != nil:
			return // the caller has left
		}
		x.rt.state.bytesIn.Add(int64(len(x.frame) - x.body))
		x.began = time.Now()
		x.deadline = x.began.Add(x.timeout())
		x.grpcStatus = ""
		no := x.score()
		if no != nil {
			x.refuse(no)
		}
		x.finish()
		if no != nil {
			return
		}
		if x.grpcStatus != "0" {
			x.trail(x.grpcStatus, x.grpcMessage)
			return
		}
	}
}

var errMessageTooLarge = errors.New("the message is larger than the limit")

// message appends the next message of the call to the frame; io.EOF when there
// is none.
func (x *exchange) message(limit int64) error {
	var prefix [5]byte
	if _, err := io.ReadFull(x.r.Body, prefix[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(prefix[1:]))
	if n > limit {
		return errMessageTooLarge
	}
	x.frame = append(x.frame, prefix[:]...)
	for n > 0 {
		step := int(min(n, keepBuffer)) // it grows with what comes, not with what is promised
		b := grow(x.frame, step)
		if _, err := io.ReadFull(x.r.Body, b[len(b):len(b)+step]); err != nil {
			return io.ErrUnexpectedEOF
		}
		x.frame = b[:len(b)+step]
		n -= int64(step)
	}
	return nil
}

// takeGRPC reads the status of the call from the headers of a reply.
func (x *exchange) takeGRPC(status int, headers []byte) {
	x.grpcStatus, x.grpcMessage = "", ""
	eachHeader(headers, func(name, value string) {
		switch http.CanonicalHeaderKey(name) {
		case "Grpc-Status":
			x.grpcStatus = value
		case "Grpc-Message":
			x.grpcMessage = value
		case "Content-Type", "Content-Length":
		default:
			if !x.headed {
				x.takeHeader(x.w.Header(), name, value)
			}
		}
	})
	if _, err := strconv.ParseUint(x.grpcStatus, 10, 16); err != nil {
		x.grpcStatus = "0"
		if status/100 != 2 {
			x.grpcStatus, x.grpcMessage = strconv.Itoa(grpcInternal), "the model answered "+strconv.Itoa(status)
		}
	}
}

// sendGRPC passes on the message of a reply.
func (x *exchange) sendGRPC(body []byte) {
	x.status = http.StatusOK
	if x.grpcStatus != "0" {
		x.status = http.StatusFailedDependency // what the call is counted as
		return
	}
	if !x.headed {
		x.headed = true
		x.w.Header()[headerDeployment] = []string{x.d.name}
		x.w.WriteHeader(http.StatusOK)
	}
	n, _ := x.w.Write(body)
	x.sent += int64(n)
	_ = http.NewResponseController(x.w).Flush()
}

// trail ends the call with its status: in trailers, or in the headers where
// nothing has been sent.
func (x *exchange) trail(status, message string) {
	h, prefix := x.w.Header(), ""
	if x.headed {
		prefix = http.TrailerPrefix
	} else if x.d != nil {
		h[headerDeployment] = []string{x.d.name}
	}
	h[prefix+"Grpc-Status"] = []string{status}
	if message != "" {
		h[prefix+"Grpc-Message"] = []string{message}
	}
	if !x.headed {
		h["Content-Type"] = []string{"application/grpc"}
		x.w.WriteHeader(http.StatusOK)
	}
}

// refuseGRPC ends a call that the gateway refuses.
func (x *exchange) refuseGRPC(no *refusal) {
	x.trail(strconv.Itoa(no.grpc), strings.ReplaceAll(url.QueryEscape(no.message), "+", " "))
}
