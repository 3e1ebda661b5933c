package mqtt

import (
	"sync"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// buffer is a queue of at most limit samples, which gives up the oldest. It
// grows with its content, so a quiet topic costs nothing.
type buffer struct {
	limit int

	mu      sync.Mutex
	ring    []sensors.Sample
	head, n int
	dropped int
}

// add appends samples and counts what it drops for them.
func (b *buffer) add(samples []sensors.Sample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range samples {
		switch {
		case b.n == b.limit:
			b.ring[b.head] = s
			b.head = (b.head + 1) % len(b.ring)
			b.dropped++
			continue
		case b.n == len(b.ring):
			b.grow()
		}
		b.ring[(b.head+b.n)%len(b.ring)] = s
		b.n++
	}
}

func (b *buffer) grow() {
	ring := make([]sensors.Sample, min(max(16, 2*len(b.ring)), b.limit))
	n := copy(ring, b.ring[b.head:])
	copy(ring[n:], b.ring[:b.head])
	b.ring, b.head = ring, 0
}

// take removes and returns the oldest samples, at most limit of them when that
// is not 0, and how many were dropped since the last call.
func (b *buffer) take(limit int) (samples []sensors.Sample, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.n
	if limit > 0 {
		n = min(n, limit)
	}
	samples = make([]sensors.Sample, 0, n)
	for range n {
		samples = append(samples, b.ring[b.head])
		b.ring[b.head] = sensors.Sample{}
		b.head = (b.head + 1) % len(b.ring)
	}
	b.n -= n
	dropped, b.dropped = b.dropped, 0
	return samples, dropped
}
