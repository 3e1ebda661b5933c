package watchdog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestAWatchdogThatIsKilledJudgesAllTheSame kills it again and again in the
// middle of a trial.
func TestAWatchdogThatIsKilledJudgesAllTheSame(t *testing.T) {
	crash := &behaviour{crashAfter: 3, exit: 1}
	tests := []struct {
		name string
		bad  *behaviour
		want string // "" is kept
	}{
		{"a good release", nil, ""},
		{"a crashing one", crash, "ended 3 times"},
		{"one that does not answer", &behaviour{hangs: true}, "no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			r.device.behaves["1.2.0"] = tt.bad
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			for range 4 {
				r.runUntil(4)
			}
			s := r.run()
			if tt.want == "" && s.Active.Version != "1.2.0" || tt.want != "" && (s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, tt.want)) {
				t.Errorf("active %s, %v", s.Active.Version, s.Last)
			}
		})
	}
}

// TestATrialThatNobodyWatchedIsNotOver: while the watchdog was down, the
// deadline passed. A release that is well is kept all the same, one that is not
// is not.
func TestATrialThatNobodyWatchedIsNotOver(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		r := newRig(t)
		r.install("1.1.0", 11)
		r.device.behaves["1.2.0"] = &behaviour{hangs: hangs}
		r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		r.runUntil(6)
		if s := r.state(); s.Phase != ota.Trial || !s.Attempt.Activated {
			t.Fatalf("%s", s.Phase)
		}
		r.device.uptime += time.Hour
		want := "1.2.0"
		if hangs {
			want = "1.1.0"
		}
		if s := r.run(); s.Active.Version != want {
			t.Errorf("hangs %v: active %s, %v", hangs, s.Active.Version, s.Last)
		}
	}
}

func TestATrialIsNotResumedForEver(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.runUntil(6)
	for range 2 * maxResumed {
		if r.state().Phase == ota.Trial {
			r.runUntil(3)
		}
	}
	if s := r.run(); s.Phase != ota.RolledBack || !strings.Contains(s.Last.Reason, "interrupted") {
		t.Errorf("%s, %v", s.Phase, s.Last)
	}
}

func TestATrialSeesThreeBootsAtMost(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.runUntil(6)
	for range maxBoots {
		if r.state().Phase != ota.Trial {
			t.Fatalf("%s", r.state().Last)
		}
		r.reboot()
		r.runUntil(3)
	}
	r.reboot()
	if r.device.running != "1.1.0" {
		t.Errorf("%s was booted", r.device.running)
	}
	if s := r.run(); s.Phase != ota.RolledBack || !strings.Contains(s.Last.Reason, "started 3 times") {
		t.Errorf("%s, %v", s.Phase, s.Last)
	}
}

// TestAReleaseThatCrashedWhileNobodyLooked: the service manager counted.
func TestAReleaseThatCrashedWhileNobodyLooked(t *testing.T) {
	for name, crash := range map[string]func(*device){
		"and was started again": func(d *device) { d.restarts += 4 },
		"and was given up":      func(d *device) { d.running = "" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			r.runUntil(6)
			crash(r.device)
			if s := r.run(); s.Phase != ota.RolledBack || s.Active.Version != "1.1.0" {
				t.Errorf("%s, %v", s.Phase, s.Last)
			}
		})
	}
}

// during runs f in the middle of the trial of 1.2.0.
func during(t *testing.T, prepare func(*rig), f func(*rig)) (*rig, *ota.State) {
	t.Helper()
	r := newRig(t)
	r.install("1.1.0", 11)
	if prepare != nil {
		prepare(r)
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	looks := 0
	r.device.onLook = func() {
		if looks++; r.device.running == "1.2.0" && f != nil {
			f(r)
			f = nil
		}
	}
	s := r.run()
	r.device.onLook = nil
	if f != nil {
		t.Fatal("1.2.0 was never on trial")
	}
	return r, s
}

func TestAnUpdateDuringATrialIsRefused(t *testing.T) {
	var id string
	r, s := during(t, nil, func(r *rig) {
		id = r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.3.0", 13, nil)})
	})
	if s.Active.Version != "1.2.0" || s.Last.To != "1.2.0" {
		t.Errorf("the trial was disturbed: active %s, %v", s.Active.Version, s.Last)
	}
	if o := r.outcome(id); o.Result != ota.Refused || o.Remedy != ota.AskLater || !strings.Contains(o.Reason, "on trial") {
		t.Errorf("%+v", o)
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: "1.3.0.bundle"})
	if s := r.run(); s.Active.Version != "1.3.0" {
		t.Errorf("asked again: active %s, %v", s.Active.Version, s.Last)
	}
}

// TestARollbackDuringATrialEndsIt: whoever orders it has seen enough.
func TestARollbackDuringATrialEndsIt(t *testing.T) {
	tests := []struct {
		name    string
		ask     func(*rig) ota.Request
		want    ota.Result // of the request
		version string     // that runs in the end
	}{
		{"root's", func(*rig) ota.Request { return ota.Request{} }, ota.Installed, "1.1.0"},
		{"root's, by its version", func(*rig) ota.Request { return ota.Request{TargetVersion: "1.1.0"} }, ota.Installed, "1.1.0"},
		{"to the one that is not there any more", func(*rig) ota.Request { return ota.Request{TargetVersion: "1.0.0"} }, ota.Refused, "1.2.0"},
		{"by command", func(r *rig) ota.Request {
			return ota.Request{Command: r.order(wire.Command{Command: wire.CommandRollback})}
		}, ota.Installed, "1.1.0"},
		{"by a command for another version", func(r *rig) ota.Request {
			return ota.Request{Command: r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: "1.0.0"})}
		}, ota.Refused, "1.2.0"},
		{"by a command that nobody trusted signed", func(r *rig) ota.Request {
			return ota.Request{Command: r.order(wire.Command{Command: wire.CommandRollback}, key(9))}
		}, ota.Refused, "1.2.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var id string
			r, s := during(t, nil, func(r *rig) {
				req := tt.ask(r)
				req.Action = ota.Rollback
				id = r.ask(req)
			})
			if o := r.outcome(id); o.Result != tt.want {
				t.Errorf("%+v", o)
			}
			if s.Active.Version != tt.version || r.device.running != tt.version {
				t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
			}
			if tt.version == "1.1.0" && (s.Last.Result != ota.TakenBack || s.Last.To != "1.2.0" || !strings.Contains(s.Last.Reason, "ordered")) {
				t.Errorf("%v", s.Last)
			}
		})
	}
}

// TestAnInterruptedUpdateKnowsWhatWasGood: after a power cut the agent needs a
// while to reach the broker again. What it reached before counts all the same,
// unless it is not reached any more.
func TestAnInterruptedUpdateKnowsWhatWasGood(t *testing.T) {
	never := func(int) Report {
		r := well()
		r.FleetConnected = false
		return r
	}
	for name, tt := range map[string]struct {
		before func(int) Report // of 1.1.0 after the power cut
		want   string
	}{
		"the broker is reached again": {func(looks int) Report {
			r := well()
			r.FleetConnected = looks > 5
			return r
		}, "1.1.0"},
		"the link is down": {never, "1.2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			r.device.behaves["1.2.0"] = &behaviour{report: never}
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			r.options.Selftest = nil
			r.disk = newSupply(r, 40, 4) // in the middle of the staging
			if !cut(func() { must(t, r.watchdog().Run(t.Context())) }) || r.state().Phase != ota.Staging {
				t.Fatalf("%s", r.state().Phase)
			}
			r.disk = r.real
			r.device.behaves["1.1.0"] = &behaviour{report: tt.before}
			r.reboot()
			if s := r.run(); s.Active.Version != tt.want {
				t.Errorf("active %s, %v", s.Active.Version, s.Last)
			}
		})
	}
}

func TestALongerTrialCanBePassed(t *testing.T) {
	r := newRig(t)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.0", 11, nil), MinHealthySeconds: 1000})
	if s := r.run(); s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, "16m40s") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
	r.ask(ota.Request{Action: ota.Install, MinHealthySeconds: -5, DeadlineSeconds: -5, Bundle: r.bundle("1.2.0", 12, func(o *pack.Options) {
		o.Health = bundle.Health{MinHealthySeconds: 20, DeadlineSeconds: 20}
	})})
	if s := r.run(); s.Active.Version != "1.2.0" || !strings.Contains(s.Last.Reason, "20s") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

func TestTheCandidateIsDamagedDuringItsTrial(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.runUntil(6)
	r.damage("active")
	r.reboot()
	if s := r.run(); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || !strings.Contains(s.Last.Reason, "damaged") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestTheReleaseBeforeIsDamagedDuringATrial: then there is nothing to take a bad
// release back to but the seed, and without one that release stays.
func TestTheReleaseBeforeIsDamagedDuringATrial(t *testing.T) {
	for _, seeded := range []bool{true, false} {
		var id string
		r, s := during(t, func(r *rig) {
			if !seeded {
				r.options.Seed = nil
			}
			r.device.behaves["1.2.0"] = &behaviour{hangs: true}
		}, func(r *rig) {
			id = r.state().Attempt.ID
			r.damage(ota.SlotName(r.state().Attempt.Base.Slot))
		})
		want := "1.0.0"
		if !seeded {
			want = "1.2.0"
		}
		if s.Active.Version != want || r.device.running != want {
			t.Errorf("active %s, running %s", s.Active.Version, r.device.running)
		}
		if o := r.outcome(id); o.Result != ota.TakenBack || !strings.Contains(o.Reason, "damaged") || !strings.Contains(o.Reason, "no answer") {
			t.Errorf("%+v", o)
		}
		if len(s.Failures) != 1 || s.Failures[0].Version != "1.2.0" {
			t.Errorf("failures %v", s.Failures)
		}
	}
}

// TestActiveIsPointedBackDuringATrial: by a watchdog that could not write down
// why, or by an operator.
func TestActiveIsPointedBackDuringATrial(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.runUntil(6)
	link(t, ota.SlotName(r.state().Attempt.Base.Slot), r.dir)
	s := r.run()
	if s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || !strings.Contains(s.Last.Reason, "pointed back") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestTheClockJumpsDuringATrial: no limit of it is missed or met because of
// that, and the outcome tells how long it took.
func TestTheClockJumpsDuringATrial(t *testing.T) {
	for name, to := range map[string]time.Time{"ahead": today.AddDate(5, 0, 0), "back": time.Unix(0, 0)} {
		_, s := during(t, nil, func(r *rig) { r.device.wall = to })
		if s.Active.Version != "1.2.0" || s.Last.Seconds < 10 || s.Last.Seconds > 300 {
			t.Errorf("%s: active %s, %v after %v s", name, s.Active.Version, s.Last, s.Last.Seconds)
		}
	}
}

// TestTheServiceManagerIsBusy: a restart is tried for a while, and then the
// release that it was for is taken back.
func TestTheServiceManagerIsBusy(t *testing.T) {
	for fails, want := range map[int]string{3: "1.2.0", 6: "1.1.0"} {
		r, s := during(t, func(r *rig) {
			left := fails
			r.device.refuses = func() error {
				if left--; left >= 0 {
					return errors.New("it is busy")
				}
				return nil
			}
			r.device.running = "1.2.0" // so that during sees it
		}, func(*rig) {})
		if s.Active.Version != want || r.device.running != want {
			t.Errorf("after %d failures: active %s, %v", fails, s.Active.Version, s.Last)
		}
	}
}

func TestTheReleaseBeforeCannotBeStarted(t *testing.T) {
	_, s := during(t, func(r *rig) { r.device.behaves["1.2.0"] = &behaviour{hangs: true} }, func(r *rig) {
		r.device.refuses = func() error { return errors.New("it is gone") }
	})
	if s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, "may still be it") || !strings.Contains(s.Last.Reason, "it is gone") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestTheMachineSleepsDuringATrial: then nothing was seen, and nothing lost.
func TestTheMachineSleepsDuringATrial(t *testing.T) {
	r, s := during(t, nil, func(r *rig) { r.device.uptime += time.Hour })
	if s.Active.Version != "1.2.0" || r.device.uptime < time.Hour+10*time.Second {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
	_, s = during(t, func(r *rig) { r.device.behaves["1.2.0"] = &behaviour{hangs: true} }, func(r *rig) { r.device.uptime += time.Hour })
	if s.Active.Version != "1.1.0" {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
	// Who sleeps again and again is not waited for.
	r = newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.device.onLook = func() {
		if r.device.running == "1.2.0" {
			r.device.uptime += time.Hour
		}
	}
	if s := r.run(); s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, "interrupted") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestTheServiceManagerDoesNotAnswer: a release whose fault that may be does not
// stay for that.
func TestTheServiceManagerDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.install("1.1.0", 11)
		r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		r.options.Poll = time.Millisecond
		r.device.mute = func() bool { return r.device.running == "1.2.0" }
		if s := r.run(); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || !strings.Contains(s.Last.Reason, "deadline") {
			t.Errorf("active %s, %v", s.Active.Version, s.Last)
		}
	})
}

func TestASelftestIsBrokenOff(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.options.Selftest = func(context.Context, string) error {
		cancel()
		return errors.New("killed")
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.0", 11, nil)})
	if err := r.watchdog().Run(ctx); err == nil {
		t.Error("no error")
	}
	r.options.Selftest = func(_ context.Context, dir string) error {
		_, err := os.Stat(filepath.Join(dir, "pyvorin-edge"))
		return err
	}
	if s := r.run(); s.Active.Version != "1.1.0" || len(s.Failures) != 0 {
		t.Errorf("active %s, %v, failures %v", s.Active.Version, s.Last, s.Failures)
	}
}
