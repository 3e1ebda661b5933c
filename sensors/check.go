package sensors

import (
	"fmt"
	"math"
	"slices"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// check turns a sample into a calibrated reading within all bounds.
func (p *processor) check(s Sample, at moment) Reading {
	r := p.reading(s.Channel, at.wall)
	if s.Type != "" {
		r.Type = label(s.Type)
	}
	if s.Unit != "" {
		r.Unit = label(s.Unit)
	}
	r.Value = s.Value
	switch s.Quality {
	case "", wire.Good:
	case wire.Uncertain, wire.Bad, wire.Stale:
		r.Quality, r.Reason = s.Quality, reason(s.Reason)
	default:
		r.Quality, r.Reason = wire.Uncertain, "the sensor gave an unknown quality"
	}

	if !s.Time.IsZero() {
		if year := s.Time.UTC().Year(); year >= 1970 && year <= 9999 {
			r.Time = s.Time
		} else {
			worsen(&r, wire.Uncertain, "the sensor gave an impossible time")
		}
	}
	var complete bool
	if r.Meta, complete = boundMeta(s.Meta); !complete {
		worsen(&r, wire.Uncertain, "metadata cut")
	}
	if text, ok := r.Value.Text(); ok {
		text, shortened, repaired := cut(text, p.cfg.MaxTextBytes)
		r.Value = wire.TextValue(text)
		switch {
		case repaired:
			worsen(&r, wire.Uncertain, "invalid UTF-8 replaced")
		case shortened:
			worsen(&r, wire.Uncertain, "text cut to max_text_bytes")
		}
	}
	if r.Value.Kind() == wire.None {
		worsen(&r, wire.Bad, "no value: null, NaN or infinite")
	}
	p.calibrate(&r)
	return r
}

// calibrate applies reject_values, scale, offset and the valid range.
func (p *processor) calibrate(r *Reading) {
	raw, ok := r.Value.Float()
	if !ok {
		return
	}
	if slices.ContainsFunc(p.cfg.RejectValues, func(x float64) bool { return nearly(raw, x) }) {
		// Not a measurement at all: as a number it would only mislead.
		r.Value = wire.Value{}
		worsen(r, wire.Bad, "one of reject_values")
		return
	}
	v := raw*p.cfg.Scale + p.cfg.Offset
	r.Value = wire.NumberValue(v)
	switch {
	case r.Value.Kind() == wire.None:
		worsen(r, wire.Bad, "not finite after scale and offset")
	case p.cfg.ValidMin != nil && v < *p.cfg.ValidMin:
		worsen(r, wire.Bad, fmt.Sprintf("below valid_min %g", *p.cfg.ValidMin))
	case p.cfg.ValidMax != nil && v > *p.cfg.ValidMax:
		worsen(r, wire.Bad, fmt.Sprintf("above valid_max %g", *p.cfg.ValidMax))
	}
}

// nearly is equality but for the rounding of a decimal number.
func nearly(a, b float64) bool {
	return math.Abs(a-b) <= 1e-9*max(1, math.Abs(b))
}

// worsen lowers the quality of r; it never improves it.
func worsen(r *Reading, q wire.Quality, why string) {
	if r.Quality == wire.Good || (r.Quality == wire.Uncertain && q == wire.Bad) {
		r.Quality, r.Reason = q, why
	}
}

// isUsable reports whether a value of quality q was measured now.
func isUsable(q wire.Quality) bool { return q == wire.Good || q == wire.Uncertain }
