package health

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxNamedSensors bounds how many failing sensors have a warning of their own.
const maxNamedSensors = 32

// Evaluate returns the document: f completed by the machine's figures, the
// checks, a sentence for each reason why one is not ok, and the verdict. It
// depends on nothing but its arguments.
//
// Offline is not failed: no state of the cloud or of the fleet link is worse
// than a warning, and both warn only after t.CloudWarningSeconds. A figure
// that the machine cannot give is no reason for alarm. A probe whose state is
// not known yet has no check at all, so that nobody who waits for it to be ok
// takes silence for consent.
func Evaluate(f Facts, m wire.Metrics, probes []ProbeResult, t config.Thresholds, now time.Time) wire.Health {
	e := evaluation{checks: make(map[string]wire.CheckState, len(ownChecks)+len(probes)), warnings: []string{}}
	own := map[string]finding{
		checkSensors:     sensorsCheck(f, t),
		checkQueue:       queueCheck(f, t),
		checkCloud:       cloudCheck(f, t, now),
		checkDisk:        diskCheck(f, m, t),
		checkMemory:      memoryCheck(m, t),
		checkTemperature: temperatureCheck(m, t),
		checkFleet:       fleetCheck(f, t, now),
		checkClock:       clockCheck(f, now),
		checkAgent:       agentCheck(f),
	}
	for _, fault := range f.Faults {
		name := fault.Check
		if _, known := own[name]; !known {
			name = checkAgent
		}
		found := own[name]
		found.add(wire.CheckWarning, "%s failed and is tried again by itself: %s", fault.Component, fault.Reason)
		own[name] = found
	}
	for _, name := range ownChecks {
		if name != checkAgent || own[name].bad() {
			e.add(name, own[name])
		}
	}
	for _, p := range probes {
		if p.State != "" {
			e.add(p.Name, finding{p.State, []string{p.Reason}})
		} else if p.Reason != "" {
			e.warnings = append(e.warnings, p.Name+": "+p.Reason)
		}
	}

	h := f.Health
	h.Status = e.status()
	h.Metrics = m
	h.Checks = e.checks
	h.Warnings = append(e.warnings, tellAlerts(&h.Sensors, f.Alerts, now)...)
	h.Warnings = append(append(h.Warnings, notices(f)...), f.Warnings...)
	if h.Sensors.Failing == nil {
		h.Sensors.Failing = []string{} // an empty list, never null
	}
	h.Sensors.LastReadingAt = travelling(h.Sensors.LastReadingAt)
	h.Cloud.OldestItemTimestamp = travelling(h.Cloud.OldestItemTimestamp)
	h.Cloud.LastFlushTime = travelling(h.Cloud.LastFlushTime)
	h.Fleet.LastCommandAt = travelling(h.Fleet.LastCommandAt)
	return h
}

// evaluation gathers the findings.
type evaluation struct {
	checks   map[string]wire.CheckState
	warnings []string
	worst    wire.CheckState
}

func (e *evaluation) add(name string, f finding) {
	if !f.bad() {
		e.checks[name] = wire.CheckOK
		return
	}
	e.checks[name] = f.state
	for _, reason := range f.reasons {
		e.warnings = append(e.warnings, name+": "+reason)
	}
	e.worst = worse(e.worst, f.state)
}

func (e *evaluation) status() wire.Status {
	switch e.worst {
	case wire.CheckCritical:
		return wire.Unhealthy
	case wire.CheckWarning:
		return wire.Degraded
	}
	return wire.Healthy
}

// finding is the outcome of one check; the zero finding is ok.
type finding struct {
	state   wire.CheckState
	reasons []string // each with figures and what to do
}

func (f finding) bad() bool { return f.state == wire.CheckWarning || f.state == wire.CheckCritical }

// add makes f at least as bad as state and appends a reason.
func (f *finding) add(state wire.CheckState, format string, args ...any) {
	f.state = worse(f.state, state)
	f.reasons = append(f.reasons, fmt.Sprintf(format, args...))
}

func worse(a, b wire.CheckState) wire.CheckState {
	if a == wire.CheckCritical || b == wire.CheckCritical {
		return wire.CheckCritical
	}
	if a == wire.CheckWarning || b == wire.CheckWarning {
		return wire.CheckWarning
	}
	return wire.CheckOK
}

func sensorsCheck(f Facts, t config.Thresholds) (c finding) {
	failing, configured := len(f.Health.Sensors.Failing), f.Health.Sensors.Configured
	if failing == 0 {
		return c
	}
	state := wire.CheckWarning
	if share := 100 * float64(failing) / float64(max(configured, failing)); t.SensorsCriticalPercent > 0 && share >= t.SensorsCriticalPercent {
		state = wire.CheckCritical
	}
	named := min(failing, maxNamedSensors)
	for _, name := range f.Health.Sensors.Failing[:named] {
		c.add(state, "%s fails: %s", name, cmp.Or(f.SensorReasons[name], "the reason is not known"))
	}
	if more := failing - named; more > 0 {
		c.add(state, "and %d more, %d of %d fail", more, failing, configured)
	}
	return c
}

func queueCheck(f Facts, t config.Thresholds) (c finding) {
	if f.QueueFault != "" {
		c.add(wire.CheckCritical, "cannot accept readings: %s; they wait in memory, and the oldest are dropped when that is full", f.QueueFault)
	}
	if f.QueueOpening {
		c.add(wire.CheckWarning, "being opened; readings wait in memory")
	}
	cloud := f.Health.Cloud
	if f.QueueMaxBytes <= 0 {
		return c
	}
	if used := round1(100 * float64(cloud.QueueBytes) / float64(f.QueueMaxBytes)); above(&used, t.QueueWarningPercent) {
		c.add(wire.CheckWarning, "%s %% of %s used by %d waiting readings (warning above %s %%); restore delivery or raise cloud.max_queue_bytes, or the least important are evicted",
			human.Figure(used), human.Bytes(f.QueueMaxBytes), cloud.QueueDepth, human.Figure(t.QueueWarningPercent))
	}
	return c
}

func cloudCheck(f Facts, t config.Thresholds, now time.Time) (c finding) {
	cloud := f.Health.Cloud
	if !cloud.Enabled {
		return c
	}
	if cloud.Paused != "" {
		c.add(wire.CheckWarning, "delivery is paused: %s; readings stay in the queue until this is fixed", cloud.Paused)
		return c
	}
	if down, long := downLong(f.CloudFailingSince, t, now); long {
		last := ""
		if cloud.LastError != nil {
			last = ", last with: " + *cloud.LastError
		}
		c.add(wire.CheckWarning, "deliveries have failed for %s (warning after %s)%s; %d readings wait in the queue, check the network and cloud.endpoint",
			human.Duration(down), human.Duration(config.Seconds(t.CloudWarningSeconds)), last, cloud.QueueDepth)
	}
	return c
}

func fleetCheck(f Facts, t config.Thresholds, now time.Time) (c finding) {
	if down, long := downLong(f.FleetDownSince, t, now); f.FleetEnabled && long {
		c.add(wire.CheckWarning, "no connection to the controller for %s (warning after %s); check the network and fleet.mqtt_url",
			human.Duration(down), human.Duration(config.Seconds(t.CloudWarningSeconds)))
	}
	return c
}

// downLong tells how long a link has been down, and whether that is worth a
// warning.
func downLong(since time.Time, t config.Thresholds, now time.Time) (down time.Duration, long bool) {
	if since.IsZero() {
		return 0, false
	}
	down = now.Sub(since)
	return down, t.CloudWarningSeconds > 0 && down > config.Seconds(t.CloudWarningSeconds)
}

func diskCheck(f Facts, m wire.Metrics, t config.Thresholds) (c finding) {
	place := f.BaseDir
	if place == "" {
		place = "the base dir's file system"
	}
	return threshold(m.DiskPercent, t.DiskWarningPercent, t.DiskCriticalPercent, "%", " of "+place+" used", "free some space there")
}

func memoryCheck(m wire.Metrics, t config.Thresholds) finding {
	return threshold(m.MemoryPercent, t.MemoryWarningPercent, t.MemoryCriticalPercent, "%", " used", "find the program that grows")
}

func temperatureCheck(m wire.Metrics, t config.Thresholds) finding {
	return threshold(m.TemperatureCelsius, t.TemperatureWarningCelsius, t.TemperatureCriticalCelsius, "°C", "", "check cooling and load")
}

// threshold compares a figure, which may be absent, with its two limits.
func threshold(v *float64, warning, critical float64, unit, what, advice string) (c finding) {
	switch {
	case above(v, critical):
		c.add(wire.CheckCritical, "%s %s%s (critical above %s %s); %s", human.Figure(*v), unit, what, human.Figure(critical), unit, advice)
	case above(v, warning):
		c.add(wire.CheckWarning, "%s %s%s (warning above %s %s); %s", human.Figure(*v), unit, what, human.Figure(warning), unit, advice)
	}
	return c
}

// above reports whether v is known and beyond a limit that is not turned off.
func above(v *float64, limit float64) bool { return v != nil && limit > 0 && *v > limit }

func clockCheck(f Facts, now time.Time) (c finding) {
	if !f.ClockSet {
		c.add(wire.CheckWarning, "the time is not set, it reads %s; check the time service or the clock's battery", now.UTC().Format("2006-01-02 15:04 UTC"))
	}
	return c
}

func agentCheck(f Facts) (c finding) {
	if len(f.Stalled) > 0 {
		c.add(wire.CheckCritical, "%s no longer responding; restart the agent unless its service manager does", strings.Join(f.Stalled, ", "))
	}
	if r := f.ConfigRefusal; r != nil {
		c.add(wire.CheckWarning, "the config file was refused at %s, the one before is in force, and the next start will fail: %s",
			r.At.UTC().Format("2006-01-02 15:04:05 UTC"), r.Reason)
	}
	return c
}

// notices are sentences that change no verdict.
func notices(f Facts) (sentences []string) {
	if n := f.Health.Cloud.DeadLetters; n > 0 {
		sentences = append(sentences, plural(uint64(n), "reading")+" refused by the receiver and set aside; see `pyvorin-edge queue dead list`")
	}
	return sentences
}

// travelling returns t as timestamps travel: UTC, milliseconds.
func travelling(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC().Truncate(time.Millisecond)
	return &u
}
