package update

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/window"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func parseWindow(t testing.TB, expression string) window.Window {
	t.Helper()
	w, err := window.Parse(expression, time.UTC)
	must(t, err)
	return w
}

// bare are the options of a device on which no watchdog has run, and nothing can
// be fetched.
func bare(t testing.TB) (Options, *reports) {
	t.Helper()
	dir := t.TempDir()
	installAnchor(t, dir, commandKey)
	told := &reports{}
	return Options{
		Layout: ota.Layout{Base: dir}, Fetch: &fakeFetcher{}, Free: func(string) (int64, error) { return plenty() },
		DeviceID: deviceID, Group: "east", Version: "1.0.0", Report: told.take,
		Clock: &testClock{wall: today}, Build: today.AddDate(0, -1, 0), Poll: 5 * time.Millisecond, Log: zerolog.Nop(),
	}, told
}

func TestWantRefuses(t *testing.T) {
	o, _ := bare(t)
	o.Components = map[string]ota.Layout{"camera": {Base: t.TempDir()}}
	u, err := New(o)
	must(t, err)
	good := func(change func(c *wire.Command)) wire.Command {
		c := wire.Command{Version: "1.1.0", Nonce: newID()}
		change(&c)
		return c
	}
	if err := u.Want(t.Context(), sign(t, today, good(func(*wire.Command) {}))); !errors.Is(err, ErrNotRunning) {
		t.Errorf("not running: %v", err)
	}
	u, stop := start(t, o)
	give(t, u, sign(t, today, good(func(c *wire.Command) { c.Nonce = "the-first-one" })))
	for _, tt := range []struct {
		name     string
		envelope []byte
		want     error // nil: taken
		text     string
	}{
		{"garbage", []byte("x"), trust.ErrMalformed, ""},
		{"too large", make([]byte, maxCommandBytes+1), nil, "more than"},
		{"of a stranger", sign(t, today, good(func(*wire.Command) {}), testKey(9)), trust.ErrNotSigned, ""},
		{"of a release key", sign(t, today, good(func(*wire.Command) {}), releaseKey), trust.ErrNotSigned, ""},
		{"another command", sign(t, today, good(func(c *wire.Command) { c.Command = "restart" })), nil, `the command is "restart"`},
		{"for another device", sign(t, today, good(func(c *wire.Command) { c.Target.Devices = []string{"FLEET-2"} })), ErrNotForUs, ""},
		{"for another group", sign(t, today, good(func(c *wire.Command) { c.Target.Groups = []string{"west"} })), ErrNotForUs, ""},
		{"for another component", sign(t, today, good(func(c *wire.Command) { c.Component = "engine" })), ErrNotForUs, "ota.components"},
		{"expired", sign(t, today, good(func(c *wire.Command) { c.IssuedAt, c.ExpiresAt = today.AddDate(0, 0, -2), today })), trust.ErrExpired, ""},
		{"as old as the first one", sign(t, today, good(func(*wire.Command) {})), ErrSuperseded, ""},
		{"older", sign(t, today, good(func(c *wire.Command) { c.IssuedAt = today.Add(-time.Hour) })), ErrSuperseded, ""},
		{"the first one again", sign(t, today, good(func(c *wire.Command) { c.Nonce = "the-first-one" })), nil, ""},
		{"older, of another component", sign(t, today, good(func(c *wire.Command) { c.Component, c.IssuedAt = "camera", today.Add(-time.Hour) })), nil, ""},
		{"newer, of our group", sign(t, today, good(func(c *wire.Command) { c.Target.Groups, c.IssuedAt = []string{"east"}, today.Add(time.Hour) })), nil, ""},
		{"newer, though not than the one from the future", sign(t, today, good(func(c *wire.Command) { c.IssuedAt = today.Add(futurePatience + time.Second) })), nil, ""},
	} {
		err := u.Want(t.Context(), tt.envelope)
		taken := tt.want == nil && tt.text == ""
		if (err == nil) != taken || tt.want != nil && !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want %v with %q", tt.name, err, tt.want, tt.text)
		}
	}
	if n := len(u.wants().Wants); n != 2 { // one of each component
		t.Errorf("%d wants", n)
	}
	stop()
	if err := u.Want(t.Context(), sign(t, today, good(func(*wire.Command) {}))); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stopped: %v", err)
	}
	must(t, os.Remove(filepath.Join(o.Layout.Base, "trust_anchor.json")))
	if err := u.Want(t.Context(), sign(t, today, good(func(*wire.Command) {}))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no anchor: %v", err)
	}
}

// Of the wants of a component, the newest counts; what it replaces is told.
func TestSuperseded(t *testing.T) {
	o, told := bare(t)
	u, stop := start(t, o)
	give(t, u, sign(t, today, wire.Command{Version: "1.1.0"}))
	eventually(t, "it waits", func() bool {
		return strings.HasPrefix(u.Health().WaitingFor, "the watchdog, which has never run")
	})
	give(t, u, sign(t, today.Add(time.Minute), wire.Command{Version: "1.2.0"}))
	eventually(t, "the end of the first is told", func() bool { return len(told.all()) == 1 })
	if o := told.all()[0]; o.Result != ota.Refused || o.To != "1.1.0" || o.Nonce != "nonce-1.1.0" || o.Reason != "a newer command took its place" {
		t.Errorf("%+v", o)
	}
	eventually(t, "the second is the target", func() bool { return u.Health().Target == "1.2.0" })
	// Also after a restart the first is not wanted any more.
	stop()
	u, _ = start(t, o)
	give(t, u, sign(t, today, wire.Command{Version: "1.1.0"}))
	eventually(t, "the second is the target", func() bool { return u.Health().Target == "1.2.0" })
	if n := len(u.wants().Wants); n != 1 || len(told.all()) != 1 {
		t.Errorf("%d wants, told %q", n, told.lines())
	}
}

// Commands that no longer verify, and those without an anchor to verify them.
func TestWantsAreVerifiedAgain(t *testing.T) {
	o, told := bare(t)
	u, stop := start(t, o)
	give(t, u, sign(t, today, wire.Command{Version: "1.1.0"}))
	stop()
	anchor := filepath.Join(o.Layout.Base, "trust_anchor.json")
	must(t, os.Rename(anchor, anchor+".away"))
	u, stop = start(t, o)
	eventually(t, "it waits", func() bool { return strings.HasPrefix(u.Health().WaitingFor, "no trust anchor") })
	stop()
	installAnchor(t, o.Layout.Base, testKey(8))
	u, _ = start(t, o)
	eventually(t, "its end is told", func() bool { return len(told.all()) == 1 })
	if o := told.all()[0]; o.Result != ota.Refused || o.To != "1.1.0" || !strings.Contains(o.Reason, "not signed by a trusted key") {
		t.Errorf("%+v", o)
	}
	if !u.ended() {
		t.Error("it is still wanted")
	}
}

// Whatever our own files hold, the updater runs.
func TestDamagedFiles(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "garbage": "\x00\x00", "null": "null", "a list": "[]",
		"strange wants": `{"format":1,"wants":[null,{},{"nonce":"x","component":"gone"},{"nonce":"y","component":"pyvorin-edge","envelope":{"a":1},"failures":99999999}]}`,
		"cut off":       `{"format":1,"wants":[{"nonce":"z","component":"pyvorin-edge","envelo`,
	} {
		o, told := bare(t)
		must(t, os.Mkdir(o.Layout.Inbox(), 0o700))
		for _, file := range []string{desiredFile, reportedFile} {
			must(t, os.WriteFile(filepath.Join(o.Layout.Inbox(), file), []byte(content), 0o600))
		}
		u, stop := start(t, o)
		give(t, u, sign(t, today, wire.Command{Version: "1.1.0"}))
		eventually(t, name+": it goes on", func() bool { return u.Health().Target == "1.1.0" })
		if name == "strange wants" {
			eventually(t, name+": its end is told", func() bool { return len(told.all()) == 1 })
		}
		stop()
	}
}

// Without a disk to write to, nothing is promised, and what was promised stays.
func TestUnwritable(t *testing.T) {
	o, _ := bare(t)
	u, _ := start(t, o)
	give(t, u, sign(t, today, wire.Command{Version: "1.1.0"}))
	must(t, os.Rename(o.Layout.Inbox(), o.Layout.Inbox()+".away"))
	if err := u.Want(t.Context(), sign(t, today.Add(time.Minute), wire.Command{Version: "1.2.0"})); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	must(t, os.Rename(o.Layout.Inbox()+".away", o.Layout.Inbox()))
	if w := u.wants().Wants; len(w) != 1 || w[0].To != "1.1.0" {
		t.Errorf("%+v", w)
	}
	must(t, u.Want(t.Context(), sign(t, today.Add(time.Minute), wire.Command{Version: "1.2.0"})))
}

// A file that changed is seen to have, and one that did not is not read for ever.
func TestStamp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	write := func(content string, at time.Time) {
		must(t, os.WriteFile(path, []byte(content), 0o644))
		must(t, os.Chtimes(path, at, at))
	}
	var s stamp
	long := time.Now().Add(-time.Hour)
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"absent from the beginning", func() {}, false},
		{"made", func() { write("1", long) }, true},
		{"as it was", func() {}, false},
		{"another time", func() { write("2", long.Add(time.Millisecond)) }, true},
		{"another size", func() { write("12", long.Add(time.Millisecond)) }, true},
		{"replaced by one of the same time and size", func() {
			other := path + ".new"
			must(t, os.WriteFile(other, []byte("34"), 0o644))
			must(t, os.Chtimes(other, long.Add(time.Millisecond), long.Add(time.Millisecond)))
			must(t, os.Rename(other, path))
		}, true},
		{"changed just now", func() { write("34", time.Now()) }, true},
		{"too short ago to be sure", func() {}, true},
		{"gone", func() { must(t, os.Remove(path)) }, true},
		{"still gone", func() {}, false},
	} {
		step.do()
		if got := s.changed(path); got != step.want {
			t.Errorf("%s: changed is %v", step.name, got)
		}
	}
}
