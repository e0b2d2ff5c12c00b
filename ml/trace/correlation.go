package trace

import (
	"context"
	"math"
)

// Correlation is how much two filters go together: Normalized Pointwise Mutual
// Information, -1 (never) to 1 (always), NaN where it is not defined.
type Correlation struct {
	NPMI     float64
	Smoothed float64 // with Jeffreys' prior, steadier for few traces

	First, Second, Joint, Total int // traces
}

// Correlate compares two filters over the traces of some experiments that pass
// the base filter.
func (s *Service) Correlate(ctx context.Context, workspace string, experiments []string, first, second, base string) (c Correlation, err error) {
	if base != "" {
		first, second = base+" and "+first, base+" and "+second
	}
	one, err := s.filter(ctx, workspace, experiments, first)
	if err != nil {
		return c, err
	}
	two, err := s.filter(ctx, workspace, experiments, second)
	if err != nil {
		return c, err
	}
	all, err := s.filter(ctx, workspace, experiments, base)
	if err != nil {
		return c, err
	}
	err = all.each(func(i *Info) (bool, error) {
		c.Total++
		a, err := one.passes(i)
		if err != nil {
			return false, err
		}
		b, err := two.passes(i)
		if err != nil {
			return false, err
		}
		if a {
			c.First++
		}
		if b {
			c.Second++
		}
		if a && b {
			c.Joint++
		}
		return true, nil
	})
	c.NPMI, c.Smoothed = math.NaN(), math.NaN()
	if err != nil || c.First == 0 || c.Second == 0 {
		return c, err
	}
	only1, only2 := float64(c.First-c.Joint), float64(c.Second-c.Joint)
	none := float64(c.Total - c.First - c.Second + c.Joint)
	c.NPMI = -1
	if c.Joint > 0 {
		c.NPMI = npmi(float64(c.Joint), only1, only2, none, 0)
	}
	c.Smoothed = npmi(float64(c.Joint), only1, only2, none, 0.5)
	return c, nil
}

// npmi is computed of how many traces pass both filters, one alone, or neither.
func npmi(both, only1, only2, none, smoothing float64) float64 {
	if only1 == 0 && only2 == 0 && none == 0 {
		return 1
	}
	both += smoothing
	n := both + only1 + only2 + none + 3*smoothing
	n1, n2 := both+only1+smoothing, both+only2+smoothing
	if n1 <= 0 || n2 <= 0 || both <= 0 {
		return math.NaN()
	}
	pmi := math.Log(both) + math.Log(n) - (math.Log(n1) + math.Log(n2))
	return max(-1, min(1, pmi/-(math.Log(both)-math.Log(n))))
}
