// Package sensors reads what is wired to the device, on time and for ever.
//
// The parties are a Sensor, which knows how to read one thing; a Type, which
// makes Sensors of one ingest_type from config; and the Poller, which decides
// when each is read and turns what it returned into Readings. Every ingest
// type lives in a folder of its own and is named once, in sensors/all.
//
// What the Poller promises: a Sensor that hangs, panics or floods costs only
// its own readings; a failed read is a reading of quality bad with a reason and
// no value, never the number 0; the schedule follows the monotonic clock, so
// setting the wall clock neither stops nor bunches polls. It keeps nothing on
// disk: a reading is safe only once the queue took it.
package sensors

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Reading is one value of one sensor at one time, not yet cleared by the
// privacy rules: it must not reach disk, logs or a page in this form.
type Reading struct {
	Sensor   string // the configured name, and ".channel" where a sensor has several
	Type     string // sensor_type, such as "temperature"
	Ingest   string // ingest_type, such as "sysfs"
	Value    wire.Value
	Unit     string
	Time     time.Time // wall clock; carries the monotonic reading when this device took it
	Quality  wire.Quality
	Reason   string     // why Quality is not good
	Clock    wire.Clock // what is known of Time
	Priority config.Priority
	Tags     map[string]string     // shared and read-only: copy before changing
	Meta     map[string]wire.Value // belongs to this reading
	Alert    *Alert                // the alert level that this reading tells, as Meta does; nil for nearly all
}

// Sample is what one read of a Sensor yields for one of its channels.
type Sample struct {
	Channel string // "" for a sensor with one value; else appended to the name after a dot
	Value   wire.Value
	Type    string                // overrides the configured sensor_type
	Unit    string                // overrides the configured unit
	Time    time.Time             // when it was measured; zero means now
	Quality wire.Quality          // "" means good
	Reason  string                // required unless the quality is good
	Meta    map[string]wire.Value // e.g. the topic a message came from; Read gives it away
}

// Sensor reads one configured device.
//
// Read returns the samples of one poll, or an error when nothing could be
// read; it may return both, when some channels failed. It is never called
// twice at once. It must return soon after ctx ends; one that does not is left
// behind, counted as hung and not read again until it returns. The error text
// reaches the reading's reason: it must say what failed and never carry a
// secret or a measured value.
type Sensor interface {
	Read(ctx context.Context) ([]Sample, error)
}

// Dropped is in the error of a Read when a full buffer has cost samples since
// the one before: how many, which the Poller counts. The text leaves it out, so
// that a flood is one reason and not a new one at each read.
type Dropped int

func (Dropped) Error() string { return "older samples were dropped" }

// Listener is a Sensor to which values come by themselves (a subscription, an
// interrupt). Run blocks until ctx ends, keeps what arrives in a bounded
// buffer, and calls wake when Read should come for it before the next
// interval; wake never blocks. When Run returns early it is started again
// after a pause.
type Listener interface {
	Sensor
	Run(ctx context.Context, wake func()) error
}

// Closer is a Sensor that holds something open. Close is called once, after
// the last Read and after Run returned.
type Closer interface {
	Close() error
}

// Env is what a Sensor may use of its surroundings.
type Env struct {
	Log      zerolog.Logger // names the sensor
	DeviceID string
	SysRoot  string // "/" but in tests; see Root
	Shared   *Shared
}

// Root returns the folder in which sys, proc and dev are.
func (e Env) Root() string { return cmp.Or(e.SysRoot, "/") }

// Shared is what the sensors of one Poller hold together, such as the open
// connection of a bus. Nil where a sensor is made alone, which then shares with
// nobody.
type Shared struct {
	mu sync.Mutex
	m  map[string]any
}

// Get returns what is kept under key, which begins with the ingest type. The
// first to ask for it makes it.
func (s *Shared) Get(key string, make func() any) any {
	if s == nil {
		return make()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]any{}
	}
	v, ok := s.m[key]
	if !ok {
		v = make()
		s.m[key] = v
	}
	return v
}

// Offer is something that this machine has and a sensor could read.
type Offer struct {
	Kind   string `json:"kind"`   // the interface, such as "iio", "gpio" or "serial"
	Name   string `json:"name"`   // by which it is found again after a reboot
	Detail string `json:"detail"` // what it measures or has, for people; may be empty
	Note   string `json:"note"`   // what stands in the way, such as a missing permission; may be empty
	Config string `json:"config"` // a [[sensors.devices]] table in TOML that works as it stands; "" when it cannot be read as it is
}

// Type makes the Sensors of one ingest_type.
type Type struct {
	Name string // ingest_type in config
	Doc  string // one line for `sensors list --types` and the docs

	// Options returns a pointer to a struct of the type's own config keys,
	// holding their defaults.
	Options func() any

	// New makes a Sensor from its checked config; d.Options is what Options
	// returned, filled in. It does no I/O: an absent device is a failed read,
	// not a failed start. Errors are config errors. The interval and timeout
	// in d are those that apply, never 0.
	New func(d config.Sensor, env Env) (Sensor, error)

	// Bus names what the sensor shares with others, such as a serial port:
	// sensors of one bus are read one after the other. Nil or "" means its own.
	Bus func(d config.Sensor) string

	// Discover lists what this machine offers to sensors of this type, from
	// files below env.Root(); it reads no measured value and changes nothing.
	// Nil where there is nothing to look for. What cannot be looked at is an
	// Offer with a Note, and an absent interface no Offer.
	Discover func(ctx context.Context, env Env) []Offer
}
