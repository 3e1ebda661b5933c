package sensors

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"
)

const (
	// firstSpread is the time over which the first reads of many sensors are
	// spread, and firstGap what each sensor adds to it.
	firstSpread = time.Second
	firstGap    = 10 * time.Millisecond

	// wakeGap is the least time between two reads that a Listener asks for.
	wakeGap = 50 * time.Millisecond

	// beatGap is the longest that the schedule sleeps.
	beatGap = 2 * time.Second
)

// schedule hands each sensor to its bus when it is due, until ctx ends. All
// its times are distances from start on the monotonic clock.
func (p *Poller) schedule(ctx context.Context, start time.Time) {
	due := make(agenda, len(p.sensors))
	spread := min(firstSpread, firstGap*time.Duration(len(p.sensors)))
	for i, s := range p.sensors {
		s.next = scaled(spread, s.phase, s.interval)
		s.index = i
		due[i] = s
	}
	heap.Init(&due)

	timer := time.NewTimer(0)
	defer timer.Stop()
	beaten := -beatGap
	for {
		now := time.Since(start)
		if now-beaten >= beatGap/2 {
			beaten = now
			p.o.Beat()
		}
		for len(due) > 0 && due[0].when() <= now {
			p.dispatch(due[0], now, start)
			heap.Fix(&due, 0)
		}
		wait := beatGap
		if len(due) > 0 {
			wait = min(wait, due[0].when()-time.Since(start))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case s := <-p.wakes:
			s.woken.Store(false)
			if s.early == 0 {
				s.early = max(time.Since(start), s.began+wakeGap)
				heap.Fix(&due, s.index)
			}
		}
	}
}

// dispatch gives s, which is due, to its bus, or passes over this poll.
func (p *Poller) dispatch(s *polled, now time.Duration, start time.Time) {
	regular := s.next <= now
	s.early = 0
	if regular {
		s.next = nextTick(s, now)
	}
	switch {
	case s.busy.CompareAndSwap(false, true):
		s.began = now
		s.bus.due <- s
	case regular:
		p.skip(s, p.moment(start))
	case !s.hung.Load():
		s.early = now + wakeGap // what woke it may have come after the present read
	}
}

// skip counts a poll that did not start because the one before has not ended.
func (p *Poller) skip(s *polled, at moment) {
	why := ""
	if s.hung.Load() {
		why = errHung.Error()
	}
	s.mu.Lock()
	s.stats.Skipped++
	if why != "" {
		s.stats.LastError = why
	}
	readings := s.process.passed(nil, why, at)
	s.count(len(readings), at)
	s.mu.Unlock()
	if len(readings) > 0 {
		p.o.Sink(readings)
	}
}

// nextTick returns the next instant of s's grid. Ticks that were missed are
// gone, and one that would follow this read at once is left out.
func nextTick(s *polled, now time.Duration) time.Duration {
	after := now + s.interval/2 - s.phase
	n := after / s.interval
	if after >= 0 {
		n++
	}
	return s.phase + n*s.interval
}

// phase returns where in its interval a sensor is read. It is the same at every
// start, and differs from sensor to sensor and from device to device, so that
// neither a device's buses nor a fleet's receiver see everything at once.
func phase(device, sensor string, interval time.Duration) time.Duration {
	sum := sha256.Sum256([]byte(device + "\x00" + sensor))
	return time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(interval))
}

// scaled returns whole × part / of, for 0 ≤ part < of.
func scaled(whole, part, of time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(whole), uint64(part))
	quotient, _ := bits.Div64(hi, lo, uint64(of))
	return time.Duration(quotient)
}

// when returns the instant at which s is due.
func (s *polled) when() time.Duration {
	if s.early != 0 {
		return min(s.early, s.next)
	}
	return s.next
}

// agenda is a heap of sensors, the next one due on top.
type agenda []*polled

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].when() < a[j].when() }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}
func (a *agenda) Push(any) { panic("internal error: the agenda does not grow") }
func (a *agenda) Pop() any { panic("internal error: the agenda does not shrink") }
