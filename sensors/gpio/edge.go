package gpio

import (
	"context"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
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
	edges   *ring.Ring[event] // that were not read yet
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
		s.edges.Add(event{at: time.Now(), rising: active})
		wake()
	}
	for ctx.Err() == nil {
		number := l.number
		edges, lost, err := l.next(lookAfter)
		if err != nil {
			return err
		}
		if len(edges) > 0 || lost > 0 {
			s.edges.Lose(uint64(lost))
			s.edges.Add(edges...)
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
	edges, dropped := s.edges.Take(s.perPoll)
	samples := make([]sensors.Sample, len(edges))
	for i, e := range edges {
		samples[i] = sensors.Sample{Value: wire.BoolValue(e.rising), Time: e.at}
	}
	if dropped > 0 {
		return samples, fmt.Errorf("%w: edges came faster than they were read; set debounce_seconds, raise buffer_readings or poll more often", dropped)
	}
	return samples, nil
}
