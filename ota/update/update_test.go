package update

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// An update, an update by a delta, and a rollback, with the real watchdog.
func TestUpdateAndRollback(t *testing.T) {
	r := newRig(t)
	u, _ := start(t, r.options)
	give(t, u, sign(t, today, r.pack("1.1.0", 11, "")))
	r.asks()
	if s := r.obey(); s.Active.Version != "1.1.0" || s.Phase != ota.Committed {
		t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	if got := r.told(1); got != "install committed 1.1.0" {
		t.Errorf("told %s", got)
	}
	if o := r.reports.all()[0]; o.Nonce != "nonce-1.1.0" || o.From != "1.0.0" {
		t.Errorf("%+v", o)
	}

	give(t, u, sign(t, today.Add(time.Second), r.pack("1.2.0", 12, "1.1.0")))
	r.asks()
	if s := r.obey(); s.Active.Version != "1.2.0" {
		t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	if got := r.told(2); got != "install committed 1.1.0, install committed 1.2.0" {
		t.Errorf("told %s", got)
	}
	if slices.Contains(r.requests(), "/1.2.0.bundle") {
		t.Errorf("the full bundle was fetched, though there is a delta: %q", r.requests())
	}

	give(t, u, sign(t, today.Add(2*time.Second), wire.Command{Command: wire.CommandRollback}))
	r.asks()
	if s := r.obey(); s.Active.Version != "1.1.0" {
		t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	r.told(3)
	eventually(t, "the wants are empty", func() bool { return len(u.wants().Wants) == 0 })
	eventually(t, "the inbox is clean", func() bool {
		return slices.Equal(r.inbox(), []string{desiredFile, reportedFile})
	})
	if h := u.Health(); h.State != "committed" || h.Active != "1.1.0" || h.Previous != "1.2.0" || h.Target != "" || h.WaitingFor != "" || h.LastError != "" {
		t.Errorf("%+v", h)
	}
}

func (r *rig) inbox() (names []string) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "inbox"))
	must(r.t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A release that fails is rolled back; that is told, and the same command again
// does nothing.
func TestRolledBack(t *testing.T) {
	r := newRig(t)
	r.bad["1.1.0"] = true
	u, _ := start(t, r.options)
	envelope := sign(t, today, r.pack("1.1.0", 11, ""))
	give(t, u, envelope)
	r.asks()
	if s := r.obey(); s.Phase != ota.RolledBack {
		t.Fatalf("%s: %v", s.Phase, s.Last)
	}
	if got := r.told(1); got != "install rolled_back 1.1.0" {
		t.Errorf("told %s", got)
	}
	for range 3 {
		give(t, u, envelope)
	}
	eventually(t, "the want has ended", func() bool { return len(u.wants().Wants) == 0 })
	if n := len(r.reports.all()); n != 1 {
		t.Errorf("%d outcomes were told", n)
	}
}

// The process ends at every stage, and the next one goes on.
func TestRestarts(t *testing.T) {
	r := newRig(t)
	c := r.pack("1.1.0", 11, "")
	r.slow = make(chan struct{})
	full := "/1.1.0.bundle"
	envelope := sign(t, today, c)

	u, stop := start(t, r.options)
	give(t, u, envelope)
	stop() // wanted

	u, stop = start(t, r.options)
	eventually(t, "the payload is asked for", func() bool {
		return slices.Contains(r.requests(), full) && u.Health().ProgressPercent != nil
	})
	stop() // being fetched

	close(r.slow)
	o := r.options
	o.Install = parseWindow(t, "0 3 * * *")
	u, stop = start(t, o)
	eventually(t, "it waits for its window", func() bool {
		return strings.HasPrefix(u.Health().WaitingFor, "the install window, which opens at 2026-11-23 03:00")
	})
	stop() // fetched

	fetched := len(r.requests())
	u, stop = start(t, r.options)
	r.asks()
	eventually(t, "it waits", func() bool { return u.Health().WaitingFor == "the watchdog to take the request" })
	stop() // asked

	before, err := os.ReadFile(filepath.Join(r.dir, "inbox", ota.RequestFile))
	must(t, err)
	u, stop = start(t, r.options)
	eventually(t, "it waits", func() bool { return u.Health().WaitingFor == "the watchdog to take the request" })
	after, err := os.ReadFile(filepath.Join(r.dir, "inbox", ota.RequestFile))
	if err != nil || string(after) != string(before) {
		t.Errorf("it was asked again: %v", err)
	}
	stop()
	if n := len(r.requests()); n != fetched {
		t.Errorf("something was fetched again: %q", r.requests())
	}

	if s := r.obey(); s.Active.Version != "1.1.0" {
		t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	r.reports.fail = errors.New("nobody listens")
	u, stop = start(t, r.options)
	eventually(t, "the want has ended", func() bool { return u.ended() })
	stop() // done, and not told

	r.reports.fail = nil
	_, stop = start(t, r.options)
	if got := r.told(1); got != "install committed 1.1.0" {
		t.Errorf("told %s", got)
	}
	stop() // told

	u, stop = start(t, r.options)
	give(t, u, envelope)
	eventually(t, "a turn was made", func() bool { return u.Health().Active == "1.1.0" })
	stop()
	if n := len(r.reports.all()); n != 1 {
		t.Errorf("%d outcomes were told: %q", n, r.reports.lines())
	}
}

// ended reports whether no want is left.
func (u *Updater) ended() bool {
	d := u.wants()
	return d != nil && len(d.Wants) == 0
}

// A delta that does not fit what is on the device makes way for the full bundle,
// under the same command.
func TestADeltaThatDoesNotFit(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11, "")
	r.install("1.2.0", 12, "")
	c := r.pack("1.3.0", 13, "1.1.0")
	// The release before, which is its base, has been damaged since.
	previous := r.watchdogState().Previous
	program := filepath.Join(r.dir, ota.SlotName(previous.Slot), "pyvorin-edge")
	data, err := os.ReadFile(program)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(program, data, 0o755))

	u, stop := start(t, r.options)
	give(t, u, sign(t, today, c))
	r.asks()
	s := r.obey()
	if s.Last.Result != ota.Refused || s.Last.Remedy != ota.BringFull {
		t.Fatalf("%+v", s.Last)
	}
	eventually(t, "it is asked again", func() bool { return u.request().ID != "" && u.request().ID != s.Last.ID })
	stop() // nothing of this is told as the end of the command
	u, _ = start(t, r.options)
	if s := r.obey(); s.Active.Version != "1.3.0" {
		t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	if got := r.told(3); got != "install committed 1.1.0, install committed 1.2.0, install committed 1.3.0" {
		t.Errorf("told %s", got)
	}
	eventually(t, "the want has ended", u.ended)
	if got := r.requests(); !slices.Contains(got, "/1.3.0.bundle") {
		t.Errorf("the full bundle was not fetched: %q", got)
	}
}

func (r *rig) watchdogState() *ota.State {
	r.t.Helper()
	s, err := ota.ReadState(ota.Layout{Base: r.dir})
	must(r.t, err)
	return s
}

// A bundle that is damaged in the inbox after it was fetched is fetched again.
func TestABundleThatIsDamagedLater(t *testing.T) {
	r := newRig(t)
	c := r.pack("1.1.0", 11, "")
	u, stop := start(t, r.options)
	give(t, u, sign(t, today, c))
	r.asks()
	stop() // so that no retry needs to be waited for
	path := filepath.Join(r.dir, "inbox", fullFile(c.SHA256))
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(path, data, 0o600))
	if s := r.obey(); s.Last.Remedy != ota.BringAgain || len(s.Obeyed) > 0 {
		t.Fatalf("%+v, obeyed %v", s.Last, s.Obeyed)
	}
	u, _ = start(t, r.options)
	eventually(t, "it is put off", func() bool { return strings.HasSuffix(u.Health().WaitingFor, "when it is tried again") })
	if h := u.Health(); h.Target != "1.1.0" || !strings.Contains(h.LastError, "damaged bundle") {
		t.Errorf("%+v", h)
	}
	if n := len(r.reports.all()); n > 0 {
		t.Errorf("told %q", r.reports.lines())
	}
}

// What the watchdog does without a command is told too, each once and in order.
func TestHistoryIsTold(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11, "")
	_, stop := start(t, r.options)
	r.told(1)
	r.install("1.2.0", 12, "")
	r.told(2)
	stop()
	r.install("1.3.0", 13, "")
	o := r.options
	o.Disabled = true
	u, _ := start(t, o)
	if got := r.told(3); got != "install committed 1.1.0, install committed 1.2.0, install committed 1.3.0" {
		t.Errorf("told %s", got)
	}
	if err := u.Want(t.Context(), nil); !errors.Is(err, ErrDisabled) {
		t.Errorf("%v", err)
	}
	if h := u.Health(); h.Active != "1.3.0" || h.LastOutcome == nil || *h.LastOutcome != "committed 1.3.0" {
		t.Errorf("%+v", h)
	}
}
