package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// hotBoiler returns what a sensor that gives 95, with a limit at 90 and as many
// metadata fields as a sample may have, makes of one read.
func hotBoiler(t *testing.T) []sensors.Reading {
	t.Helper()
	var d config.Sensor
	d.SetDefaults()
	limit := 90.0
	d.Name, d.IngestType, d.Unit, d.CritAbove = "boiler", "fixed", "C", &limit
	p, err := sensors.NewPoller(sensors.Options{
		Defaults: config.Sensors{PollIntervalSeconds: 1, TimeoutSeconds: 1, Devices: []config.Sensor{d}},
		Types: []sensors.Type{{Name: "fixed", New: func(config.Sensor, sensors.Env) (sensors.Sensor, error) {
			return fixedSensor(95), nil
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.ReadOnce(t.Context(), "boiler")
	if err != nil || len(got) != 1 || got[0].Alert == nil {
		t.Fatalf("the sensor gave %+v, %v", got, err)
	}
	return got
}

type fixedSensor float64

func (f fixedSensor) Read(context.Context) ([]sensors.Sample, error) {
	meta := map[string]wire.Value{}
	for i := range 32 {
		meta[fmt.Sprint("a", i)] = wire.NumberValue(float64(i))
	}
	return []sensors.Sample{{Value: wire.NumberValue(float64(f)), Meta: meta}}, nil
}

// TestAlertsAreMadeOfClearedReadings has a privacy rule do something to the
// reading that raises an alert.
func TestAlertsAreMadeOfClearedReadings(t *testing.T) {
	all := health.Alert{
		Alert:      wire.Alert{Sensor: "boiler", Level: wire.AlertCritical, Limit: "crit_above"},
		LimitValue: 90, Value: wire.NumberValue(95), Unit: "C",
	}
	with := func(change func(*health.Alert)) []health.Alert {
		a := all
		change(&a)
		return []health.Alert{a}
	}
	withoutValue := with(func(a *health.Alert) { a.Value = wire.Value{} })
	for name, tt := range map[string]struct {
		rule config.Rule
		want []health.Alert
	}{
		"none":                {config.Rule{SensorPattern: "other", Action: "drop"}, []health.Alert{all}},
		"drop":                {config.Rule{SensorPattern: "boiler", Action: "drop"}, nil},
		"drop by the field":   {config.Rule{SensorPattern: "boiler", Field: "alert", Action: "drop"}, nil},
		"drop the field":      {config.Rule{Field: "alert", Action: "drop_field"}, nil},
		"redact the field":    {config.Rule{Field: "alert", Action: "redact"}, nil},
		"aggregate":           {config.Rule{SensorPattern: "boiler", Action: "aggregate", WindowMinutes: 15, Statistic: "mean"}, nil},
		"redact":              {config.Rule{SensorPattern: "boiler", Action: "redact", Replacement: "[redacted]"}, withoutValue},
		"hash":                {config.Rule{SensorPattern: "boiler", Action: "hash"}, withoutValue},
		"round":               {config.Rule{SensorPattern: "boiler", Action: "round", Step: 20}, with(func(a *health.Alert) { a.Value = wire.NumberValue(100) })},
		"drop only the limit": {config.Rule{Field: "alert_limit", Action: "drop_field"}, with(func(a *health.Alert) { a.Limit, a.LimitValue = "", 0 })},
	} {
		t.Run(name, func(t *testing.T) {
			filter, err := privacy.New(config.Privacy{Enabled: true, Rules: []config.Rule{tt.rule}}, privacy.Options{Key: make([]byte, privacy.KeySize), Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			p := newPipeline(filter, nil, func(privacy.Cleared) {}, 100, zerolog.Nop())
			p.accept(hotBoiler(t))
			got, _ := p.alerts.list(time.Now())
			for i := range got {
				if age := time.Since(got[i].Since); age < 0 || age > time.Minute {
					t.Errorf("it began %v ago", age)
				}
				got[i].Since = time.Time{}
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(wire.Value{})); diff != "" {
				t.Errorf("alerts (-want +got):\n%s", diff)
			}
		})
	}
}

// telling is a reading that tells an alert level.
func telling(sensor string, level wire.AlertLevel, limit string) sensors.Reading {
	return sensors.Reading{
		Sensor: sensor, Value: wire.NumberValue(1), Quality: wire.Good, Time: time.Now(),
		Alert: &sensors.Alert{Level: level, Limit: limit, At: 2},
		Meta:  map[string]wire.Value{wire.MetaAlert: wire.TextValue(string(level)), wire.MetaAlertLimit: wire.TextValue(limit)},
	}
}

func TestAlertsEndAndChange(t *testing.T) {
	p := newTestPipeline(t, &fakeQueue{}, 100)
	for _, step := range []struct {
		r    sensors.Reading
		want string
	}{
		{telling("a", wire.AlertOK, ""), ""},
		{telling("a", wire.AlertWarning, "warn_above"), "a warning warn_above"},
		{telling("a.b", wire.AlertCritical, "crit_above"), "a warning warn_above, a.b critical crit_above"},
		{telling("a", wire.AlertCritical, "crit_above"), "a critical crit_above, a.b critical crit_above"},
		{readings(0, 1)[0], "a critical crit_above, a.b critical crit_above"},
		{telling("a", wire.AlertOK, "crit_above"), "a.b critical crit_above"},
		{telling("a.b", wire.AlertWarning, "warn_below"), "a.b warning warn_below"},
		{telling("a.b", wire.AlertOK, "warn_below"), ""},
	} {
		p.accept([]sensors.Reading{step.r})
		raised, _ := p.alerts.list(time.Now())
		var got []string
		for _, a := range raised {
			got = append(got, fmt.Sprint(a.Sensor, " ", a.Level, " ", a.Limit))
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != step.want {
			t.Errorf("after %s %s: %q, want %q", step.r.Sensor, step.r.Meta[wire.MetaAlert], s, step.want)
		}
	}
}

func TestAlertsAreBounded(t *testing.T) {
	p := newTestPipeline(t, &fakeQueue{}, 10)
	for i := range maxAlerts + 5 {
		p.accept([]sensors.Reading{telling(fmt.Sprint("s", i), wire.AlertWarning, "warn_above")})
	}
	p.accept([]sensors.Reading{telling("s0", wire.AlertCritical, "crit_above")}) // one that is known may change
	cfg := config.Default()
	g := &generation{cfg: &cfg, pipeline: p}
	var f health.Facts
	g.alertFacts(&f, time.Now())
	if want := "alert: 5 more were raised than the 1024 that are remembered"; len(f.Alerts) != maxAlerts || len(f.Warnings) != 1 || f.Warnings[0] != want {
		t.Errorf("%d alerts, %q", len(f.Alerts), f.Warnings)
	}
	if i := slices.IndexFunc(f.Alerts, func(a health.Alert) bool { return a.Sensor == "s0" }); i < 0 || f.Alerts[i].Level != wire.AlertCritical {
		t.Error("s0 is not critical")
	}
}

// receiver is the endpoint that readings are delivered to. It is out of order
// until it is open.
type receiver struct {
	mu   sync.Mutex
	open bool
	took []wire.Reading
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var batch []wire.Reading
	for line := range strings.Lines(string(body)) {
		var reading wire.Reading
		if json.Unmarshal([]byte(line), &reading) != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		batch = append(batch, reading)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.took = append(r.took, batch...)
}

func (r *receiver) opens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = true
}

func (r *receiver) taken() []wire.Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took)
}

func isCritical(r wire.Reading) bool {
	return r.Meta[wire.MetaAlert] == wire.TextValue("critical") && r.Meta[wire.MetaAlertLimit] == wire.TextValue("crit_below")
}

// TestAlertOfARunningAgent has a square wave cross a limit while nothing can be
// delivered: /health shows the alert, its end too, and when delivery works
// again the alert goes before what is older.
func TestAlertOfARunningAgent(t *testing.T) {
	r := &receiver{}
	endpoint := httptest.NewServer(r)
	defer endpoint.Close()
	cfg, err := config.Parse("config.toml", []byte(`
[[sensors.devices]]
name = "boiler"
ingest_type = "simulator"
waveform = "square"
min = 20.0
max = 90.0
noise = 0.0
period_seconds = 1.0
poll_interval_seconds = 0.05
unit = "C"
crit_below = 30.0
hysteresis = 5.0
alert_for_seconds = 0.1
[cloud]
enabled = true
endpoint = "`+endpoint.URL+`"
compression = "none"
commit_interval_seconds = 0.0
flush_interval_seconds = 0.1
retry_min_seconds = 0.01
retry_max_seconds = 0.05
[health]
enabled = false
[health.thresholds]
disk_warning_percent = 0
disk_critical_percent = 0
memory_warning_percent = 0
memory_critical_percent = 0
temperature_warning_celsius = 0
temperature_critical_celsius = 0
`), config.Options{SensorTypes: all.Options(), Check: func(c *config.Config) error { return CheckConfig(c, all.Types()) }})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	a, err := New(Options{
		Paths: NewPaths(t.TempDir(), ""), Config: cfg, Types: all.Types(),
		Clock: clock.System(time.Time{}), Log: zerolog.Nop(),
		Notify: func(state string) {
			if state == daemon.SdNotifyReady {
				close(ready)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("not ready within 30 s")
	}
	var d wire.Health
	await(t, "the alert is in /health", func() bool {
		d = a.Document()
		return d.Sensors.AlertsCritical == 1
	})
	if len(d.Sensors.Alerts) != 1 || d.Sensors.Alerts[0].Sensor != "boiler" || d.Sensors.Alerts[0].Limit != "crit_below" || d.Checks["sensors"] != wire.CheckOK {
		t.Errorf("%v, %+v", d.Checks, d.Sensors)
	}
	if said := strings.Join(d.Warnings, "\n"); !strings.Contains(said, "alert: boiler: critical for ") || !strings.Contains(said, ", beyond crit_below (30 C), 20 C when it began") {
		t.Errorf("the warnings are %q", said)
	}
	await(t, "the alert is queued", func() bool { return a.Document().Cloud.QueueDepth >= int64(d.Sensors.ReadingsTotal) })
	r.opens()
	await(t, "the alert is over", func() bool { return len(a.Document().Sensors.Alerts) == 0 })

	// Before the first alert there were ordinary readings, of half a second.
	var took []wire.Reading
	alert, older := -1, -1
	await(t, "readings older than the alert are delivered", func() bool {
		took = r.taken()
		alert = slices.IndexFunc(took, isCritical)
		older = slices.IndexFunc(took, func(r wire.Reading) bool { return len(r.Meta) == 0 && alert >= 0 && r.Seq < took[alert].Seq })
		return older >= 0
	})
	if alert > older || slices.ContainsFunc(took[:alert], func(r wire.Reading) bool { return len(r.Meta) == 0 }) {
		t.Errorf("the alert arrived as number %d, an older reading as number %d", alert, older)
	}
}

// await waits for a condition.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
