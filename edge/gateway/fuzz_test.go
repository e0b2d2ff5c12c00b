package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lapis/frame"
	"lapis/ml/serving"
)

// What comes as one request leaves as one, in frames and over HTTP: with the
// same method, target and body, and nothing behind it.
func FuzzOneRequestStaysOne(f *testing.F) {
	for _, s := range []string{
		"POST /endpoints/e/score HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
		"POST /endpoints/e/score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"GET /endpoints/e/x?y=%0d%0a HTTP/1.1\r\nHost: e.localhost\r\nX-A: 1\r\nConnection: X-A\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: e.localhost\r\n\r\n",
		"GET http://e.localhost/a/b HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /endpoints/e HTTP/1.1\r\nHost: [::1]:80\r\nContent-length: 0\r\nUpgrade: h2c\r\n\r\n",
		"M /endpoints/e?a HTTP/1.0\r\nX-Ms-Client-Request-Id: <\x7f>\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	g := &Gateway{}
	t := &table{named: map[string]*route{"e": {Endpoint: serving.Endpoint{Name: "e", Auth: serving.AuthKey}, state: &endpoint{}}}}
	f.Fuzz(func(test *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		// What the server does before it calls a handler.
		if r.Host == "" || strings.ContainsAny(r.Host, " \t\r\n") {
			return
		}
		x := &exchange{g: g, w: httptest.NewRecorder(), r: r}
		x.identify()
		if x.rt, x.target, _ = t.find(r); x.rt == nil {
			return
		}
		x.method = r.Method
		want, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(want))
		r.ContentLength = -1
		if no := x.read(); no != nil {
			return
		}
		if err := frame.CompleteRequest(x.frame, 0); err != nil {
			test.Fatal(err)
		}
		kind, payload, err := frame.NewReader(bytes.NewReader(x.frame), 0).Next()
		if err != nil || kind != frame.KindRequest {
			test.Fatal(kind, err)
		}
		q, err := frame.ParseRequest(payload)
		if err != nil || q.Method != r.Method || q.Target != x.target || !bytes.Equal(q.Body, want) {
			test.Fatalf("%+v %v", q, err)
		}
		for name := range headersOf(q) {
			if skipped[name] && name != "Host" && name != headerRequestID && name != headerClientID || name == "Authorization" {
				test.Fatalf("%s goes on", name)
			}
		}
		out := append(x.appendHTTP(nil), want...)
		rest := bufio.NewReader(bytes.NewReader(out))
		again, err := http.ReadRequest(rest)
		if err != nil {
			if r.Method == "CONNECT" || strings.HasPrefix(r.Method, "PRI") {
				return
			}
			test.Fatalf("%v\n%q", err, out)
		}
		body, err := io.ReadAll(again.Body)
		if err != nil || again.Method != r.Method || again.RequestURI != x.target || !bytes.Equal(body, want) {
			test.Fatalf("%v %s %s %q\n%q", err, again.Method, again.RequestURI, body, out)
		}
		if left, _ := io.ReadAll(rest); len(left) > 0 {
			test.Fatalf("%q is left", left)
		}
	})
}

// Whatever headers an instance sends, the caller's reply stays one reply.
func FuzzHeadersOfReplies(f *testing.F) {
	f.Add([]byte("Content-Type: a\r\nX: b\r\n"))
	f.Add([]byte("X\r\n: y\r\nZ:\r\n\r\nHTTP/1.1 200 OK\r\n"))
	f.Add([]byte("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nX-Request-Id: 1\r\nA\nB: c\rd\r\n"))
	f.Fuzz(func(t *testing.T, headers []byte) {
		srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := &exchange{w: w, r: r, rt: &route{state: &endpoint{}}, d: &deployment{name: "blue"}, id: "id"}
			x.identify()
			x.takeHeaders(headers)
			x.send(200, []byte("body"))
		})}
		pipe := newPipe()
		go srv.Serve(pipe)
		defer srv.Close()
		if _, err := io.WriteString(pipe.client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(pipe.client)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || string(b) != "body" || len(resp.Header["X-Request-Id"]) != 1 {
			t.Fatalf("%+v %q %v", resp, b, err)
		}
		if left, _ := io.ReadAll(r); len(left) > 0 {
			t.Fatalf("%q is left", left)
		}
	})
}
