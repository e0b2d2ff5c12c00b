package gateway

import (
	"sync"
	"time"

	"lapis/ml/serving"
)

// limiter counts the requests of each key against the endpoint's rate.
type limiter struct {
	mu      sync.Mutex
	buckets map[keyHash]*bucket
}

// bucket has room for a burst, and gets more as time goes by.
type bucket struct {
	tokens float64
	at     time.Time
}

// limitedKeys bounds the keys that are remembered. Those of tokens change; a
// bucket that is full again is as good as none.
const limitedKeys = 4096

func (l *limiter) allow(h keyHash, c serving.Limits) *refusal {
	if c.RequestsPerSecond <= 0 {
		return nil
	}
	burst := float64(c.Burst)
	if burst < 1 {
		burst = max(c.RequestsPerSecond, 1)
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[h]
	if b == nil {
		if len(l.buckets) >= limitedKeys {
			for k, old := range l.buckets {
				if old.tokens+now.Sub(old.at).Seconds()*c.RequestsPerSecond >= burst {
					delete(l.buckets, k)
				}
			}
			if len(l.buckets) >= limitedKeys {
				return tooOften
			}
		}
		if l.buckets == nil {
			l.buckets = map[keyHash]*bucket{}
		}
		b = &bucket{tokens: burst, at: now}
		l.buckets[h] = b
	}
	b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()*c.RequestsPerSecond)
	b.at = now
	if b.tokens < 1 {
		return tooOften
	}
	b.tokens--
	return nil
}
