package gateway

import (
	"time"

	"lapis/ml/serving"
)

type mirror struct{}

func (m *mirror) init(d *deployment) {}

type copied struct{}

func (c *copied) answered(status, model int, took time.Duration) {}
func (x *exchange) shadow()                                      {}

// Compared is the shadow report.
func (g *Gateway) Compared(endpoint, deployment string) serving.Comparison {
	return serving.Comparison{}
}
