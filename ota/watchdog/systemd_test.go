package watchdog

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
)

// agentName is no unit of any machine: without the bus of these tests root
// would reach the real systemd.
const agentName = "pyvorin-watchdog-test.service"

// running is what systemd says of a service that runs.
func running() map[string]any {
	return map[string]any{
		"Id": agentName, "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
		"MainPID": uint32(4711), "NRestarts": uint32(0), "ExecMainCode": int32(0), "ExecMainStatus": int32(0), "Result": "success",
	}
}

func TestAUnitIsRestarted(t *testing.T) {
	b := startBus(t)
	for result, want := range map[string]string{
		"done": "", "failed": "", "timeout": "", // which its status tells
		"canceled": "canceled", "dependency": "dependency", "skipped": "skipped", // it was not started
	} {
		b.mu.Lock()
		b.job, b.calls = result, nil
		b.mu.Unlock()
		err := Unit{agentName}.Restart(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", result, err)
		}
		// What used up its starts would not be started otherwise.
		if got := b.called(); got != "ResetFailedUnit "+agentName+", RestartUnit "+agentName {
			t.Errorf("called %s", got)
		}
	}
}

func TestAUnitIsNotRestarted(t *testing.T) {
	b := startBus(t)
	b.fault = "org.freedesktop.systemd1.UnitMasked"
	if err := (Unit{agentName}).Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "it is so") {
		t.Errorf("%v", err)
	}
	b.mu.Lock()
	b.fault, b.job = "", ""
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (Unit{agentName}).Restart(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a job that does not end: %v", err)
	}
	b.listener.Close()
	if err := (Unit{agentName}).Restart(t.Context()); err == nil {
		t.Errorf("no systemd: %v", err)
	}
	if _, err := (Unit{agentName}).Status(t.Context()); err == nil {
		t.Errorf("no systemd: %v", err)
	}
}

func TestTheStatusOfAUnit(t *testing.T) {
	tests := []struct {
		name    string
		differs map[string]any // from running
		want    Status
	}{
		{"runs", nil, Status{Running: true, PID: 4711, Reason: "it is active (running)"}},
		{"runs again", map[string]any{"NRestarts": uint32(2)}, Status{Running: true, PID: 4711, Restarts: 2, Reason: "it is active (running)"}},
		{"reloads", map[string]any{"ActiveState": "reloading", "SubState": "reload-notify"}, Status{Running: true, PID: 4711, Reason: "it is reloading (reload-notify)"}},
		{"is not ready yet", map[string]any{"ActiveState": "activating", "SubState": "start"}, Status{Reason: "it is activating (start)"}},
		{"is not ready yet for the third time", map[string]any{"ActiveState": "activating", "SubState": "start", "NRestarts": uint32(2)},
			Status{Restarts: 2, Reason: "it is activating (start)"}},
		{"exited and will be started again",
			map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "MainPID": uint32(0), "ExecMainCode": int32(1), "ExecMainStatus": int32(3), "Result": "exit-code"},
			Status{ExitCode: 3, Reason: "exit-code (exit status 3)"}},
		{"exited, as some versions tell it for a moment",
			map[string]any{"ActiveState": "failed", "SubState": "failed-before-auto-restart", "MainPID": uint32(0), "ExecMainCode": int32(1), "ExecMainStatus": int32(3), "Result": "exit-code"},
			Status{ExitCode: 3, Reason: "exit-code (exit status 3)"}},
		{"was killed by systemd's watchdog",
			map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "MainPID": uint32(0), "ExecMainCode": int32(3), "ExecMainStatus": int32(6), "Result": "watchdog"},
			Status{ExitCode: -1, Reason: "watchdog (signal 6)"}},
		{"ran out of memory",
			map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "MainPID": uint32(0), "ExecMainCode": int32(2), "ExecMainStatus": int32(9), "Result": "oom-kill"},
			Status{ExitCode: -1, Reason: "oom-kill (signal 9)"}},
		{"used up its starts",
			map[string]any{"ActiveState": "failed", "SubState": "failed", "MainPID": uint32(0), "NRestarts": uint32(5), "ExecMainCode": int32(1), "ExecMainStatus": int32(1), "Result": "start-limit-hit"},
			Status{Restarts: 5, GaveUp: true, ExitCode: 1, Reason: "start-limit-hit (exit status 1)"}},
		{"refuses its config",
			map[string]any{"ActiveState": "failed", "SubState": "failed", "MainPID": uint32(0), "ExecMainCode": int32(1), "ExecMainStatus": int32(78), "Result": "exit-code"},
			Status{GaveUp: true, ExitCode: exitConfig, Reason: "exit-code (exit status 78)"}},
		{"was stopped by somebody", map[string]any{"ActiveState": "inactive", "SubState": "dead", "MainPID": uint32(0), "ExecMainCode": int32(1)},
			Status{Reason: "success (exit status 0)"}},
	}
	b := startBus(t)
	for _, tt := range tests {
		properties := running()
		maps.Copy(properties, tt.differs)
		b.mu.Lock()
		b.properties = properties
		b.mu.Unlock()
		if got, err := (Unit{agentName}).Status(t.Context()); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

// TestAStatusThatIsNone: nothing is made of what systemd does not say.
func TestAStatusThatIsNone(t *testing.T) {
	b := startBus(t)
	set := func(name string, value any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.properties = running(); value == nil {
			delete(b.properties, name)
		} else {
			b.properties[name] = value
		}
	}
	for _, name := range []string{"ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainCode", "ExecMainStatus", "Result"} {
		for _, value := range []any{nil, map[bool]any{true: "1", false: uint32(1)}[name[0] == 'M' || name[0] == 'N' || name[0] == 'E']} {
			set(name, value)
			if s, err := (Unit{agentName}).Status(t.Context()); err == nil {
				t.Errorf("%s is %v: %+v", name, value, s)
			}
		}
	}
	set("LoadState", "not-found")
	if _, err := (Unit{agentName}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no such unit (not-found)") {
		t.Errorf("%v", err)
	}
	b.mu.Lock()
	b.fault = "org.freedesktop.DBus.Error.NoReply"
	b.mu.Unlock()
	if _, err := (Unit{agentName}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "it is so") {
		t.Errorf("%v", err)
	}
}
