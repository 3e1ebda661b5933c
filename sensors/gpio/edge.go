package gpio

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	// gather is the pause after some edges were taken. A thousand edges a
	// second wake the process a hundred times only; the kernel's buffer holds
	// ten times as many meanwhile, and the times are the kernel's.
	gather = 10 * time.Millisecond

	// lookAfter is how long to wait for edges before looking whether the line
	// is still there: before Linux 6.6 the kernel does not tell.
	lookAfter = 5 * time.Second
)

// edgeSensor is a sensors.Listener that makes a reading of each edge.
type edgeSensor struct {
	source  source
	perPoll int
	queue   queue
}

// Run takes the line and queues its edges until ctx ends or the line fails.
// Where both edges are wanted the present state comes first, so that it is
// known before the line moves.
func (s *edgeSensor) Run(ctx context.Context, wake func()) error {
	l, err := s.source.take()
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, l.interrupt)()
	if s.source.want.rising && s.source.want.falling {
		active, err := l.active()
		if err != nil {
			return err
		}
		s.queue.add([]event{{at: time.Now(), rising: active}}, 0)
		wake()
	}
	for ctx.Err() == nil {
		number := l.number
		edges, lost, err := l.next(lookAfter)
		if err != nil {
			return err
		}
		if len(edges) > 0 || lost > 0 {
			s.queue.add(edges, lost)
			wake()
		}
		if l.number != number {
			pause(ctx, gather)
		} else if _, err := l.active(); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Read takes the edges that came since the last one. None is no error; lost
// ones are.
func (s *edgeSensor) Read(context.Context) ([]sensors.Sample, error) {
	edges, dropped := s.queue.take(s.perPoll)
	samples := make([]sensors.Sample, len(edges))
	for i, e := range edges {
		samples[i] = sensors.Sample{Value: wire.BoolValue(e.rising), Time: e.at}
	}
	if dropped > 0 {
		return samples, fmt.Errorf("%w: edges came faster than they were read; set debounce_seconds, raise buffer_readings or poll more often", dropping(dropped))
	}
	return samples, nil
}

// dropping is n samples that are lost, as the Poller counts them.
func dropping(n uint64) sensors.Dropped { return sensors.Dropped(min(n, math.MaxInt32)) }

// queue holds at most limit edges and gives up the oldest.
type queue struct {
	limit int

	mu      sync.Mutex
	edges   []event
	dropped uint64 // by the limit, or lost before they got here
}

// add appends edges and counts those that were lost before them.
func (q *queue) add(edges []event, lost uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.edges = append(q.edges, edges...)
	over := max(0, len(q.edges)-q.limit)
	q.edges = q.edges[over:]
	q.dropped += uint64(over) + uint64(lost)
}

// take removes and returns the oldest edges, at most limit of them when that is
// not 0, and how many were dropped since the last call.
func (q *queue) take(limit int) (edges []event, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.edges)
	if limit > 0 {
		n = min(n, limit)
	}
	edges, q.edges = q.edges[:n:n], q.edges[n:]
	if len(q.edges) == 0 {
		q.edges = nil
	}
	dropped, q.dropped = q.dropped, 0
	return edges, dropped
}
