package sensors

import "time"

// State is how a sensor is doing.
type State string

// The states of a sensor.
const (
	Waiting State = "waiting" // not read yet, or nothing came yet
	OK      State = "ok"      // the last read gave something usable, or had nothing to tell
	Failing State = "failing" // the last read failed
	Hung    State = "hung"    // the last read has not returned, long after its timeout
)

// Stats is what the Poller counted since it was made.
type Stats struct {
	Reads    uint64 // finished or abandoned
	Failures uint64 // of those
	Skipped  uint64 // polls not started because the sensor, or its bus, was still busy
	Dropped  uint64 // samples refused by a bound
	Readings uint64 // handed to the Sink

	LastReadingAt time.Time     // zero when there was none
	Sensors       []SensorStats // the enabled ones, in the order of the config
}

// SensorStats is the same of one sensor.
type SensorStats struct {
	Name, Ingest, Type, Unit string
	Bus                      string // "" is its own
	Interval, Timeout        time.Duration

	State         State
	LastError     string // "" when the last read was good
	LastReadAt    time.Time
	LastReadingAt time.Time
	LastDuration  time.Duration

	Reads, Failures, Skipped, Dropped, Readings uint64

	samples bool // some read returned one
}

// Stats returns the counts. It is cheap and safe for concurrent use.
func (p *Poller) Stats() Stats {
	total := Stats{Sensors: make([]SensorStats, len(p.sensors))}
	for i, s := range p.sensors {
		one := s.snapshot()
		total.Sensors[i] = one
		total.Reads += one.Reads
		total.Failures += one.Failures
		total.Skipped += one.Skipped
		total.Dropped += one.Dropped
		total.Readings += one.Readings
		if one.LastReadingAt.After(total.LastReadingAt) {
			total.LastReadingAt = one.LastReadingAt
		}
	}
	return total
}

func (s *polled) snapshot() SensorStats {
	_, listens := s.sensor.(Listener)
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.stats
	switch {
	case s.hung.Load():
		one.State = Hung
	case one.LastError != "":
		one.State = Failing
	case one.Reads == 0 || (listens && !one.samples):
		one.State = Waiting
	default:
		one.State = OK
	}
	return one
}
