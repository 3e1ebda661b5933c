package sensors

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// testSensor returns the config of a sensor after changes to its defaults.
func testSensor(change func(*config.Sensor)) config.Sensor {
	var d config.Sensor
	d.SetDefaults()
	d.Name, d.IngestType, d.SensorType, d.Unit = "s", "fake", "temperature", "C"
	if change != nil {
		change(&d)
	}
	return d
}

func newTestProcessor(t interface {
	Helper()
	Fatal(...any)
}, change func(*config.Sensor)) *processor {
	t.Helper()
	p, err := newProcessor(testSensor(change), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) moment {
	since := time.Duration(seconds * float64(time.Second))
	return moment{since: since, wall: epoch.Add(since)}
}

func number(v float64) Sample { return Sample{Value: wire.NumberValue(v)} }

func text(s string) Sample { return Sample{Value: wire.TextValue(s)} }

func ptr(v float64) *float64 { return &v }

// show writes readings shortly: name=value unit@second quality(reason).
func show(rs []Reading) string {
	var all []string
	for _, r := range rs {
		s := fmt.Sprintf("%s=%v@%g %s", r.Sensor, r.Value, r.Time.Sub(epoch).Seconds(), r.Quality)
		if r.Reason != "" {
			s += "(" + r.Reason + ")"
		}
		all = append(all, s)
	}
	return strings.Join(all, " | ")
}

// step is one read of a sensor and what must come of it.
type step struct {
	at      float64
	samples []Sample
	err     error
	hung    bool
	want    string
}

func TestProcessing(t *testing.T) {
	unplugged := errors.New("unplugged")
	tests := []struct {
		name   string
		change func(*config.Sensor)
		steps  []step
	}{
		{
			name: "reject_values compares the raw value, the valid range the calibrated one",
			change: func(d *config.Sensor) {
				d.RejectValues = []float64{85}
				d.Scale = 0.1
				d.Offset = 1
				d.ValidMax = ptr(10)
			},
			steps: []step{
				{at: 0, samples: []Sample{number(85)}, want: "s=-@0 bad(one of reject_values)"},
				{at: 1, samples: []Sample{number(840)}, want: "s=85@1 bad(above valid_max 10)"},
				{at: 2, samples: []Sample{number(80)}, want: "s=9@2 good"},
			},
		},
		{
			name:   "out of range keeps the value",
			change: func(d *config.Sensor) { d.ValidMin = ptr(-40); d.ValidMax = ptr(60) },
			steps: []step{
				{at: 0, samples: []Sample{number(-41)}, want: "s=-41@0 bad(below valid_min -40)"},
				{at: 1, samples: []Sample{number(-40)}, want: "s=-40@1 good"},
				{at: 2, samples: []Sample{number(60)}, want: "s=60@2 good"},
			},
		},
		{
			name:   "what is not finite is bad and null",
			change: func(d *config.Sensor) { d.Scale = 1e300 },
			steps: []step{
				{at: 0, samples: []Sample{number(math.NaN())}, want: "s=-@0 bad(no value: null, NaN or infinite)"},
				{at: 1, samples: []Sample{number(1e300)}, want: "s=-@1 bad(not finite after scale and offset)"},
			},
		},
		{
			name:   "texts are bounded and made valid",
			change: func(d *config.Sensor) { d.MaxTextBytes = 5 },
			steps: []step{
				{at: 0, samples: []Sample{text("abcdefg")}, want: "s=abcde@0 uncertain(text cut to max_text_bytes)"},
				{at: 1, samples: []Sample{text("abcdé")}, want: "s=abcd@1 uncertain(text cut to max_text_bytes)"},
				{at: 2, samples: []Sample{text("a\xff")}, want: "s=a\uFFFD@2 uncertain(invalid UTF-8 replaced)"},
				{at: 3, samples: []Sample{text("abc\xff")}, want: "s=abc@3 uncertain(invalid UTF-8 replaced)"},
				{at: 4, samples: []Sample{text("abcde")}, want: "s=abcde@4 good"},
			},
		},
		{
			name: "a failed read is told on change and then once a minute",
			steps: []step{
				{at: 0, samples: []Sample{number(1)}, want: "s=1@0 good"},
				{at: 10, err: unplugged, want: "s=-@10 bad(unplugged)"},
				{at: 20, err: unplugged},
				{at: 69, err: unplugged},
				{at: 70, err: unplugged, want: "s=-@70 bad(unplugged)"},
				{at: 75, err: errors.New("on fire"), want: "s=-@75 bad(on fire)"},
				{at: 80, samples: []Sample{number(1)}, want: "s=1@80 good"},
				{at: 90, err: unplugged, want: "s=-@90 bad(unplugged)"},
				{at: 91},
				{at: 92, err: unplugged, want: "s=-@92 bad(unplugged)"},
			},
		},
		{
			name: "so is a missing value",
			steps: []step{
				{at: 0, samples: []Sample{{}}, want: "s=-@0 bad(no value: null, NaN or infinite)"},
				{at: 10, samples: []Sample{{}}},
				{at: 60, samples: []Sample{{}}, want: "s=-@60 bad(no value: null, NaN or infinite)"},
			},
		},
		{
			name: "a partly failed read yields both",
			steps: []step{
				{at: 0, samples: []Sample{{Channel: "a", Value: wire.NumberValue(1)}}, err: unplugged, want: "s.a=1@0 good | s=-@0 bad(unplugged)"},
				{at: 1, samples: []Sample{{Channel: "a", Value: wire.NumberValue(2)}}, err: unplugged, want: "s.a=2@1 good"},
			},
		},
		{
			name:   "deadband holds back small changes, not large ones, silence or a change of quality",
			change: func(d *config.Sensor) { d.Deadband = 0.5; d.MaxSilenceSeconds = 30; d.ValidMax = ptr(10) },
			steps: []step{
				{at: 0, samples: []Sample{number(5)}, want: "s=5@0 good"},
				{at: 1, samples: []Sample{number(5.5)}},
				{at: 2, samples: []Sample{number(5.6)}, want: "s=5.6@2 good"},
				{at: 31, samples: []Sample{number(5.6)}},
				{at: 32, samples: []Sample{number(5.6)}, want: "s=5.6@32 good"},
				{at: 33, samples: []Sample{number(10.1)}, want: "s=10.1@33 bad(above valid_max 10)"},
				{at: 34, samples: []Sample{number(9.9)}, want: "s=9.9@34 good"},
				{at: 35, err: unplugged, want: "s=-@35 bad(unplugged)"},
				{at: 36, samples: []Sample{number(9.9)}, want: "s=9.9@36 good"},
			},
		},
		{
			name:   "deadband sends texts and truth values on change",
			change: func(d *config.Sensor) { d.Deadband = 1 },
			steps: []step{
				{at: 0, samples: []Sample{text("open")}, want: "s=open@0 good"},
				{at: 1, samples: []Sample{text("open")}},
				{at: 2, samples: []Sample{text("shut")}, want: "s=shut@2 good"},
				{at: 3, samples: []Sample{{Value: wire.BoolValue(true)}}, want: "s=true@3 good"},
				{at: 4, samples: []Sample{{Value: wire.BoolValue(true)}}},
				{at: 304, samples: []Sample{{Value: wire.BoolValue(true)}}, want: "s=true@304 good"},
			},
		},
		{
			name:   "windows follow each other on one grid",
			change: func(d *config.Sensor) { d.Reduce = "mean"; d.WindowSeconds = 10 },
			steps: []step{
				{at: 2, samples: []Sample{number(1)}},
				{at: 11, samples: []Sample{number(2)}},
				{at: 12, samples: []Sample{number(10)}, want: "s=1.5@12 good"},
				{at: 45, samples: []Sample{number(20)}, want: "s=10@22 good"}, // nothing came in between
				{at: 52, samples: []Sample{number(0)}, want: "s=20@52 good"},
			},
		},
		{
			name:   "bad samples stay out of windows and are counted",
			change: func(d *config.Sensor) { d.Reduce = "max"; d.WindowSeconds = 10; d.ValidMax = ptr(50) },
			steps: []step{
				{at: 0, samples: []Sample{number(1)}},
				{at: 3, samples: []Sample{number(99)}},
				{at: 6, err: unplugged},
				{at: 10, err: unplugged, want: "s=1@10 uncertain(2 of 3 samples bad: unplugged)"},
				{at: 13, hung: true},
				{at: 20, samples: []Sample{text("x")}, want: "s=-@20 bad(no good sample in the window: stuck)"},
				{at: 30, want: "s=-@30 bad(no good sample in the window: reduce needs numbers)"},
				{at: 40, want: "s=-@40 bad(no good sample in the window)"},
				{at: 50}, // unchanged
			},
		},
		{
			name:   "a window made by failures alone goes with them",
			change: func(d *config.Sensor) { d.Reduce = "last"; d.WindowSeconds = 10 },
			steps: []step{
				{at: 0, err: unplugged},
				{at: 10, samples: []Sample{{Channel: "a", Value: wire.NumberValue(1)}}, want: "s=-@10 bad(no good sample in the window: unplugged)"},
				{at: 20, want: "s.a=1@20 good"},
				{at: 30, want: "s.a=-@30 bad(no good sample in the window)"},
			},
		},
		{
			name:   "count counts good samples of any kind",
			change: func(d *config.Sensor) { d.Reduce = "count"; d.WindowSeconds = 10 },
			steps: []step{
				{at: 0, samples: []Sample{text("a"), text("b"), number(math.NaN())}},
				{at: 10, want: "s=2@10 uncertain(1 of 3 samples bad: no value: null, NaN or infinite)"},
			},
		},
		{
			name:   "stale repeats the last good value, then once per max_silence",
			change: func(d *config.Sensor) { d.StaleAfterSeconds = 20; d.MaxSilenceSeconds = 30; d.Deadband = 1 },
			steps: []step{
				{at: 0, samples: []Sample{number(7)}, want: "s=7@0 good"},
				{at: 10, err: unplugged, want: "s=-@10 bad(unplugged)"},
				{at: 20, err: unplugged, want: "s=7@20 stale(no good value for 20 s)"},
				{at: 49},
				{at: 50, hung: true, want: "s=-@50 bad(stuck) | s=7@50 stale(no good value for 20 s)"},
				{at: 51, samples: []Sample{number(7)}, want: "s=7@51 good"},
				{at: 71, samples: []Sample{number(7)}},
			},
		},
		{
			name: "what a sensor says of its samples is kept",
			steps: []step{
				{at: 5, samples: []Sample{{Channel: "a", Value: wire.NumberValue(1), Time: epoch, Quality: wire.Uncertain, Reason: "warming up"}}, want: "s.a=1@0 uncertain(warming up)"},
				{at: 6, samples: []Sample{{Value: wire.NumberValue(1), Quality: wire.Bad}}, want: "s=1@6 bad(no reason given)"},
				{at: 7, samples: []Sample{{Value: wire.NumberValue(1), Quality: "great"}}, want: "s=1@7 uncertain(the sensor gave an unknown quality)"},
				{at: 8, samples: []Sample{{Value: wire.NumberValue(1), Time: time.Unix(1<<45, 0)}}, want: "s=1@8 uncertain(the sensor gave an impossible time)"},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newTestProcessor(t, test.change)
			for _, s := range test.steps {
				var got []Reading
				if s.hung {
					got = p.passed(nil, "stuck", at(s.at))
				} else {
					got, _ = p.finished(nil, s.samples, s.err, at(s.at))
				}
				if show(got) != s.want {
					t.Errorf("at %gs:\n got %s\nwant %s", s.at, show(got), s.want)
				}
			}
		})
	}
}

func TestReadingCarriesConfig(t *testing.T) {
	p := newTestProcessor(t, func(d *config.Sensor) { d.Tags = map[string]string{"room": "1"}; d.Priority = config.PriorityHigh })
	got, err := p.finished(nil, []Sample{number(1), {Channel: "c", Value: wire.NumberValue(2), Type: "power", Unit: "W"}}, nil, at(0))
	if err != nil || len(got) != 2 {
		t.Fatalf("got %s, %v", show(got), err)
	}
	if r := got[0]; r.Type != "temperature" || r.Unit != "C" || r.Ingest != "fake" || r.Tags["room"] != "1" || r.Priority != config.PriorityHigh {
		t.Errorf("configured: %+v", r)
	}
	if r := got[1]; r.Sensor != "s.c" || r.Type != "power" || r.Unit != "W" {
		t.Errorf("overridden: %+v", r)
	}
}

func TestStaleMetadata(t *testing.T) {
	p := newTestProcessor(t, func(d *config.Sensor) { d.StaleAfterSeconds = 10 })
	got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(1), Meta: map[string]wire.Value{"topic": wire.TextValue("a/b")}}}, nil, at(0))
	clear(got[0].Meta) // it belongs to the receiver
	got, _ = p.finished(nil, nil, nil, at(10))
	if len(got) != 1 || got[0].Meta["topic"] != wire.TextValue("a/b") || got[0].Meta["last_good_at"] != wire.TextValue("2026-01-02T03:04:05.000Z") {
		t.Errorf("got %+v", got)
	}
}

func TestNothingUsableIsAFailedRead(t *testing.T) {
	p := newTestProcessor(t, func(d *config.Sensor) { d.ValidMax = ptr(1) })
	if _, err := p.finished(nil, []Sample{number(5)}, nil, at(0)); err == nil || err.Error() != "above valid_max 1" {
		t.Errorf("all bad: %v", err)
	}
	if _, err := p.finished(nil, []Sample{number(5), number(1)}, nil, at(1)); err != nil {
		t.Errorf("some good: %v", err)
	}
	if _, err := p.finished(nil, nil, nil, at(2)); err != nil {
		t.Errorf("nothing to tell: %v", err)
	}
}

func TestProcessorRefusesConfig(t *testing.T) {
	for name, change := range map[string]func(*config.Sensor){
		"window_seconds": func(d *config.Sensor) { d.Reduce = "mean" },
		"valid_min":      func(d *config.Sensor) { d.ValidMin, d.ValidMax = ptr(2), ptr(1) },
	} {
		if _, err := newProcessor(testSensor(change), time.Second); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeadbandNeverHidesALargeChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deadband := rapid.Float64Range(0.01, 5).Draw(t, "deadband")
		silence := rapid.Float64Range(1, 100).Draw(t, "silence")
		p := newTestProcessor(t, func(d *config.Sensor) { d.Deadband, d.MaxSilenceSeconds = deadband, silence })
		now, known, toldAt := 0.0, math.NaN(), 0.0
		for _, v := range rapid.SliceOf(rapid.Float64Range(-10, 10)).Draw(t, "values") {
			now += float64(rapid.IntRange(1, 20).Draw(t, "gap"))
			got, _ := p.finished(nil, []Sample{number(v)}, nil, at(now))
			if len(got) == 1 {
				if !math.IsNaN(known) && math.Abs(v-known) <= deadband && now-toldAt < silence {
					t.Fatalf("sent %g after %g within the deadband", v, known)
				}
				known, toldAt = v, now
			}
			if !(math.Abs(v-known) <= deadband) || now-toldAt >= silence {
				t.Fatalf("the receiver knows %g of %gs ago, the value is %g", known, now-toldAt, v)
			}
		}
	})
}

func BenchmarkProcess(b *testing.B) {
	p := newTestProcessor(b, func(d *config.Sensor) { d.Deadband = 0.1; d.ValidMax = ptr(100); d.StaleAfterSeconds = 60 })
	samples := []Sample{number(1)}
	var dst []Reading
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		samples[0] = number(float64(i % 50))
		dst, _ = p.finished(dst[:0], samples, nil, at(float64(i)))
	}
}
