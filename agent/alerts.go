package agent

import (
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxAlerts bounds the alerts that are remembered.
const maxAlerts = 1024

// alertBoard holds the alerts that are raised now, made of nothing but cleared
// readings: what a privacy rule withholds raises none. It lives in memory as
// long as its pipeline; whoever reads the sensors anew tells their levels anew.
type alertBoard struct {
	mu     sync.Mutex
	raised map[string]health.Alert // by the reading's name
	unkept uint64                  // raised beyond the bound
}

// note takes down what c, which tells a, says of its sensor.
func (b *alertBoard) note(c privacy.Cleared, a sensors.Alert) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.Level == wire.AlertOK {
		delete(b.raised, c.Name())
		return
	}
	if _, known := b.raised[c.Name()]; !known && len(b.raised) >= maxAlerts {
		b.unkept++
		return
	}
	r := c.Wire()
	raised := health.Alert{
		Alert:      wire.Alert{Sensor: r.Sensor, Level: a.Level, Since: time.Now(), Limit: a.Limit},
		LimitValue: a.At, Unit: r.Unit,
	}
	if r.Value.Kind() == wire.Number { // else a rule made something else of it
		raised.Value = r.Value
	}
	if b.raised == nil {
		b.raised = map[string]health.Alert{}
	}
	b.raised[c.Name()] = raised
}

// list returns the alerts in no order, and how many were raised beyond the
// bound. Their times are by the clock of now, which may have been set since.
func (b *alertBoard) list(now time.Time) (raised []health.Alert, unkept uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.raised {
		a.Since = now.Add(-now.Sub(a.Since))
		raised = append(raised, a)
	}
	return raised, b.unkept
}
