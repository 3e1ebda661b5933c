package ota

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestParseState(t *testing.T) {
	release := func(slot string) string { return `{"slot":"` + slot + `","version":"1.0.0","counter":1,"digest":"d"}` }
	tests := []struct{ name, text, want string }{
		{"at rest", `{"format":1,"state":"committed","active":` + release("a") + `}`, ""},
		{"with fields of the future", `{"format":1,"state":"rolled_back","active":` + release("b") + `,"mood":{"good":true}}`, ""},
		{"staging", `{"format":1,"state":"staging","active":` + release("a") + `,"attempt":{"id":"x"}}`, ""},
		{"on trial", `{"format":1,"state":"trial","active":` + release("a") + `,"attempt":{"candidate":` + release("b") + `,"base":` + release("a") + `}}`, ""},
		{"empty", ``, "end of JSON"},
		{"torn", `{"format":1,"state":"comm`, "end of JSON"},
		{"null", `null`, "format 0"},
		{"another format", `{"format":2,"state":"committed","active":` + release("a") + `}`, "format 2"},
		{"another state", `{"format":1,"state":"dreaming","active":` + release("a") + `}`, `state "dreaming"`},
		{"no slot", `{"format":1,"state":"committed","active":{}}`, "without a slot"},
		{"another slot", `{"format":1,"state":"committed","active":` + release("../..") + `}`, "without a slot"},
		{"another slot kept", `{"format":1,"state":"committed","active":` + release("a") + `,"previous":` + release("c") + `}`, "without a slot"},
		{"one slot twice", `{"format":1,"state":"committed","active":` + release("a") + `,"previous":` + release("a") + `}`, "two releases in slot a"},
		{"no attempt", `{"format":1,"state":"staging","active":` + release("a") + `}`, "without an attempt"},
		{"no candidate", `{"format":1,"state":"staged","active":` + release("a") + `,"attempt":{"base":` + release("a") + `}}`, "without two slots"},
		{"no base", `{"format":1,"state":"trial","active":` + release("a") + `,"attempt":{"candidate":` + release("b") + `}}`, "without two slots"},
		{"a candidate in the base's slot", `{"format":1,"state":"trial","active":` + release("a") + `,"attempt":{"candidate":` + release("a") + `,"base":` + release("a") + `}}`, "without two slots"},
		{"too large", `{"format":1,"state":"committed","active":` + release("a") + `,"x":"` + strings.Repeat("x", MaxStateBytes) + `"}`, "too many"},
	}
	for _, tt := range tests {
		s, err := ParseState([]byte(tt.text))
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			data, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseState(data); err != nil || cmp.Diff(s, again) != "" {
				t.Errorf("%s: written and read again: %v\n%s", tt.name, err, cmp.Diff(s, again))
			}
		} else if !errors.Is(err, ErrNoState) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

// TestTransitions has all that there are: no other may ever happen.
func TestTransitions(t *testing.T) {
	want := map[string]bool{
		"committed staging": true, "committed trial": true, "rolled_back staging": true, "rolled_back trial": true,
		"staging staged": true, "staging committed": true, "staging rolled_back": true,
		"staged trial": true, "staged committed": true, "staged rolled_back": true,
		"trial committed": true, "trial rolled_back": true,
	}
	phases := []Phase{Committed, Staging, Staged, Trial, RolledBack}
	for _, from := range phases {
		for _, to := range phases {
			s := State{Phase: from}
			err := s.To(to)
			if ok := want[string(from)+" "+string(to)]; ok != (err == nil) || ok && s.Phase != to || !ok && s.Phase != from {
				t.Errorf("%s -> %s: %v, %s", from, to, err, s.Phase)
			}
		}
		if from.AtRest() != (from == Committed || from == RolledBack) {
			t.Errorf("%s at rest: %v", from, from.AtRest())
		}
	}
}

func TestFailed(t *testing.T) {
	s := State{Failures: []Failure{{Digest: "x"}, {Digest: "y", Reason: "why"}}}
	if f := s.Failed("y"); f == nil || f.Reason != "why" || s.Failed("z") != nil {
		t.Errorf("%v, %v", f, s.Failed("z"))
	}
}

func TestHealth(t *testing.T) {
	l := Layout{Base: t.TempDir()}
	if err := os.Mkdir(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	last := Outcome{Result: TakenBack, To: "1.3.0", Reason: "it crashed"}
	text := last.String()
	release := func(slot, version string) *Release { return &Release{Slot: slot, Version: version} }
	tests := []struct {
		name  string
		state any // a State, a text, or nil
		want  wire.OTAHealth
	}{
		{"no slots", nil, wire.OTAHealth{State: "committed", Active: "0.9.0"}},
		{"damaged", "x", wire.OTAHealth{State: "unknown", Active: "0.9.0"}},
		{"at rest", State{Phase: RolledBack, Active: *release("a", "1.2.0"), Previous: release("b", "1.1.0"), Last: &last},
			wire.OTAHealth{State: "rolled_back", Active: "1.2.0", Previous: "1.1.0", LastOutcome: &text}},
		{"on trial", State{Phase: Trial, Active: *release("a", "1.2.0"), Attempt: &Attempt{Base: release("a", "1.2.0"), Candidate: release("b", "1.3.0")}},
			wire.OTAHealth{State: "trial", Active: "1.3.0", Previous: "1.2.0"}},
	}
	for _, tt := range tests {
		var data []byte
		switch s := tt.state.(type) {
		case string:
			data = []byte(s)
		case State:
			var err error
			if data, err = s.Encode(); err != nil {
				t.Fatal(err)
			}
		}
		if data != nil {
			if err := os.WriteFile(l.State(), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(tt.want, Health(l, "0.9.0")); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	// What is no plain file is not waited for.
	if err := os.Remove(l.State()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", l.State()); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(l); err == nil {
		t.Error("a link was followed")
	}
}

func TestHistory(t *testing.T) {
	l := Layout{Base: t.TempDir()}
	if h, err := ReadHistory(l); h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
	good := func(id string) string {
		data, err := json.Marshal(Outcome{ID: id, At: time.Unix(1, 0), Action: Install, Result: Refused})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	lines := []string{good("1"), `{"id":"torn`, "", "null", `{"id":"no outcome"}`, strings.Repeat("x", 2*MaxHistoryBytes/3), "\x00\x00\x00", good("2"), good("3")}
	if err := os.Mkdir(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.History(), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := ReadHistory(l)
	var ids []string
	for _, o := range h {
		ids = append(ids, o.ID)
	}
	if got := strings.Join(ids, " "); err != nil || got != "1 2 3" {
		t.Errorf("%s, %v", got, err)
	}
	if err := errors.Join(os.Remove(l.History()), os.Mkdir(l.History(), 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadHistory(l); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestOutcomesForPeople(t *testing.T) {
	for want, o := range map[string]Outcome{
		"committed 1.2.0":               {Result: Installed, To: "1.2.0"},
		"rolled back 1.2.0: it crashed": {Result: TakenBack, To: "1.2.0", Reason: "it crashed"},
		"refused an update: expired":    {Result: Refused, Reason: "expired"},
		"repaired: a bit was flipped":   {Result: Repaired, Reason: "a bit was flipped"},
	} {
		if got := o.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLayout(t *testing.T) {
	l := Layout{Base: "/b"}
	for want, got := range map[string]string{
		"/b/slot-a": l.Slot(SlotA), "/b/slot-b": l.Slot(OtherSlot(SlotA)), "/b/active": l.Active(), "/b/ota/state.json": l.State(),
		"/b/ota/history.jsonl": l.History(), "/b/ota/busy": l.Busy(), "/b/ota/lock": l.Lock(), "/b/ota/work": l.Work(),
		"/b/inbox/request.json": l.Request(), "/b/trust_anchor.json": l.Anchor(), "/b/device_id": l.DeviceID(),
		"a": OtherSlot(SlotB),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if filepath.Dir(l.Request()) != l.Inbox() {
		t.Error(l.Inbox())
	}
}
