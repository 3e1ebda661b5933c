package watchdog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestAnEmptyDeviceIsSeeded(t *testing.T) {
	r := newRig(t)
	s := r.run()
	if s.Active.Version != "1.0.0" || !s.Active.Seed || s.Phase != ota.Committed {
		t.Errorf("active %+v, %s", s.Active, s.Phase)
	}
	if r.device.running != "1.0.0" {
		t.Errorf("%q runs", r.device.running)
	}
}

func TestAGoodReleaseIsCommitted(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 12)
	s := r.run()
	if s.Previous == nil || s.Previous.Version != "1.1.0" || s.Floor != 12 {
		t.Errorf("previous %+v, floor %d", s.Previous, s.Floor)
	}
	if got := strings.Join(r.device.starts, " "); got != "1.0.0 1.1.0 1.2.0" {
		t.Errorf("started %s", got)
	}
	if history, err := ota.ReadHistory(ota.Layout{Base: r.dir}); err != nil || len(history) != 2 || history[1].Result != ota.Installed || history[1].From != "1.1.0" {
		t.Errorf("history %+v, %v", history, err)
	}
}

// TestABadReleaseIsTakenBack has a row for each way in which a release can be
// bad; want is in the reason.
func TestABadReleaseIsTakenBack(t *testing.T) {
	critical := func(name string) func(int) Report {
		return func(looks int) Report {
			r := well()
			if looks > 5 {
				r.Checks[name] = wire.CheckCritical
			}
			return r
		}
	}
	tests := []struct {
		name string
		bad  behaviour
		want string
	}{
		{"exits at once", behaviour{crashAfter: 1, exit: 1}, "ended 3 times"},
		{"exits with 78", behaviour{crashAfter: 1, exit: exitConfig}, "configuration"},
		{"crashes after a while", behaviour{crashAfter: 8, exit: -1}, "ended 3 times"},
		{"does not answer", behaviour{hangs: true}, "no answer"},
		{"is another version", behaviour{says: "6.6.6"}, `"6.6.6"`},
		{"turns critical", behaviour{report: critical("sensors")}, `"sensors" is critical`},
		{"a check that was ok is missing", behaviour{report: func(int) Report {
			r := well()
			delete(r.Checks, "cloud")
			return r
		}}, "cloud is missing"},
		{"cannot authenticate", behaviour{report: func(int) Report {
			r := well()
			r.CloudGood = false
			return r
		}}, "cloud is not reached"},
		{"never reaches the broker", behaviour{report: func(int) Report {
			r := well()
			r.FleetConnected = false
			return r
		}}, "broker is not reached"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			r.device.behaves["1.2.0"] = &tt.bad
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			s := r.run()
			if s.Phase != ota.RolledBack || s.Active.Version != "1.1.0" || r.device.running != "1.1.0" {
				t.Fatalf("%s, active %s, running %s", s.Phase, s.Active.Version, r.device.running)
			}
			if s.Last.Result != ota.TakenBack || !strings.Contains(s.Last.Reason, tt.want) {
				t.Errorf("outcome %v, want a reason with %q", s.Last, tt.want)
			}
			if s.Floor != 11 {
				t.Errorf("floor %d: a release that was taken back raised it", s.Floor)
			}

			starts := len(r.device.starts)
			r.ask(ota.Request{Action: ota.Install, Bundle: "1.2.0.bundle"})
			if s := r.run(); s.Last.Result != ota.Refused || len(r.device.starts) != starts {
				t.Errorf("tried again without a new command: %v", s.Last)
			}
			r.install("1.3.0", 13)
		})
	}
}

// TestWhatWasBadBeforeIsNoFault: a link that is down, and a check that is bad
// already, do not keep a release from being committed.
func TestWhatWasBadBeforeIsNoFault(t *testing.T) {
	bad := &behaviour{report: func(int) Report {
		r := well()
		r.CloudGood, r.FleetConnected = false, false
		r.Checks["sensors"], r.Checks["cloud"] = wire.CheckWarning, wire.CheckWarning
		return r
	}}
	r := newRig(t)
	r.device.behaves["1.0.0"], r.device.behaves["1.1.0"] = bad, bad
	r.install("1.1.0", 11)
}

func TestAReleaseIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*rig) ota.Request
		want    string
	}{
		{"wrong arch", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 20, func(o *pack.Options) { o.Arch = "amd64" })}
		}, "it is for amd64"},
		{"wrong hardware", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 20, func(o *pack.Options) { o.Hardware = []string{"nvidia,*"} })}
		}, "nvidia"},
		{"expired", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 20, func(o *pack.Options) { o.ExpiresAt = today.Add(-time.Hour) })}
		}, "expired"},
		{"older counter", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 10, nil)}
		}, "counter 10"},
		{"signed by the command key", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 20, func(o *pack.Options) { o.Keys = []ed25519.PrivateKey{r.command} })}
		}, "not signed"},
		{"another component", func(r *rig) ota.Request {
			return ota.Request{Bundle: r.bundle("2.0.0", 20, func(o *pack.Options) { o.Name = "camera" })}
		}, "holds camera"},
		{"absent", func(*rig) ota.Request { return ota.Request{Bundle: "none.bundle"} }, "open the bundle"},
		{"a link out of the inbox", func(r *rig) ota.Request {
			r.bundle("2.0.0", 20, nil)
			inbox := filepath.Join(r.dir, "inbox")
			must(r.t, os.Rename(filepath.Join(inbox, "2.0.0.bundle"), filepath.Join(r.dir, "elsewhere")))
			must(r.t, os.Symlink("../elsewhere", filepath.Join(inbox, "2.0.0.bundle")))
			return ota.Request{Bundle: "2.0.0.bundle"}
		}, "not a regular file"},
		{"no space", func(r *rig) ota.Request {
			r.options.Free = func() (int64, error) { return 1 << 20, nil }
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil)}
		}, "free space"},
		{"selftest", func(r *rig) ota.Request {
			r.options.Selftest = func(_ context.Context, dir string) error {
				if _, err := os.Stat(filepath.Join(dir, "pyvorin-edge")); err != nil {
					return err
				}
				return os.ErrInvalid
			}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil)}
		}, "selftest"},
		{"a command for another version", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "2.0.1"}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil), Command: r.order(c)}
		}, "orders version 2.0.1"},
		{"a command for another file", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "2.0.0", Counter: 20}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil), Command: r.order(c)}
		}, "sha256"},
		{"a command for another device", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "2.0.0", Target: wire.Target{Devices: []string{"FLEET-000000000002"}}}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil), Command: r.order(c)}
		}, "other devices"},
		{"an expired command", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "2.0.0", ExpiresAt: today.Add(-time.Second)}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil), Command: r.order(c)}
		}, "expired"},
		{"a command that nobody trusted signed", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "2.0.0"}
			return ota.Request{Bundle: r.bundle("2.0.0", 20, nil), Command: r.order(c, key(9))}
		}, "not signed"},
		{"a downgrade that no release key signed", func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: r.sum(r.bundle("0.9.0", 9, nil)), Version: "0.9.0", AllowDowngrade: true}
			return ota.Request{Bundle: "0.9.0.bundle", Command: r.order(c)}
		}, "allow_downgrade"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			req := tt.prepare(r)
			req.Action = ota.Install
			id := r.ask(req)
			s := r.run()
			if s.Last.ID != id || s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, tt.want) {
				t.Errorf("outcome %v, want a reason with %q", s.Last, tt.want)
			}
			if s.Active.Version != "1.1.0" || s.Previous == nil || s.Previous.Version != "1.0.0" {
				t.Errorf("active %s, previous %v: a refusal changed something", s.Active.Version, s.Previous)
			}
			if got := strings.Join(r.device.starts, " "); got != "1.0.0 1.1.0" {
				t.Errorf("started %s", got)
			}
		})
	}
}

func TestARollbackIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*rig)
		to      string
		want    string
	}{
		{"nothing is kept", func(r *rig) {
			r.device.behaves["1.2.0"] = &behaviour{hangs: true}
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			r.run()
		}, "", "no other release is kept"},
		{"it is not kept", func(*rig) {}, "0.9.0", "0.9.0 is not on this device; kept are 1.1.0 and 1.0.0"},
		{"what is kept is damaged", func(r *rig) { must(r.t, os.Chmod(filepath.Join(r.dir, "slot-a", "pyvorin-edge"), 0o644)) }, "1.0.0", "has the mode"},
		{"what is kept is another", func(r *rig) {
			must(r.t, os.RemoveAll(filepath.Join(r.dir, "slot-a")))
			must(r.t, os.CopyFS(filepath.Join(r.dir, "slot-a"), os.DirFS(filepath.Join(r.dir, "slot-b"))))
		}, "", "slot a does not hold version 1.0.0 any more"},
		{"there is no anchor", func(r *rig) { must(r.t, os.Remove(filepath.Join(r.dir, anchorFile))) }, "", "provision the device"},
		{"the anchor is damaged", func(r *rig) { must(r.t, os.Truncate(filepath.Join(r.dir, anchorFile), 9)) }, "", "trust anchor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.1.0", 11)
			tt.prepare(r)
			r.ask(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: tt.to})})
			must(t, r.watchdog().Run(t.Context()))
			if s := r.state(); s.Active.Version != "1.1.0" || s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, tt.want) {
				t.Errorf("active %s, %v", s.Active.Version, s.Last)
			}
		})
	}
}

func TestAnInstallationOfWhatRunsIsDone(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	name := r.bundle("1.1.0", 11, nil)
	order := r.order(wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: r.sum(name), Version: "1.1.0"})
	r.ask(ota.Request{Action: ota.Install, Bundle: name, Command: order})
	if s := r.run(); s.Last.Result != ota.Installed || s.Last.To != "1.1.0" || len(r.device.starts) != 2 || s.Previous == nil {
		t.Errorf("%v, started %v", s.Last, r.device.starts)
	}
	// The command is not good for bringing it back later.
	r.install("1.2.0", 12)
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.0", 11, nil), Command: order})
	if s := r.run(); s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "before") {
		t.Errorf("%v", s.Last)
	}
}

// TestADelta is made out of what is active, or kept; of anything else the full
// bundle is asked for.
func TestADelta(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.delta("1.1.0", 11, "1.2.0", 12)
	r.ask(ota.Request{Action: ota.Install, Bundle: "delta"})
	if s := r.run(); s.Active.Version != "1.2.0" {
		t.Fatalf("active %s, %v", s.Active.Version, s.Last)
	}
	r.delta("1.1.0", 11, "1.3.0", 13)
	r.ask(ota.Request{Action: ota.Install, Bundle: "delta"})
	if s := r.run(); s.Active.Version != "1.3.0" || s.Previous.Version != "1.2.0" {
		t.Fatalf("active %s, %v", s.Active.Version, s.Last)
	}
	r.ask(ota.Request{Action: ota.Install, Bundle: r.delta("1.1.0", 11, "1.4.0", 14)})
	if s := r.run(); s.Last.Result != ota.Refused || s.Last.Remedy != ota.BringFull {
		t.Errorf("%+v", s.Last)
	}
	must(t, os.Truncate(filepath.Join(r.dir, "inbox", r.bundle("1.4.0", 14, nil)), 3000))
	r.ask(ota.Request{Action: ota.Install, Bundle: "1.4.0.bundle"})
	if s := r.run(); s.Last.Result != ota.Refused || s.Last.Remedy != ota.BringAgain {
		t.Errorf("%+v", s.Last)
	}
	r.install("1.4.0", 14)
}

// delta writes what makes one version out of another into the inbox.
func (r *rig) delta(from string, fromCounter uint64, to string, counter uint64) string {
	r.t.Helper()
	var bundles [2][]byte
	for i, name := range []string{r.bundle(from, fromCounter, nil), r.bundle(to, counter, nil)} {
		path := filepath.Join(r.dir, "inbox", name)
		var err error
		bundles[i], err = os.ReadFile(path)
		must(r.t, errors.Join(err, os.Remove(path)))
	}
	var made bytes.Buffer
	_, err := pack.Delta(r.t.Context(), &made, bytes.NewReader(bundles[0]), bytes.NewReader(bundles[1]), []ed25519.PrivateKey{r.release})
	must(r.t, err)
	must(r.t, os.WriteFile(filepath.Join(r.dir, "inbox", "delta"), made.Bytes(), 0o600))
	return "delta"
}

func TestARescueNeedsWhatItGoesBackTo(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 12)
	r.damage("slot-b") // 1.1.0
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1, gaveUp: true}
	if s := r.run(); s.Active.Version != "1.2.0" || s.Previous != nil {
		t.Errorf("active %s, previous %v, %v", s.Active.Version, s.Previous, s.Last)
	}
}

func TestADowngradeThatAReleaseKeySigned(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: r.sum(r.bundle("0.9.0", 9, nil)), Version: "0.9.0", AllowDowngrade: true}
	r.ask(ota.Request{Action: ota.Install, Bundle: "0.9.0.bundle", Command: r.order(c, r.command, r.release)})
	if s := r.run(); s.Active.Version != "0.9.0" || s.Floor != 9 {
		t.Errorf("active %s, floor %d, %v", s.Active.Version, s.Floor, s.Last)
	}
}

func TestACommandIsObeyedOnce(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	order := r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: "1.0.0"})
	r.ask(ota.Request{Action: ota.Rollback, Command: order})
	if s := r.run(); s.Active.Version != "1.0.0" || s.Phase != ota.Committed {
		t.Fatalf("active %s, %v", s.Active.Version, s.Last)
	}
	r.install("1.2.0", 12)
	for range 3 {
		r.ask(ota.Request{Action: ota.Rollback, Command: order})
		if s := r.run(); s.Active.Version != "1.2.0" || s.Last.Result != ota.Refused || !strings.Contains(s.Last.Reason, "before") {
			t.Fatalf("active %s, %v", s.Active.Version, s.Last)
		}
	}
}

func TestRollbackToWhatRunsIsDone(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.ask(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, TargetVersion: "1.1.0"})})
	if s := r.run(); s.Last.Result != ota.Installed || len(r.device.starts) != 2 {
		t.Errorf("%v, started %v", s.Last, r.device.starts)
	}
}

func TestACrashLoopAfterTheCommitGoesBackOnce(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	r.install("1.2.0", 12)
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
	r.device.restarts = 10
	s := r.run()
	if s.Active.Version != "1.1.0" || s.Last.Result != ota.TakenBack || !strings.Contains(s.Last.Reason, "after its commit") {
		t.Fatalf("active %s, %v", s.Active.Version, s.Last)
	}
	if s.Failed(s.Previous.Digest) == nil {
		t.Error("the release that crashed is not remembered")
	}
	r.device.behaves["1.1.0"] = &behaviour{crashAfter: 1, exit: 1}
	r.device.restarts = 10
	if s := r.run(); s.Active.Version != "1.1.0" {
		t.Errorf("went back and forth: active %s", s.Active.Version)
	}
}

// TestHowLongACrashLoopIsTheReleasesFault has a row for each way in which the
// clocks can tell that the commit was long ago, or not.
func TestHowLongACrashLoopIsTheReleasesFault(t *testing.T) {
	tests := []struct {
		name  string
		unset bool // the clock, at the commit
		then  func(*rig)
		want  string
	}{
		{"a day later", false, func(r *rig) { r.device.uptime += 25 * time.Hour }, "1.1.0"},
		{"a day and a boot later", false, func(r *rig) {
			r.device.wall = today.Add(25 * time.Hour)
			r.reboot()
		}, "1.1.0"},
		{"an hour later", false, func(r *rig) { r.device.uptime += time.Hour }, "1.0.0"},
		{"an hour and a boot later", false, func(r *rig) {
			r.device.wall = today.Add(time.Hour)
			r.reboot()
		}, "1.0.0"},
		{"the clock jumped by years", false, func(r *rig) { r.device.wall = today.AddDate(3, 0, 0) }, "1.0.0"},
		{"the clock was set after the boot", true, func(r *rig) {
			r.device.wall, r.device.synced = today, true
			r.reboot()
		}, "1.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.unset {
				r.device.wall, r.device.synced = time.Unix(0, 0), false
			}
			r.install("1.1.0", 11)
			tt.then(r)
			r.device.behaves["1.1.0"] = &behaviour{crashAfter: 1, exit: 1}
			r.device.restarts = 10
			if s := r.run(); s.Active.Version != tt.want {
				t.Errorf("active %s, %v", s.Active.Version, s.Last)
			}
		})
	}
}

// TestBootRepairs has a row for each way in which what active names can be
// broken while the device was off.
func TestBootRepairs(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string // version that runs
	}{
		{"active is gone", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "active"))) }, "1.2.0"},
		{"active dangles", func(t *testing.T, dir string) { link(t, "slot-c", dir) }, "1.2.0"},
		{"active leads elsewhere", func(t *testing.T, dir string) { link(t, "/tmp", dir) }, "1.2.0"},
		{"active names the other slot", func(t *testing.T, dir string) { link(t, "slot-a", dir) }, "1.2.0"},
		{"active is a folder", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "active")))
			must(t, os.MkdirAll(filepath.Join(dir, "active", "pyvorin-edge"), 0o755))
		}, "1.2.0"},
		{"the program is truncated", func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "active", "pyvorin-edge"), 3))
		}, "1.1.0"},
		{"a bit is flipped", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "active", "pyvorin-edge"), []byte("program 1.2.1"), 0o755))
		}, "1.1.0"},
		{"a file is added", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "active", "extra"), nil, 0o755))
		}, "1.1.0"},
		{"the slot is gone", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "slot-b"))) }, "1.1.0"},
		{"both slots are gone", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "slot-a")))
			must(t, os.RemoveAll(filepath.Join(dir, "slot-b")))
		}, "1.0.0"},
		{"the state is gone", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "ota", "state.json"))) }, "1.2.0"},
		{"the state is damaged", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "ota", "state.json"), []byte("{\"format\":1"), 0o644))
		}, "1.2.0"},
		{"everything is gone", func(t *testing.T, dir string) {
			for _, name := range []string{"slot-a", "slot-b", "active", "ota"} {
				must(t, os.RemoveAll(filepath.Join(dir, name)))
			}
		}, "1.0.0"},
		{"leftovers of a staging", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(filepath.Join(dir, "slot-a.new", "lib"), 0o755))
			must(t, os.MkdirAll(filepath.Join(dir, "ota", "work"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "ota", "busy"), nil, 0o644))
		}, "1.2.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install("1.0.5", 10) // slot b
			r.install("1.1.0", 11) // slot a
			r.install("1.2.0", 12) // slot b
			tt.damage(t, r.dir)
			r.reboot()
			s := r.run()
			if r.device.running != tt.want || s.Active.Version != tt.want {
				t.Errorf("%q runs, active %s; want %s (%v)", r.device.running, s.Active.Version, tt.want, s.Last)
			}
			r.install("1.3.0", 13)
		})
	}
}

func link(t *testing.T, target, dir string) {
	t.Helper()
	must(t, os.Remove(filepath.Join(dir, "active")))
	must(t, os.Symlink(target, filepath.Join(dir, "active")))
}

// sum returns the SHA-256 of a bundle in the inbox.
func (r *rig) sum(name string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, "inbox", name))
	must(r.t, err)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
