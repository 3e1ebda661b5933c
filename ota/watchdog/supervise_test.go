package watchdog

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
)

// supervised is a device with real processes: what active names is a script that
// has this test program do something.
type supervised struct {
	*rig
	w     *Watchdog
	child *Child
	ended chan error
	stop  context.CancelFunc
}

func supervise(t *testing.T) *supervised {
	t.Helper()
	r := newRig(t)
	s := &supervised{rig: r, ended: make(chan error, 1)}
	must(t, os.RemoveAll(filepath.Join(r.dir, "slot-a")))
	must(t, os.Remove(filepath.Join(r.dir, stateFile)))
	r.options.Seed.Path = filepath.Join(r.dir, "seed")
	must(t, os.WriteFile(r.options.Seed.Path, []byte(program(t, "pings")), 0o755))
	s.start()
	return s
}

// program is a release that does what childMain does in this mode.
func program(t *testing.T, mode string) string {
	t.Helper()
	test, err := os.Executable()
	must(t, err)
	return fmt.Sprintf("#!/bin/sh\n%s=%s exec %s\n", childMode, mode, test)
}

func (s *supervised) start() {
	s.t.Helper()
	child, err := NewChild(ChildOptions{
		Argv: []string{filepath.Join(s.dir, "active", "pyvorin-edge")}, Env: append(os.Environ(), childDir+"="+filepath.Join(s.dir, "inbox")),
		RuntimeDir: filepath.Join(s.dir, "ota", "run"), PingTimeout: 500 * time.Millisecond, StopTimeout: time.Second, Log: zerolog.Nop(),
	})
	must(s.t, err)
	child.delayMin = 20 * time.Millisecond
	s.child = child
	o := s.options
	o.Layout = ota.Layout{Base: s.dir}
	o.Disk, o.Home = s.real, s.real
	o.Service, o.Probe = s.child, Endpoint{}
	o.Clock, o.Uptime, o.BootID, o.Poll = s.device, clock.SinceBoot, "boot", 10*time.Millisecond
	s.w, err = New(o)
	must(s.t, err)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.ended <- Supervise(ctx, s.w, s.child, zerolog.Nop()) }()
	s.t.Cleanup(s.end)
}

func (s *supervised) end() {
	s.stop()
	if err := <-s.ended; err != nil {
		s.t.Error(err)
	}
	s.ended <- nil
}

// update asks for a release that does this, and waits for its outcome.
func (s *supervised) update(version string, counter uint64, mode string, minHealthy int) ota.Outcome {
	s.t.Helper()
	from := tempDir(s.t)
	must(s.t, os.WriteFile(filepath.Join(from, "pyvorin-edge"), []byte(program(s.t, mode)), 0o755))
	f, err := os.Create(filepath.Join(s.dir, "inbox", version))
	must(s.t, err)
	_, err = pack.Create(s.t.Context(), f, pack.Options{
		From: from, Name: ota.AgentComponent, Version: version, Counter: counter, Arch: "arm64",
		CreatedAt: today.AddDate(0, 0, -1), ExpiresAt: today.AddDate(0, 0, 30),
		Health: bundle.Health{MinHealthySeconds: minHealthy, DeadlineSeconds: 60}, Keys: []ed25519.PrivateKey{s.release},
	})
	must(s.t, errors.Join(err, f.Close()))
	id := s.ask(ota.Request{Action: ota.Install, Bundle: version})
	var o ota.Outcome
	eventually(s.t, func() bool {
		o = s.outcome(id)
		return o.ID == id
	}, func() string { return "no outcome" })
	return o
}

func TestSupervise(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"pings": "", "3": "ended 3 times", "78": "configuration", "hangs": "no sign of life",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := supervise(t)
			minHealthy := 1
			if mode == "hangs" {
				minHealthy = 10 // by then it was killed, however busy this machine is
			}
			o := s.update("1.1.0", 11, mode, minHealthy)
			st := s.state()
			switch {
			case want == "" && (o.Result != ota.Installed || st.Active.Version != "1.1.0"):
				t.Errorf("active %s, %v", st.Active.Version, o)
			case want != "" && (o.Result != ota.TakenBack || !strings.Contains(o.Reason, want) || st.Active.Version != "1.0.0" || len(st.Failures) != 1):
				t.Errorf("active %s, %v", st.Active.Version, o)
			}
			eventually(t, func() bool {
				st, _ := s.child.Status(t.Context())
				return st.Running && st.Restarts == 0
			}, func() string { return "nothing runs" })
		})
	}
}

// TestSuperviseGoesOn after it was stopped in the middle of a trial.
func TestSuperviseGoesOn(t *testing.T) {
	t.Parallel()
	s := supervise(t)
	done := make(chan ota.Outcome, 1)
	go func() {
		eventually(t, func() bool {
			st, err := ota.ReadState(ota.Layout{Base: s.dir})
			return err == nil && st.Phase == ota.Trial
		}, func() string { return "no trial" })
		s.end()
		<-s.ended
		s.start()
		done <- ota.Outcome{}
	}()
	if o := s.update("1.1.0", 11, "pings", 1); o.Result != ota.Installed {
		t.Errorf("%v", o)
	}
	<-done
}

// TestWhatIsWantedAtRest: nothing, and of a crash loop one look.
func TestWhatIsWantedAtRest(t *testing.T) {
	r := newRig(t)
	w := r.watchdog()
	if !w.wanted(t.Context()) {
		t.Error("nothing was ever looked at")
	}
	must(t, w.Run(t.Context()))
	if w.wanted(t.Context()) {
		t.Error("there is nothing to do")
	}
	r.device.behaves["1.0.0"] = &behaviour{crashAfter: 1, exit: exitConfig}
	for i, want := range []bool{true, false, false} {
		if got := w.wanted(t.Context()); got != want {
			t.Errorf("look %d at a crash loop: %v", i, got)
		}
	}
	r.device.behaves = map[string]*behaviour{}
	if w.wanted(t.Context()) {
		t.Error("it runs again")
	}
	r.device.behaves["1.0.0"] = &behaviour{crashAfter: 1, exit: exitConfig}
	if !w.wanted(t.Context()) {
		t.Error("another crash loop")
	}
	r.ask(ota.Request{Action: ota.Rollback})
	if !w.wanted(t.Context()) {
		t.Error("a request")
	}
}

func TestSuperviseEndsWhenItCannotBegin(t *testing.T) {
	r := newRig(t)
	must(t, os.RemoveAll(filepath.Join(r.dir, "slot-a")))
	must(t, os.Remove(r.options.Seed.Path))
	child, err := NewChild(ChildOptions{Argv: []string{"x"}, RuntimeDir: "/dev/null/x", Log: zerolog.Nop()})
	must(t, err)
	if err := Supervise(t.Context(), r.watchdog(), child, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "seed") {
		t.Errorf("%v", err)
	}
	r = newRig(t)
	if err := Supervise(t.Context(), r.watchdog(), child, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "runtime dir") {
		t.Errorf("%v", err)
	}
}

func TestNewRefusesWhatLacksAPart(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no error")
	}
	r := newRig(t)
	if r.watchdog().State() != nil {
		t.Error("a state before the first look")
	}
}
