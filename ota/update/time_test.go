package update

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// A download pauses while its window is closed, and goes on in the next one.
func TestDownloadWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // from midnight, 2000-01-01 UTC
		d := newTimed(t)
		d.fetcher.takes = 150 * time.Minute
		d.options.Download = parseWindow(t, "* 2-3 * * *")
		d.options.Install = parseWindow(t, "* 5 * * *")
		d.run(func(u *Updater) {
			d.order(u, 240*time.Hour)
			if h := u.Health(); h.WaitingFor != "the download window, which opens at 2000-01-01 02:00 UTC" || h.Target != "1.1.0" || h.ProgressPercent != nil {
				t.Errorf("%+v", h)
			}
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			if h := u.Health(); h.ProgressPercent == nil || h.WaitingFor != "" {
				t.Errorf("%+v", h)
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if h := u.Health(); h.WaitingFor != "the download window, which opens at 2000-01-02 02:00 UTC" || h.LastError != "" {
				t.Errorf("%+v", h)
			}
			time.Sleep(22 * time.Hour) // 03:00 of the next day
			synctest.Wait()
			if h := u.Health(); h.WaitingFor != "the install window, which opens at 2000-01-02 05:00 UTC" {
				t.Errorf("%+v", h)
			}
			if d.asked() {
				t.Error("the watchdog was asked outside of the window")
			}
			time.Sleep(2*time.Hour + time.Minute)
			synctest.Wait()
			if !d.asked() {
				t.Error("the watchdog was not asked")
			}
		})
		if d.fetcher.calls() != 2 {
			t.Fatalf("%d downloads", d.fetcher.calls())
		}
		for i, want := range []time.Time{time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC), time.Date(2000, 1, 2, 2, 0, 0, 0, time.UTC)} {
			if got := d.fetcher.begun[i]; got.Before(want) || got.After(want.Add(timedPoll)) {
				t.Errorf("download %d began at %v; want %v", i+1, got, want)
			}
		}
		if end := d.fetcher.ended[0]; end.Sub(d.fetcher.begun[0]) > 2*time.Hour+timedPoll {
			t.Errorf("the first download lasted until %v", end)
		}
	})
}

// Without a clock the windows are ignored, but not at once.
func TestWindowWithoutAClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.clock.unset = true
		d.options.Download = parseWindow(t, "* 2-3 * * *")
		d.run(func(u *Updater) {
			d.order(u, 240*time.Hour)
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if h := u.Health(); h.WaitingFor != "the clock to be set, for another 50 min; then the download window is ignored" {
				t.Errorf("%+v", h)
			}
			if d.fetcher.calls() > 0 {
				t.Error("it was fetched")
			}
		})
		d.run(func(u *Updater) { // a restart of the process is none of the machine
			time.Sleep(51 * time.Minute)
			synctest.Wait()
			if d.fetcher.calls() != 1 {
				t.Errorf("%d downloads", d.fetcher.calls())
			}
		})
	})
}

// Tries that fail are repeated, and not in a tight loop.
func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		min, max int    // tries in a day
		told     string // by then
	}{
		{"no network", errors.New("connection refused"), 20, 60, ""},
		{"no space", fmt.Errorf("fetch: %w", syscall.ENOSPC), 20, 60, ""},
		{"not there", fmt.Errorf("fetch: %w: 404", fetch.ErrNotFound), maxFaults, maxFaults, "install refused 1.1.0"},
		{"damaged", bundle.ErrDamaged, maxFaults, maxFaults, "install refused 1.1.0"},
		{"not signed", trust.ErrNotSigned, 1, 1, "install refused 1.1.0"},
		{"for another machine", bundle.ErrWrongTarget, 1, 1, "install refused 1.1.0"},
		{"another one", fetch.ErrOther, 1, 1, "install refused 1.1.0"},
		{"it runs", errRuns, 1, 1, "install committed 1.1.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newTimed(t)
				d.fetcher.fail = func(int, string) error { return tt.err }
				d.options.Poll = 3 * time.Minute
				d.run(func(u *Updater) {
					d.order(u, 48*time.Hour)
					time.Sleep(time.Minute)
					synctest.Wait()
					if h := u.Health(); tt.told == "" && (h.LastError != tt.err.Error() || h.WaitingFor == "" || h.Target != "1.1.0") {
						t.Errorf("%+v", h)
					}
					time.Sleep(24 * time.Hour)
					synctest.Wait()
				})
				if n := d.fetcher.calls(); n < tt.min || n > tt.max {
					t.Errorf("%d tries", n)
				}
				for i, at := range d.fetcher.begun[1:] {
					if wait := at.Sub(d.fetcher.begun[i]); wait < retryMin/2 || wait > retryMax+d.options.Poll {
						t.Errorf("try %d after %v", i+2, wait)
					}
				}
				if got := strings.Join(d.reports.lines(), ", "); got != tt.told {
					t.Errorf("told %q; want %q", got, tt.told)
				}
				if tt.told != "" {
					return
				}
				// A restart does not begin a tight loop either, and the end comes.
				before := d.fetcher.calls()
				for range 10 {
					d.run(func(*Updater) { time.Sleep(time.Second) })
				}
				if n := d.fetcher.calls(); n > before {
					t.Errorf("%d tries in 10 restarts", n-before)
				}
				d.run(func(u *Updater) {
					time.Sleep(24 * time.Hour)
					synctest.Wait()
					if !u.ended() {
						t.Error("it is still wanted")
					}
				})
				if o := d.reports.all(); len(o) != 1 || !strings.Contains(o[0].Reason, "its command expired") || !strings.Contains(o[0].Reason, tt.err.Error()) {
					t.Errorf("told %+v", o)
				}
			})
		})
	}
}

// A machine that is not well downloads nothing until it is.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTimed(t)
		d.fetcher.takes = time.Hour
		var mu sync.Mutex
		why := "it is too hot"
		d.options.Hold = func() string { mu.Lock(); defer mu.Unlock(); return why }
		set := func(s string) { mu.Lock(); defer mu.Unlock(); why = s }
		d.run(func(u *Updater) {
			d.order(u, 24*time.Hour)
			if h := u.Health(); h.WaitingFor != "it is too hot" || d.fetcher.calls() > 0 {
				t.Errorf("%+v", h)
			}
			set("")
			time.Sleep(time.Minute)
			set("the disk is full")
			time.Sleep(time.Minute)
			synctest.Wait()
			if h := u.Health(); h.WaitingFor != "the disk is full" || len(d.fetcher.ended) != 1 {
				t.Errorf("%+v", h)
			}
			set("")
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if !d.asked() {
				t.Error("it did not go on")
			}
		})
	})
}
