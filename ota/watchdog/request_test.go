package watchdog

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestWhoMayAsk has a row for each way in which a request is not obeyed because
// of who wrote it, or when.
func TestWhoMayAsk(t *testing.T) {
	tests := []struct {
		name  string
		owner int
		req   func(*rig) ota.Request
		want  string // in the reason; "" is obeyed, "-" is not answered
	}{
		{"the agent rolls back", hostile, func(*rig) ota.Request { return ota.Request{Action: ota.Rollback} }, "signed command, or root's word"},
		{"the agent rolls back by command", hostile, func(r *rig) ota.Request {
			return ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback})}
		}, ""},
		{"the agent rolls back by a command to update", hostile, func(r *rig) ota.Request {
			c := wire.Command{Command: wire.CommandUpdate, URL: "x", SHA256: strings.Repeat("0", 64), Version: "1.0.0"}
			return ota.Request{Action: ota.Rollback, Command: r.order(c)}
		}, "does not order to rollback"},
		{"root rolls back", 0, func(*rig) ota.Request { return ota.Request{Action: ota.Rollback} }, ""},
		{"root did, an hour ago", 0, func(*rig) ota.Request { return ota.Request{Action: ota.Rollback, At: today.Add(-time.Hour)} }, "ask again"},
		{"root will, in an hour", 0, func(*rig) ota.Request { return ota.Request{Action: ota.Rollback, At: today.Add(time.Hour)} }, "ask again"},
		{"somebody rolls back", stranger, func(*rig) ota.Request { return ota.Request{Action: ota.Rollback} }, "-"},
		{"the agent asks for another try", hostile, func(*rig) ota.Request {
			return ota.Request{Action: ota.Install, Bundle: "1.2.0.bundle", Retry: true}
		}, "root's word"},
		{"a command for a component that is elsewhere", hostile, func(r *rig) ota.Request {
			return ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, Component: "camera"})}
		}, "for the component camera"},
		{"a request for a component that is nowhere", hostile, func(*rig) ota.Request {
			return ota.Request{Action: ota.Rollback, Component: "camera"}
		}, `no component "camera"`},
		{"a command for this device", hostile, func(r *rig) ota.Request {
			return ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, Target: wire.Target{Devices: []string{"FLEET-000000000001"}}})}
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newOwnedRig(t)
			r.install("1.1.0", 11)
			id := r.ask(tt.req(r))
			r.give(tt.owner, requestFile)
			s := r.run()
			o := r.outcome(id)
			switch tt.want {
			case "":
				if s.Active.Version != "1.0.0" || o.Result != ota.Installed {
					t.Errorf("active %s, %+v", s.Active.Version, o)
				}
			case "-":
				if s.Active.Version != "1.1.0" || o.ID != "" {
					t.Errorf("active %s, %+v", s.Active.Version, o)
				}
			default:
				if s.Active.Version != "1.1.0" || o.Result != ota.Refused || !strings.Contains(o.Reason, tt.want) {
					t.Errorf("active %s, %+v", s.Active.Version, o)
				}
			}
		})
	}
}

// TestADeviceIDOfTheAgentsIsNotBelieved: it could make the device another one,
// whose commands it obeys.
func TestADeviceIDOfTheAgentsIsNotBelieved(t *testing.T) {
	r := newOwnedRig(t)
	r.install("1.1.0", 11)
	must(t, os.WriteFile(filepath.Join(r.dir, deviceIDFile), []byte("FLEET-000000000002\n"), 0o644))
	r.give(hostile, deviceIDFile)
	r.asAgent(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback, Target: wire.Target{Devices: []string{"FLEET-000000000002"}}})})
	if s := r.run(); s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, "other devices") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestRootsRequestCannotBePlayedBack by the agent, who may keep it: it owns the
// folder.
func TestRootsRequestCannotBePlayedBack(t *testing.T) {
	r := newOwnedRig(t)
	r.install("1.1.0", 11)
	r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
	r.asAgent(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.run()
	r.ask(ota.Request{Action: ota.Install, Bundle: "1.2.0.bundle", Retry: true})
	kept := filepath.Join(r.dir, "inbox", "kept")
	must(t, os.Link(filepath.Join(r.dir, requestFile), kept))
	if s := r.run(); s.Last.Result != ota.TakenBack {
		t.Fatalf("%v", s.Last)
	}
	starts := len(r.device.starts)
	must(t, os.Link(kept, filepath.Join(r.dir, requestFile)))
	r.run()
	// And after other requests, which pushed it out of the state.
	r.asAgent(ota.Request{Action: ota.Install, Bundle: "none"})
	r.run()
	must(t, os.Link(kept, filepath.Join(r.dir, requestFile)))
	r.run()
	must(t, os.Remove(filepath.Join(r.dir, historyFile)))
	must(t, os.Link(kept, filepath.Join(r.dir, requestFile)))
	r.run()
	if len(r.device.starts) != starts {
		t.Errorf("1.2.0 was tried again: %v", r.device.starts[starts:])
	}
}

// TestAThousandRequestsDoNotPushOutTheHistory of what happened to the device,
// nor fill its disk.
func TestAThousandRequestsDoNotPushOutTheHistory(t *testing.T) {
	t.Parallel()
	r := takenBack(t)
	bad := r.state().Last.ID
	envelope, err := json.Marshal(map[string]any{
		"payloadType": strings.Repeat("A", 4000), "payload": "", "signatures": []any{map[string]string{"keyid": "0011223344556677", "sig": ""}},
	})
	must(t, err)
	for i := range 1000 {
		req := ota.Request{Action: ota.Rollback}
		if i%10 == 0 {
			req.Command = envelope
		}
		r.ask(req)
		must(t, r.watchdog().Run(t.Context()))
		if len(r.state().Last.Reason) > 1000 {
			t.Fatalf("a reason of %d bytes", len(r.state().Last.Reason))
		}
	}
	if o := r.outcome(bad); o.Result != ota.TakenBack {
		t.Error("the history does not tell of 1.2.0 any more")
	}
	for name, most := range map[string]int64{historyFile: ota.MaxHistoryBytes, stateFile: 20 << 10} {
		if info, err := os.Lstat(filepath.Join(r.dir, name)); err != nil || info.Size() > most {
			t.Errorf("%s: %v, %v", name, info.Size(), err)
		}
	}
}

// TestARequestOfAnotherVersionOfTheAgent: the watchdog is older than the agents
// that it installs. It ignores what it does not know, and answers what it cannot
// do.
func TestARequestOfAnotherVersionOfTheAgent(t *testing.T) {
	r := newRig(t)
	name := r.bundle("1.1.0", 11, nil)
	ask := func(format int, action string) string {
		id := newID()
		text := fmt.Sprintf(`{"format":%d,"id":%q,"at":"2026-11-22T12:00:00Z","action":%q,"bundle":%q,"priority":"high"}`, format, id, action, name)
		must(t, os.WriteFile(filepath.Join(r.dir, requestFile), []byte(text), 0o600))
		return id
	}
	id := ask(2, "install")
	r.run()
	if o := r.outcome(id); o.Result != ota.Refused || !strings.Contains(o.Reason, "update the package") {
		t.Errorf("format 2: %+v", o)
	}
	id = ask(1, "defragment")
	r.run()
	if o := r.outcome(id); o.Result != ota.Refused || o.Action != "" || !strings.Contains(o.Reason, "defragment") {
		t.Errorf("another action: %+v", o)
	}
	ask(1, "install")
	if s := r.run(); s.Active.Version != "1.1.0" {
		t.Errorf("a field more: %v", s.Last)
	}
}

// TestARequestForAnotherComponentStays for its watchdog, and disturbs nothing.
func TestARequestForAnotherComponentStays(t *testing.T) {
	r := newRig(t)
	r.options.Others = []string{"camera"}
	r.ask(ota.Request{Action: ota.Install, Component: "camera", Bundle: "x"})
	w := r.watchdog()
	must(t, w.Run(t.Context()))
	if _, err := os.Lstat(filepath.Join(r.dir, requestFile)); err != nil || w.wanted(t.Context()) {
		t.Errorf("%v; and it is looked at again", err)
	}
	must(t, os.Remove(filepath.Join(r.dir, requestFile)))
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.0", 11, nil)})
	r.device.onLook = func() {
		if r.device.running == "1.1.0" {
			r.ask(ota.Request{Action: ota.Install, Component: "camera", Bundle: "x"})
		}
	}
	must(t, r.watchdog().Run(t.Context()))
	if s := r.state(); s.Active.Version != "1.1.0" || s.Last.To != "1.1.0" {
		t.Errorf("during a trial: %v", s.Last)
	}
}
