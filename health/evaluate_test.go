package health

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestEvaluate changes one thing of a healthy device at a time.
func TestEvaluate(t *testing.T) {
	p := func(f float64) *float64 { return &f }
	failing := func(names ...string) func(*Facts, *wire.Metrics, *config.Thresholds) {
		return func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.Health.Sensors.Failing = names
			f.Health.Sensors.OK = f.Health.Sensors.Configured - len(names)
			f.SensorReasons = map[string]string{"temp-01": "no answer within 5 s"}
		}
	}
	cases := []struct {
		name     string
		change   func(*Facts, *wire.Metrics, *config.Thresholds)
		probes   []ProbeResult
		status   wire.Status
		bad      map[string]wire.CheckState // checks that are not ok
		warnings []string
	}{
		{name: "nothing wrong", status: wire.Healthy},

		{name: "one sensor fails", change: failing("temp-01"), status: wire.Degraded,
			bad:      map[string]wire.CheckState{"sensors": "warning"},
			warnings: []string{"sensors: temp-01 fails: no answer within 5 s"}},
		{name: "all sensors fail", change: failing("c", "temp-01", "b"), status: wire.Unhealthy,
			bad: map[string]wire.CheckState{"sensors": "critical"},
			warnings: []string{ // in the order of sensors.failing
				"sensors: c fails: the reason is not known",
				"sensors: temp-01 fails: no answer within 5 s",
				"sensors: b fails: the reason is not known",
			}},
		{name: "two of three, critical at half", status: wire.Unhealthy,
			change: func(f *Facts, m *wire.Metrics, t *config.Thresholds) {
				failing("b", "c")(f, m, t)
				t.SensorsCriticalPercent = 50
			},
			bad:      map[string]wire.CheckState{"sensors": "critical"},
			warnings: []string{"sensors: b fails: the reason is not known", "sensors: c fails: the reason is not known"}},
		{name: "all fail, critical turned off", status: wire.Degraded,
			change: func(f *Facts, m *wire.Metrics, t *config.Thresholds) {
				failing("temp-01", "temp-01", "temp-01")(f, m, t)
				t.SensorsCriticalPercent = 0
			},
			bad:      map[string]wire.CheckState{"sensors": "warning"},
			warnings: slices.Repeat([]string{"sensors: temp-01 fails: no answer within 5 s"}, 3)},
		{name: "many fail", status: wire.Degraded,
			change: func(f *Facts, m *wire.Metrics, t *config.Thresholds) {
				f.Health.Sensors.Configured = 50
				failing(append(slices.Repeat([]string{"temp-01"}, 32), "f", "g")...)(f, m, t)
			},
			bad:      map[string]wire.CheckState{"sensors": "warning"},
			warnings: append(slices.Repeat([]string{"sensors: temp-01 fails: no answer within 5 s"}, 32), "sensors: and 2 more, 34 of 50 fail")},
		{name: "no sensors", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.Health.Sensors = wire.SensorsHealth{}
		}},

		{name: "queue cannot accept", status: wire.Unhealthy,
			change:   func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) { f.QueueFault = "no space left on device" },
			bad:      map[string]wire.CheckState{"queue": "critical"},
			warnings: []string{"queue: cannot accept readings: no space left on device; they wait in memory, and the oldest are dropped when that is full"}},
		{name: "queue at its threshold", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.QueueMaxBytes, f.Health.Cloud.QueueBytes = 1000, 800
		}},
		{name: "queue above its threshold", status: wire.Degraded,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.QueueMaxBytes, f.Health.Cloud.QueueBytes, f.Health.Cloud.QueueDepth = 256<<20, 225<<20, 90000
			},
			bad:      map[string]wire.CheckState{"queue": "warning"},
			warnings: []string{"queue: 87.9 % of 256 MiB used by 90000 waiting readings (warning above 80 %); restore delivery or raise cloud.max_queue_bytes, or the least important are evicted"}},

		{name: "cloud fails briefly", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.CloudFailingSince = now.Add(-15 * time.Minute)
		}},
		{name: "cloud fails for long", status: wire.Degraded,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.CloudFailingSince = now.Add(-72 * time.Hour)
				last := "connection refused"
				f.Health.Cloud.LastError = &last
			},
			bad:      map[string]wire.CheckState{"cloud": "warning"},
			warnings: []string{"cloud: deliveries have failed for 3 days (warning after 15 min), last with: connection refused; 12 readings wait in the queue, check the network and cloud.endpoint"}},
		{name: "cloud fails for long, warning turned off", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, t *config.Thresholds) {
			f.CloudFailingSince = now.Add(-72 * time.Hour)
			t.CloudWarningSeconds = 0
		}},
		{name: "cloud disabled", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.CloudFailingSince = now.Add(-72 * time.Hour)
			f.Health.Cloud.Enabled = false
		}},
		{name: "cloud paused", status: wire.Degraded,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.Health.Cloud.Paused = "the server refused the API key (401)"
			},
			bad:      map[string]wire.CheckState{"cloud": "warning"},
			warnings: []string{"cloud: delivery is paused: the server refused the API key (401); readings stay in the queue until this is fixed"}},

		{name: "disk at its threshold", status: wire.Healthy, change: func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.DiskPercent = p(80) }},
		{name: "disk above its threshold", status: wire.Degraded,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.DiskPercent = p(91) },
			bad:      map[string]wire.CheckState{"disk_space": "warning"},
			warnings: []string{"disk_space: 91 % of /opt used (warning above 80 %); free some space there"}},
		{name: "disk critical", status: wire.Unhealthy,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.DiskPercent = p(97.1) },
			bad:      map[string]wire.CheckState{"disk_space": "critical"},
			warnings: []string{"disk_space: 97.1 % of /opt used (critical above 97 %); free some space there"}},
		{name: "disk thresholds turned off", status: wire.Healthy, change: func(_ *Facts, m *wire.Metrics, t *config.Thresholds) {
			m.DiskPercent, t.DiskWarningPercent, t.DiskCriticalPercent = p(100), 0, 0
		}},
		{name: "memory", status: wire.Degraded,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.MemoryPercent = p(93.5) },
			bad:      map[string]wire.CheckState{"memory": "warning"},
			warnings: []string{"memory: 93.5 % used (warning above 90 %); find the program that grows"}},
		{name: "memory critical", status: wire.Unhealthy,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.MemoryPercent = p(99) },
			bad:      map[string]wire.CheckState{"memory": "critical"},
			warnings: []string{"memory: 99 % used (critical above 98 %); find the program that grows"}},
		{name: "temperature", status: wire.Degraded,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.TemperatureCelsius = p(83) },
			bad:      map[string]wire.CheckState{"temperature": "warning"},
			warnings: []string{"temperature: 83 °C (warning above 80 °C); check cooling and load"}},
		{name: "temperature critical", status: wire.Unhealthy,
			change:   func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) { m.TemperatureCelsius = p(95.1) },
			bad:      map[string]wire.CheckState{"temperature": "critical"},
			warnings: []string{"temperature: 95.1 °C (critical above 95 °C); check cooling and load"}},
		{name: "figures that the machine cannot give", status: wire.Healthy, change: func(_ *Facts, m *wire.Metrics, _ *config.Thresholds) {
			*m = wire.Metrics{}
		}},

		{name: "fleet link briefly down", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.FleetDownSince, f.Health.Fleet.Connected = now.Add(-time.Minute), false
		}},
		{name: "fleet link long down", status: wire.Degraded,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.FleetDownSince, f.Health.Fleet.Connected = now.Add(-3*time.Hour), false
			},
			bad:      map[string]wire.CheckState{"fleet": "warning"},
			warnings: []string{"fleet: no connection to the controller for 3 h (warning after 15 min); check the network and fleet.mqtt_url"}},
		{name: "fleet off", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.FleetDownSince, f.FleetEnabled = now.Add(-3*time.Hour), false
		}},

		{name: "clock not set", status: wire.Degraded,
			change:   func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) { f.ClockSet = false },
			bad:      map[string]wire.CheckState{"clock": "warning"},
			warnings: []string{"clock: the time is not set, it reads 2026-03-01 12:00 UTC; check the time service or the clock's battery"}},
		{name: "clock not synchronized", status: wire.Healthy, change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
			f.Health.Agent.ClockSynchronized = false
		}},

		{name: "a loop stalls", status: wire.Unhealthy,
			change:   func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) { f.Stalled = []string{"poller", "uplink"} },
			bad:      map[string]wire.CheckState{"agent": "critical"},
			warnings: []string{"agent: poller, uplink no longer responding; restart the agent unless its service manager does"}},
		{name: "components restart", status: wire.Degraded,
			change: func(f *Facts, m *wire.Metrics, t *config.Thresholds) {
				failing("temp-01")(f, m, t)
				f.Faults = []Fault{{"sensors", "poller", "panic: index out of range"}, {"agent", "log", "disk full"}, {"unheard of", "x", "y"}}
			},
			bad: map[string]wire.CheckState{"sensors": "warning", "agent": "warning"},
			warnings: []string{
				"sensors: temp-01 fails: no answer within 5 s",
				"sensors: poller failed and is tried again by itself: panic: index out of range",
				"agent: log failed and is tried again by itself: disk full",
				"agent: x failed and is tried again by itself: y",
			}},
		{name: "a fault does not soften what is critical", status: wire.Unhealthy,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.QueueFault = "disk full"
				f.Faults = []Fault{{"queue", "writer", "disk full"}}
			},
			bad: map[string]wire.CheckState{"queue": "critical"},
			warnings: []string{
				"queue: cannot accept readings: disk full; they wait in memory, and the oldest are dropped when that is full",
				"queue: writer failed and is tried again by itself: disk full",
			}},
		{name: "the config file was refused", status: wire.Degraded,
			change: func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) {
				f.ConfigRefusal = &Refusal{now.Add(-time.Hour), "config.toml:3:1: unknown key"}
			},
			bad:      map[string]wire.CheckState{"agent": "warning"},
			warnings: []string{"agent: the config file was refused at 2026-03-01 11:00:00 UTC, the one before is in force, and the next start will fail: config.toml:3:1: unknown key"}},
		{name: "dead letters change no verdict", status: wire.Healthy,
			change:   func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) { f.Health.Cloud.DeadLetters = 2 },
			warnings: []string{"2 readings refused by the receiver and set aside; see `pyvorin-edge queue dead list`"}},

		{name: "probes", status: wire.Unhealthy,
			probes: []ProbeResult{{Name: "web", State: wire.CheckOK}, {"db", wire.CheckWarning, "refused"}, {"ml", wire.CheckCritical, "answered 500"}, {Name: "new"}, {"late", "", "refused (1 in a row, judged at 3)"}},
			bad:    map[string]wire.CheckState{"web": "ok", "db": "warning", "ml": "critical"}, // and neither "new" nor "late"
			warnings: []string{
				"db: refused",
				"ml: answered 500",
				"late: refused (1 in a row, judged at 3)",
			}},
		{name: "free warnings change no verdict", status: wire.Healthy,
			change:   func(f *Facts, _ *wire.Metrics, _ *config.Thresholds) { f.Warnings = []string{"privacy is disabled"} },
			warnings: []string{"privacy is disabled"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, m, th := exampleFacts(), exampleMetrics(), config.Default().Health.Thresholds
			if c.change != nil {
				c.change(&f, &m, &th)
			}
			h := Evaluate(f, m, c.probes, th, now)
			if h.Status != c.status {
				t.Errorf("status %s, want %s", h.Status, c.status)
			}
			checks := map[string]wire.CheckState{
				"sensors": "ok", "queue": "ok", "cloud": "ok", "disk_space": "ok", "memory": "ok", "temperature": "ok", "fleet": "ok", "clock": "ok",
			}
			for name, state := range c.bad {
				checks[name] = state
			}
			if diff := cmp.Diff(checks, h.Checks); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
			want := append([]string{}, c.warnings...)
			if diff := cmp.Diff(want, h.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDocument holds the document against its record, byte for byte: its keys
// and their order are a contract.
func TestDocument(t *testing.T) {
	f := exampleFacts()
	zone := time.FixedZone("elsewhere", 7200)
	local := now.In(zone).Add(123456789 * time.Nanosecond)
	f.Health.Sensors.LastReadingAt = &local
	f.Alerts = []Alert{{
		Alert:      wire.Alert{Sensor: "boiler", Level: wire.AlertCritical, Since: now.In(zone).Add(-12 * time.Minute), Limit: "crit_above"},
		LimitValue: 95, Value: wire.NumberValue(97.5), Unit: "C",
	}}
	b, err := json.Marshal(Evaluate(f, exampleMetrics(), nil, config.Default().Health.Thresholds, now))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "health.json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, append(got.Bytes(), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()+"\n"); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

// TestDocumentOfNothing has every list and key in place, so that readers need
// not ask whether they are.
func TestDocumentOfNothing(t *testing.T) {
	b, err := json.Marshal(Evaluate(Facts{}, wire.Metrics{}, nil, config.Thresholds{}, now))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"failing":[]`, `"alerts":[]`, `"oldest_item_timestamp":null`, `"last_error":null`, `"last_command_at":null`, `"checks":{"clock":"warning"`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("no %s in %s", part, b)
		}
	}
}

func TestClip(t *testing.T) {
	for s, want := range map[string]string{"": "", "äöü": "äöü", "äöüß": "äöü…"} {
		if got := clip(s, 3); got != want {
			t.Errorf("clip(%q, 3) = %q, want %q", s, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1\u202f000", 1234567: "1\u202f234\u202f567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}
