package gateway

import "log/slog"

const (
	spoolFolder     = "collect"
	collectRequest  = "request"
	collectResponse = "response"
)

type collector struct{}
type kept struct{}

func openCollector(dir string, log *slog.Logger) (*collector, error) { return &collector{}, nil }
func (c *collector) close() error                                    { return nil }
func (c *collector) counts(endpoint, deployment string) (map[string]int64, map[string]int64) {
	return nil, nil
}
func (c *collector) take(k *kept, x *exchange) {}
func (x *exchange) capture()                   {}
func (x *exchange) note(b []byte)              {}
