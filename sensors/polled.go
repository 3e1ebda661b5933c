package sensors

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/human"
)

const (
	// returnGrace is how long after its timeout a read may take to notice. The
	// bus waits that long, so a sensor that obeys never overlaps with the next.
	returnGrace = 100 * time.Millisecond

	failureLogGap = time.Minute
	panicLogGap   = time.Hour
)

var (
	errPanicked = errors.New("panicked")
	errHung     = errors.New("hung: the last read has not returned")
)

// polled is one sensor with its schedule, its processing and its counts.
type polled struct {
	sensor   Sensor
	interval time.Duration
	timeout  time.Duration
	phase    time.Duration
	log      zerolog.Logger
	bus      *bus

	// Of the schedule's goroutine alone.
	next  time.Duration // when it is due, as time since start
	early time.Duration // when it is due before that because it was woken; 0 is not
	began time.Duration // when it was last given to its bus
	index int           // in the agenda

	busy   atomic.Bool // given to its bus, or being read
	hung   atomic.Bool // being read long after the timeout
	woken  atomic.Bool // in Poller.wakes
	users  atomic.Int32
	closed chan struct{}

	mu         sync.Mutex
	process    *processor
	stats      SensorStats
	listening  bool      // Run of a Listener has not ended
	listenErr  error     // why it last did
	failureLog time.Time // when a failure was last logged
	panicLog   time.Time
	loggedDown bool
}

// poll reads s once and hands on what came of it. The caller has set busy.
func (p *Poller) poll(ctx context.Context, s *polled, start time.Time) {
	began := time.Now()
	samples, err, returned := s.read(ctx)
	took := time.Since(began)
	if ctx.Err() != nil && err != nil {
		return // the read was broken off, which is no fault of the sensor
	}
	at := p.moment(start)

	s.mu.Lock()
	if err == nil {
		err = s.listenError(len(samples))
	}
	readings, err := s.process.finished(nil, samples, err, at)
	s.stats.Reads++
	s.stats.LastReadAt, s.stats.LastDuration = at.wall, took
	s.stats.samples = s.stats.samples || len(samples) > 0
	s.count(len(readings), at)
	s.judge(err, at)
	s.mu.Unlock()

	if returned {
		s.busy.Store(false)
	}
	p.o.Observe(took, err)
	if len(readings) > 0 {
		p.o.Sink(readings)
	}
}

// read calls the sensor in a goroutine of its own. When that has not returned
// soon after the timeout, returned is false and the goroutine is left behind;
// at its end it clears busy and hung, so that polling goes on.
func (s *polled) read(ctx context.Context) (samples []Sample, err error, returned bool) {
	type result struct {
		samples []Sample
		err     error
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	done := make(chan result)
	left := make(chan struct{})
	s.users.Add(1)
	go func() {
		defer s.release()
		var r result
		r.err = s.guard(func() (err error) {
			r.samples, err = s.sensor.Read(ctx)
			return err
		})
		select {
		case done <- r:
		case <-left:
			s.hung.Store(false)
			s.busy.Store(false)
		}
	}()

	timedOut := fmt.Errorf("timed out after %s", human.Exact(s.timeout))
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		grace := time.NewTimer(returnGrace)
		defer grace.Stop()
		select {
		case r = <-done:
		case <-grace.C:
			s.hung.Store(true)
			close(left)
			return nil, timedOut, false
		}
	}
	if r.err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.err = timedOut // however the sensor puts it
	}
	return r.samples, r.err, true
}

// count adds what is about to be handed on. mu is held.
func (s *polled) count(readings int, at moment) {
	s.stats.Dropped = s.process.dropped
	if readings > 0 {
		s.stats.Readings += uint64(readings)
		s.stats.LastReadingAt = at.wall
	}
}

// judge records the outcome of a read, and logs when it changed. mu is held.
func (s *polled) judge(err error, at moment) {
	if err == nil {
		s.stats.LastError = ""
		if s.loggedDown {
			s.loggedDown = false
			s.log.Info().Msg("sensor recovered")
		}
		return
	}
	s.stats.Failures++
	s.stats.LastError = reason(err.Error())
	if !s.loggedDown && at.wall.Sub(s.failureLog).Abs() >= failureLogGap {
		s.loggedDown, s.failureLog = true, at.wall
		s.log.Warn().Str("reason", s.stats.LastError).Msg("sensor failed")
	}
}

// guard calls f and turns a panic into an error. What was passed to panic may
// hold a measured value, so only its type and the place are logged.
func (s *polled) guard(f func() error) (err error) {
	defer func() {
		what := recover()
		if what == nil {
			return
		}
		err = errPanicked
		s.mu.Lock()
		quiet := time.Since(s.panicLog) < panicLogGap
		if !quiet {
			s.panicLog = time.Now()
		}
		s.mu.Unlock()
		if !quiet {
			s.log.Error().Type("type", what).Str("stack", stack()).Msg("sensor panicked")
		}
	}()
	return f()
}

// stack names the functions of a panicking goroutine, innermost first, without
// the arguments that runtime/debug.Stack prints.
func stack() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs)])
	var b strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s %s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return b.String()
		}
	}
}

// release ends one use of the sensor: the schedule's, a read's or a
// listener's. After the last it is closed, and says so on closed.
func (s *polled) release() {
	if s.users.Add(-1) > 0 {
		return
	}
	c, ok := s.sensor.(Closer)
	if !ok {
		close(s.closed)
		return
	}
	go func() {
		defer close(s.closed)
		if err := s.guard(c.Close); err != nil {
			s.log.Warn().Err(err).Msg("sensor closed with an error")
		}
	}()
}

// waitClosed returns when the sensor is closed, or when ctx ends.
func (s *polled) waitClosed(ctx context.Context) {
	select {
	case <-s.closed:
	case <-ctx.Done():
	}
}
