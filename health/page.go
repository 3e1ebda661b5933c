package health

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/internal/markup"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// The page is one document without scripts or anything from elsewhere; the
// policy that goes with every answer allows its style and nothing more.
var (
	//go:embed page.css
	pageStyle string

	contentPolicy = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

const (
	pageSensors = 64 // sensors on the page; the rest are in /api/readings
	pageRunes   = 48 // runes of a name or value on the page
)

// pageView is what the page shows, in words.
type pageView struct {
	Device     string
	Group      string
	Version    string
	Status     wire.Status
	Verdict    string
	Warnings   []string
	Checks     []checkView
	Machine    []meterView
	Sensors    []sensorView
	SensorsSum string
	More       int // sensors that are not on the page
	Queue      []fact
	Privacy    []fact
	About      []fact
	Now        string
}

// fact is one line of a table with two columns.
type fact struct{ Name, Value string }

// checkView is one check; why it is not ok is among the warnings.
type checkView struct {
	Name  string
	State wire.CheckState
}

// meterView is one figure of the machine; Percent is nil when it has no scale.
type meterView struct {
	Name, Value string
	Percent     *float64
}

// sensorView is one row of the sensors.
type sensorView struct {
	Name, Type, Value, Unit, Age, Reason string
	Quality                              wire.Quality
	Trend                                trend
}

// getPage answers GET /.
func (s *Server) getPage(w http.ResponseWriter, _ *http.Request) {
	f := s.facts()
	readings, _ := s.o.Live.Snapshot()
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	writePage(markup.NewWriter(b), viewOf(f, s.evaluate(f), readings, time.Now()))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

// viewOf puts the document into words.
func viewOf(f Facts, h wire.Health, readings []LiveReading, now time.Time) pageView {
	v := pageView{
		Device: h.DeviceID, Group: h.Group, Version: h.Version,
		Status: h.Status, Verdict: verdict(h), Warnings: h.Warnings,
		Checks: checkViews(h), Machine: machineViews(h.Metrics),
		SensorsSum: fmt.Sprintf("%d of %d ok", h.Sensors.OK, h.Sensors.Configured),
		More:       max(len(readings)-pageSensors, 0),
		Now:        now.UTC().Format("2006-01-02 15:04:05 UTC"),
	}
	// What needs attention first: the page may not have room for all.
	slices.SortStableFunc(readings, func(a, b LiveReading) int { return cmp.Compare(concern(a.Quality), concern(b.Quality)) })
	for _, r := range readings[:min(len(readings), pageSensors)] {
		v.Sensors = append(v.Sensors, sensorView{
			Name: clip(r.Sensor, pageRunes), Type: clip(r.Type, pageRunes), Value: quantity(r),
			Age: human.Duration(now.Sub(r.Timestamp)), Quality: r.Quality, Reason: clip(r.Reason, 2*pageRunes), Trend: trendOf(r.Recent),
		})
	}
	v.Queue = queueFacts(f, h.Cloud, now)
	v.Privacy = []fact{
		{"Filter", onOff(h.Privacy.Enabled)},
		{"Rules", strconv.Itoa(h.Privacy.Rules)},
		{"Dropped", count(h.Privacy.DroppedTotal)},
		{"Changed", count(h.Privacy.TransformedTotal)},
		{"Dropped for errors", count(h.Privacy.ErrorsTotal)},
		{"Policy", short(h.Privacy.PolicyHash)},
	}
	v.About = aboutFacts(f, h, now)
	return v
}

func verdict(h wire.Health) string {
	bad := 0
	for _, state := range h.Checks {
		if state != wire.CheckOK {
			bad++
		}
	}
	switch {
	case bad == 0:
		return "All checks pass"
	case bad == 1:
		return "1 check needs attention"
	}
	return fmt.Sprintf("%d checks need attention", bad)
}

// checkViews lists the checks: the agent's own in their order, then probes by
// name.
func checkViews(h wire.Health) (views []checkView) {
	rank := func(name string) int {
		if i := slices.Index(ownChecks, name); i >= 0 {
			return i
		}
		return len(ownChecks)
	}
	for name, state := range h.Checks {
		views = append(views, checkView{name, state})
	}
	slices.SortFunc(views, func(a, b checkView) int {
		return cmp.Or(cmp.Compare(rank(a.Name), rank(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return views
}

func machineViews(m wire.Metrics) (views []meterView) {
	percent := func(name string, p *float64) {
		if p != nil {
			views = append(views, meterView{name, human.Figure(*p) + " %", p})
		}
	}
	percent("Processor", m.CPUPercent)
	percent("Memory", m.MemoryPercent)
	percent("Disk", m.DiskPercent)
	if m.TemperatureCelsius != nil {
		views = append(views, meterView{Name: "Temperature", Value: human.Figure(*m.TemperatureCelsius) + " °C"})
	}
	if m.Load1 != nil {
		views = append(views, meterView{Name: "Load", Value: human.Figure(*m.Load1)})
	}
	return append(views,
		meterView{Name: "Agent's memory", Value: human.Bytes(m.RSSBytes)},
		meterView{Name: "Errors, 5 min", Value: human.Figure(m.ErrorRatePercent) + " %"},
		meterView{Name: "Latency p95", Value: human.Figure(m.LatencyP95Ms) + " ms"},
	)
}

func queueFacts(f Facts, c wire.CloudHealth, now time.Time) []fact {
	size := human.Bytes(c.QueueBytes)
	if f.QueueMaxBytes > 0 {
		size += " of " + human.Bytes(f.QueueMaxBytes)
	}
	delivery := onOff(c.Enabled)
	switch {
	case c.Paused != "":
		delivery = "paused: " + c.Paused
	case c.Enabled && !f.CloudFailingSince.IsZero():
		delivery = "failing for " + human.Duration(now.Sub(f.CloudFailingSince))
	}
	facts := []fact{
		{"Delivery", delivery},
		{"Waiting", plural(uint64(max(c.QueueDepth, 0)), "reading")},
		{"Stored", size},
		{"Oldest waiting", ago(c.OldestItemTimestamp, now, "none")},
		{"Last delivery", ago(c.LastFlushTime, now, "never")},
		{"Delivered today", count(uint64(max(c.MessagesSentToday, 0)))},
		{"Retries", count(uint64(max(c.TotalRetries, 0)))},
		{"Dead letters", count(uint64(max(c.DeadLetters, 0)))},
		{"Evicted", count(uint64(max(c.EvictedTotal, 0)))},
	}
	if c.LastError != nil {
		facts = append(facts, fact{"Last error", *c.LastError})
	}
	return facts
}

func aboutFacts(f Facts, h wire.Health, now time.Time) []fact {
	slot := "not run from a slot"
	if h.Agent.Slot != "" {
		slot = h.Agent.Slot
	}
	fleet := "off"
	if f.FleetEnabled {
		fleet = "not connected"
		if h.Fleet.Connected {
			fleet = "connected"
		}
	}
	facts := []fact{
		{"Up", human.Duration(time.Duration(h.UptimeSeconds) * time.Second)},
		{"Version", h.Version},
		{"Slot", slot},
	}
	if h.OTA.Previous != "" || h.OTA.LastOutcome != nil || h.OTA.State != "committed" { // else it never had an update
		facts = append(facts, fact{"Previous version", cmp.Or(h.OTA.Previous, "none")}, fact{"Update", cmp.Or(h.OTA.State, "none")})
	}
	if h.OTA.LastOutcome != nil {
		facts = append(facts, fact{"Last update", *h.OTA.LastOutcome})
	}
	if h.OTA.Target != "" {
		facts = append(facts, fact{"Next version", nextVersion(h.OTA)})
	}
	return append(facts,
		fact{"Fleet", fleet},
		fact{"Last command", ago(h.Fleet.LastCommandAt, now, "none")},
		fact{"Restarts, 5 min", strconv.Itoa(h.Agent.Restarts5m)},
		fact{"Config", strings.TrimSpace(h.Agent.ConfigVersion + " " + short(h.Agent.ConfigHash))},
		fact{"Clock", clockText(f, h)},
		fact{"Readings taken", count(h.Sensors.ReadingsTotal)},
		fact{"Polls skipped", count(h.Sensors.SkippedTotal)},
		fact{"Readings dropped", count(h.Sensors.DroppedTotal)},
	)
}

// nextVersion says what is ordered, and how far that is.
func nextVersion(o wire.OTAHealth) string {
	text := o.Target
	switch {
	case o.ProgressPercent != nil:
		text += fmt.Sprintf(", %.0f %% fetched", *o.ProgressPercent)
	case o.WaitingFor != "":
		text += ", waits for " + o.WaitingFor
	}
	if o.LastError != "" {
		text += "; the last try: " + o.LastError
	}
	return text
}

// clockText says what is known of the clock. Many a machine gets its time in a
// way that the kernel is not told of, so its silence is no fault.
func clockText(f Facts, h wire.Health) string {
	switch {
	case !f.ClockSet:
		return "not set"
	case h.Agent.ClockSynchronized:
		return "synchronized"
	}
	return "set; synchronization not reported by the kernel"
}

// concern orders readings by how much they need attention.
func concern(q wire.Quality) int {
	switch q {
	case wire.Bad:
		return 0
	case wire.Stale:
		return 1
	case wire.Uncertain:
		return 2
	}
	return 3
}

// quantity is the value with its unit, cut to what a cell can hold.
func quantity(r LiveReading) string {
	unit := clip(r.Unit, pageRunes)
	switch f, ok := r.Value.Float(); {
	case ok:
		return human.Quantity(f, unit)
	case r.Value.Kind() == wire.None:
		return "–"
	}
	return strings.TrimSpace(clip(r.Value.String(), pageRunes) + " " + unit)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// count formats a number with thin spaces between the thousands.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// plural counts things.
func plural(n uint64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return count(n) + " " + thing
}

func ago(t *time.Time, now time.Time, never string) string {
	if t == nil {
		return never
	}
	return human.Ago(*t, now)
}

func short(hash string) string { return hash[:min(len(hash), 12)] }
