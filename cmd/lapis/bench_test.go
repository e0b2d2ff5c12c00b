package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clients is how many clients call at once.
const clients = 16

// BenchmarkResources calls a server from 16 clients, over plain HTTP and TLS:
//
//	go test -run '^$' -bench Resources ./cmd/lapis
func BenchmarkResources(b *testing.B) {
	s := start(b, b.TempDir())
	token := clientToken(b, s)
	w, err := s.folder().loadIdentity()
	if err != nil {
		b.Fatal(err)
	}
	secure := s.secure()
	tls := secure.Transport.(*http.Transport)
	tls.MaxIdleConnsPerHost = clients
	tls.ForceAttemptHTTP2 = false // as requests has it: HTTP/1.1
	tls.TLSClientConfig.NextProtos = []string{"http/1.1"}
	plain := &http.Client{Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: clients}}
	group := "/subscriptions/" + w.Subscription + "/resourceGroups/" + w.Group

	run := func(b *testing.B, client *http.Client, base, method string, path func(n int64) string, body string) {
		var n atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for range clients {
			all.Go(func() {
				for {
					i := n.Add(1)
					if i > int64(b.N) {
						return
					}
					r, _ := http.NewRequest(method, base+path(i)+"?api-version=2023-04-01", strings.NewReader(body))
					r.Header.Set("Authorization", "Bearer "+token)
					r.Header.Set("Content-Type", "application/json")
					resp, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode/100 != 2 {
						b.Errorf("%s %s: %s", method, path(i), resp.Status)
						return
					}
				}
			})
		}
		all.Wait()
		b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "requests/s")
	}
	same := func(int64) string { return group }
	var round atomic.Int64
	b.Run("GET", func(b *testing.B) { run(b, plain, s.info.Plain, "GET", same, "") })
	b.Run("GET over TLS", func(b *testing.B) { run(b, secure, s.info.URL, "GET", same, "") })
	b.Run("PUT, durable", func(b *testing.B) {
		r := round.Add(1)
		ws := s.workspace(b)
		run(b, plain, s.info.Plain, "PUT", func(n int64) string { return fmt.Sprintf("%s/environments/e%d-%d/versions/1", ws, r, n) }, `{"properties":{"image":"library/python:latest"}}`)
	})
	b.Run("PUT of groups, durable", func(b *testing.B) {
		r := round.Add(1)
		run(b, plain, s.info.Plain, "PUT", func(n int64) string { return fmt.Sprintf("%s-%d-%d", group, r, n) }, `{"location":"local"}`)
	})
	b.Logf("server memory: %.1f MB", residentMB(b, s.info.Pid))
}

// BenchmarkStart starts and stops a server on a folder that has been used:
//
//	go test -run '^$' -bench Start ./cmd/lapis
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	start(b, dir).kill()
	var total time.Duration
	for b.Loop() {
		s := start(b, dir)
		total += s.ready
		s.kill()
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/ready")
}
