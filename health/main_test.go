package health

import (
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of the examples.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// exampleFacts is a device with nothing to complain of.
func exampleFacts() Facts {
	at := func(d time.Duration) *time.Time {
		t := now.Add(-d)
		return &t
	}
	return Facts{
		Health: wire.Health{
			Version: "2.3.1", UptimeSeconds: 3600, DeviceID: "FLEET-0123456789ab", Group: "default", BootID: "6f1c5b5e-3f0e-4d0c-9c39-2f6a0d3b7a11",
			Agent:   wire.AgentHealth{Running: true, Slot: "a", ConfigHash: "c0ffee", EffectiveConfigHash: "beef", ClockSynchronized: true},
			Sensors: wire.SensorsHealth{Configured: 3, OK: 3, ReadingsTotal: 2160, LastReadingAt: at(time.Second)},
			Cloud:   wire.CloudHealth{Enabled: true, QueueDepth: 12, QueueBytes: 4096, OldestItemTimestamp: at(time.Minute), LastFlushTime: at(30 * time.Second), MessagesSentToday: 1500},
			Privacy: wire.PrivacyHealth{Enabled: true, Rules: 2, PolicyHash: "0ddba11", DroppedTotal: 3, TransformedTotal: 7},
			Fleet:   wire.FleetHealth{Connected: true},
			OTA:     wire.OTAHealth{State: "committed", Active: "2.3.1", Previous: "2.3.0"},
		},
		QueueMaxBytes: 256 << 20, ClockSet: true, FleetEnabled: true, BaseDir: "/opt",
	}
}

// exampleMetrics are those of an idle machine.
func exampleMetrics() wire.Metrics {
	p := func(f float64) *float64 { return &f }
	return wire.Metrics{CPUPercent: p(3.1), MemoryPercent: p(41), DiskPercent: p(62), TemperatureCelsius: p(48.3), Load1: p(0.2), RSSBytes: 20 << 20, LatencyP95Ms: 1.2}
}

// cleared passes a reading through a filter that lets everything pass.
func cleared(t testing.TB, r sensors.Reading) privacy.Cleared {
	t.Helper()
	f, err := privacy.New(config.Privacy{}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	out := f.Clear(nil, r)
	if len(out) != 1 {
		t.Fatalf("the filter made %d readings of one", len(out))
	}
	return out[0]
}

// number is a good reading of a number.
func number(sensor string, v float64) sensors.Reading {
	return sensors.Reading{Sensor: sensor, Type: "temperature", Value: wire.NumberValue(v), Unit: "C", Time: time.Now(), Quality: wire.Good}
}
