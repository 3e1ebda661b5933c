package sensors

import (
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// constancy is for how long the raw number of one channel has been the same,
// bit for bit: some devices go on giving their last value when they are broken.
// Time in which reads failed does not count, since nobody knows what the value
// was then.
type constancy struct {
	known  bool
	bits   uint64
	length time.Duration
	seenAt time.Duration
}

// observe takes note of the raw value of a sample that r was made of, and makes
// r bad when it has been the same for longer than limit. failedAt is when a read
// of the sensor last failed.
func (c *constancy) observe(r *Reading, raw wire.Value, limit time.Duration, now, failedAt time.Duration) {
	v, isNumber := raw.Float()
	bits := math.Float64bits(v)
	switch {
	case !isUsable(r.Quality):
		c.seenAt = now
		return
	case !isNumber || !c.known || bits != c.bits:
		*c = constancy{known: isNumber, bits: bits, seenAt: now}
		return
	case failedAt <= c.seenAt:
		c.length += now - c.seenAt
	}
	c.seenAt = now
	if c.length >= limit {
		worsen(r, wire.Bad, "has not changed for "+human.Exact(limit)+" (see frozen_after_seconds)")
	}
}
