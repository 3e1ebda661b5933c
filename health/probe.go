package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// hangGrace is how long a probe may go on after its timeout before it counts
// as hung.
const hangGrace = 2 * time.Second

// ProbeResult is what is known of one probe.
type ProbeResult struct {
	Name string

	// State is "" until the probe succeeded for the first time or failed often
	// enough to turn its check: with so little known, ok would be a guess, and
	// a trial could be committed on it.
	State  wire.CheckState
	Reason string // why it is not ok, or not known yet
}

// probe runs one configured probe and judges its outcomes.
type probe struct {
	config config.Probe
	check  func(context.Context) error
	window *Window

	mu       sync.Mutex
	result   ProbeResult
	failures int // in a row
}

// newProbes checks what is configured and returns the probes in that order.
func newProbes(list []config.Probe, w *Window) ([]*probe, error) {
	var probes []*probe
	seen := slices.Clone(ownChecks)
	for _, c := range list {
		if c.Name == "" || slices.Contains(seen, c.Name) {
			return nil, fmt.Errorf("probe %q: the name is empty or taken by another check; choose another", c.Name)
		}
		seen = append(seen, c.Name)
		check, err := checkOf(c)
		if err != nil {
			return nil, fmt.Errorf("probe %q: %w", c.Name, err)
		}
		if c.IntervalSeconds <= 0 || c.TimeoutSeconds <= 0 {
			return nil, fmt.Errorf("probe %q: interval_seconds and timeout_seconds must be above 0", c.Name)
		}
		probes = append(probes, &probe{config: c, check: check, window: w, result: ProbeResult{Name: c.Name}})
	}
	return probes, nil
}

// run probes at once and then at its interval until ctx ends. A probe that
// does not return is not started again: it fails until it comes back.
func (p *probe) run(ctx context.Context) {
	interval, timeout := config.Seconds(p.config.IntervalSeconds), config.Seconds(p.config.TimeoutSeconds)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if !p.once(ctx, timeout) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// once probes once, and reports whether probing may go on. Should the probe
// hang, in a file system that does not answer for instance, it is left behind
// when ctx ends.
func (p *probe) once(ctx context.Context, timeout time.Duration) bool {
	start := time.Now()
	done := make(chan error, 1)
	go func() {
		bounded, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		done <- p.check(bounded)
	}()
	hung := time.NewTimer(timeout + hangGrace)
	defer hung.Stop()
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return false // the end of the agent is no verdict on the probe
			}
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("no answer within %s s", human.Figure(timeout.Seconds()))
			}
			p.record(time.Since(start), err)
			return true
		case <-hung.C:
			p.record(time.Since(start), errors.New("the probe hangs"))
			hung.Reset(config.Seconds(p.config.IntervalSeconds))
		case <-ctx.Done():
			select {
			case <-done:
			case <-time.After(hangGrace):
			}
			return false
		}
	}
}

// record counts an outcome and turns the check when it is time to.
func (p *probe) record(d time.Duration, err error) {
	p.window.Observe(d, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.failures = 0
		p.result.State, p.result.Reason = wire.CheckOK, ""
		return
	}
	p.failures++
	if p.failures < p.config.Failures {
		if p.result.State == "" {
			p.result.Reason = fmt.Sprintf("%s (%d in a row, judged at %d)", err, p.failures, p.config.Failures)
		}
		return
	}
	p.result.State = wire.CheckWarning
	if p.config.Severity == "critical" {
		p.result.State = wire.CheckCritical
	}
	p.result.Reason = fmt.Sprintf("%s (%d in a row); look after what this probe watches", err, p.failures)
}

func (p *probe) latest() ProbeResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result
}
