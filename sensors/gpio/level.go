package gpio

import (
	"context"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// levelSensor reads the state of a line.
type levelSensor struct{ holder }

func (s *levelSensor) Read(context.Context) ([]sensors.Sample, error) {
	l, _, err := s.hold()
	if err != nil {
		return nil, err
	}
	v, err := l.active()
	if err != nil {
		s.drop()
		return nil, err
	}
	return []sensors.Sample{{Value: wire.BoolValue(v)}}, nil
}
