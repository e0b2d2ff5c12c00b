package mlflowhttp_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// field is a protobuf field that holds bytes.
func field(number int, body []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func fixed(number int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.AppendUvarint(nil, uint64(number<<3|1)), v)
}

func textAttribute(key, value string) []byte {
	return field(9, append(field(1, []byte(key)), field(2, field(1, []byte(value)))...))
}

// spanBatch is an export request of some spans, as an SDK's batch processor
// sends them, of traces of each spans. Where the ids lie is returned too, so
// that each request can have ids of its own.
func spanBatch(spans, each int) (body []byte, ids []int) {
	mark := []byte("0123456789abcdef") // stands for the trace's id
	var all []byte
	start := uint64(time.Now().UnixNano())
	for i := range spans {
		id := binary.BigEndian.AppendUint64(nil, uint64(i+1))
		s := append(field(1, mark), field(2, id)...)
		if i%each > 0 {
			s = append(s, field(4, binary.BigEndian.AppendUint64(nil, uint64(i-i%each+1)))...)
		}
		s = append(s, field(5, fmt.Appendf(nil, "step-%d", i%each))...)
		s = append(s, 6<<3, 1)
		s = append(s, fixed(7, start+uint64(i)*1000)...)
		s = append(s, fixed(8, start+uint64(i)*1000+5e6)...)
		s = append(s, textAttribute("mlflow.spanType", "LLM")...)
		s = append(s, textAttribute("mlflow.spanFunctionName", "predict")...)
		s = append(s, textAttribute("mlflow.spanInputs", fmt.Sprintf(`{"question": "what is %d plus %d?", "temperature": 0.5}`, i, i))...)
		s = append(s, textAttribute("mlflow.spanOutputs", fmt.Sprintf(`{"answer": "it is %d", "finish": "stop"}`, 2*i))...)
		s = append(s, field(9, append(field(1, []byte("model.retries")), field(2, []byte{3 << 3, byte(i % 5)})...))...)
		s = append(s, field(15, []byte{3 << 3, 1})...)
		all = append(all, field(2, s)...)
	}
	resource := field(1, field(1, append(field(1, []byte("service.name")), field(2, field(1, []byte("bench")))...)))
	body = field(1, append(resource, field(2, all)...))
	for at := 0; ; {
		i := bytes.Index(body[at:], mark)
		if i < 0 {
			return body, ids
		}
		ids = append(ids, at+i)
		at += i + len(mark)
	}
}

// processorTime is what this process has used, client and server together: on
// a busy machine it says more than the clock.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSpans sends batches of 512 spans over HTTP; they are durable when
// the answer comes.
func BenchmarkSpans(b *testing.B) {
	const spans = 512
	for _, each := range []int{1, 8, 64} {
		for _, clients := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("each=%d/clients=%d", each, clients), func(b *testing.B) {
				url, _ := serve(b)
				transport := &http.Transport{MaxIdleConnsPerHost: clients}
				defer transport.CloseIdleConnections()
				hc := &http.Client{Transport: transport}
				work := make(chan int)
				var wg sync.WaitGroup
				for range clients {
					body, ids := spanBatch(spans, each)
					wg.Go(func() {
						for range work {
							var id [16]byte
							for i, at := range ids {
								if i%each == 0 {
									_, _ = rand.Read(id[:])
								}
								copy(body[at:], id[:])
							}
							r, err := http.NewRequest("POST", url+"/v1/traces", bytes.NewReader(body))
							if err != nil {
								b.Error(err)
								continue
							}
							r.Header.Set("Content-Type", "application/x-protobuf")
							r.Header.Set("x-mlflow-experiment-id", "0")
							reply, err := hc.Do(r)
							if err != nil {
								b.Error(err)
								continue
							}
							if text, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != 200 {
								b.Errorf("%d %s %v", reply.StatusCode, text, err)
							}
							reply.Body.Close()
						}
					})
				}
				b.ResetTimer()
				before := processorTime(b)
				for i := range b.N {
					work <- i
				}
				close(work)
				wg.Wait()
				b.ReportMetric(float64(b.N*spans)/b.Elapsed().Seconds(), "spans/s")
				b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N*spans), "cpu-ns/span")
			})
		}
	}
}

// BenchmarkTraceSearch looks through 5,000 traces.
func BenchmarkTraceSearch(b *testing.B) {
	url, _ := serve(b)
	c := &client{b, url}
	for n := range 10 {
		body, ids := spanBatch(500, 1)
		for i, at := range ids {
			copy(body[at:], fmt.Sprintf("%08d%08d", n, i))
		}
		r, err := http.NewRequest("POST", url+"/v1/traces", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-protobuf")
		r.Header.Set("x-mlflow-experiment-id", "0")
		reply, err := http.DefaultClient.Do(r)
		if err != nil || reply.StatusCode != 200 {
			b.Fatal(reply, err)
		}
		reply.Body.Close()
	}
	for name, search := range map[string]string{
		"page": ``, "status": `,"filter":"status = 'ERROR'"`, "order": `,"order_by":["execution_time"]`, "span": `,"filter":"span.name = 'none'"`,
	} {
		b.Run(name, func(b *testing.B) {
			before := processorTime(b)
			for range b.N {
				c.do("POST", "/api/3.0/mlflow/traces/search", `{"locations":[{"mlflow_experiment":{"experiment_id":"0"}}],"max_results":100`+search+`}`, 200)
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
		})
	}
}
