package sensors

import (
	"errors"
	"maps"
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	// repeatAfter is how often an unchanged lack of a value is told again, at
	// most: a sensor that is unplugged for a week must not wear out the flash.
	repeatAfter = time.Minute

	defaultMaxSilence = 5 * time.Minute
)

// moment is one instant on both clocks: since decides every interval and is
// monotonic, wall is only stamped on readings.
type moment struct {
	since time.Duration
	wall  time.Time
}

// processor makes readings of what one sensor's reads returned, in this order:
// reject_values, scale and offset, valid range, frozen values, alerts, reduce,
// deadband. It does no I/O, asks no clock, and is not safe for concurrent use.
type processor struct {
	cfg        config.Sensor
	window     time.Duration // 0 unless readings are reduced
	maxSilence time.Duration
	staleAfter time.Duration // 0 is off
	frozen     time.Duration // how long a number may stay the same; 0 is for ever
	repeat     time.Duration // of a reading without a value
	alerts     *alerts       // nil without limits

	channels []*channel // in the order of their first sample
	byName   map[string]*channel
	reads    uint64 // tells the channels that had a sample in this read
	dropped  uint64 // samples that a bound refused

	failure   string        // why the last read failed, "" when it did not
	failureAt time.Duration // when it was last told
	failedAt  time.Duration // of the last failed read, told or not
}

// channel is what is remembered of one channel of the sensor.
type channel struct {
	name   string
	read   uint64 // the last read that had a sample of it
	window window
	sent   sent
	same   constancy
	alert  alertState

	wasUsable bool          // some reading of it was
	last      Reading       // the last usable one; kept only to call it stale
	freshAt   time.Duration // of the last usable sample
	stale     bool
	staleAt   time.Duration // when it was last called stale
}

// sent is what the deadband compares with; the zero value lets anything pass.
type sent struct {
	value   wire.Value
	quality wire.Quality
	reason  string
	at      time.Duration
}

func newProcessor(cfg config.Sensor, interval time.Duration) (*processor, error) {
	p := &processor{
		cfg:        cfg,
		maxSilence: seconds(cfg.MaxSilenceSeconds),
		staleAfter: seconds(cfg.StaleAfterSeconds),
		frozen:     seconds(cfg.FrozenAfterSeconds),
		repeat:     max(interval, repeatAfter),
		byName:     map[string]*channel{},
	}
	if p.maxSilence == 0 {
		p.maxSilence = defaultMaxSilence
	}
	if cfg.Reduce != "" && cfg.Reduce != "none" {
		if p.window = seconds(cfg.WindowSeconds); p.window <= 0 {
			return nil, config.Problemf("reduce", "needs window_seconds, the length of the window")
		}
	}
	if cfg.ValidMin != nil && cfg.ValidMax != nil && *cfg.ValidMin > *cfg.ValidMax {
		return nil, config.Problemf("valid_min", "is above valid_max: no value would be valid")
	}
	var err error
	if p.alerts, err = newAlerts(&p.cfg, interval); err != nil {
		return nil, err
	}
	return p, nil
}

// seconds is config.Seconds with a bound, so that no config value overflows.
func seconds(s float64) time.Duration {
	const year = 365 * 24 * time.Hour
	return config.Seconds(min(s, year.Seconds()))
}

// finished takes what a read returned and appends the readings that came of
// it. The error says why the read counts as failed: its own, or that none of
// its samples was usable.
func (p *processor) finished(dst []Reading, samples []Sample, failed error, at moment) ([]Reading, error) {
	p.reads++
	dst = p.closeWindows(dst, at)
	if over := len(samples) - p.cfg.MaxReadingsPerPoll; over > 0 {
		p.dropped += uint64(over)
		samples = samples[:p.cfg.MaxReadingsPerPoll]
	}
	usable := 0
	var refused string
	for _, s := range samples {
		c := p.channel(s.Channel)
		if c == nil {
			p.dropped++
			continue
		}
		c.read = p.reads
		r := p.check(s, at)
		if p.frozen > 0 {
			c.same.observe(&r, s.Value, p.frozen, at.since, p.failedAt)
		}
		if isUsable(r.Quality) {
			usable++
		} else {
			refused = r.Reason
		}
		dst = p.add(dst, c, r, at)
	}
	if failed != nil {
		var lost Dropped
		if errors.As(failed, &lost) {
			p.dropped += uint64(lost)
		}
		dst = p.fail(dst, failed.Error(), at)
	} else {
		p.failure = ""
		if refused != "" && usable == 0 {
			failed = errors.New(refused)
		}
	}
	return p.callStale(dst, at), failed
}

// passed is called instead of finished when there was no read although it was
// time for one; why is "" when that is no fault of the sensor.
func (p *processor) passed(dst []Reading, why string, at moment) []Reading {
	p.reads++
	dst = p.closeWindows(dst, at)
	if why != "" {
		dst = p.fail(dst, why, at)
	}
	return p.callStale(dst, at)
}

// fail tells of a failed read: once for the sensor, or, where readings are
// reduced, in the windows of the channels that got no sample.
func (p *processor) fail(dst []Reading, why string, at moment) []Reading {
	why = reason(why)
	p.failedAt = at.since
	if p.window > 0 {
		if len(p.channels) == 0 {
			p.channel("")
		}
		for _, c := range p.channels {
			if c.read != p.reads {
				c.window.add(Reading{Quality: wire.Bad, Reason: why}, at.since)
			}
		}
		return dst
	}
	if why == p.failure && at.since-p.failureAt < p.repeat {
		return dst
	}
	p.failure, p.failureAt = why, at.since
	for _, c := range p.channels {
		if c.read != p.reads {
			c.sent = sent{} // the next value is news, whatever it is
		}
	}
	r := p.reading("", at.wall)
	r.Quality, r.Reason = wire.Bad, why
	return append(dst, r)
}

// channel returns the state of the named channel, or nil when a bound forbids it.
func (p *processor) channel(name string) *channel {
	if c := p.byName[name]; c != nil {
		return c
	}
	valid, shortened, repaired := cut(name, maxChannelBytes)
	if shortened || repaired || len(p.channels) == maxChannels {
		return nil
	}
	c := &channel{name: valid}
	p.channels = append(p.channels, c)
	p.byName[valid] = c
	return c
}

// reading returns a reading of the channel that has yet to be filled in.
func (p *processor) reading(channel string, at time.Time) Reading {
	name := p.cfg.Name
	if channel != "" {
		name += "." + channel
	}
	return Reading{
		Sensor: name, Type: p.cfg.SensorType, Ingest: p.cfg.IngestType, Unit: p.cfg.Unit,
		Time: at, Quality: wire.Good, Priority: p.cfg.Priority, Tags: p.cfg.Tags,
	}
}

// add takes a checked reading into its window or sends it at once. One that
// tells an alert level is always sent at once, and counts in its window too.
func (p *processor) add(dst []Reading, c *channel, r Reading, at moment) []Reading {
	if isUsable(r.Quality) {
		c.freshAt, c.stale = at.since, false
	}
	var alert *Alert
	if p.alerts != nil {
		alert = p.alerts.judge(&c.alert, &r, at, p.failedAt)
	}
	if p.window == 0 {
		return p.send(dst, c, r, alert, at)
	}
	if alert != nil {
		dst = append(dst, alert.telling(r))
	}
	if isUsable(r.Quality) && r.Value.Kind() != wire.Number && needsNumbers(p.cfg.Reduce) {
		worsen(&r, wire.Bad, "reduce needs numbers")
	}
	c.window.add(r, at.since)
	return dst
}

// closeWindows sends what came of the windows that have ended.
func (p *processor) closeWindows(dst []Reading, at moment) []Reading {
	if p.window == 0 {
		return dst
	}
	keep := p.channels[:0]
	for _, c := range p.channels {
		end, ended := c.window.ended(p.window, at.since)
		if !ended {
			keep = append(keep, c)
			continue
		}
		if c.window.empty() && !c.wasUsable {
			delete(p.byName, c.name) // it was made by failures alone, and they are over
			continue
		}
		keep = append(keep, c)
		r := p.reading(c.name, at.wall.Add(end-at.since))
		c.window.reduce(&r, p.cfg.Reduce)
		c.window.restart(p.window, at.since)
		dst = p.send(dst, c, r, nil, at)
	}
	clear(p.channels[len(keep):])
	p.channels = keep
	return dst
}

// send appends r, which tells alert unless that is nil, or leaves it out when
// the deadband holds it back.
func (p *processor) send(dst []Reading, c *channel, r Reading, alert *Alert, at moment) []Reading {
	if isUsable(r.Quality) {
		c.wasUsable = true
		if p.staleAfter > 0 {
			c.last = r
			c.last.Meta = maps.Clone(r.Meta) // r's own goes to the receiver
		}
	}
	if alert == nil && !p.passes(&c.sent, &r, at.since) {
		return dst
	}
	c.sent = sent{value: r.Value, quality: r.Quality, reason: r.Reason, at: at.since}
	if alert != nil {
		r = alert.telling(r)
	}
	return append(dst, r)
}

// passes reports whether r is news after what was last sent.
func (p *processor) passes(last *sent, r *Reading, now time.Duration) bool {
	silence := now - last.at
	switch {
	case r.Quality != last.quality || r.Value.Kind() != last.value.Kind():
		return true
	case r.Value.Kind() == wire.None:
		return r.Reason != last.reason || silence >= p.repeat
	case p.cfg.Deadband == 0 || silence >= p.maxSilence:
		return true
	}
	v, isNumber := r.Value.Float()
	if !isNumber {
		return r.Value != last.value
	}
	before, _ := last.value.Float()
	return math.Abs(v-before) > p.cfg.Deadband
}

// callStale repeats the last usable value of the channels that had none for
// stale_after, and says so.
func (p *processor) callStale(dst []Reading, at moment) []Reading {
	if p.staleAfter == 0 {
		return dst
	}
	for _, c := range p.channels {
		if !c.wasUsable || at.since-c.freshAt < p.staleAfter || (c.stale && at.since-c.staleAt < p.maxSilence) {
			continue
		}
		c.stale, c.staleAt = true, at.since
		r := c.last
		r.Quality, r.Reason = wire.Stale, "no good value for "+human.Exact(p.staleAfter)
		r.Meta = make(map[string]wire.Value, len(c.last.Meta)+1)
		maps.Copy(r.Meta, c.last.Meta)
		r.Meta["last_good_at"] = wire.TextValue(wire.FormatTime(c.last.Time))
		r.Time = at.wall
		c.sent = sent{value: r.Value, quality: r.Quality, reason: r.Reason, at: at.since}
		dst = append(dst, r)
	}
	return dst
}
