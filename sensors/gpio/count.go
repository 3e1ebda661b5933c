package gpio

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxTakes bounds the calls by which one read empties the kernel's buffer, so
// that it ends whatever comes meanwhile: twice the buffer.
const maxTakes = 2 * kernelEvents / batch

// countSensor counts edges. It wakes up for none of them: the number that the
// kernel gave the last one tells of all before it.
type countSensor struct {
	holder
	per      time.Duration // the time to which the rate refers
	rateUnit string

	total uint64
	at    time.Time // of the last read that this line was held for
}

func (s *countSensor) Read(context.Context) ([]sensors.Sample, error) {
	l, fresh, err := s.hold()
	if err != nil {
		return nil, err
	}
	before := s.total
	var unclear uint64
	for range maxTakes {
		first := l.number
		taken, lost, err := l.next(0)
		if err != nil {
			s.drop()
			return nil, err
		}
		s.total += uint64(len(taken))
		if l.settle == nil {
			s.total += uint64(lost)
		} else {
			unclear += uint64(lost) // any of them may have been a bounce
		}
		if l.number == first {
			break
		}
	}
	edges := s.total - before
	if edges == 0 {
		if _, err := l.active(); err != nil { // an old kernel tells only this way that the chip is gone
			s.drop()
			return nil, err
		}
	}
	now := time.Now()
	samples := []sensors.Sample{{Channel: "pulses", Value: wire.NumberValue(float64(s.total))}}
	if passed := now.Sub(s.at); !fresh && passed > 0 {
		rate := float64(edges) * (float64(s.per) / float64(passed))
		samples = append(samples, sensors.Sample{Channel: "rate", Value: wire.NumberValue(rate), Unit: s.rateUnit})
	}
	s.at = now
	if unclear > 0 {
		return samples, fmt.Errorf("%w: more edges came between two reads than the kernel keeps, so pulses are missing; poll more often", sensors.Dropped(min(unclear, math.MaxInt32)))
	}
	return samples, nil
}
