package sensors

import (
	"maps"
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// minFreshAge is how old, at most, a sample that brings its own time may be to
// count in alerts, however often its sensor is read.
const minFreshAge = time.Minute

// Alert is the alert level that a reading tells. It holds what the config says
// and nothing measured.
type Alert struct {
	Level wire.AlertLevel
	Limit string  // the config key, such as crit_above: of the limit that is exceeded, or no longer is; "" when none was
	At    float64 // the value of that limit
}

// limit is a value of the config beyond which the alert level is not ok.
type limit struct {
	Alert
	above bool
}

// exceeded reports whether v is beyond l, when l is drawn in by slack.
func (l *limit) exceeded(v, slack float64) bool {
	if l.above {
		return v > l.At-slack
	}
	return v < l.At+slack
}

// alerts judges the channels of one sensor by its limits. Only a fresh sample
// counts: a good number, of now. What is bad, stale or of unknown age neither
// raises an alert nor ends one.
type alerts struct {
	limits     []limit // the critical ones first
	hysteresis float64
	hold       time.Duration // how long a limit must be exceeded
	gap        time.Duration // between fresh samples; beyond it the hold begins anew
	maxAge     time.Duration
}

// alertState is what is remembered of one channel.
type alertState struct {
	limits  []excess // one for each of alerts.limits
	active  *limit   // the worst that is raised; nil is the level ok
	told    bool     // some reading told the level
	freshAt time.Duration
	doubted bool // samples came since that were not fresh
}

// excess is how a channel stands to one limit. It becomes exceeded at once,
// raised after the hold, and neither when the value is back inside.
type excess struct {
	exceeded, raised bool
	since            time.Duration
}

// newAlerts returns nil when the config sets no limit.
func newAlerts(cfg *config.Sensor, interval time.Duration) (*alerts, error) {
	a := &alerts{
		hysteresis: cfg.Hysteresis,
		hold:       seconds(cfg.AlertForSeconds),
		maxAge:     max(3*interval, minFreshAge),
	}
	a.gap = max(3*interval, a.hold)
	for _, l := range []struct {
		key   string
		at    *float64
		level wire.AlertLevel
		above bool
	}{
		{"crit_below", cfg.CritBelow, wire.AlertCritical, false},
		{"crit_above", cfg.CritAbove, wire.AlertCritical, true},
		{"warn_below", cfg.WarnBelow, wire.AlertWarning, false},
		{"warn_above", cfg.WarnAbove, wire.AlertWarning, true},
	} {
		if l.at != nil {
			a.limits = append(a.limits, limit{Alert{l.level, l.key, *l.at}, l.above})
		}
	}
	if len(a.limits) > 0 {
		return a, a.check(cfg)
	}
	const needsLimit = "needs warn_below, warn_above, crit_below or crit_above; without any it has no effect"
	switch {
	case a.hysteresis > 0:
		return nil, config.Problemf("hysteresis", needsLimit)
	case a.hold > 0:
		return nil, config.Problemf("alert_for_seconds", needsLimit)
	}
	return nil, nil
}

// check refuses limits that would never raise an alert, or never end one.
func (a *alerts) check(cfg *config.Sensor) error {
	switch {
	case cfg.CritBelow != nil && cfg.WarnBelow != nil && *cfg.CritBelow > *cfg.WarnBelow:
		return config.Problemf("crit_below", "is above warn_below (%g): the level would be critical before it is warning", *cfg.WarnBelow)
	case cfg.CritAbove != nil && cfg.WarnAbove != nil && *cfg.CritAbove < *cfg.WarnAbove:
		return config.Problemf("crit_above", "is below warn_above (%g): the level would be critical before it is warning", *cfg.WarnAbove)
	}
	// Good values without an alert lie between low and high.
	low, high := Alert{At: math.Inf(-1)}, Alert{At: math.Inf(1)}
	if cfg.ValidMin != nil {
		low = Alert{Limit: "valid_min", At: *cfg.ValidMin}
	}
	if cfg.ValidMax != nil {
		high = Alert{Limit: "valid_max", At: *cfg.ValidMax}
	}
	for _, l := range a.limits {
		switch {
		case l.above && cfg.ValidMax != nil && l.At >= *cfg.ValidMax:
			return config.Problemf(l.Limit, "is not below valid_max (%g): readings above that are bad and raise no alert", *cfg.ValidMax)
		case !l.above && cfg.ValidMin != nil && l.At <= *cfg.ValidMin:
			return config.Problemf(l.Limit, "is not above valid_min (%g): readings below that are bad and raise no alert", *cfg.ValidMin)
		case l.above && l.At < high.At:
			high = l.Alert
		case !l.above && l.At > low.At:
			low = l.Alert
		}
	}
	switch {
	case low.At >= high.At:
		return config.Problemf(low.Limit, "is not below %s (%g): every value would raise an alert", high.Limit, high.At)
	case a.hysteresis > high.At-low.At:
		return config.Problemf("hysteresis", "is more than lies between %s (%g) and %s (%g): no value would end an alert", low.Limit, low.At, high.Limit, high.At)
	}
	return nil
}

// judge takes note of a checked sample and returns the alert level when it has
// to be told: when it changed, and once as soon as it is known at all, so that
// nobody is left with an alert from before a restart. failedAt is when a read of
// the sensor last failed.
func (a *alerts) judge(s *alertState, r *Reading, at moment, failedAt time.Duration) *Alert {
	v, isNumber := r.Value.Float()
	if !isNumber || r.Quality != wire.Good || at.wall.Sub(r.Time) > a.maxAge {
		s.doubted = true
		return nil
	}
	// A subscription that is silent has nothing to tell, which is no gap.
	interrupted := at.since-s.freshAt > a.gap && (s.doubted || failedAt > s.freshAt)
	s.freshAt, s.doubted = at.since, false
	if s.limits == nil {
		s.limits = make([]excess, len(a.limits))
	}
	var worst *limit
	undecided := false
	for i := range a.limits {
		l, e := &a.limits[i], &s.limits[i]
		switch {
		case e.raised && l.exceeded(v, a.hysteresis):
		case !l.exceeded(v, 0):
			*e = excess{}
		case !e.exceeded || interrupted:
			e.exceeded, e.since = true, at.since
		}
		e.raised = e.raised || e.exceeded && at.since-e.since >= a.hold
		if e.raised && worst == nil {
			worst = l
		}
		undecided = undecided || e.exceeded && !e.raised
	}
	if worst == s.active && (s.told || undecided) {
		return nil
	}
	ended := s.active
	s.active, s.told = worst, true
	switch {
	case worst != nil:
		return &worst.Alert
	case ended != nil:
		return &Alert{wire.AlertOK, ended.Limit, ended.At}
	}
	return &Alert{Level: wire.AlertOK}
}

// telling returns r as the reading that tells a.
func (a *Alert) telling(r Reading) Reading {
	meta := make(map[string]wire.Value, len(r.Meta)+2) // r's own may go elsewhere too
	maps.Copy(meta, r.Meta)
	meta[wire.MetaAlert] = wire.TextValue(string(a.Level))
	delete(meta, wire.MetaAlertLimit)
	if a.Limit != "" {
		meta[wire.MetaAlertLimit] = wire.TextValue(a.Limit)
	}
	r.Meta, r.Alert, r.Priority = meta, a, config.PriorityHigh
	return r
}
