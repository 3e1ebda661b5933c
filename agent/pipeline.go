package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

const (
	// commitMost is how many readings one call hands to the queue.
	commitMost = 5000
	// flushPatience is how long a stopping pipeline tries to hand over what it
	// still holds.
	flushPatience = 5 * time.Second
	beatInterval  = 2 * time.Second
)

// pipeline carries readings from the poller through the privacy filter into
// the queue. What it holds in memory is cleared already, bounded, and lost by a
// power cut: only the queue's commit acknowledges a reading.
type pipeline struct {
	filter  *privacy.Filter
	enqueue func(context.Context, []privacy.Cleared) error // blocks until durable
	show    func(privacy.Cleared)                          // the status page's copy
	most    int                                            // readings held while the queue cannot take them
	log     zerolog.Logger
	alerts  alertBoard

	mu      sync.Mutex
	held    []privacy.Cleared
	dropped uint64
	wake    chan struct{} // capacity 1
}

func newPipeline(filter *privacy.Filter, enqueue func(context.Context, []privacy.Cleared) error, show func(privacy.Cleared), most int, log zerolog.Logger) *pipeline {
	return &pipeline{filter: filter, enqueue: enqueue, show: show, most: most, log: log, wake: make(chan struct{}, 1)}
}

// accept takes the poller's readings. It never blocks: beyond the bound the
// oldest are dropped and counted.
func (p *pipeline) accept(readings []sensors.Reading) {
	p.mu.Lock()
	before := len(p.held)
	for _, r := range readings {
		p.held = p.filter.Clear(p.held, r)
	}
	for _, c := range p.held[before:] {
		p.show(c)
		if alert, ok := c.Alert(); ok {
			p.alerts.note(c, alert)
		}
	}
	if over := len(p.held) - p.most; over > 0 {
		p.dropped += uint64(over)
		p.held = append(p.held[:0], p.held[over:]...)
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// droppedTotal returns how many readings the bound cost.
func (p *pipeline) droppedTotal() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// run hands readings to the queue until ctx ends, then what is left, within
// flushPatience. While the queue refuses, it holds them and tries again.
func (p *pipeline) run(ctx context.Context, beat func()) error {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		beat()
		if err := p.drain(ctx, beat); err != nil {
			break // ctx ended
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-p.wake:
		}
		if ctx.Err() != nil {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushPatience)
	defer cancel()
	if err := p.drain(last, beat); err != nil {
		return fmt.Errorf("%d readings could not be queued before the stop: %w", p.giveUp(), err)
	}
	return nil
}

// giveUp drops and counts what is held.
func (p *pipeline) giveUp() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.held)
	p.dropped += uint64(n)
	p.held = nil
	return n
}

// drain hands over all that is held. It ends with nil when nothing is left and
// with ctx's error when ctx ended first.
func (p *pipeline) drain(ctx context.Context, beat func()) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, beatInterval
	refusing := false
	for {
		beat()
		batch := p.take()
		if len(batch) == 0 {
			return nil
		}
		// A cancelled call may have been committed all the same, and trying
		// again would queue the readings twice: it is let finish.
		err := p.enqueue(context.WithoutCancel(ctx), batch)
		if err == nil {
			if refusing {
				p.log.Info().Msg("queue accepts readings again")
				refusing = false
			}
			wait.Reset()
			continue
		}
		p.putBack(batch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !refusing {
			p.log.Error().Err(err).Msg("queue refused readings, holding them in memory")
			refusing = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// take removes the oldest readings from what is held.
func (p *pipeline) take() []privacy.Cleared {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.held), commitMost)
	if n == 0 {
		return nil
	}
	batch := p.held[:n:n]
	if p.held = p.held[n:]; len(p.held) == 0 {
		p.held = nil
	}
	return batch
}

// putBack returns a refused batch to the front, under the same bound.
func (p *pipeline) putBack(batch []privacy.Cleared) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(batch, p.held...)
	if over := len(all) - p.most; over > 0 {
		p.dropped += uint64(over)
		all = all[over:]
	}
	p.held = all
}
