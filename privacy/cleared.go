package privacy

import (
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Cleared is a reading that the privacy rules let pass, in the form they gave
// it. Only a Filter makes one, and only a Cleared can be queued, logged or
// shown: what the compiler refuses needs no review.
type Cleared struct {
	reading sensors.Reading
	ok      bool
}

// Valid reports whether a Filter made c; the zero Cleared is not valid and
// every consumer refuses it.
func (c Cleared) Valid() bool { return c.ok }

// Name returns the sensor's name (and channel).
func (c Cleared) Name() string { return c.reading.Sensor }

// Priority returns the reading's priority in the queue.
func (c Cleared) Priority() config.Priority { return c.reading.Priority }

// Time returns when the reading was taken, with its monotonic part if it has one.
func (c Cleared) Time() time.Time { return c.reading.Time }

// Alert returns the alert level that c tells, which nearly no reading does. A
// rule that removes or changes the metadata field alert withholds it, and one
// that covers alert_limit withholds the limit.
func (c Cleared) Alert() (a sensors.Alert, ok bool) {
	if c.reading.Alert == nil {
		return a, false
	}
	a = *c.reading.Alert
	if c.reading.Meta[wire.MetaAlert] != wire.TextValue(string(a.Level)) {
		return sensors.Alert{}, false
	}
	if c.reading.Meta[wire.MetaAlertLimit] != wire.TextValue(a.Limit) {
		a.Limit, a.At = "", 0
	}
	return a, true
}

// WithTime returns c taken at t instead, and flagged so: how a timestamp is
// corrected when the device's clock was set after the reading was taken.
func (c Cleared) WithTime(t time.Time) Cleared {
	c.reading.Time = t
	c.reading.Clock = wire.ClockCorrected
	return c
}

// Wire returns the reading as it travels, yet without device id and seq. Its
// maps are shared and read-only.
func (c Cleared) Wire() wire.Reading {
	r := &c.reading
	return wire.Reading{
		Sensor: r.Sensor, Type: r.Type, Value: r.Value, Unit: r.Unit,
		Timestamp: r.Time, Quality: r.Quality, Reason: r.Reason, Clock: r.Clock, Tags: r.Tags, Meta: r.Meta,
	}
}
