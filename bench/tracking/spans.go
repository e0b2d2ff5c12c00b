package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/http"
	"time"
)

// The few forms of protobuf that spans need.

func field(number int, body []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(number<<3|2))
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

func fixed(number int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.AppendUvarint(nil, uint64(number<<3|1)), v)
}

func attribute(key, value string) []byte {
	return field(9, append(field(1, []byte(key)), field(2, field(1, []byte(value)))...))
}

const (
	spansEach = 512 // in a request, as OpenTelemetry's batches have them
	inTrace   = 8
)

// spanBatch is an export of spans, and where the ids of their traces lie in it.
func spanBatch() (body []byte, ids []int) {
	mark := []byte("0123456789abcdef")
	start := uint64(time.Now().UnixNano())
	var all []byte
	for i := range spansEach {
		id := func(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i+1)) }
		s := append(field(1, mark), field(2, id(i))...)
		if i%inTrace > 0 {
			s = append(s, field(4, id(i-i%inTrace))...)
		}
		s = append(s, field(5, fmt.Appendf(nil, "step-%d", i%inTrace))...)
		s = append(s, fixed(7, start+uint64(i)*1000)...)
		s = append(s, fixed(8, start+uint64(i)*1000+5e6)...)
		s = append(s, attribute("mlflow.spanType", `"LLM"`)...)
		s = append(s, attribute("mlflow.spanInputs", fmt.Sprintf(`{"question": "what is %d plus %d?", "temperature": 0.5}`, i, i))...)
		s = append(s, attribute("mlflow.spanOutputs", fmt.Sprintf(`{"answer": "it is %d", "finish": "stop"}`, 2*i))...)
		s = append(s, field(15, []byte{3 << 3, 1})...)
		all = append(all, field(2, s)...)
	}
	body = field(1, field(2, all))
	for at := 0; ; {
		i := bytes.Index(body[at:], mark)
		if i < 0 {
			return body, ids
		}
		ids = append(ids, at+i)
		at += i + len(mark)
	}
}

// spans measures how fast spans are taken.
func (p program) spans(v *server, rates rater, experiment string) {
	rates(fmt.Sprintf("OTLP, %d spans a request", spansEach), "spans/s", spansEach, func(c *client, _ int) (func() error, error) {
		body, ids := spanBatch()
		header := http.Header{"Content-Type": {"application/x-protobuf"}, "X-Mlflow-Experiment-Id": {experiment}}
		return func() error {
			var id [16]byte
			for i, at := range ids {
				if i%inTrace == 0 {
					_, _ = rand.Read(id[:])
				}
				copy(body[at:], id[:])
			}
			_, err := c.sendAs("POST", "/v1/traces", body, header)
			return err
		}, nil
	})
}
