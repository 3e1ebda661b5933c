package watchdog

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// glance is a look at a moment of a trial.
type glance struct {
	at   int // seconds since boot; the trial began at 100
	look look
}

// fine is a look at a candidate that is well.
func fine() look {
	r := well()
	r.Version = "1.2.0"
	r.Checks = maps.Clone(r.Checks)
	return look{status: Status{Running: true, PID: 7}, report: r}
}

// but is fine with a change.
func but(change func(*look)) look {
	l := fine()
	change(&l)
	return l
}

// TestJudge has a row for each rule by which a trial is judged: well for 60
// seconds within 300, where all that the baseline has was good before.
func TestJudge(t *testing.T) {
	down := but(func(l *look) {
		l.status, l.report, l.reportErr = Status{ExitCode: 1, Reason: "exit status 1"}, Report{}, errors.New("it does not run")
	})
	check := func(name string, state wire.CheckState) look {
		return but(func(l *look) { l.report.Checks[name] = state })
	}
	offline := but(func(l *look) { l.report.FleetConnected = false })
	unproven := but(func(l *look) { l.report.CloudProven = false })
	exit78 := but(func(l *look) { l.status = Status{ExitCode: exitConfig, Reason: "exit status 78"} })
	tests := []struct {
		name    string
		change  func(*ota.Attempt)
		glances []glance
		want    verdict
		why     string
	}{
		{"well for long enough", nil, []glance{{101, fine()}, {161, fine()}}, keep, ""},
		{"well, not yet for long enough", nil, []glance{{101, fine()}, {160, fine()}}, undecided, ""},
		{"a break begins it anew", nil, []glance{{101, fine()}, {130, offline}, {131, fine()}, {190, fine()}}, undecided, ""},
		{"and it ends", nil, []glance{{101, fine()}, {130, offline}, {131, fine()}, {191, fine()}}, keep, ""},
		{"never well", nil, []glance{{101, offline}, {399, offline}, {400, offline}}, takeBack, "the broker is not reached"},
		{"too late", nil, []glance{{101, offline}, {380, fine()}, {400, fine()}}, takeBack, "well for only 20s"},
		{"just in time", nil, []glance{{101, offline}, {340, fine()}, {400, fine()}}, keep, ""},
		{"does not run", nil, []glance{{101, down}, {400, down}}, takeBack, "exit status 1"},
		{"cannot be asked for", nil, []glance{{101, look{statusErr: errors.New("no systemd")}}, {400, look{statusErr: errors.New("no systemd")}}}, takeBack, "no systemd"},
		{"systemd was not there for a moment", nil, []glance{{101, fine()}, {102, look{statusErr: errors.New("no systemd")}}, {103, fine()}, {163, fine()}}, keep, ""},
		{"exit status 78", nil, []glance{{101, exit78}}, takeBack, "configuration"},
		{"exit status 78 of an earlier run", nil, []glance{{101, but(func(l *look) { l.status.ExitCode = exitConfig })}, {161, fine()}}, keep, ""},
		{"given up", nil, []glance{{101, but(func(l *look) { l.status = Status{GaveUp: true, Reason: "start-limit-hit"} })}}, takeBack, "gave up on it: start-limit-hit"},
		{"given up before, and running", nil, []glance{{101, but(func(l *look) { l.status.GaveUp = true })}, {161, fine()}}, keep, ""},
		{"three ends", func(a *ota.Attempt) { a.Restarts = []float64{110, 200, 380} }, []glance{{381, fine()}}, takeBack, "ended 3 times within 5m"},
		{"three ends in longer", func(a *ota.Attempt) { a.Restarts = []float64{110, 200, 380} }, []glance{{411, fine()}}, takeBack, "well for only 0s"},
		{"two ends", func(a *ota.Attempt) { a.Restarts = []float64{110, 111} }, []glance{{112, fine()}, {172, fine()}}, keep, ""},
		{"another version", nil, []glance{{101, but(func(l *look) { l.report.Version = "1.1.0" })}}, takeBack, `"1.1.0", not "1.2.0"`},
		{"a version with tricks", nil, []glance{{101, but(func(l *look) { l.report.Version = "\x1b[2J" + strings.Repeat("9", 1000) })}}, takeBack, `"?[2J9`},
		{"no version, as of an application", nil, []glance{{101, but(func(l *look) { l.report.Version = "" })}, {161, fine()}}, keep, ""},

		{"a required check is critical", nil, []glance{{101, check("sensors", wire.CheckCritical)}, {400, check("sensors", wire.CheckCritical)}}, takeBack, `"sensors" is critical`},
		{"a required check is a warning", nil, []glance{{101, check("sensors", wire.CheckWarning)}, {161, check("sensors", wire.CheckWarning)}}, undecided, `"sensors" is warning`},
		{"a required check that was bad before", func(a *ota.Attempt) { a.Baseline.Checks, a.Baseline.Unwell = nil, []string{"sensors"} },
			[]glance{{101, check("sensors", wire.CheckCritical)}, {161, check("sensors", wire.CheckCritical)}}, keep, ""},
		{"a required check that there was not before", func(a *ota.Attempt) { a.Required = []string{"inference"} },
			[]glance{{101, fine()}, {161, fine()}}, undecided, `"inference" is missing`},
		{"a required check, and nobody knows what was before", func(a *ota.Attempt) { a.Baseline = nil },
			[]glance{{101, check("sensors", wire.CheckWarning)}, {161, check("sensors", wire.CheckWarning)}}, undecided, `"sensors" is warning`},
		{"nobody knows what was before", func(a *ota.Attempt) { a.Baseline = nil }, []glance{{101, offline}, {161, offline}}, keep, ""},
		{"another check that was ok is a warning", nil, []glance{{101, check("queue", wire.CheckWarning)}, {161, check("queue", wire.CheckWarning)}}, undecided, "queue is warning"},
		{"a check that was not there", nil, []glance{{101, check("new", wire.CheckCritical)}, {161, check("new", wire.CheckCritical)}}, keep, ""},
		{"it is warm", nil, []glance{{101, check("temperature", wire.CheckWarning)}, {161, check("temperature", wire.CheckWarning)}}, keep, ""},
		{"it is hot", nil, []glance{{101, check("temperature", wire.CheckCritical)}, {161, check("temperature", wire.CheckCritical)}}, undecided, "temperature is critical"},
		{"a warmth that is required", func(a *ota.Attempt) { a.Required = []string{"temperature"} },
			[]glance{{101, check("temperature", wire.CheckWarning)}, {161, check("temperature", wire.CheckWarning)}}, undecided, "temperature"},

		{"the cloud fails", nil, []glance{{101, but(func(l *look) { l.report.CloudGood = false })}, {400, but(func(l *look) { l.report.CloudGood = false })}}, takeBack, "the cloud is not reached"},
		{"nothing was delivered yet", nil, []glance{{101, unproven}, {161, unproven}, {399, unproven}}, undecided, "not delivered anything"},
		{"nothing was to be delivered", nil, []glance{{101, unproven}, {161, unproven}, {400, unproven}}, keep, ""},
		{"something was delivered at last", nil, []glance{{101, unproven}, {161, unproven}, {200, fine()}}, keep, ""},
		{"the delivery fails at last", nil, []glance{{101, unproven}, {161, unproven}, {200, but(func(l *look) { l.report.CloudGood, l.report.CloudProven = false, false })}}, undecided, "the cloud is not reached"},
		{"nothing was delivered before either", func(a *ota.Attempt) { a.Baseline.CloudGood = false }, []glance{{101, unproven}, {161, unproven}}, keep, ""},
		{"the links were down before", func(a *ota.Attempt) { a.Baseline.CloudGood, a.Baseline.FleetConnected = false, false },
			[]glance{{101, but(func(l *look) { l.report.CloudGood, l.report.FleetConnected = false, false })}, {161, offline}}, keep, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &ota.Attempt{
				Candidate: &ota.Release{Version: "1.2.0"}, BeganAt: 100, MinHealthySeconds: 60, DeadlineSeconds: 300,
				Required: []string{"sensors"},
				Baseline: &ota.Baseline{Checks: []string{"cloud", "fleet", "queue", "sensors", "temperature"}, CloudGood: true, FleetConnected: true},
			}
			if tt.change != nil {
				tt.change(a)
			}
			judge := trial{attempt: a}
			var got verdict
			var why string
			for i, g := range tt.glances {
				if _, known := g.look.report.Checks["temperature"]; !known && g.look.report.Checks != nil {
					g.look.report.Checks["temperature"] = wire.CheckOK
				}
				got, why = judge.judge(g.look, time.Duration(g.at)*time.Second)
				if got != undecided && i < len(tt.glances)-1 {
					t.Fatalf("decided at %d s: %v, %q", g.at, got, why)
				}
			}
			if got != tt.want || !strings.Contains(why, tt.why) || tt.why == "" && why != "" {
				t.Errorf("%v, %q; want %v, %q", got, why, tt.want, tt.why)
			}
		})
	}
}
