package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// A delta is looked for first, for the release that runs and for the one before.
func TestDeltasAreTriedFirst(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	full := "http://bundles.test/1.1.0"
	deltaA, deltaB := bundle.DeltaName(full, a), bundle.DeltaName(full, b)
	for _, tt := range []struct {
		name string
		err  error // of deltas
		want []string
	}{
		{"one is there", nil, []string{deltaA}},
		{"none is there", fetch.ErrNotFound, []string{deltaA, deltaB, full}},
		{"they are forbidden", fetch.ErrRefused, []string{deltaA, deltaB, full}},
		{"they are web pages", bundle.ErrMalformed, []string{deltaA, deltaB, full}},
		{"they are of strangers", trust.ErrNotSigned, []string{deltaA, deltaB, full}},
		{"they are for others", bundle.ErrWrongBase, []string{deltaA, deltaB, full}},
		{"the network is gone", errors.New("connection refused"), []string{deltaA}},
	} {
		for _, enabled := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				d := newTimed(t)
				d.options.Delta = enabled
				d.state(func(s *ota.State) { s.Previous = &ota.Release{Slot: "b", Version: "0.9.0", Counter: 9, Digest: b} })
				d.fetcher.fail = func(_ int, source string) error {
					if strings.Contains(source, "delta") {
						return tt.err
					}
					return nil
				}
				d.run(func(u *Updater) { d.order(u, time.Hour) })
				want := tt.want
				if !enabled {
					want = []string{full}
				}
				if !slices.Equal(d.fetcher.places, want) {
					t.Errorf("%s: %q; want %q", tt.name, d.fetcher.places, want)
				}
			})
		}
	}
}

// A watchdog that is not there, or loses requests.
func TestAWatchdogThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.run(func(u *Updater) {
			d.order(u, time.Hour)
			if !d.asked() || u.Health().WaitingFor != "the watchdog to take the request" {
				t.Fatalf("%+v", u.Health())
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if d.asked() || !u.ended() {
				t.Error("the request is still there")
			}
		})
		if o := d.reports.all(); len(o) != 1 || o[0].Result != ota.Refused || !strings.Contains(o[0].Reason, "is it installed") || o[0].From != "1.0.0" {
			t.Errorf("told %+v", o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.run(func(u *Updater) {
			d.order(u, time.Hour)
			lost := 0
			for !u.ended() {
				if os.Remove(filepath.Join(d.dir, "inbox", ota.RequestFile)) == nil {
					lost++
				}
				time.Sleep(time.Minute)
				synctest.Wait()
			}
			if lost != maxAsks {
				t.Errorf("it was asked %d times", lost)
			}
		})
		if o := d.reports.all(); len(o) != 1 || !strings.Contains(o[0].Reason, "asked 5 times") {
			t.Errorf("told %+v", o)
		}
	})
}

// What was asked goes its way; a newer command waits for it.
func TestANewerCommandWaitsForWhatWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.run(func(u *Updater) {
			d.order(u, 24*time.Hour)
			for i, version := range []string{"1.2.0", "1.3.0"} {
				time.Sleep(time.Minute)
				must(t, u.Want(t.Context(), sign(t, d.clock.Now(), wire.Command{Version: version, Counter: uint64(12 + i), IssuedAt: d.clock.Now()})))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if h := u.Health(); h.Target != "1.1.0" || h.WaitingFor != "the watchdog to take the request" {
				t.Errorf("%+v", h)
			}
			d.state(func(s *ota.State) { s.Active.Version, s.Active.Counter = "1.1.0", 11 })
			d.answer(ota.Installed)
			time.Sleep(time.Minute)
			synctest.Wait()
			if h := u.Health(); h.Target != "1.3.0" || h.WaitingFor != "the watchdog to take the request" {
				t.Errorf("%+v", h)
			}
		})
		if got := strings.Join(d.reports.lines(), ", "); got != "install refused 1.2.0, install committed 1.1.0" {
			t.Errorf("told %s", got)
		}
	})
}

// A download ends when it is not wanted any more.
func TestADownloadOfYesterday(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.fetcher.takes = 10 * time.Hour
		d.run(func(u *Updater) {
			d.order(u, 24*time.Hour)
			time.Sleep(time.Hour)
			must(t, u.Want(t.Context(), sign(t, d.clock.Now(), wire.Command{Command: wire.CommandRollback, TargetVersion: "0.9.0", IssuedAt: d.clock.Now()})))
			time.Sleep(time.Minute)
			synctest.Wait()
			if !d.asked() || len(d.fetcher.ended) != 1 {
				t.Errorf("asked: %v, %d downloads have ended", d.asked(), len(d.fetcher.ended))
			}
		})
		if got := strings.Join(d.reports.lines(), ", "); got != "install refused 1.1.0" {
			t.Errorf("told %s", got)
		}
	})
}

// What nobody listens to is kept, the newest of it.
func TestReportsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.reports.fail = errors.New("nobody listens")
		d.run(func(u *Updater) {
			for i := range maxUnreported + 5 {
				now := d.clock.Now()
				must(t, u.Want(t.Context(), sign(t, now, wire.Command{Version: fmt.Sprintf("0.%d.0", i), Counter: 1, IssuedAt: now})))
				time.Sleep(time.Second)
				synctest.Wait()
			}
			if w := u.wants(); len(w.Unreported) != maxUnreported || w.Dropped != 5 || len(w.Wants) > 0 {
				t.Errorf("%d not told, %d dropped, %d wants", len(w.Unreported), w.Dropped, len(w.Wants))
			}
			d.reports.mu.Lock()
			d.reports.fail = nil
			d.reports.mu.Unlock()
			time.Sleep(2 * reportPause)
			synctest.Wait()
		})
		if lines := d.reports.lines(); len(lines) != maxUnreported || lines[0] != "install refused 0.5.0" {
			t.Errorf("told %q", lines)
		}
		d.run(func(*Updater) { time.Sleep(time.Minute) })
		if n := len(d.reports.all()); n != maxUnreported {
			t.Errorf("told %d", n)
		}
	})
}

// The inbox holds what is needed, and little else.
func TestInboxIsCleaned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		inbox := filepath.Join(d.dir, "inbox")
		must(t, os.Mkdir(inbox, 0o700))
		put := func(name string, age time.Duration) {
			path := filepath.Join(inbox, name)
			must(t, os.WriteFile(path, nil, 0o600))
			at := time.Now().Add(-age)
			must(t, os.Chtimes(path, at, at))
		}
		old, wanted := strings.Repeat("0", 32), hashOf([]byte("1.1.0"))[:32]
		fill := func() {
			for _, suffix := range []string{".bundle", ".bundle.part", ".bundle.piece", "-0123456789abcdef.delta", "-0123456789abcdef.delta.part"} {
				put(old+suffix, 0)
				put(wanted+suffix, 1000*time.Hour)
			}
			put("by-hand.bundle", 0)
			put("long-ago.bundle", 8*24*time.Hour)
			put(".desired.json.tmp-1", 8*24*time.Hour)
			for i := range 20 {
				put(fmt.Sprintf("many-%02d", i), time.Hour+time.Duration(i)*time.Minute)
			}
			must(t, os.Mkdir(filepath.Join(inbox, "folder"), 0o700))
			must(t, os.Symlink("/etc/passwd", filepath.Join(inbox, "link")))
		}
		d.fetcher.fail = func(int, string) error { return errors.New("no network") }
		d.run(func(u *Updater) {
			d.order(u, 24*time.Hour)
			fill()
			time.Sleep(cleanPause + time.Minute)
			synctest.Wait()
		})
		want := []string{
			"by-hand.bundle", "desired.json", "folder", "link",
			"many-00", "many-01", "many-02", "many-03", "many-04", "many-05", "many-06",
		}
		for _, suffix := range []string{"-0123456789abcdef.delta", "-0123456789abcdef.delta.part", ".bundle", ".bundle.part", ".bundle.piece"} {
			want = append(want, wanted+suffix)
		}
		slices.Sort(want)
		entries, err := os.ReadDir(inbox)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if !slices.Equal(got, want) {
			t.Errorf("the inbox holds %q\nwant %q", got, want)
		}
	})
}

// A component has files of its own, and the request names it.
func TestComponents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		camera := t.TempDir()
		must(t, os.Mkdir(filepath.Join(camera, "ota"), 0o755))
		s := ota.State{Phase: ota.Committed, Active: ota.Release{Slot: "a", Version: "5.0.0", Counter: 50}}
		data, err := s.Encode()
		must(t, err)
		must(t, os.WriteFile(filepath.Join(camera, "ota", "state.json"), data, 0o644))
		d.options.Components = map[string]ota.Layout{"camera": {Base: camera}}
		d.options.MinHealthy, d.options.Deadline = 90*time.Second, 10*time.Minute
		d.run(func(u *Updater) {
			now := d.clock.Now()
			must(t, u.Want(t.Context(), sign(t, now, wire.Command{Component: "camera", Version: "5.1.0", Counter: 51})))
			synctest.Wait()
			if h := u.Health(); h.Target != "camera 5.1.0" || h.WaitingFor != "the watchdog to take the request" {
				t.Errorf("%+v", h)
			}
			r := u.request()
			if r.Component != "camera" || r.Action != ota.Install || r.MinHealthySeconds != 90 || r.DeadlineSeconds != 600 || r.Bundle == "" || len(r.Command) == 0 {
				t.Errorf("%+v", r)
			}
			// The agent's own has to wait: there is one request at a time.
			d.order(u, time.Hour)
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(u.wants().Wants); n != 2 || u.request().Component != "camera" {
				t.Errorf("%d wants, the request is of %q", n, u.request().Component)
			}
			line, err := json.Marshal(ota.Outcome{ID: r.ID, Action: r.Action, Result: ota.Installed, To: "5.1.0"})
			must(t, err)
			must(t, os.WriteFile(filepath.Join(camera, "ota", "history.jsonl"), append(line, '\n'), 0o644))
			must(t, os.Remove(filepath.Join(d.dir, "inbox", ota.RequestFile)))
			time.Sleep(time.Minute)
			synctest.Wait()
			if h := u.Health(); h.Target != "1.1.0" || u.request().Component != "" {
				t.Errorf("%+v", h)
			}
		})
		if got := strings.Join(d.reports.lines(), ", "); got != "install committed 5.1.0" {
			t.Errorf("told %s", got)
		}
	})
}

// A request that could not be written is none that the watchdog has lost.
func TestARequestThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.fetcher.fail = func(int, string) error { return errors.New("no network") }
		d.run(func(u *Updater) {
			d.order(u, time.Hour)
			// A name that no request can have.
			must(t, os.WriteFile(u.inbox("a b"), nil, 0o600))
			must(t, u.changeWant("nonce-1.1.0", func(_ *desired, w *want) { w.Bundle, w.Failures = "a b", 0 }))
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if w := u.wants().find("nonce-1.1.0"); w == nil || w.Asks != 0 || w.Request == "" {
				t.Errorf("%+v, told %q", w, d.reports.lines())
			}
			if h := u.Health(); !strings.Contains(h.LastError, "names no bundle") {
				t.Errorf("%+v", h)
			}
		})
	})
}
