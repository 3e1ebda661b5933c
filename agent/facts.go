package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// facts gathers what the agent knows, from memory only.
func (a *Agent) facts() health.Facts {
	g := a.generation()
	now, st := a.o.Clock.Now(), a.o.Clock.State()
	f := health.Facts{
		Health: wire.Health{
			Version:       buildinfo.Version,
			UptimeSeconds: int64(time.Since(a.begun).Seconds()),
			DeviceID:      a.deviceID,
			Group:         g.cfg.Device.Group,
			BootID:        clock.BootID(),
			Agent: wire.AgentHealth{
				Running:             true,
				Slot:                a.slot,
				Restarts5m:          a.starts.restarts(sinceBoot(st, now)),
				ConfigHash:          g.cfg.Source.Hash,
				EffectiveConfigHash: g.cfg.Source.EffectiveHash,
				ClockSynchronized:   st.Synchronized,
			},
			OTA: g.updateHealth(),
		},
		QueueMaxBytes: g.cfg.Cloud.MaxQueueBytes,
		ClockSet:      st.Set,
		ConfigRefusal: a.refusal.Load(),
	}
	g.sensorFacts(&f)
	g.alertFacts(&f, now)
	g.cloudFacts(&f)
	g.privacyFacts(&f)
	for _, p := range a.parts() {
		fault, faulty, stalled := p.status(time.Now())
		if faulty {
			f.Faults = append(f.Faults, fault)
		}
		if stalled {
			f.Stalled = append(f.Stalled, p.name)
		}
	}
	return f
}

func (g *generation) sensorFacts(f *health.Facts) {
	h, t := &f.Health.Sensors, g.totals()
	h.Failing = []string{}
	h.ReadingsTotal, h.SkippedTotal, h.DroppedTotal = t.readings, t.skipped, t.dropped
	p := g.poller.Load()
	if p == nil {
		return
	}
	f.SensorReasons = map[string]string{}
	st := p.Stats()
	h.Configured = len(st.Sensors)
	h.LastReadingAt = timeOrNil(st.LastReadingAt)
	for _, s := range st.Sensors {
		switch {
		case s.State == sensors.Failing || s.State == sensors.Hung:
			h.Failing = append(h.Failing, s.Name)
			f.SensorReasons[s.Name] = s.LastError
		case s.Reads > 0: // a subscription that nothing came through yet is fine
			h.OK++
		}
	}
}

func (g *generation) alertFacts(f *health.Facts, now time.Time) {
	raised, unkept := g.pipeline.alerts.list(now)
	f.Alerts = raised
	if unkept > 0 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("alert: %d more were raised than the %d that are remembered", unkept, maxAlerts))
	}
}

func (g *generation) cloudFacts(f *health.Facts) {
	h := &f.Health.Cloud
	h.Enabled = g.cfg.Cloud.Enabled
	if q := g.queue.Load(); q != nil {
		st := q.Stats()
		h.QueueDepth, h.QueueBytes = st.Depth, st.Bytes
		h.OldestItemTimestamp = timeOrNil(st.OldestAt)
		h.LastFlushTime = timeOrNil(st.LastAckAt)
		h.MessagesSentToday, h.TotalRetries = st.SentToday, st.Retries
		h.DeadLetters, h.EvictedTotal = st.DeadLetters, st.Evicted
		f.QueueFault = st.Fault
	} else if since := g.noQueue.Load(); since == nil || time.Since(*since) < openPatience {
		f.QueueOpening = true
	} else {
		f.QueueFault = errQueueClosed.Error()
	}
	if u := g.uplink.Load(); u != nil {
		st := u.Stats()
		h.Paused = st.Paused
		if f.CloudFailingSince = st.FailingSince; !st.FailingSince.IsZero() {
			h.LastError = &st.LastError
		}
	}
}

func (g *generation) privacyFacts(f *health.Facts) {
	st, t := g.filter.Stats(), g.totals()
	f.Health.Privacy = wire.PrivacyHealth{
		Enabled:          g.cfg.Privacy.Enabled,
		Rules:            st.Rules,
		PolicyHash:       st.PolicyHash,
		DroppedTotal:     t.privacyDropped,
		TransformedTotal: t.privacyTransformed,
		ErrorsTotal:      t.privacyErrors,
	}
	if !g.cfg.Privacy.Enabled {
		f.Warnings = append(f.Warnings, "privacy is disabled: every reading leaves this device as it was read")
	}
	if g.keyFault != "" {
		f.Warnings = append(f.Warnings, "privacy: no key, readings that a hash rule covers are dropped: "+g.keyFault)
	}
}

// totals are the counters that a reload must not set back.
type totals struct {
	readings, skipped, dropped                        uint64
	privacyDropped, privacyTransformed, privacyErrors uint64
}

// totals counts what g and the generations before it did.
func (g *generation) totals() totals {
	t, st := g.before, g.filter.Stats()
	t.privacyDropped += st.Dropped
	t.privacyTransformed += st.Transformed
	t.privacyErrors += st.Errors
	t.dropped += g.pipeline.droppedTotal()
	if p := g.poller.Load(); p != nil {
		st := p.Stats()
		t.readings += st.Readings
		t.skipped += st.Skipped
		t.dropped += st.Dropped
	}
	return t
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// parts returns the supervised parts that run now.
func (a *Agent) parts() []*part {
	return append(a.outer.running(), a.generation().group.running()...)
}

// stalled names the parts whose loops stand still.
func (a *Agent) stalled() []string {
	var names []string
	for _, p := range a.parts() {
		if _, _, stalled := p.status(time.Now()); stalled {
			names = append(names, p.name)
		}
	}
	return names
}

func monotonicMicros() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano() / 1000
}
