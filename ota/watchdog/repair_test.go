package watchdog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// takenBack is a device on which 1.1.0 runs and the other slot holds 1.2.0,
// which failed.
func takenBack(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.install("1.1.0", 11)
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	if s := r.run(); s.Active.Version != "1.1.0" {
		t.Fatalf("active %s, %v", s.Active.Version, s.Last)
	}
	return r
}

// TestARepairDoesNotChooseWhatHasFailed: the seed is better; but what has failed
// is better than nothing.
func TestARepairDoesNotChooseWhatHasFailed(t *testing.T) {
	for _, seeded := range []bool{true, false} {
		r := takenBack(t)
		want := "1.0.0"
		if !seeded {
			r.options.Seed, want = nil, "1.2.0"
			r.device.behaves = map[string]*behaviour{}
		}
		r.damage("active")
		r.reboot()
		if s := r.run(); s.Active.Version != want || r.device.running != want || s.Last.Result != ota.Repaired {
			t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
		}
	}
}

// TestARepairIsStarted: what is repaired while the machine runs does not wait
// for the next boot.
func TestARepairIsStarted(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 12)
	r.damage("active")
	r.device.running = "" // it crashed, and was given up
	if s := r.run(); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" {
		t.Errorf("active %s, running %q, %v", s.Active.Version, r.device.running, s.Last)
	}
	link(t, "slot-a", r.dir)
	if s := r.run(); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || len(r.device.starts) != 5 {
		t.Errorf("active %s, started %v", s.Active.Version, r.device.starts)
	}
}

// TestWhatWasRepairedCanComeBack: the release that was committed last is not
// older than itself, and nothing else slips in below it.
func TestWhatWasRepairedCanComeBack(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 13)
	r.damage("active")
	r.reboot()
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.5", 12, nil)})
	if s := r.run(); s.Active.Version != "1.1.0" || s.Last.Result != ota.Refused || s.Floor != 13 {
		t.Errorf("active %s, floor %d, %v", s.Active.Version, s.Floor, s.Last)
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.6", 13, nil)})
	if s := r.run(); s.Last.Result != ota.Refused {
		t.Errorf("another release with the same counter: %v", s.Last)
	}
	r.install("1.2.0", 13)
}

// TestARescueLowersNoFloor: nobody signed that something older may come.
func TestARescueLowersNoFloor(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 13)
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
	r.device.restarts = 10
	if s := r.run(); s.Active.Version != "1.1.0" || s.Floor != 13 {
		t.Fatalf("active %s, floor %d", s.Active.Version, s.Floor)
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.5", 12, nil)})
	if s := r.run(); s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "13 was committed") {
		t.Errorf("%v", s.Last)
	}
	// A rollback to the seed, which has no counter, lowers it neither.
	r = newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Rollback})
	if s := r.run(); s.Active.Version != "1.0.0" || s.Floor != 11 {
		t.Errorf("active %s, floor %d", s.Active.Version, s.Floor)
	}
	r.install("1.1.0", 11)
}

// TestTheStateIsLostDuringATrial: what was on trial counts as committed, but
// not for good.
func TestTheStateIsLostDuringATrial(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 4, exit: 1}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.runUntil(6)
	must(t, os.Remove(filepath.Join(r.dir, stateFile)))
	must(t, os.Remove(filepath.Join(r.dir, requestFile)))
	r.reboot()
	r.device.restarts = 10
	r.device.behaves["1.2.0"].crashAfter = 1
	if s := r.run(); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || s.Failures == nil {
		t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
	}
}

// TestADamagedStateIsMadeAnew has a row for each way in which the file can be
// damaged. What the slots hold tells enough to go on.
func TestADamagedStateIsMadeAnew(t *testing.T) {
	tests := map[string]func(path string) error{
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"zeros":     func(path string) error { return os.WriteFile(path, make([]byte, 4096), 0o644) },
		"too large": func(path string) error { return os.Truncate(path, 2*ota.MaxStateBytes) },
		"a folder": func(path string) error {
			return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755))
		},
		"a link": func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/dev/zero", path)) },
		"of the future": func(path string) error {
			return os.WriteFile(path, []byte(`{"format":2,"state":"committed"}`), 0o644)
		},
		"two releases in one slot": func(path string) error {
			return os.WriteFile(path, []byte(`{"format":1,"state":"committed","active":{"slot":"a"},"previous":{"slot":"a"}}`), 0o644)
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			must(t, os.MkdirAll(filepath.Join(r.dir, stateFile+".bad", "older"), 0o755))
			must(t, damage(filepath.Join(r.dir, stateFile)))
			r.reboot()
			s := r.run()
			if s.Active.Version != "1.1.0" || s.Floor != 11 || s.Previous == nil {
				t.Errorf("active %s, floor %d, previous %v", s.Active.Version, s.Floor, s.Previous)
			}
			if _, err := os.Lstat(filepath.Join(r.dir, stateFile+".bad")); err != nil {
				t.Error(err)
			}
			r.install("1.2.0", 12)
		})
	}
}

func TestADamagedHistoryIsBegunAnew(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"too large": func(path string) error { return os.Truncate(path, 8*ota.MaxHistoryBytes) },
		"a folder": func(path string) error {
			return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755))
		},
	} {
		r := newRig(t)
		r.install("1.1.0", 11)
		must(t, damage(filepath.Join(r.dir, historyFile)))
		r.install("1.2.0", 12)
		if history, err := ota.ReadHistory(ota.Layout{Base: r.dir}); err != nil || len(history) == 0 || history[len(history)-1].To != "1.2.0" {
			t.Errorf("%s: %v, %v", name, history, err)
		}
	}
	// A line that a power cut tore costs no other.
	r := newRig(t)
	r.install("1.1.0", 11)
	f, err := os.OpenFile(filepath.Join(r.dir, historyFile), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(`{"id":"00`)
	must(t, errors.Join(err, f.Close()))
	r.install("1.2.0", 12)
	if history, err := ota.ReadHistory(ota.Layout{Base: r.dir}); err != nil || len(history) != 2 {
		t.Errorf("%v, %v", history, err)
	}
}

// TestAnInterruptedUpdateWhoseRequestIsGone is refused, and what the device says
// of its slots is true.
func TestAnInterruptedUpdateWhoseRequestIsGone(t *testing.T) {
	for n := range 200 {
		r := newRig(t)
		r.install("1.1.0", 11)
		id := r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		r.disk = newSupply(r, n, 4)
		cut(func() { must(t, r.watchdog().Run(t.Context())) })
		r.disk = r.real
		if r.state().Phase == ota.Trial {
			return
		}
		taken := r.state().Phase != ota.Committed
		must(t, os.Remove(filepath.Join(r.dir, requestFile)))
		r.reboot()
		if s := r.run(); taken && s.Phase == ota.Committed && s.Active.Version == "1.1.0" && (s.Last.ID != id || s.Last.Result != ota.Refused) {
			t.Fatalf("cut before operation %d: %v", n, s.Last)
		}
	}
	t.Error("the update never came to its trial")
}

func TestAnUpdateThatIsAlwaysInterrupted(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	id := r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	for range maxTries {
		r.disk = newSupply(r, 20, 0)
		cut(func() { must(t, r.watchdog().Run(t.Context())) })
		if r.disk = r.real; r.state().Phase != ota.Staging {
			t.Fatalf("%s", r.state().Phase)
		}
		r.reboot()
	}
	if s := r.run(); s.Last.ID != id || s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "interrupted 3 times") {
		t.Errorf("%v", s.Last)
	}
}

// TestAnUpdateOfTooManyStates ends, wherever it is, and the next one begins anew.
func TestAnUpdateOfTooManyStates(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.disk = newSupply(r, 20, 4)
	cut(func() { must(t, r.watchdog().Run(t.Context())) })
	r.disk = r.real
	w := r.watchdog()
	must(t, w.load())
	must(t, w.change(func(s *ota.State) error {
		s.Attempt.Transitions = maxTransitions
		return nil
	}))
	r.reboot()
	if s := r.run(); s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "too many states") {
		t.Errorf("%v", s.Last)
	}
	r.install("1.2.0", 12)
}

// TestTheActiveReleaseIsDamagedDuringAnUpdate has a row for each state of it.
func TestTheActiveReleaseIsDamagedDuringAnUpdate(t *testing.T) {
	for _, phase := range []ota.Phase{ota.Staging, ota.Staged} {
		begin := newRig(t)
		begin.install("1.1.0", 11)
		id := begin.ask(ota.Request{Action: ota.Install, Bundle: begin.bundle("1.2.0", 12, nil)})
		r := begin
		for n := 1; r.state().Phase != phase; n++ {
			if n == 200 {
				t.Fatalf("the update is never %s", phase)
			}
			r = begin.fork()
			r.disk = newSupply(r, n, 4)
			cut(func() { must(t, r.watchdog().Run(t.Context())) })
			r.disk = r.real
		}
		r.damage("active")
		r.reboot()
		s := r.run()
		if s.Active.Version != "1.2.0" || r.device.running != "1.2.0" {
			t.Errorf("%s: active %s, running %s, %v", phase, s.Active.Version, r.device.running, s.Last)
		}
		if o := r.outcome(id); o.ID != id {
			t.Errorf("%s: nothing was said of the request", phase)
		}
	}
}

// TestNothingToDoTakesNoTime: with nothing to do no release is read.
func TestNothingToDoTakesNoTime(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.damage("active") // which only reading would show
	before := time.Now()
	w := r.watchdog()
	must(t, w.Run(t.Context()))
	if w.State().Active.Version != "1.1.0" || time.Since(before) > 10*time.Second {
		t.Errorf("active %s after %v", w.State().Active.Version, time.Since(before))
	}
}

// TestACommandThatWasRefusedMayComeAgain, until it was carried out once.
func TestACommandThatWasRefusedMayComeAgain(t *testing.T) {
	r := newRig(t)
	name := r.bundle("1.1.0", 11, nil)
	order := r.order(wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: r.sum(name), Version: "1.1.0", Counter: 11})
	r.options.Free = func() (int64, error) { return 1 << 20, nil }
	ask := func() *ota.State {
		r.ask(ota.Request{Action: ota.Install, Bundle: name, Command: order})
		return r.run()
	}
	if s := ask(); s.Last.Result != ota.Refused || s.Last.Remedy != ota.AskLater || s.Last.Nonce == "" || s.Last.To != "1.1.0" {
		t.Fatalf("%+v", s.Last)
	}
	r.options.Free = func() (int64, error) { return 1 << 40, nil }
	if s := ask(); s.Active.Version != "1.1.0" {
		t.Fatalf("%+v", s.Last)
	}
	for range 3 {
		if s := ask(); s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "before") {
			t.Fatalf("%+v", s.Last)
		}
	}
}

// TestACommandIsRememberedAlthoughTheClockJumped ahead and back.
func TestACommandIsRememberedAlthoughTheClockJumped(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.device.synced = false
	first := r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: "1.0.0"})
	r.ask(ota.Request{Action: ota.Rollback, Command: first})
	if s := r.run(); s.Active.Version != "1.0.0" {
		t.Fatalf("%v", s.Last)
	}
	r.install("1.2.0", 12)
	r.device.wall = today.AddDate(1, 0, 0)
	r.ask(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{
		Command: wire.CommandRollback, TargetVersion: "1.2.0", IssuedAt: r.device.wall, ExpiresAt: r.device.wall.Add(time.Hour),
	})})
	if s := r.run(); s.Last.Result != ota.Installed {
		t.Fatalf("%v", s.Last)
	}
	r.device.wall = today
	r.ask(ota.Request{Action: ota.Rollback, Command: first})
	if s := r.run(); s.Active.Version != "1.2.0" || !strings.Contains(s.Last.Reason, "before") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestTheMemoryOfCommandsIsBounded: when it is full of those that have not
// expired, no other is taken, and nothing else stops.
func TestTheMemoryOfCommandsIsBounded(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	w := r.watchdog()
	must(t, w.load())
	must(t, w.change(func(s *ota.State) error {
		for range ota.MaxNonces {
			s.Obeyed = append(s.Obeyed, ota.Obeyed{Nonce: newID(), ExpiresAt: today.Add(time.Hour)})
		}
		return nil
	}))
	for _, req := range []ota.Request{
		{Action: ota.Rollback},
		{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback})},
		{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: "1.1.0"})},
	} {
		r.ask(req)
		if s := r.run(); s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "256 commands") {
			t.Errorf("%v", s.Last)
		}
	}
	r.device.wall = today.Add(2 * time.Hour)
	r.ask(ota.Request{Action: ota.Rollback})
	if s := r.run(); s.Active.Version != "1.0.0" || len(s.Obeyed) != 1 {
		t.Errorf("%v, %d remembered", s.Last, len(s.Obeyed))
	}
}
