package gpio

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeKernel has the chips that a test gives it.
type fakeKernel struct {
	mu      sync.Mutex
	chips   []*fakeChip
	handles int // chips that are open
}

func (k *fakeKernel) nodes() ([]node, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var nodes []node
	for _, c := range k.chips {
		nodes = append(nodes, c.node)
	}
	return nodes, nil
}

func (k *fakeKernel) open(n node) (chip, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.chips, func(c *fakeChip) bool { return c.node == n })
	if i < 0 {
		return nil, &os.PathError{Op: "open", Path: n.path, Err: unix.ENODEV}
	}
	if err := k.chips[i].openErr; err != nil {
		return nil, &os.PathError{Op: "open", Path: n.path, Err: err}
	}
	k.handles++
	return &openChip{k.chips[i], k}, nil
}

// plug makes c be there, unplug takes it away with all of its lines.
func (k *fakeKernel) plug(c *fakeChip) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.chips = append(k.chips, c)
}

func (k *fakeKernel) unplug(c *fakeChip) {
	k.mu.Lock()
	k.chips = slices.DeleteFunc(k.chips, func(x *fakeChip) bool { return x == c })
	k.mu.Unlock()
	for i := range c.lines {
		if l := c.line(i); l != nil {
			l.fail(unix.ENODEV)
		}
	}
}

func (k *fakeKernel) opened() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.handles
}

type fakeChip struct {
	node    node
	label   string
	openErr error

	mu      sync.Mutex
	lines   []lineInfo
	infoErr error
	refuse  func(r request) error // why a request fails; nil for none does
	high    map[int]bool          // the levels that lines have when they are taken
	held    map[int]*fakeLine
	wants   []request // all that were made
}

// fakeChipOf returns a chip called label with so many lines called name0, name1 ….
func fakeChipOf(label, device string, names ...string) *fakeChip {
	c := &fakeChip{
		label: label, node: node{path: "/dev/gpiochip-" + label + device, device: device},
		high: map[int]bool{}, held: map[int]*fakeLine{},
	}
	for _, name := range names {
		c.lines = append(c.lines, lineInfo{name: name})
	}
	return c
}

// line returns the line while it is held.
func (c *fakeChip) line(offset int) *fakeLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[offset]
}

type openChip struct {
	c *fakeChip
	k *fakeKernel
}

func (o *openChip) label() string { return o.c.label }
func (o *openChip) lines() int    { return len(o.c.lines) }

func (o *openChip) Close() error {
	o.k.mu.Lock()
	defer o.k.mu.Unlock()
	o.k.handles--
	return nil
}

func (o *openChip) info(offset int) (lineInfo, error) {
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	return o.c.lines[offset], o.c.infoErr
}

func (o *openChip) request(offset int, r request) (line, error) {
	c := o.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wants = append(c.wants, r)
	if c.lines[offset].used {
		return nil, unix.EBUSY
	}
	if c.refuse != nil {
		if err := c.refuse(r); err != nil {
			return nil, err
		}
	}
	l := &fakeLine{
		want: r, level: c.high[offset], limit: kernelEvents,
		more: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	l.release = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lines[offset].used, c.lines[offset].consumer = false, ""
		delete(c.held, offset)
	}
	c.lines[offset].used, c.lines[offset].consumer = true, r.consumer
	c.held[offset] = l
	return l, nil
}

// fakeLine does what the kernel does for a line that is held: it numbers the
// edges that are wanted and keeps the newest of them.
type fakeLine struct {
	want    request
	release func()
	more    chan struct{}
	stop    chan struct{}

	mu       sync.Mutex
	level    bool
	limit    int
	fifo     []event
	number   uint32
	err      error
	valueErr error // of value alone
	calls    int   // of events
	closings int
}

// edge moves the line.
func (l *fakeLine) edge(rising bool) { l.edgeAt(rising, time.Now()) }

func (l *fakeLine) edgeAt(rising bool, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = rising
	if rising && !l.want.rising || !rising && !l.want.falling {
		return
	}
	l.number++
	if len(l.fifo) == l.limit {
		l.fifo = l.fifo[1:]
	}
	l.fifo = append(l.fifo, event{at: at, rising: rising, number: l.number})
	l.tell()
}

// seen returns how often events was called, and how many edges are buffered.
func (l *fakeLine) seen() (calls, buffered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls, len(l.fifo)
}

// fail makes every later call fail, as when the chip is gone.
func (l *fakeLine) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	l.tell()
}

func (l *fakeLine) tell() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *fakeLine) value() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level, cmp.Or(l.err, l.valueErr)
}

func (l *fakeLine) events(wait time.Duration) ([]event, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		l.calls++
		n := min(len(l.fifo), batch)
		events, err := l.fifo[:n:n], l.err
		l.fifo = l.fifo[n:]
		closed := l.closings > 0
		l.mu.Unlock()
		switch {
		case closed:
			return nil, os.ErrClosed
		case err != nil:
			return nil, err
		case n > 0 || wait <= 0:
			return events, nil
		}
		select {
		case <-l.more:
		case <-timeout.C:
			return nil, nil
		case <-l.stop:
			return nil, nil
		}
	}
}

func (l *fakeLine) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
}

func (l *fakeLine) Close() error {
	l.mu.Lock()
	l.closings++
	first := l.closings == 1
	l.mu.Unlock()
	if !first {
		return os.ErrClosed
	}
	l.release()
	return nil
}

// makeSensor makes a sensor over k, as the Poller does of config.
func makeSensor(t *testing.T, k kernel, o Options) sensors.Sensor {
	t.Helper()
	s, err := newSensor(config.Sensor{Name: "door", Options: filled(o)}, sensors.Env{}, k)
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return s
}

// filled returns o with the defaults of what it leaves empty.
func filled(o Options) *Options {
	d := Type.Options().(*Options)
	d.Line, d.Chip, d.Edge = o.Line, o.Chip, o.Edge
	d.ActiveLow, d.DebounceSeconds = o.ActiveLow, o.DebounceSeconds
	if o.Mode != "" {
		d.Mode = o.Mode
	}
	if o.Bias != "" {
		d.Bias = o.Bias
	}
	if o.RatePer != "" {
		d.RatePer = o.RatePer
	}
	if o.BufferReadings != 0 {
		d.BufferReadings = o.BufferReadings
	}
	return d
}

// rig is a poller that reads one sensor over a fake kernel, and what it gave.
type rig struct {
	*sensors.Poller
	mu       sync.Mutex
	readings []sensors.Reading
	ended    chan struct{}
	cancel   func()
}

func poll(t *testing.T, k kernel, o Options, change ...func(*config.Sensor)) *rig {
	t.Helper()
	d := config.Sensor{}
	d.SetDefaults()
	d.Name, d.IngestType, d.Options = "door", "gpio", filled(o)
	for _, c := range change {
		c(&d)
	}
	r := &rig{ended: make(chan struct{})}
	p, err := sensors.NewPoller(sensors.Options{
		Defaults: config.Sensors{PollIntervalSeconds: 5, TimeoutSeconds: 5, Devices: []config.Sensor{d}},
		Types: []sensors.Type{{Name: "gpio", New: func(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
			return newSensor(d, env, k)
		}}},
		Env: sensors.Env{Log: zerolog.Nop(), DeviceID: "device"},
		Sink: func(rs []sensors.Reading) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.readings = append(r.readings, rs...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(r.ended)
		p.Run(ctx)
	}()
	return r
}

func (r *rig) stop() {
	r.cancel()
	<-r.ended
}

// taken returns and forgets what was read.
func (r *rig) taken() []sensors.Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	rs := r.readings
	r.readings = nil
	return rs
}

func wantError(t *testing.T, what string, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q does not say %q", what, err, text)
		}
	}
	var lost sensors.Dropped
	if errors.As(err, &lost) {
		t.Errorf("%s: %d dropped", what, lost)
	}
}
