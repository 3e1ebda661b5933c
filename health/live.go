package health

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	liveSensors   = 256 // sensors and channels that are kept
	livePoints    = 120 // values of each that are kept
	liveTextRunes = 256 // runes of a text value that are kept
)

// Live holds the latest reading of every sensor and the values before it, for
// those who look at the device now. Its memory is bounded; it is safe for
// concurrent use.
type Live struct {
	mu      sync.Mutex
	sensors map[string]*liveSensor
	omitted uint64
}

// liveSensor is what is kept of one sensor.
type liveSensor struct {
	latest LiveReading
	valued bool      // some reading had a value
	ring   []float64 // NaN where a reading has no number to believe
	next   int       // where the next value goes once the ring is full
}

// LiveReading is the latest reading of one sensor.
type LiveReading struct {
	Sensor    string       `json:"sensor"`
	Type      string       `json:"type"`
	Value     wire.Value   `json:"value"`
	Unit      string       `json:"unit"`
	Timestamp time.Time    `json:"timestamp"`
	Quality   wire.Quality `json:"quality"`
	Reason    string       `json:"reason,omitempty"`

	// Recent are the latest values, oldest first; nil (null) stands for a
	// reading without a number to believe.
	Recent []*float64 `json:"recent"`
}

// NewLive returns an empty Live.
func NewLive() *Live { return &Live{sensors: map[string]*liveSensor{}} }

// Add takes note of a reading. The readings of sensors beyond the bound are
// counted and not kept.
func (l *Live) Add(c privacy.Cleared) {
	if !c.Valid() {
		return
	}
	r := c.Wire()
	// Names and texts may come from a broken device, and go into labels.
	name := strings.ToValidUTF8(r.Sensor, "\uFFFD")

	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropBare(name)
	s := l.sensors[name]
	if s == nil {
		if len(l.sensors) == liveSensors {
			l.omitted++
			return
		}
		s = &liveSensor{}
		l.sensors[name] = s
	}
	if text, ok := r.Value.Text(); ok {
		r.Value = wire.TextValue(clip(strings.ToValidUTF8(text, "\uFFFD"), liveTextRunes))
	}
	s.valued = s.valued || r.Value.Kind() != wire.None
	s.latest = LiveReading{
		Sensor: name, Type: strings.ToValidUTF8(r.Type, "\uFFFD"), Value: r.Value, Unit: strings.ToValidUTF8(r.Unit, "\uFFFD"),
		Timestamp: r.Timestamp, Quality: r.Quality, Reason: clip(strings.ToValidUTF8(r.Reason, "\uFFFD"), liveTextRunes),
	}
	point := math.NaN()
	if f, ok := s.latest.number(); ok {
		point = f
	}
	if len(s.ring) < livePoints {
		s.ring = append(s.ring, point)
		return
	}
	s.ring[s.next] = point
	s.next = (s.next + 1) % livePoints
}

// dropBare forgets what stands for a whole sensor now that one of its channels
// delivers: a read that failed has no channels, so its reading carries the bare
// name, under which nothing else would ever come. A name with a dot may also be
// another sensor's; but then the shorter one has had values, or comes back with
// its next reading.
func (l *Live) dropBare(name string) {
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if s := l.sensors[name[:i]]; s != nil && !s.valued {
			delete(l.sensors, name[:i])
		}
	}
}

// Clear forgets all readings, as when other rules decide what may be shown.
func (l *Live) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.sensors)
}

// number returns the reading's value if it is a number that can be believed.
func (r *LiveReading) number() (f float64, ok bool) {
	if r.Quality != wire.Good && r.Quality != wire.Uncertain {
		return 0, false
	}
	return r.Value.Float()
}

// Snapshot returns the latest readings in the order of the sensors' names, and
// how many readings were not kept because there are too many sensors.
func (l *Live) Snapshot() (readings []LiveReading, omitted uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	readings = make([]LiveReading, 0, len(l.sensors))
	for _, s := range l.sensors {
		r := s.latest
		r.Recent = make([]*float64, 0, len(s.ring))
		values := slices.Concat(s.ring[s.next:], s.ring[:s.next])
		for i := range values {
			if math.IsNaN(values[i]) {
				r.Recent = append(r.Recent, nil)
			} else {
				r.Recent = append(r.Recent, &values[i])
			}
		}
		readings = append(readings, r)
	}
	slices.SortFunc(readings, func(a, b LiveReading) int { return cmp.Compare(a.Sensor, b.Sensor) })
	return readings, l.omitted
}
