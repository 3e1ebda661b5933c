package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"regexp"
	"sync"
	"time"

	"github.com/rs/zerolog"
	mb "github.com/simonvetter/modbus"

	"github.com/pyvorin/pyvorin-edge/config"
)

const (
	bitsPerByte = 11 // start, eight of data, parity or a second stop bit, stop

	// openTimeout is how long the library takes at most to give up a connection
	// that nobody answers.
	openTimeout = 5 * time.Second
)

// baudRates are the speeds that the library's serial port knows and that
// somebody may want for this.
var baudRates = []int{300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600}

// counted matches the names that the kernel gives in the order of plugging in.
var counted = regexp.MustCompile(`^/dev/tty(USB|ACM)\d+$`)

var parities = map[string]uint{"none": mb.PARITY_NONE, "even": mb.PARITY_EVEN, "odd": mb.PARITY_ODD}

// lineSettings are those of a serial line, which all its sensors must agree on.
type lineSettings struct {
	baudRate, dataBits int
	parity             string
	stopBits           int
}

// bus is one serial port or connection, opened when it is needed and closed
// after its last user.
//
// The calls of the library know no context, its Close waits for the request
// that runs, and its connect has a timeout of its own. So each call runs on a
// goroutine, and one that outlasts the context is left behind with the bus: until
// it returns, within the timeout of a request or of a connect, nobody else gets
// in.
type bus struct {
	address address

	mu       sync.Mutex
	owner    string         // the first of its sensors
	log      zerolog.Logger // its
	settings lineSettings
	timeout  time.Duration // of a request, the longest that a sensor wants
	pause    time.Duration // between two requests, likewise
	users    int

	// gate holds a token while somebody uses the bus and the fields below.
	gate     chan struct{}
	client   *mb.ModbusClient // nil while closed
	line     *line            // of an open serial port
	answered bool             // something came over this connection before
	idleAt   time.Time        // when the last request ended
	quietAt  time.Time        // until then a late answer may come
	stirred  bool             // something may have come that nobody took
	warned   bool             // of a name that changes
}

func newBus(a address) *bus { return &bus{address: a, gate: make(chan struct{}, 1)} }

// admit checks that a sensor fits to those that are already on the bus.
func (b *bus) admit(sensor string, o Options, timeout time.Duration, log zerolog.Logger) error {
	settings := lineSettings{baudRate: o.BaudRate, dataBits: o.DataBits, parity: o.Parity, stopBits: o.StopBits}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner == "" {
		b.owner, b.settings, b.log = sensor, settings, log.With().Str("sensor", sensor).Logger()
	}
	for _, s := range []struct {
		key          string
		mine, theirs any
	}{
		{"baud_rate", settings.baudRate, b.settings.baudRate},
		{"data_bits", settings.dataBits, b.settings.dataBits},
		{"parity", settings.parity, b.settings.parity},
		{"stop_bits", settings.stopBits, b.settings.stopBits},
	} {
		if b.address.onSerialLine() && s.mine != s.theirs {
			return config.Problemf(s.key, "is %v here and %v in the sensor %s, which is on the same line", s.mine, s.theirs, b.owner)
		}
	}
	b.timeout = max(b.timeout, timeout)
	b.pause = max(b.pause, config.Seconds(o.PauseBetweenSeconds))
	return nil
}

// limits returns what the sensors of the bus have agreed on.
func (b *bus) limits() (timeout, pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.timeout, b.pause
}

func (b *bus) join() {
	b.mu.Lock()
	b.users++
	b.mu.Unlock()
}

// part ends what join began. The last user closes the bus, or lets a call that
// was left behind do it.
func (b *bus) part() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 {
		return
	}
	select {
	case b.gate <- struct{}{}:
		b.hangUp()
		<-b.gate
	default:
	}
}

func (b *bus) enter(ctx context.Context) error {
	select {
	case b.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for an earlier request on %s: %w", b.address.target, ctx.Err())
	}
}

func (b *bus) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users == 0 {
		b.hangUp()
	}
	<-b.gate
}

// request asks a unit for q, and again after a failure that may not last.
func (b *bus) request(ctx context.Context, unit uint8, q query, retries int) (answer, error) {
	for {
		got := b.try(ctx, unit, q)
		switch {
		case got.err == nil || got.again == never || ctx.Err() != nil:
			return got.answer, got.err
		case got.again == atOnce:
			continue
		case retries == 0 || !b.timeForMore(ctx, got.quietAt):
			return got.answer, got.err
		}
		retries--
	}
}

// timeForMore reports whether another request, which must wait until quietAt,
// would end before ctx does.
func (b *bus) timeForMore(ctx context.Context, quietAt time.Time) bool {
	deadline, ok := ctx.Deadline()
	timeout, pause := b.limits()
	return !ok || time.Until(deadline) > max(pause, time.Until(quietAt))+timeout
}

// outcome is what came of one request.
type outcome struct {
	answer  answer
	err     error
	again   retry
	quietAt time.Time
}

// try sends one request, over a new connection where there is none.
func (b *bus) try(ctx context.Context, unit uint8, q query) outcome {
	if err := b.enter(ctx); err != nil {
		return outcome{err: err}
	}
	kept := true
	defer func() {
		if kept {
			b.leave()
		}
	}()
	var err error
	if err = b.settle(ctx); err != nil {
		return outcome{err: err}
	}
	if b.client == nil {
		if err, kept = b.connect(ctx); err != nil {
			return outcome{err: b.explainOpen(err)}
		}
	}
	if b.line != nil && b.stirred {
		timeout, _ := b.limits()
		if err := b.line.awaitSilence(ctx, timeout); err != nil {
			return outcome{err: err}
		}
	}
	b.stirred = false
	var got outcome
	if err, kept = b.call(ctx, func() error { got = b.exchange(unit, q); return nil }); err != nil {
		return outcome{err: err} // got may still be written
	}
	return got
}

// settle waits for the pause between two requests to pass, and for answers that
// are late.
func (b *bus) settle(ctx context.Context) error {
	_, pause := b.limits()
	wait := max(time.Until(b.idleAt.Add(pause)), time.Until(b.quietAt))
	return sleep(ctx, wait)
}

// connect opens the bus; a host that nobody answers for may take half of the
// time there is.
func (b *bus) connect(ctx context.Context) (err error, kept bool) {
	timeout := openTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return b.call(ctx, b.open)
}

// call runs f, which knows no context, for the holder of the gate. When ctx
// ends first, f keeps the gate until it returns, and kept is false.
func (b *bus) call(ctx context.Context, f func() error) (err error, kept bool) {
	done, left := make(chan error), make(chan struct{})
	go func() {
		err := b.guard(f)
		select {
		case done <- err:
		case <-left:
			b.leave()
		}
	}()
	select {
	case err := <-done:
		return err, true
	case <-ctx.Done():
		close(left)
		return ctx.Err(), false
	}
}

// guard turns a panic, which here is nobody else's to catch, into an error.
func (b *bus) guard(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanicked
			b.hangUp()
		}
	}()
	return f()
}

// open makes the connection. The caller holds the gate.
func (b *bus) open() error {
	timeout, _ := b.limits()
	b.mu.Lock()
	owner, settings, events := b.owner, b.settings, b.log
	b.mu.Unlock()
	var l *line
	if b.address.scheme == schemeRTU {
		var err error
		if l, err = openLine(b.address.target, owner, settings.baudRate); err != nil {
			return err
		}
	}
	client, err := mb.NewClient(&mb.ClientConfiguration{
		URL: b.address.String(), Timeout: timeout,
		Speed: uint(settings.baudRate), DataBits: uint(settings.dataBits),
		Parity: parities[settings.parity], StopBits: uint(settings.stopBits),
		Logger: log.New(io.Discard, "", 0), // otherwise it writes to standard output
	})
	if err == nil {
		err = client.Open()
	}
	if err != nil {
		l.close()
		return err
	}
	l.lock()
	if counted.MatchString(b.address.target) && !b.warned {
		b.warned = true
		events.Warn().Str("url", b.address.String()).Msg("another device may have this name after a reboot; use the one below /dev/serial/by-id")
	}
	b.client, b.line, b.answered = client, l, false
	return nil
}

// hangUp closes what is open. The caller holds the gate.
func (b *bus) hangUp() {
	if b.client == nil {
		return
	}
	b.client.Close()
	b.line.close()
	b.client, b.line = nil, nil
}

// exchange sends one request and takes its answer. The caller holds the gate.
func (b *bus) exchange(unit uint8, q query) outcome {
	var a answer
	var err error
	b.client.SetUnitId(unit)
	b.line.flush()
	address, count := uint16(q.address), uint16(q.count)
	switch q.kind {
	case "coil":
		a.bits, err = b.client.ReadCoils(address, count)
	case "discrete":
		a.bits, err = b.client.ReadDiscreteInputs(address, count)
	case "input":
		a.registers, err = b.client.ReadRawBytes(address, 2*count, mb.INPUT_REGISTER)
	default:
		a.registers, err = b.client.ReadRawBytes(address, 2*count, mb.HOLDING_REGISTER)
	}
	b.idleAt = time.Now()
	if err == nil {
		b.answered = true
		return outcome{answer: a}
	}
	timeout, _ := b.limits()
	again, err := b.explain(err, unit, q, timeout)
	var refused exception
	if errors.As(err, &refused) {
		b.answered = true
		return outcome{again: again, err: err}
	}
	b.stirred = true
	if b.address.onSerialLine() && again != atOnce {
		b.quietAt = b.idleAt.Add(timeout)
	}
	// A network connection may have half an answer in it. A port is kept: to
	// close and open it moves its control lines, which restarts some devices.
	if b.line == nil || errors.Is(err, errLost) {
		b.hangUp()
	}
	return outcome{err: err, again: again, quietAt: b.quietAt}
}

// sleep waits for d, or returns the error of ctx when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
