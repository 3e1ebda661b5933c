package gpio

import "time"

// debouncer lets an edge through once the line has kept its new level for the
// period, and gives it the time at which that was certain: as the kernel does.
type debouncer struct {
	period          time.Duration
	rising, falling bool  // which edges are let through
	level           bool  // after the last edge that lasted
	pending         event // the last edge away from level, when isPending
	isPending       bool
	out             []event
}

// filter returns the edges that have lasted, given those that came since the
// last call and the present. The slice is overwritten by the next call.
func (d *debouncer) filter(edges []event, now time.Time) []event {
	d.out = d.out[:0]
	for _, e := range edges {
		d.advance(e.at)
		d.isPending, d.pending = e.rising != d.level, e
	}
	d.advance(now)
	return d.out
}

// advance lets the pending edge through if it has lasted until now.
func (d *debouncer) advance(now time.Time) {
	if !d.isPending || now.Sub(d.pending.at) < d.period {
		return
	}
	d.isPending, d.level = false, d.pending.rising
	if d.level && d.rising || !d.level && d.falling {
		e := d.pending
		e.at = e.at.Add(d.period)
		d.out = append(d.out, e)
	}
}

// remaining returns how long after now the pending edge will have lasted.
func (d *debouncer) remaining(now time.Time) time.Duration {
	if !d.isPending {
		return time.Hour
	}
	return d.pending.at.Add(d.period).Sub(now)
}
