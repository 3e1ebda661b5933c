// Package ring is the buffer between what comes by itself (a message, an edge,
// a line) and the read that takes it: the part that the mqtt, gpio and serial
// sensors share. It never grows beyond its limit, gives up the oldest for the
// newest, and counts what that costs.
package ring

import (
	"math"
	"sync"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// first is how many elements there is room for at first.
const first = 16

// Ring is a queue of at most so many elements. It takes memory for what is in
// it and gives that back when it is empty. It is safe for concurrent use; New
// makes it.
type Ring[T any] struct {
	limit int

	mu      sync.Mutex
	ring    []T
	head, n int // of the oldest element, and how many there are
	dropped uint64
}

// New returns an empty ring for at most limit elements, of which there is at
// least one.
func New[T any](limit int) *Ring[T] { return &Ring[T]{limit: max(1, limit)} }

// Add appends elements, the oldest first, and drops those that are too many.
func (r *Ring[T]) Add(elements ...T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range elements {
		if r.n == r.limit {
			r.ring[r.head] = e
			r.head = (r.head + 1) % len(r.ring)
			r.dropped++
			continue
		}
		if r.n == len(r.ring) {
			r.grow()
		}
		r.ring[(r.head+r.n)%len(r.ring)] = e
		r.n++
	}
}

func (r *Ring[T]) grow() {
	ring := make([]T, min(max(first, 2*len(r.ring)), r.limit))
	n := copy(ring, r.ring[r.head:])
	copy(ring[n:], r.ring[:r.head])
	r.ring, r.head = ring, 0
}

// Lose counts elements that were lost before they could be added.
func (r *Ring[T]) Lose(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped += n
}

// Take removes and returns the oldest elements, at most so many of them when
// most is not 0, and how many were lost since the last call.
func (r *Ring[T]) Take(most int) (elements []T, dropped sensors.Dropped) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	if most > 0 {
		n = min(n, most)
	}
	elements = make([]T, n)
	var nothing T
	for i := range elements {
		elements[i], r.ring[r.head] = r.ring[r.head], nothing
		r.head = (r.head + 1) % len(r.ring)
	}
	if r.n -= n; r.n == 0 {
		r.ring, r.head = nil, 0
	}
	counted := min(r.dropped, math.MaxInt32) // the rest is told next time
	r.dropped -= counted
	return elements, sensors.Dropped(counted)
}
