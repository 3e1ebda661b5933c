package uplink

import "time"

// fullJitter is the wait after the given number of failures in a row: anywhere
// between 0 and an upper bound that starts at low and doubles up to high. The
// whole range is used so that a fleet that lost its server together does not
// come back together. random is in [0,1).
func fullJitter(low, high time.Duration, failures int, random float64) time.Duration {
	bound := high
	if doublings := max(failures-1, 0); doublings < 62 && low <= high>>doublings {
		bound = low << doublings
	}
	return between(0, bound, random)
}

// between is the point of [low, high) that random in [0,1) stands for.
func between(low, high time.Duration, random float64) time.Duration {
	return low + time.Duration(random*float64(high-low))
}

// pacer keeps an average rate: a request goes at once when the earlier ones are
// paid for, however large it is, and is then paid for by waiting.
type pacer struct {
	bytesPerSecond int64     // 0 is no cap
	paid           time.Time // when everything sent so far is paid for
}

// spend counts n bytes that are sent now.
func (p *pacer) spend(now time.Time, n int64) {
	if p.bytesPerSecond == 0 {
		return
	}
	if p.paid.Before(now) {
		p.paid = now // silence earns no credit
	}
	p.paid = p.paid.Add(time.Duration(float64(n) / float64(p.bytesPerSecond) * float64(time.Second)))
}

// wait is how long until the next request may go.
func (p *pacer) wait(now time.Time) time.Duration { return max(0, p.paid.Sub(now)) }
