package sensors

import (
	"errors"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestFrozen(t *testing.T) {
	unplugged := errors.New("unplugged")
	const frozen = " bad(has not changed for 10 min (see frozen_after_seconds))"
	of := func(v float64) []Sample { return []Sample{number(v)} }
	tests := []struct {
		name   string
		change func(*config.Sensor)
		steps  []step
	}{
		{
			name: "until the first different value",
			steps: []step{
				{at: 0, samples: of(21.5), want: "s=21.5@0 good"},
				{at: 300, samples: of(21.5), want: "s=21.5@300 good"},
				{at: 600, samples: of(21.5), want: "s=21.5@600" + frozen},
				{at: 9000, samples: of(21.5), want: "s=21.5@9000" + frozen},
				{at: 9010, samples: of(21.500000000000004), want: "s=21.500000000000004@9010 good"},
				{at: 9020, samples: of(21.5), want: "s=21.5@9020 good"},
				{at: 9619, samples: of(21.5), want: "s=21.5@9619 good"},
				{at: 9620, samples: of(21.5), want: "s=21.5@9620" + frozen},
			},
		},
		{
			name:   "the raw value counts",
			change: func(d *config.Sensor) { d.Scale = 1e-300; d.Offset = 1 },
			steps: []step{
				{at: 0, samples: of(1), want: "s=1@0 good"},
				{at: 500, samples: of(2), want: "s=1@500 good"},
				{at: 1000, samples: of(1), want: "s=1@1000 good"},
			},
		},
		{
			name:   "what was not measured is not the same",
			change: func(d *config.Sensor) { d.RejectValues = []float64{85} },
			steps: []step{
				{at: 0, samples: of(21), want: "s=21@0 good"},
				{at: 10, err: unplugged, want: "s=-@10 bad(unplugged)"},
				{at: 1000, samples: of(21), want: "s=21@1000 good"},
				{at: 1300, samples: of(21), want: "s=21@1300 good"},
				{at: 1310, samples: of(85), want: "s=-@1310 bad(one of reject_values)"},
				{at: 1600, samples: of(85), want: "s=-@1600 bad(one of reject_values)"},
				{at: 1610, samples: of(21), want: "s=21@1610 good"},
				{at: 1900, samples: of(21), want: "s=21@1900" + frozen}, // 300 + 10 + 290 s
			},
		},
		{
			name: "only numbers freeze",
			steps: []step{
				{at: 0, samples: []Sample{text("shut")}, want: "s=shut@0 good"},
				{at: 700, samples: []Sample{text("shut")}, want: "s=shut@700 good"},
				{at: 710, samples: []Sample{{Value: wire.BoolValue(true)}}, want: "s=true@710 good"},
				{at: 1500, samples: []Sample{{Value: wire.BoolValue(true)}}, want: "s=true@1500 good"},
				{at: 1510, samples: of(0), want: "s=0@1510 good"},
				{at: 2000, samples: []Sample{text("shut")}, want: "s=shut@2000 good"},
				{at: 2500, samples: of(0), want: "s=0@2500 good"},
			},
		},
		{
			name: "channels freeze one by one",
			steps: []step{
				{at: 0, samples: []Sample{{Channel: "a", Value: wire.NumberValue(1)}, {Channel: "b", Value: wire.NumberValue(1)}}, want: "s.a=1@0 good | s.b=1@0 good"},
				{at: 600, samples: []Sample{{Channel: "a", Value: wire.NumberValue(1)}, {Channel: "b", Value: wire.NumberValue(2)}}, want: "s.a=1@600" + frozen + " | s.b=2@600 good"},
			},
		},
		{
			name:   "a window takes no frozen values",
			change: func(d *config.Sensor) { d.Reduce, d.WindowSeconds = "mean", 600 },
			steps: []step{
				{at: 0, samples: of(1)},
				{at: 600, samples: of(1), want: "s=1@600 good"},
				{at: 1200, want: "s=-@1200 bad(no good sample in the window: has not changed for 10 min (see frozen_after_seconds))"},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newTestProcessor(t, func(d *config.Sensor) {
				d.FrozenAfterSeconds = 600
				if test.change != nil {
					test.change(d)
				}
			})
			for _, s := range test.steps {
				got, _ := p.finished(nil, s.samples, s.err, at(s.at))
				if show(got) != s.want {
					t.Errorf("at %gs:\n got %s\nwant %s", s.at, show(got), s.want)
				}
			}
		})
	}
}

// A frozen sensor is a failing one, and raises no alert.
func TestFrozenIsAFailedReadWithoutAlert(t *testing.T) {
	p := newTestProcessor(t, func(d *config.Sensor) {
		d.FrozenAfterSeconds, d.CritAbove, d.AlertForSeconds = 60, ptr(90), 60
	})
	if _, err := p.finished(nil, []Sample{number(95)}, nil, at(0)); err != nil {
		t.Fatal(err)
	}
	got, err := p.finished(nil, []Sample{number(95)}, nil, at(60))
	if err == nil || err.Error() != "has not changed for 1 min (see frozen_after_seconds)" || showAlerts(got) != "" {
		t.Errorf("%v, %s", err, showAlerts(got))
	}
	if _, err := p.finished(nil, []Sample{number(96)}, nil, at(70)); err != nil {
		t.Error(err)
	}
}
