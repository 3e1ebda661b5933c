package update

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fakeFetcher fetches nothing, in the time and with the outcome that it is told.
type fakeFetcher struct {
	takes time.Duration                       // of fetching, all calls together
	fail  func(call int, source string) error // may be nil

	mu     sync.Mutex
	dir    string
	begun  []time.Time // of each call
	ended  []time.Time
	places []string
	left   time.Duration
}

func (f *fakeFetcher) Fetch(ctx context.Context, j fetch.Job) (bundle.Verified, error) {
	f.mu.Lock()
	call := len(f.begun)
	if call == 0 {
		f.left = f.takes
	}
	left := f.left
	f.begun, f.places = append(f.begun, time.Now()), append(f.places, j.Source)
	f.mu.Unlock()
	began := time.Now()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.left -= time.Since(began)
		f.ended = append(f.ended, time.Now())
	}()
	if f.fail != nil {
		if err := f.fail(call, j.Source); err != nil {
			return bundle.Verified{}, err
		}
	}
	if j.Progress != nil {
		j.Progress(int64(f.takes-left), int64(f.takes))
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return bundle.Verified{}, context.Cause(ctx)
	case <-timer.C:
	}
	if f.dir == "" {
		return bundle.Verified{}, nil
	}
	return bundle.Verified{}, os.WriteFile(filepath.Join(f.dir, j.Name), nil, 0o600)
}

func (f *fakeFetcher) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.begun)
}

// timedPoll is long, because the tests last for days.
const timedPoll = 20 * time.Second

// timed is a device in a bubble of fake time, whose watchdog is a few lines.
type timed struct {
	t       *testing.T
	dir     string
	fetcher *fakeFetcher
	clock   *testClock
	reports *reports
	options Options
	writes  int
}

func newTimed(t *testing.T) *timed {
	t.Helper()
	dir := t.TempDir()
	installAnchor(t, dir, commandKey)
	d := &timed{
		t: t, dir: dir, fetcher: &fakeFetcher{dir: filepath.Join(dir, "inbox")},
		clock: &testClock{boot: time.Now()}, reports: &reports{},
	}
	must(t, os.Mkdir(filepath.Join(dir, "ota"), 0o755))
	d.state(func(*ota.State) {})
	d.options = Options{
		Layout: ota.Layout{Base: dir}, Fetch: d.fetcher, Free: func(string) (int64, error) { return plenty() },
		DeviceID: deviceID, Version: "1.0.0", Report: d.reports.take, Clock: d.clock,
		Poll: timedPoll, Log: zerolog.Nop(),
	}
	return d
}

// state writes the watchdog's state.
func (d *timed) state(change func(s *ota.State)) {
	d.t.Helper()
	s := ota.State{Phase: ota.Committed, Floor: 10, Active: ota.Release{Slot: "a", Version: "1.0.0", Counter: 10, Digest: strings.Repeat("a", 64)}}
	change(&s)
	data, err := s.Encode()
	must(d.t, err)
	d.write("state.json", data)
}

// write writes a file that differs from the one before in its time.
func (d *timed) write(name string, data []byte) {
	d.t.Helper()
	path := filepath.Join(d.dir, "ota", name)
	must(d.t, os.WriteFile(path, data, 0o644))
	d.writes++
	at := time.Unix(int64(d.writes), 0)
	must(d.t, os.Chtimes(path, at, at))
}

// answer has the watchdog answer the request that there is.
func (d *timed) answer(result ota.Result) {
	d.t.Helper()
	path := filepath.Join(d.dir, "inbox", ota.RequestFile)
	data, err := os.ReadFile(path)
	must(d.t, err)
	r, err := ota.ParseRequest(data)
	must(d.t, err)
	line, err := json.Marshal(ota.Outcome{ID: r.ID, Action: r.Action, Result: result, To: "1.1.0"})
	must(d.t, err)
	d.write("history.jsonl", append(line, '\n'))
	must(d.t, os.Remove(path))
}

func (d *timed) asked() bool {
	_, err := os.Lstat(filepath.Join(d.dir, "inbox", ota.RequestFile))
	return err == nil
}

// run runs an Updater in the bubble until the function returns.
func (d *timed) run(f func(u *Updater)) {
	d.t.Helper()
	u, stop := start(d.t, d.options)
	synctest.Wait()
	f(u)
	stop()
	synctest.Wait()
}

// order wants version 1.1.0 for so long.
func (d *timed) order(u *Updater, lasts time.Duration) {
	d.t.Helper()
	now := d.clock.Now()
	must(d.t, u.Want(d.t.Context(), sign(d.t, now, wire.Command{Version: "1.1.0", Counter: 11, IssuedAt: now, ExpiresAt: now.Add(lasts)})))
	synctest.Wait()
}
