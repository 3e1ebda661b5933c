package sensors

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// showAlerts is show, of the alert levels that readings tell: name=value@second
// level(limit).
func showAlerts(rs []Reading) string {
	var all []string
	for _, r := range rs {
		if r.Alert == nil {
			continue
		}
		s := fmt.Sprintf("%s=%v@%g %s", r.Sensor, r.Value, r.Time.Sub(epoch).Seconds(), r.Alert.Level)
		if r.Alert.Limit != "" {
			s += "(" + r.Alert.Limit + ")"
		}
		all = append(all, s)
	}
	return strings.Join(all, " | ")
}

// aged is a sample that was measured so many seconds before epoch+at.
func aged(v, at, age float64) []Sample {
	return []Sample{{Value: wire.NumberValue(v), Time: epoch.Add(time.Duration((at - age) * float64(time.Second)))}}
}

// TestAlertLevels reads a sensor of an interval of 10 s whose limits are 5 and
// 10 below, 80 and 90 above.
func TestAlertLevels(t *testing.T) {
	unplugged := errors.New("unplugged")
	of := func(v float64) []Sample { return []Sample{number(v)} }
	doubtful := func(v float64) []Sample {
		return []Sample{{Value: wire.NumberValue(v), Quality: wire.Uncertain, Reason: "a retained message"}}
	}
	hold := func(s float64) func(*config.Sensor) { return func(d *config.Sensor) { d.AlertForSeconds = s } }
	tests := []struct {
		name   string
		change func(*config.Sensor)
		steps  []step
	}{
		{
			name: "all levels in both directions",
			steps: []step{
				{at: 0, samples: of(50), want: "s=50@0 ok"},
				{at: 10, samples: of(80)},
				{at: 20, samples: of(80.1), want: "s=80.1@20 warning(warn_above)"},
				{at: 30, samples: of(90)},
				{at: 40, samples: of(90.1), want: "s=90.1@40 critical(crit_above)"},
				{at: 50, samples: of(99)},
				{at: 60, samples: of(85), want: "s=85@60 warning(warn_above)"},
				{at: 70, samples: of(80), want: "s=80@70 ok(warn_above)"},
				{at: 80, samples: of(91), want: "s=91@80 critical(crit_above)"},
				{at: 90, samples: of(50), want: "s=50@90 ok(crit_above)"},
				{at: 100, samples: of(9), want: "s=9@100 warning(warn_below)"},
				{at: 110, samples: of(4.9), want: "s=4.9@110 critical(crit_below)"},
				{at: 120, samples: of(5), want: "s=5@120 warning(warn_below)"},
				{at: 130, samples: of(10), want: "s=10@130 ok(warn_below)"},
			},
		},
		{
			name: "from one side to the other",
			steps: []step{
				{at: 0, samples: of(95), want: "s=95@0 critical(crit_above)"},
				{at: 10, samples: of(1), want: "s=1@10 critical(crit_below)"},
				{at: 20, samples: of(85), want: "s=85@20 warning(warn_above)"},
			},
		},
		{
			name:   "an alert ends inside by the hysteresis",
			change: func(d *config.Sensor) { d.Hysteresis = 2 },
			steps: []step{
				{at: 0, samples: of(79), want: "s=79@0 ok"},
				{at: 10, samples: of(81), want: "s=81@10 warning(warn_above)"},
				{at: 20, samples: of(78.1)},
				{at: 30, samples: of(91), want: "s=91@30 critical(crit_above)"},
				{at: 40, samples: of(88.1)},
				{at: 50, samples: of(88), want: "s=88@50 warning(warn_above)"},
				{at: 60, samples: of(89)}, // back inside the critical limit by the hysteresis, and not beyond it
				{at: 70, samples: of(78), want: "s=78@70 ok(warn_above)"},
				{at: 80, samples: of(79)},
				{at: 90, samples: of(9), want: "s=9@90 warning(warn_below)"},
				{at: 100, samples: of(11.9)},
				{at: 110, samples: of(12), want: "s=12@110 ok(warn_below)"},
			},
		},
		{
			name:   "what does not last raises nothing",
			change: hold(30),
			steps: []step{
				{at: 0, samples: of(50), want: "s=50@0 ok"},
				{at: 10, samples: of(85)},
				{at: 20, samples: of(85)},
				{at: 30, samples: of(80)}, // inside
				{at: 40, samples: of(85)},
				{at: 69, samples: of(85)},
				{at: 70, samples: of(85), want: "s=85@70 warning(warn_above)"},
				{at: 80, samples: of(50), want: "s=50@80 ok(warn_above)"}, // the end takes no hold
			},
		},
		{
			name:   "each limit has a hold of its own",
			change: hold(30),
			steps: []step{
				{at: 0, samples: of(50), want: "s=50@0 ok"},
				{at: 10, samples: of(85)},
				{at: 30, samples: of(95)},
				{at: 40, samples: of(95), want: "s=95@40 warning(warn_above)"},
				{at: 60, samples: of(95), want: "s=95@60 critical(crit_above)"},
			},
		},
		{
			name:   "an exceeded limit that is not decided when the agent starts is told when it is",
			change: hold(30),
			steps: []step{
				{at: 0, samples: of(85)},
				{at: 20, samples: of(85)},
				{at: 30, samples: of(85), want: "s=85@30 warning(warn_above)"},
			},
		},
		{
			name:   "failed, bad and doubtful samples neither confirm nor reset",
			change: func(d *config.Sensor) { d.AlertForSeconds = 60; d.ValidMax = ptr(100) },
			steps: []step{
				{at: 0, samples: of(95)},
				{at: 10, err: unplugged},
				{at: 20, samples: of(101)},
				{at: 30, samples: doubtful(50)},
				{at: 40, samples: of(95)},
				{at: 60, samples: doubtful(95)}, // it would be time
				{at: 61, hung: true},
				{at: 62, samples: of(95), want: "s=95@62 critical(crit_above)"},
				{at: 63, samples: of(101)},
				{at: 64, samples: doubtful(50)},
				{at: 65, err: unplugged},
				{at: 66, samples: of(50), want: "s=50@66 ok(crit_above)"},
			},
		},
		{
			name:   "a long gap begins the hold anew",
			change: hold(60),
			steps: []step{
				{at: 0, samples: of(95)},
				{at: 30, err: unplugged},
				{at: 61, samples: of(95)},
				{at: 120, samples: of(95)},
				{at: 121, samples: of(95), want: "s=95@121 critical(crit_above)"},
				{at: 130, err: unplugged},
				{at: 1000, samples: of(95)}, // what is raised stays
			},
		},
		{
			name:   "bad samples do not bridge a gap",
			change: func(d *config.Sensor) { d.AlertForSeconds = 60; d.ValidMax = ptr(100) },
			steps: []step{
				{at: 0, samples: of(95)},
				{at: 30, samples: of(101)},
				{at: 61, samples: of(95)},
				{at: 121, samples: of(95), want: "s=95@121 critical(crit_above)"},
			},
		},
		{
			name:   "a gap is not shorter than three intervals",
			change: hold(5),
			steps: []step{
				{at: 0, samples: of(95)},
				{at: 10, err: unplugged},
				{at: 30, samples: of(95), want: "s=95@30 critical(crit_above)"},
			},
		},
		{
			name:   "a subscription may be silent",
			change: hold(60),
			steps: []step{
				{at: 0, samples: of(95)},
				{at: 10},
				{at: 590},
				{at: 600, samples: of(95), want: "s=95@600 critical(crit_above)"},
			},
		},
		{
			name: "what is not a good number of now never counts",
			steps: []step{
				{at: 0, samples: []Sample{{Value: wire.NumberValue(95), Quality: wire.Stale, Reason: "old"}}},
				{at: 1, samples: doubtful(95)},
				{at: 2, samples: []Sample{text("95")}},
				{at: 3, samples: []Sample{{Value: wire.BoolValue(true)}}},
				{at: 4, samples: []Sample{{}}},
				{at: 5, samples: aged(95, 5, 61)}, // a replay
				{at: 6, samples: []Sample{{Value: wire.NumberValue(95), Time: time.Unix(1<<45, 0)}}},
				{at: 7, samples: aged(95, 7, 60), want: "s=95@-53 critical(crit_above)"},
				{at: 8, samples: aged(50, 8, 61)},
				{at: 9, samples: aged(50, 9, -3600), want: "s=50@3609 ok(crit_above)"}, // the device's clock may be behind
			},
		},
		{
			name: "channels have levels of their own",
			steps: []step{
				{at: 0, samples: []Sample{{Channel: "a", Value: wire.NumberValue(95)}, {Channel: "b", Value: wire.NumberValue(50)}},
					want: "s.a=95@0 critical(crit_above) | s.b=50@0 ok"},
				{at: 1, samples: []Sample{{Channel: "a", Value: wire.NumberValue(95)}, {Channel: "b", Value: wire.NumberValue(85)}},
					want: "s.b=85@1 warning(warn_above)"},
			},
		},
		{
			name:   "limits compare the calibrated value",
			change: func(d *config.Sensor) { d.Scale, d.Offset = 0.1, 1 },
			steps: []step{
				{at: 0, samples: of(95), want: "s=10.5@0 ok"},
				{at: 1, samples: of(900), want: "s=91@1 critical(crit_above)"},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newTestProcessor(t, func(d *config.Sensor) {
				d.CritBelow, d.WarnBelow, d.WarnAbove, d.CritAbove = ptr(5), ptr(10), ptr(80), ptr(90)
				if test.change != nil {
					test.change(d)
				}
			})
			for _, s := range test.steps {
				var got []Reading
				if s.hung {
					got = p.passed(nil, "stuck", at(s.at))
				} else {
					got, _ = p.finished(nil, s.samples, s.err, at(s.at))
				}
				if showAlerts(got) != s.want {
					t.Errorf("at %gs:\n got %s\nwant %s", s.at, showAlerts(got), s.want)
				}
			}
		})
	}
}

// TestAlertsComeBeforeReduceAndDeadband looks at all readings, not only at those
// that tell a level.
func TestAlertsComeBeforeReduceAndDeadband(t *testing.T) {
	run := func(t *testing.T, change func(*config.Sensor), steps []step) {
		t.Helper()
		p := newTestProcessor(t, func(d *config.Sensor) {
			d.WarnAbove = ptr(80)
			change(d)
		})
		for _, s := range steps {
			got, _ := p.finished(nil, s.samples, s.err, at(s.at))
			if told := show(got) + " / " + showAlerts(got); told != s.want {
				t.Errorf("at %gs:\n got %s\nwant %s", s.at, told, s.want)
			}
		}
	}
	of := func(v float64) []Sample { return []Sample{number(v)} }
	t.Run("deadband", func(t *testing.T) {
		run(t, func(d *config.Sensor) { d.Deadband = 5 }, []step{
			{at: 0, samples: of(79), want: "s=79@0 good / s=79@0 ok"},
			{at: 1, samples: of(80), want: " / "},
			{at: 2, samples: of(81), want: "s=81@2 good / s=81@2 warning(warn_above)"},
			{at: 3, samples: of(85), want: " / "}, // within the deadband of what was sent last
			{at: 4, samples: of(80), want: "s=80@4 good / s=80@4 ok(warn_above)"},
		})
	})
	t.Run("reduce", func(t *testing.T) {
		run(t, func(d *config.Sensor) { d.Reduce, d.WindowSeconds = "max", 10 }, []step{
			{at: 0, samples: of(70), want: "s=70@0 good / s=70@0 ok"},
			{at: 1, samples: of(81), want: "s=81@1 good / s=81@1 warning(warn_above)"},
			{at: 2, samples: of(82), want: " / "},
			{at: 3, samples: of(60), want: "s=60@3 good / s=60@3 ok(warn_above)"},
			{at: 10, samples: of(50), want: "s=82@10 good / "}, // the window has all of them
		})
	})
	t.Run("reduce and deadband", func(t *testing.T) {
		run(t, func(d *config.Sensor) { d.Reduce, d.WindowSeconds, d.Deadband = "last", 10, 5 }, []step{
			{at: 0, samples: of(78), want: "s=78@0 good / s=78@0 ok"},
			{at: 10, samples: of(85), want: "s=78@10 good | s=85@10 good / s=85@10 warning(warn_above)"},
			{at: 19, samples: of(79), want: "s=79@19 good / s=79@19 ok(warn_above)"},
			{at: 20, samples: of(79), want: " / "}, // the window of 79 is near that of 78
		})
	})
}

func TestAlertReading(t *testing.T) {
	meta := map[string]wire.Value{wire.MetaAlert: wire.TextValue("the sensor's own"), wire.MetaAlertLimit: wire.TextValue("too")}
	for i := len(meta); i < maxMetaKeys; i++ {
		meta[fmt.Sprint("field", i)] = wire.NumberValue(float64(i))
	}
	for _, reduce := range []string{"none", "last"} {
		p := newTestProcessor(t, func(d *config.Sensor) {
			d.CritAbove, d.StaleAfterSeconds, d.Reduce = ptr(90), 10, reduce
			d.Priority = config.PriorityLow
			if reduce != "none" {
				d.WindowSeconds = 5
			}
		})
		got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(95), Meta: meta}}, nil, at(0))
		if len(got) != 1 {
			t.Fatalf("%s: %s", reduce, show(got))
		}
		r := got[0]
		if r.Priority != config.PriorityHigh || *r.Alert != (Alert{wire.AlertCritical, "crit_above", 90}) {
			t.Errorf("%s: priority %s, %+v", reduce, r.Priority, r.Alert)
		}
		if r.Meta[wire.MetaAlert] != wire.TextValue("critical") || r.Meta[wire.MetaAlertLimit] != wire.TextValue("crit_above") || len(r.Meta) != maxMetaKeys {
			t.Errorf("%s: the metadata are %v", reduce, r.Meta)
		}
		// What is made of the same sample later tells no level.
		var later []Reading
		for _, second := range []float64{5, 10, 15, 20} {
			later, _ = p.finished(later, nil, nil, at(second))
		}
		if len(later) == 0 {
			t.Errorf("%s: nothing came later", reduce)
		}
		for _, r := range later {
			if own, repeated := r.Meta[wire.MetaAlert]; r.Alert != nil || r.Priority != config.PriorityLow || repeated && own != wire.TextValue("the sensor's own") {
				t.Errorf("%s: %+v", reduce, r)
			}
		}
	}
	p := newTestProcessor(t, func(d *config.Sensor) { d.CritAbove = ptr(90) })
	got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(9), Meta: meta}}, nil, at(0))
	if _, given := got[0].Meta[wire.MetaAlertLimit]; given || got[0].Meta[wire.MetaAlert] != wire.TextValue("ok") {
		t.Errorf("without a limit to name: %v", got[0].Meta)
	}
}

// A sensor cannot raise an alert with its own metadata.
func TestAlertIsNotForged(t *testing.T) {
	p := newTestProcessor(t, nil)
	got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(1), Meta: map[string]wire.Value{wire.MetaAlert: wire.TextValue("critical")}}}, nil, at(0))
	if len(got) != 1 || got[0].Alert != nil {
		t.Errorf("got %+v", got)
	}
}

func TestAlertsRefuseConfig(t *testing.T) {
	tests := []struct {
		want   string
		change func(*config.Sensor)
	}{
		{"hysteresis: needs warn_below, warn_above, crit_below or crit_above; without any it has no effect", func(d *config.Sensor) { d.Hysteresis = 1 }},
		{"alert_for_seconds: needs warn_below, warn_above, crit_below or crit_above; without any it has no effect", func(d *config.Sensor) { d.AlertForSeconds = 1 }},
		{"crit_above: is below warn_above (80): the level would be critical before it is warning", func(d *config.Sensor) { d.WarnAbove, d.CritAbove = ptr(80), ptr(79) }},
		{"crit_below: is above warn_below (10): the level would be critical before it is warning", func(d *config.Sensor) { d.WarnBelow, d.CritBelow = ptr(10), ptr(11) }},
		{"warn_below: is not below warn_above (20): every value would raise an alert", func(d *config.Sensor) { d.WarnBelow, d.WarnAbove = ptr(20), ptr(20) }},
		{"crit_below: is not below warn_above (20): every value would raise an alert", func(d *config.Sensor) { d.CritBelow, d.WarnAbove = ptr(30), ptr(20) }},
		{"crit_above: is not below valid_max (125): readings above that are bad and raise no alert", func(d *config.Sensor) { d.CritAbove, d.ValidMax = ptr(125), ptr(125) }},
		{"warn_below: is not above valid_min (-40): readings below that are bad and raise no alert", func(d *config.Sensor) { d.WarnBelow, d.ValidMin = ptr(-50), ptr(-40) }},
		{"valid_min: is not below warn_above (-40): every value would raise an alert", func(d *config.Sensor) { d.WarnAbove, d.ValidMin = ptr(-40), ptr(-40) }},
		{"hysteresis: is more than lies between warn_below (10) and warn_above (80): no value would end an alert", func(d *config.Sensor) {
			d.CritBelow, d.WarnBelow, d.WarnAbove, d.CritAbove, d.Hysteresis = ptr(5), ptr(10), ptr(80), ptr(90), 71
		}},
		{"hysteresis: is more than lies between valid_min (0) and crit_above (90): no value would end an alert", func(d *config.Sensor) {
			d.ValidMin, d.CritAbove, d.Hysteresis = ptr(0), ptr(90), 91
		}},
		{"", func(d *config.Sensor) {
			d.CritBelow, d.WarnBelow, d.WarnAbove, d.CritAbove, d.Hysteresis = ptr(5), ptr(10), ptr(80), ptr(90), 70
		}},
		{"", func(d *config.Sensor) { d.WarnAbove, d.CritAbove, d.Hysteresis = ptr(80), ptr(80), 1e9 }},
		{"", func(d *config.Sensor) { d.ValidMin, d.ValidMax = ptr(0), ptr(0) }},
	}
	for _, test := range tests {
		said := ""
		if _, err := newProcessor(testSensor(test.change), time.Second); err != nil {
			said = err.Error()
		}
		if said != test.want {
			t.Errorf("got  %q\nwant %q", said, test.want)
		}
	}
}

// TestAlertsFollowTheLimits holds what is told to what the limits say, for any
// values at any times.
func TestAlertsFollowTheLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hold := float64(rapid.IntRange(0, 30).Draw(t, "hold"))
		hysteresis := rapid.Float64Range(0, 2).Draw(t, "hysteresis")
		p := newTestProcessor(t, func(d *config.Sensor) {
			d.WarnAbove, d.CritAbove, d.AlertForSeconds, d.Hysteresis = ptr(5), ptr(7), hold, hysteresis
		})
		beyond := map[string]float64{} // limit → since when it is exceeded without a break
		level, limits := wire.AlertOK, map[string]float64{"warn_above": 5, "crit_above": 7}
		now := 0.0
		for _, v := range rapid.SliceOf(rapid.Float64Range(0, 10)).Draw(t, "values") {
			now += float64(rapid.IntRange(1, 20).Draw(t, "gap"))
			for key, limit := range limits {
				if _, already := beyond[key]; v <= limit {
					delete(beyond, key)
				} else if !already {
					beyond[key] = now
				}
			}
			lasts := func(key string) bool {
				since, exceeded := beyond[key]
				return exceeded && now-since >= hold
			}
			got, _ := p.finished(nil, []Sample{number(v)}, nil, at(now))
			before := level
			if a := got[0].Alert; a != nil {
				if level = a.Level; level == before && level != wire.AlertOK {
					t.Fatalf("%s was told twice", level)
				}
			}
			switch {
			case lasts("crit_above") && level != wire.AlertCritical, lasts("warn_above") && level == wire.AlertOK:
				t.Fatalf("%g at %gs: the level is %s", v, now, level)
			case level != before && level == wire.AlertCritical && !lasts("crit_above"):
				t.Fatalf("%g at %gs is critical too early", v, now)
			case before == wire.AlertOK && level == wire.AlertWarning && !lasts("warn_above"):
				t.Fatalf("%g at %gs is a warning too early", v, now)
			case before == wire.AlertCritical && level != before && v > 7-hysteresis, before != wire.AlertOK && level == wire.AlertOK && v > 5-hysteresis:
				t.Fatalf("%g at %gs ends %s within the hysteresis", v, now, before)
			}
		}
	})
}

func BenchmarkProcessAlerts(b *testing.B) {
	p := newTestProcessor(b, func(d *config.Sensor) {
		d.Deadband, d.ValidMax, d.StaleAfterSeconds, d.FrozenAfterSeconds = 0.1, ptr(100), 60, 600
		d.WarnAbove, d.CritAbove, d.AlertForSeconds = ptr(80), ptr(90), 60
	})
	samples := []Sample{number(1)}
	var dst []Reading
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		samples[0] = number(float64(i % 50))
		dst, _ = p.finished(dst[:0], samples, nil, at(float64(i)))
	}
}
