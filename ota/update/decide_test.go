package update

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestDecide(t *testing.T) {
	type setting struct {
		w want
		o order
		v view
	}
	update := func(s *setting) {}
	rollback := func(s *setting) {
		s.o.Command.Command, s.o.TargetVersion, s.w.Action = wire.CommandRollback, "1.0.0", ota.Rollback
	}
	asked := func(s *setting) { s.w.Request, s.w.Bundle, s.v.ready = "id", "x", true }
	attempt := func(s *setting, phase ota.Phase, id string) {
		s.v.state.Phase = phase
		s.v.state.Attempt = &ota.Attempt{ID: id, Candidate: &ota.Release{Version: "1.1.0"}}
	}
	for _, tt := range []struct {
		name   string
		begin  func(s *setting)
		change func(s *setting)
		want   verb
		why    string
	}{
		{"nothing is in the way", update, func(s *setting) {}, fetchNow, ""},
		{"fetched", update, func(s *setting) { s.v.ready = true }, askNow, ""},
		{"not signed any more", update, func(s *setting) { s.v.rejected = "no" }, settle, "no"},
		{"expired", update, func(s *setting) { s.v.now = s.o.ExpiresAt; s.w.Error = "no network" }, settle, "expired on 2026-11-23T12:00:00Z; the last try: no network"},
		{"no watchdog", update, func(s *setting) { s.v.state = nil }, waitFor, "never run"},
		{"a state that cannot be read", update, func(s *setting) { s.v.state, s.v.stateErr = nil, errors.New("no") }, waitFor, "cannot be read: no"},
		{"another attempt", update, func(s *setting) { attempt(s, ota.Trial, "other") }, waitFor, "another update, which is trial"},
		{"another request", update, func(s *setting) { s.v.request = "other" }, waitFor, "another request"},
		{"another want", update, func(s *setting) { s.v.busy = "another update" }, waitFor, "another update"},
		{"it runs", update, func(s *setting) { s.v.state.Active.Version, s.v.state.Active.Counter = "1.1.0", 11 }, settle, "it runs already"},
		{"it runs, but something else is on its way", update, func(s *setting) {
			s.v.state.Active.Version, s.v.state.Active.Counter, s.v.busy = "1.1.0", 11, "another update"
		}, waitFor, "another update"},
		{"its version runs", update, func(s *setting) { s.v.state.Active.Version = "1.1.0" }, fetchNow, ""},
		{"older", update, func(s *setting) { s.v.state.Floor = 12 }, settle, "has counter 11, and 12 was committed"},
		{"what was committed last, perhaps", update, func(s *setting) { s.v.state.Floor = 11 }, fetchNow, ""},
		{"older, and allowed by the command key", update, func(s *setting) { s.v.state.Floor, s.o.AllowDowngrade = 12, true }, settle, "allow_downgrade that a release key signed too"},
		{"older, and allowed", update, func(s *setting) { s.v.state.Floor, s.o.AllowDowngrade, s.o.release = 12, true, true }, fetchNow, ""},
		{"of an unknown counter", update, func(s *setting) { s.v.state.Floor, s.o.Counter = 12, 0 }, fetchNow, ""},
		{"in vain", update, func(s *setting) { s.w.Asks, s.w.Error = maxAsks, "damaged" }, settle, "asked 5 times, the last time in vain: damaged"},
		{"put off", update, func(s *setting) { s.v.retryIn = 90 * time.Second }, waitFor, "90 s, when it is tried again"},
		{"held", update, func(s *setting) { s.v.hold = "it is too hot" }, waitFor, "it is too hot"},
		{"held, and fetched", update, func(s *setting) { s.v.hold, s.v.ready = "it is too hot", true }, waitFor, "it is too hot"},
		{"closed", update, func(s *setting) { s.v.download = "the night" }, waitFor, "the night"},
		{"closed, and fetched", update, func(s *setting) { s.v.download, s.v.ready = "the night", true }, askNow, ""},
		{"closed for installing", update, func(s *setting) { s.v.install = "the night" }, fetchNow, ""},
		{"closed for installing, and fetched", update, func(s *setting) { s.v.install, s.v.ready = "the night", true }, waitFor, "the night"},
		{"no space", update, func(s *setting) { s.v.ready, s.v.free, s.w.Room = true, 1<<20, 3<<20 }, waitFor, "2 MiB are missing"},

		{"rollback", rollback, func(s *setting) {}, askNow, ""},
		{"rollback whatever is closed or hot", rollback, func(s *setting) {
			s.v.hold, s.v.download, s.v.install, s.v.retryIn = "a", "b", "c", time.Hour
		}, askNow, ""},
		{"rollback to what runs", rollback, func(s *setting) { s.v.state.Active.Version = "1.0.0" }, settle, "it runs already"},
		{"rollback to whatever is retained", rollback, func(s *setting) { s.o.TargetVersion = "" }, askNow, ""},
		{"rollback during another update", rollback, func(s *setting) { attempt(s, ota.Staging, "other") }, waitFor, "another update"},

		{"asked", asked, func(s *setting) { s.v.request = "id" }, waitFor, "the watchdog to take the request"},
		{"staging", asked, func(s *setting) { s.v.request = "id"; attempt(s, ota.Staging, "id") }, waitFor, "which is installing it"},
		{"on trial", asked, func(s *setting) { s.v.request = "id"; attempt(s, ota.Trial, "id") }, waitFor, "the trial of version 1.1.0"},
		{"on trial, and expired", asked, func(s *setting) { s.v.now = s.o.ExpiresAt; attempt(s, ota.Trial, "id") }, waitFor, "the trial of version 1.1.0"},
		{"answered", asked, func(s *setting) { s.v.outcome = &ota.Outcome{Result: ota.TakenBack} }, endWant, ""},
		{"answered, with the request still there", asked, func(s *setting) { s.v.outcome = &ota.Outcome{Result: ota.Installed}; s.v.request = "id" }, endWant, ""},
		{"answered with a remedy", asked, func(s *setting) { s.v.outcome = &ota.Outcome{Remedy: ota.BringFull} }, amend, ""},
		{"not taken", asked, func(s *setting) { s.v.request, s.v.now = "id", s.o.ExpiresAt }, withdraw, "did not take the request before its command expired"},
		{"not taken, and not signed any more", asked, func(s *setting) { s.v.request, s.v.rejected = "id", "no" }, withdraw, "no"},
		{"gone", asked, func(s *setting) {}, lost, "did not take the request"},
		{"replaced", asked, func(s *setting) { s.v.request = "other" }, lost, "did not take the request"},
	} {
		s := setting{
			w: want{Action: ota.Install, To: "1.1.0"},
			o: order{Command: wire.Command{Command: wire.CommandUpdate, Version: "1.1.0", Counter: 11, ExpiresAt: today.Add(24 * time.Hour)}, component: ota.AgentComponent},
			v: view{now: today, free: 1 << 40, state: &ota.State{Phase: ota.Committed, Floor: 10, Active: ota.Release{Slot: "a", Version: "1.0.5", Counter: 10}}},
		}
		tt.begin(&s)
		tt.change(&s)
		got := decide(&s.w, s.o, s.v)
		if got.verb != tt.want || !strings.Contains(got.why, tt.why) || (got.why == "") != (tt.why == "") {
			t.Errorf("%s: %s %q; want %s %q", tt.name, got.verb, got.why, tt.want, tt.why)
		}
		if settled := got.verb == settle || got.verb == withdraw; settled != (got.result != "") {
			t.Errorf("%s: %s has the result %q", tt.name, got.verb, got.result)
		}
	}
}

func TestDeltaPlace(t *testing.T) {
	base := strings.Repeat("0123456789abcdef", 4)
	for place, want := range map[string]string{
		"https://x/a/b.bundle":           "https://x/a/b.bundle.delta-0123456789abcdef",
		"https://x/a/b.bundle?token=t#f": "https://x/a/b.bundle.delta-0123456789abcdef?token=t#f",
		"https://x/a%2Fb.bundle":         "https://x/a%2Fb.bundle.delta-0123456789abcdef",
		"/media/usb/b.bundle":            "/media/usb/b.bundle.delta-0123456789abcdef",
		"file:///media/usb/b.bundle":     "file:///media/usb/b.bundle.delta-0123456789abcdef",
	} {
		if got := deltaPlace(place, base); got != want {
			t.Errorf("%s: %s; want %s", place, got, want)
		}
	}
}
