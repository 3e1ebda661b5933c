package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/health"
)

const (
	restartMin = time.Second
	restartMax = time.Minute
	// provenAfter is how long a restarted part must run before its fault is
	// forgotten and its backoff starts anew.
	provenAfter = 30 * time.Second
	// stopPatience is how long a part may take to stop beyond what it was
	// promised; then the stop goes on without it.
	stopPatience = 10 * time.Second
	// stallLimit is how long a part's loop may go without turning before the
	// agent as a whole counts as hung. Longer than the stalls of a worn SD
	// card, and long enough for parts that beat every 5 s.
	stallLimit = time.Minute
)

// part is one supervised component of the agent.
type part struct {
	name  string
	check string // the health check its faults belong to
	// run does the work until ctx ends; returning earlier is a failure. It is
	// called again after each one, so it must build what it cannot use twice.
	run func(ctx context.Context, beat func()) error
	// stopTimeout is how long run was promised for its orderly end.
	stopTimeout time.Duration

	mu       sync.Mutex
	fault    string    // why it last failed; "" once it is proven again
	running  bool      // not waiting for a restart
	lastBeat time.Time // with its monotonic part
	restarts int
}

// supervise runs p until ctx ends, starting it again after each failure.
func (p *part) supervise(ctx context.Context, log zerolog.Logger) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = restartMin, restartMax
	for {
		p.started()
		proven := time.AfterFunc(provenAfter, func() { p.setFault("") })
		begun := time.Now()
		err := p.runOnce(ctx)
		proven.Stop()
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				log.Warn().Err(err).Str("part", p.name).Msg("part stopped with an error")
			}
			return
		}
		if err == nil {
			err = errors.New("ended without being asked to")
		}
		if time.Since(begun) > provenAfter {
			wait.Reset()
		}
		delay := wait.NextBackOff()
		p.failed(err)
		log.Error().Err(err).Str("part", p.name).Float64("restart_in_seconds", delay.Round(time.Millisecond).Seconds()).Msg("part failed")
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// runOnce turns a panic into an error, so that one part's bug is its own.
func (p *part) runOnce(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panicked: %v\n%s", r, debug.Stack())
		}
	}()
	return p.run(ctx, p.beat)
}

func (p *part) beat() {
	p.mu.Lock()
	p.lastBeat = time.Now()
	p.mu.Unlock()
}

func (p *part) started() {
	p.mu.Lock()
	p.running, p.lastBeat = true, time.Now()
	p.mu.Unlock()
}

func (p *part) setFault(reason string) {
	p.mu.Lock()
	p.fault = reason
	p.mu.Unlock()
}

func (p *part) failed(err error) {
	reason, _, _ := strings.Cut(err.Error(), "\n") // without a panic's stack
	p.mu.Lock()
	p.running, p.fault = false, reason
	p.restarts++
	p.mu.Unlock()
}

// status reports the part's fault, if any, and whether its loop stands still.
func (p *part) status(now time.Time) (f health.Fault, faulty, stalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return health.Fault{Check: p.check, Component: p.name, Reason: p.fault},
		p.fault != "", p.running && now.Sub(p.lastBeat) > stallLimit
}

// group is a set of parts that start in order and stop in reverse, so that
// each finds what it hands its work to still there.
type group struct {
	log zerolog.Logger

	mu    sync.Mutex
	parts []*part
	stops []func()
}

// start begins to supervise p. It does not wait for p to work.
func (g *group) start(p *part) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.supervise(ctx, g.log)
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parts = append(g.parts, p)
	g.stops = append(g.stops, func() {
		cancel()
		select {
		case <-done:
		case <-time.After(p.stopTimeout + stopPatience):
			g.log.Error().Str("part", p.name).Msg("part did not stop in time and was left behind")
		}
	})
}

// running returns the parts that were started and not stopped.
func (g *group) running() []*part {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.parts)
}

// stop ends the parts, the last started first, and waits for each.
func (g *group) stop() {
	g.mu.Lock()
	stops := g.stops
	g.parts, g.stops = nil, nil
	g.mu.Unlock()
	for _, stop := range slices.Backward(stops) {
		stop()
	}
}
