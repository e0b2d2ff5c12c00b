package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// programOf is an endpoint with one deployment of a program of the user's.
func programOf(t *testing.T, handler http.HandlerFunc) (serving.Deployment, *httptest.Server) {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	d := deploymentOf("blue", 4)
	d.Runtime, d.Capacity = serving.Program, 1
	d.Instances = []serving.Instance{{ID: "e/blue/1/0", Network: "tcp", Address: srv.Listener.Addr().String()}}
	return d, srv
}

func TestAnyPathMethodAndHeaderReachesTheInstance(t *testing.T) {
	program, _ := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var q frame.Request
		q.Method, q.Target, q.Body = r.Method, r.RequestURI, b
		for name, values := range r.Header {
			for _, v := range values {
				q.Headers = appendHeader(q.Headers, name, v)
			}
		}
		q.Headers = appendHeader(q.Headers, "Host", r.Host)
		w.Header()["X-Ms-Run-Fn-Exec-Ms"] = []string{"1.5"}
		a := echo(q, nil, nil)
		w.Write(a.Body)
	})
	for what, d := range map[string]serving.Deployment{"frames": deploymentOf("blue", 2, startProcess(t, echo)), "http": program} {
		h := open(t)
		h.apply(endpointOf(d))
		for _, c := range []struct{ path, host, target string }{
			{"/endpoints/e/score", "", "/score"},
			{"/endpoints/e", "", "/"},
			{"/endpoints/e?x=1", "", "/?x=1"},
			{"/endpoints/E/v2/models/m/infer?a=b&c=%20d", "", "/v2/models/m/infer?a=b&c=%20d"},
			{"/endpoints/e/a//b/../c/%2e%2e/%00;x?", "", "/a//b/../c/%2e%2e/%00;x?"},
			{"/v2/health/live", "e.local.inference.ml.azure.com", "/v2/health/live"},
			{"/score", "E.localhost:7444", "/score"},
			{"/endpoints/other/x", "e.localhost", "/endpoints/other/x"},
		} {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"} {
				headers := []string{"Authorization", "Bearer " + testKey, "X-Mine", "a, b", "Accept", "*/*", "Connection", "X-Secret, close", "X-Secret", "no",
					"Te", "trailers", "Proxy-Authorization", "no", "Upgrade", "websocket", "Keep-Alive", "1"}
				if c.host != "" {
					headers = append(headers, "Host", c.host)
				}
				r := h.call(method, c.path, "body", headers...)
				if r.err != nil || r.status != 200 {
					t.Fatalf("%s %s %s: %+v", what, method, c.path, r)
				}
				e := r.echoed(t)
				if e.Method != method || e.Target != c.target || e.Body != "body" || e.Headers.Get("X-Mine") != "a, b" || e.Headers.Get("Accept") != "*/*" {
					t.Errorf("%s %s %s: %+v", what, method, c.path, e)
				}
				for _, name := range []string{"Authorization", "X-Secret", "Te", "Proxy-Authorization", "Upgrade", "Keep-Alive"} {
					if e.Headers.Get(name) != "" {
						t.Errorf("%s: %s reached the instance", what, name)
					}
				}
				if c.host != "" && e.Headers.Get("Host") != c.host {
					t.Errorf("%s: host %q", what, e.Headers.Get("Host"))
				}
			}
		}
		if r := h.call("HEAD", "/endpoints/e/score", "", "Authorization", "Bearer "+testKey); r.status != 200 || r.body != "" {
			t.Errorf("%s HEAD: %+v", what, r)
		}
	}
}

func TestAReplyInPiecesIsPassedOnPieceByPiece(t *testing.T) {
	next := make(chan bool)
	framed := startProcess(t, func(q frame.Request, _ <-chan struct{}, out write) *frame.Reply {
		b, _ := frame.AppendReply(nil, frame.KindBegin, *answer(200, "data: 0\n\n", "Content-Type", "text/event-stream"))
		a := frame.NewReader(bytes.NewReader(b), 0)
		kind, payload, _ := a.Next()
		out(kind, payload)
		for n := 1; n <= 3; n++ {
			<-next
			out(frame.KindData, fmt.Appendf(nil, "data: %d\n\n", n))
		}
		<-next
		out(frame.KindEnd, lines("X-Sum", "6"))
		return nil
	})
	program, _ := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Trailer", "X-Sum")
		for n := range 4 {
			if n > 0 {
				<-next
			}
			fmt.Fprintf(w, "data: %d\n\n", n)
			w.(http.Flusher).Flush()
		}
		<-next
		w.Header().Set("X-Sum", "6")
	})
	for what, d := range map[string]serving.Deployment{"frames": deploymentOf("blue", 2, framed), "http": program} {
		h := open(t)
		h.apply(endpointOf(d))
		for range 2 { // the connection is good for another
			r, _ := http.NewRequest("GET", h.url+"/endpoints/e/stream", nil)
			r.Header.Set("Authorization", "Bearer "+testKey)
			resp, err := patient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			pieces := bufio.NewReader(resp.Body)
			for n := range 4 {
				// The next piece is not made before this one has arrived.
				line, err := pieces.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data: %d\n", n) {
					t.Fatalf("%s: %q %v", what, line, err)
				}
				pieces.ReadString('\n')
				next <- true
			}
			if rest, err := io.ReadAll(pieces); err != nil || len(rest) > 0 {
				t.Errorf("%s: %q %v", what, rest, err)
			}
			resp.Body.Close()
			if resp.Header.Get("Content-Type") != "text/event-stream" || resp.Trailer.Get("X-Sum") != "6" || resp.Header.Get("azureml-model-deployment") != "blue" {
				t.Errorf("%s: %v %v", what, resp.Header, resp.Trailer)
			}
		}
	}
}

func TestAReplyThatBreaksInTheMiddleDoesNotLookWhole(t *testing.T) {
	framed := startProcess(t, func(q frame.Request, _ <-chan struct{}, out write) *frame.Reply {
		b, _ := frame.AppendReply(nil, frame.KindBegin, *answer(200, "half"))
		kind, payload, _ := frame.NewReader(bytes.NewReader(b), 0).Next()
		out(kind, payload)
		out(frame.KindBroken, []byte("killed"))
		return nil
	})
	program, _ := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	for what, d := range map[string]serving.Deployment{"frames": deploymentOf("blue", 2, framed), "http": program} {
		h := open(t)
		h.apply(endpointOf(d))
		if r := h.score("{}"); r.err == nil {
			t.Errorf("%s: %+v", what, r)
		}
		until(t, "the instance is free", func() bool { running, _ := h.deployment("blue").counts(); return running == 0 })
	}
}

func TestAProgramMayEndItsConnections(t *testing.T) {
	var callers sync.Map
	program, srv := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		callers.Store(r.RemoteAddr, true)
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("X-Length", strconv.Itoa(len(b)))
		w.Write(b)
	})
	h := open(t)
	h.apply(endpointOf(program))
	for n := range 50 {
		if r := h.call("POST", "/endpoints/e/close", "x", "Authorization", "Bearer "+testKey); r.status != 200 || r.body != "x" || r.header.Get("Connection") != "" {
			t.Fatalf("%d: %+v", n, r)
		}
	}
	connections := 0
	callers.Range(func(_, _ any) bool { connections++; return true })
	if connections != 50 {
		t.Errorf("%d connections", connections)
	}
	for range 50 {
		srv.CloseClientConnections() // a restart, or a server that keeps them for a short time
		if r := h.score("y"); r.status != 200 {
			t.Fatalf("%+v", r)
		}
	}
	large := strings.Repeat("0123456789abcdef", 1<<18) // 4 MB and longer goes through in pieces
	if r := h.score(large + "more"); r.status != 200 || r.body != large+"more" {
		t.Errorf("%d, %d bytes", r.status, len(r.body))
	}
	for _, e := range h.g.events.list {
		t.Errorf("an instance that closes connections has failed: %+v", e)
	}
}

func TestOddAnswersOfAProgram(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var answers sync.Map
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					q, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, q.Body)
					a, _ := answers.Load(q.URL.Path)
					if a.(string) == "" {
						return
					}
					io.WriteString(c, a.(string))
				}
			}()
		}
	}()
	h := open(t)
	d := deploymentOf("blue", 4)
	d.Runtime, d.Capacity, d.Instances = serving.Program, 1, []serving.Instance{{ID: "i", Network: "tcp", Address: l.Addr().String()}}
	h.apply(endpointOf(d))
	for n, c := range []struct {
		answer string
		want   int
		body   string
	}{
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok"},
		{"HTTP/1.0 200 OK\r\n\r\nuntil the end", 0, ""}, // ends with the connection, which stays: 408 or cut
		{"HTTP/1.1 204 No Content\r\n\r\n", 204, ""},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", 424, ""},
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 424, ""},
		{"nonsense\r\n\r\n", 424, ""},
		{"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nno", 424, "no"},
		{"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, ""},
		{"", 424, ""},
	} {
		if c.want == 0 {
			continue
		}
		path := fmt.Sprintf("/%d", n)
		answers.Store(path, c.answer)
		r := h.call("POST", "/endpoints/e"+path, "{}", "Authorization", "Bearer "+testKey)
		if r.status != c.want || c.body != "" && r.body != c.body {
			t.Errorf("%q: %+v", c.answer, r)
		}
	}
}

func TestPagesOfTheEndpointsOriginsMayCall(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 1, startProcess(t, func(frame.Request, <-chan struct{}, write) *frame.Reply {
		return answer(200, "{}", "Access-Control-Allow-Origin", "https://model.example")
	})))
	e.CORS = []string{"https://app.example"}
	h.apply(e)
	pre := h.call("OPTIONS", "/endpoints/e/score", "", "Origin", "https://app.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
	if pre.status != 200 || pre.header.Get("Access-Control-Allow-Origin") != "https://app.example" || pre.header.Get("Access-Control-Allow-Methods") != "POST" ||
		pre.header.Get("Access-Control-Allow-Headers") != "authorization" || pre.header.Get("Vary") != "Origin" {
		t.Errorf("%+v", pre)
	}
	if r := h.score("{}", "Origin", "https://app.example"); r.status != 200 || len(r.header["Access-Control-Allow-Origin"]) != 1 || r.header.Get("Access-Control-Allow-Origin") != "https://app.example" {
		t.Errorf("%+v", r)
	}
	if r := h.score("{}", "Origin", "https://evil.example"); r.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%+v", r)
	}
	if r := h.call("OPTIONS", "/endpoints/e/score", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); r.status != 401 {
		t.Errorf("%+v", r)
	}
	if r := h.score("{}", "Origin", "https://app.example", "Authorization", "Bearer no"); r.status != 401 || r.header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("a refusal must be readable too: %+v", r)
	}
}

// raw sends bytes and returns the statuses of all replies until the end.
func (h *house) raw(t *testing.T, text string) []int {
	t.Helper()
	c, err := net.Dial("tcp", h.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	go io.WriteString(c, text)
	r := bufio.NewReader(c)
	var got []int
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return got
		}
		io.Copy(io.Discard, resp.Body)
		got = append(got, resp.StatusCode)
		if resp.Close {
			return got
		}
		c.SetDeadline(time.Now().Add(time.Second))
	}
}

func TestNoRequestIsSmuggledInAnother(t *testing.T) {
	h := open(t)
	var targets sync.Map
	p := startProcess(t, func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
		targets.Store(q.Target+" "+string(q.Body), true)
		return answer(200, "ok")
	})
	program, _ := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		targets.Store(r.RequestURI+" "+string(b), true)
	})
	for what, d := range map[string]serving.Deployment{"frames": deploymentOf("blue", 4, p), "http": program} {
		h.apply(endpointOf(d))
		const head = "POST /endpoints/e/score HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + testKey + "\r\n"
		const hidden = "GET /endpoints/e/hidden HTTP/1.1\r\nHost: localhost\r\nX: "
		for _, c := range []struct{ name, text string }{
			{"a length and chunks", head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden},
			{"chunks and a length", head + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + hidden},
			{"chunks in other letters and a length", head + "tRANSFER-eNCODING: chunked\r\ncONTENT-lENGTH: 6\r\n\r\n0\r\n\r\n" + hidden},
			{"a length and chunks on lines that end short", strings.ReplaceAll(head, "\r\n", "\n") + "Content-Length: 4\nTransfer-Encoding: chunked\n\r\n0\r\n\r\n" + hidden},
			{"two lengths", head + "Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd" + hidden},
			{"two lengths in one", head + "Content-Length: 4, 40\r\n\r\nabcd" + hidden},
			{"a length with a sign", head + "Content-Length: +4\r\n\r\nabcd"},
			{"a negative length", head + "Content-Length: -1\r\n\r\nabcd"},
			{"a length that is no number", head + "Content-Length: 4x\r\n\r\nabcd"},
			{"a coding that is not known", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden},
			{"two codings", head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hidden},
			{"two lines of codings", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden},
			{"a blank before the colon", head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden},
			{"a bare carriage return", head + "X-A: 1\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"},
			{"a zero byte", head + "X-A: 1\x00\r\nContent-Length: 0\r\n\r\n"},
			{"two hosts", "POST /endpoints/e/score HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n"},
			{"no host", "POST /endpoints/e/score HTTP/1.1\r\nContent-Length: 0\r\n\r\n"},
			{"a blank in the target", "POST /endpoints/e/score x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"},
			{"a chunk of a bad size", head + "Transfer-Encoding: chunked\r\n\r\n-1\r\nabcd\r\n0\r\n\r\n"},
			{"a chunk too large for any number", head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabcd\r\n0\r\n\r\n"},
		} {
			targets.Clear()
			got := h.raw(t, c.text)
			if len(got) != 1 || got[0] != 400 && got[0] != 501 {
				t.Errorf("%s, %s: %v", what, c.name, got)
			}
			targets.Range(func(k, _ any) bool {
				t.Errorf("%s, %s: %q has reached an instance", what, c.name, k)
				return true
			})
		}
		// A head that comes in two parts is one head.
		targets.Clear()
		if status := h.inParts(t, head+"Content-Length: 4\r\nTransfer-", "Encoding: chunked\r\n\r\n0\r\n\r\n"); status != 400 {
			t.Errorf("%s: a length and chunks in two parts: %d", what, status)
		}
		// One that follows a body, and has a length alone, is no such head.
		if status := h.inParts(t, head+"Transfer-Encoding: chunked\r\n\r\n5\r\n-----\r\n0\r\n\r\n", head+"Connection: close\r\nContent-Length: 2\r\n\r\nab"); status != 200 {
			t.Errorf("%s: chunks, then a length: %d", what, status)
		}
		// What a caller puts into names and paths makes no second request either.
		targets.Clear()
		if got := h.raw(t, "POST /endpoints/e/a%0d%0aGET%20/hidden HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer "+testKey+"\r\nX-A: b%0d%0aX-B: c\r\nContent-Length: 3\r\n\r\nabc"); len(got) != 1 || got[0] != 200 {
			t.Errorf("%v", got)
		}
		if _, ok := targets.Load("/a%0d%0aGET%20/hidden abc"); !ok {
			t.Error("the target was changed")
		}
		// Two whole requests are two.
		two := head + "Content-Length: 1\r\n\r\na" + head + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n"
		if got := h.raw(t, two); len(got) != 2 || got[0] != 200 || got[1] != 200 {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// inParts sends the parts one after the other, so that they are read one by one,
// and returns the last status, or the first that is not 200.
func (h *house) inParts(t *testing.T, parts ...string) (status int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	for n, part := range parts {
		if n > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
	}
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if status = resp.StatusCode; status != 200 || resp.Close {
			return status
		}
	}
}

func TestWhoAsksFirstIsNotToldToSendTooMuch(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 4, startProcess(t, echo)))
	e.Limits.MaxBody = 1000
	h.apply(e)
	const head = "POST /endpoints/e/score HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + testKey + "\r\nExpect: 100-continue\r\n"
	if status := h.inParts(t, head+"Content-Length: 1001\r\n\r\n"); status != 413 {
		t.Errorf("%d", status)
	}
	if status := h.inParts(t, head+"Content-Length: 2\r\n\r\n"); status != 100 {
		t.Errorf("%d", status)
	}
}

// grpcCall sends messages in one call and returns those that come back and the
// status.
func (h *house) grpcCall(t *testing.T, path string, headers []string, messages ...string) (got []string, status, message string, header http.Header) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var body []byte
	for _, m := range messages {
		body = append(body, 0)
		body = binary.BigEndian.AppendUint32(body, uint32(len(m)))
		body = append(body, m...)
	}
	r, _ := http.NewRequest("POST", h.url+path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	for n := 0; n+1 < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
		if headers[n] == "Host" {
			r.Host = headers[n+1]
		}
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/grpc" {
		t.Fatalf("%s %v %v", resp.Status, resp.Header, err)
	}
	for len(b) >= 5 {
		n := int(binary.BigEndian.Uint32(b[1:]))
		got = append(got, string(b[5:5+n]))
		b = b[5+n:]
	}
	status, message = resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" {
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	return got, status, message, resp.Header
}

func TestGRPCCallsGoMessageByMessage(t *testing.T) {
	h := open(t)
	p := startProcess(t, func(q frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
		m := string(q.Body[5:])
		if q.Method != "POST" || headersOf(q).Get("Content-Type") != "application/grpc" {
			return answer(200, "", "Grpc-Status", "13", "Grpc-Message", "odd")
		}
		switch m {
		case "missing":
			return answer(200, "", "Grpc-Status", "5", "Grpc-Message", "no such model")
		case "broken":
			return answer(500, "no")
		case "slow":
			<-gone
			return nil
		}
		text := q.Target + ":" + m
		return answer(200, string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))))+text, "Grpc-Status", "0")
	})
	d := deploymentOf("blue", 2, p)
	d.Timeout, d.Runtime = 300*time.Millisecond, serving.Native
	e := endpointOf(d)
	e.Limits.MaxBody = 1000
	h.apply(e)
	const infer = "/inference.GRPCInferenceService/ModelInfer"
	key := []string{"Authorization", "Bearer " + testKey}
	for _, c := range []struct {
		what     string
		path     string
		headers  []string
		messages []string
		want     string
		status   string
	}{
		{"by the key", infer, key, []string{"a"}, infer + ":a", "0"},
		{"by metadata", infer, append([]string{"azureml-endpoint", "E"}, key...), []string{"a"}, infer + ":a", "0"},
		{"by host", infer, append([]string{"Host", "e.localhost"}, key...), []string{"a"}, infer + ":a", "0"},
		{"by path", "/endpoints/e" + infer, key, []string{"a"}, infer + ":a", "0"},
		{"a stream", infer, key, []string{"a", "b", "c"}, infer + ":a," + infer + ":b," + infer + ":c", "0"},
		{"an error", infer, key, []string{"missing"}, "", "5"},
		{"an error in a stream", infer, key, []string{"a", "missing", "b"}, infer + ":a", "5"},
		{"no status", infer, key, []string{"broken"}, "", "13"},
		{"too slow", infer, key, []string{"slow"}, "", "4"},
		{"too large", infer, key, []string{strings.Repeat("x", 1001)}, "", "8"},
		{"no message", infer, key, nil, "", "13"},
		{"a wrong key", infer, []string{"azureml-endpoint", "e", "Authorization", "Bearer no"}, []string{"a"}, "", "16"},
		{"no endpoint", infer, []string{"azureml-endpoint", "none"}, []string{"a"}, "", "5"},
		{"no deployment", infer, append([]string{"azureml-model-deployment", "none"}, key...), []string{"a"}, "", "5"},
	} {
		got, status, message, header := h.grpcCall(t, c.path, c.headers, c.messages...)
		if strings.Join(got, ",") != c.want || status != c.status || status != "0" && message == "" && c.status != "5" {
			t.Errorf("%s: %q %s %q", c.what, got, status, message)
		}
		if c.status == "0" && (header.Get("azureml-model-deployment") != "blue" || header.Get("x-request-id") == "") {
			t.Errorf("%s: %v", c.what, header)
		}
	}
	counted := int64(0)
	for _, n := range h.g.State().Endpoints[0].Deployments[0].Requests {
		counted += n.Count
	}
	if counted != 13 {
		t.Errorf("%d messages are counted: %+v", counted, h.g.State().Endpoints[0].Deployments[0].Requests)
	}
}

func TestHTTP2WorksToo(t *testing.T) {
	h := open(t)
	h.apply(endpointOf(deploymentOf("blue", 1, startProcess(t, echo))))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	r, _ := http.NewRequestWithContext(context.Background(), "POST", h.url+"/endpoints/e/score", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer "+testKey)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || resp.ProtoMajor != 2 || !strings.Contains(string(b), `"body":"{}"`) {
		t.Errorf("%s %s", resp.Status, b)
	}
}

func TestAWebSocketGoesThroughToAProgram(t *testing.T) {
	h := open(t)
	ended := make(chan struct{}, 10)
	program, _ := programOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" || r.URL.Path == "/plain" {
			fmt.Fprintf(w, "no %q %q", r.Header.Get("Upgrade"), r.Header.Get("Connection"))
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { c.Close(); ended <- struct{}{} }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: yes\r\n\r\nhello ")
		for {
			line, err := rw.ReadString('\n')
			if err != nil || line == "bye\n" {
				return
			}
			_, _ = io.WriteString(c, "you said "+line)
		}
	})
	h.apply(endpointOf(program))
	d := h.g.endpoints["e"].deployments["blue"]
	ask := func(path, more string) (net.Conn, *bufio.Reader, *http.Response) {
		c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, "GET /endpoints/e"+path+" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "+testKey+"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"+more)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, r, resp
	}
	busy := func() int { running, _ := d.counts(); return running }

	// What is sent with the handshake is not lost, and both sides are heard.
	c, r, resp := ask("/chat", "early\n")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Accept") != "yes" ||
		resp.Header.Get("Azureml-Model-Deployment") != "blue" || resp.Header.Get("X-Request-Id") == "" {
		t.Fatalf("%v", resp)
	}
	for _, said := range []string{"", "again\n"} {
		_, _ = io.WriteString(c, said)
		want := "hello you said early\n"
		if said != "" {
			want = "you said " + said
		}
		if line, err := r.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q %v", line, err)
		}
	}
	if busy() != 1 {
		t.Errorf("%d requests are under way", busy())
	}
	// The program ends it.
	_, _ = io.WriteString(c, "bye\n")
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("%v", err)
	}
	<-ended
	until(t, "its place is free", func() bool { return busy() == 0 })
	// The caller ends it.
	c, _, _ = ask("/chat", "")
	c.Close()
	<-ended
	until(t, "its place is free", func() bool { return busy() == 0 })
	// A program that declines answers as always, and the connection goes on.
	c, r, resp = ask("/plain", "")
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(b) != `no "websocket" "Upgrade"` {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	_, _ = io.WriteString(c, "GET /endpoints/e/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "+testKey+"\r\nUpgrade: websocket\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %v", resp, err)
	}
	// Out of the routes, it still goes on; who waits for the instance waits for it.
	c, r, _ = ask("/chat", "")
	h.apply(endpointOf())
	_, _ = io.WriteString(c, "still\n")
	if line, err := r.ReadString('\n'); err != nil || line != "hello you said still\n" {
		t.Errorf("%q %v", line, err)
	}
	c.Close()
	<-ended
}

// callsOf is an endpoint with one deployment of a program that takes gRPC calls.
func callsOf(t *testing.T, handler http.HandlerFunc) (serving.Deployment, *httptest.Server) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	d := deploymentOf("blue", 4)
	d.Runtime, d.Capacity = serving.Program, 1
	d.Instances = []serving.Instance{{ID: "e/blue/1/0", Network: "tcp", Address: srv.Listener.Addr().String()}}
	return d, srv
}

func TestGRPCCallsGoThroughToAProgram(t *testing.T) {
	h := open(t)
	left := make(chan struct{}, 10)
	program, srv := callsOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if r.Header.Get("Authorization") != "" || r.Header.Get("Te") != "trailers" || r.Header.Get("X-Mine") != "1" || r.Header.Get("X-Request-Id") == "" {
			w.Header().Set("Grpc-Status", "3")
			w.Header().Set("Grpc-Message", fmt.Sprint(r.Header))
			return
		}
		switch r.URL.Path {
		case "/s.S/Fail":
			w.Header().Set("Grpc-Status", "9")
			w.Header().Set("Grpc-Message", "not%20now")
		case "/s.S/Echo": // each message is answered before the next is read
			for prefix := make([]byte, 5); ; {
				if _, err := io.ReadFull(r.Body, prefix); err != nil {
					break
				}
				m := make([]byte, binary.BigEndian.Uint32(prefix[1:]))
				_, _ = io.ReadFull(r.Body, m)
				_, _ = w.Write(append(bytes.Clone(prefix), m...))
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"X-Last", "word")
		case "/s.S/Wait":
			<-r.Context().Done()
			left <- struct{}{}
		case "/s.S/Half":
			_, _ = io.WriteString(w, "\x00\x00\x00\x00\x01a")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			left <- struct{}{}
		case "/s.S/Missing":
			w.WriteHeader(http.StatusNotFound)
		}
	})
	program.Timeout = 20 * time.Second
	e := endpointOf(program)
	e.Limits.MaxBody = 1000
	h.apply(e)
	headers := []string{"Authorization", "Bearer " + testKey, "X-Mine", "1"}
	byKey := func(path string, messages ...string) (got []string, status, message string) {
		got, status, message, header := h.grpcCall(t, path, headers, messages...)
		if header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %v", path, header)
		}
		return got, status, message
	}
	if got, status, message := byKey("/s.S/Echo", "one", "two", ""); status != "0" || len(got) != 3 || got[0] != "one" || got[1] != "two" {
		t.Errorf("%q %s %s", got, status, message)
	}
	if got, status, message := byKey("/s.S/Fail", "x"); status != "9" || message != "not%20now" || len(got) != 0 {
		t.Errorf("%q %s %s", got, status, message)
	}
	if _, status, message := byKey("/s.S/Missing", "x"); status != "13" || message != "the model answered 404" {
		t.Errorf("%s %s", status, message)
	}
	if _, status, message := byKey("/s.S/Echo", strings.Repeat("x", 1100)); status != "8" {
		t.Errorf("%s %s", status, message)
	}
	if _, status, _, _ := h.grpcCall(t, "/endpoints/e/s.S/Echo", []string{"Authorization", "Bearer no"}, "x"); status != "16" {
		t.Errorf("%s", status)
	}
	// A call ends at its time, and the program is told.
	program.Timeout = 50 * time.Millisecond
	e.Deployments = []serving.Deployment{program}
	h.apply(e)
	for _, path := range []string{"/s.S/Wait", "/s.S/Half"} {
		if got, status, message := byKey(path, "x"); status != "4" || path == "/s.S/Half" && len(got) != 1 {
			t.Errorf("%s: %q %s %s", path, got, status, message)
		}
		<-left
	}
	d := h.g.endpoints["e"].deployments["blue"]
	until(t, "all places are free", func() bool { running, waiting := d.counts(); return running+waiting == 0 })
	// A program that is not there has not been asked.
	srv.Close()
	if _, status, message := byKey("/s.S/Echo", "x"); status != "14" {
		t.Errorf("%s %s", status, message)
	}
}
