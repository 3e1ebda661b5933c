package watchdog

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit is the Service of a systemd unit.
type Unit struct{ Name string }

// Restart implements Service. It waits for systemd's job: for a unit of
// Type=notify that is until it is ready or has failed to become so.
func (u Unit) Restart(ctx context.Context) error {
	conn, err := dbus.NewWithContext(ctx) // for root also without a bus
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	// What used up its starts would be refused, and NRestarts would go on.
	_ = conn.ResetFailedUnitContext(ctx, u.Name) // an error where there is nothing to reset
	done := make(chan string, 1)
	if _, err := conn.RestartUnitContext(ctx, u.Name, "replace", done); err != nil {
		return fmt.Errorf("restart %s: %w", u.Name, err)
	}
	select {
	case result := <-done:
		return jobError(u.Name, result)
	case <-ctx.Done():
		return fmt.Errorf("restart %s: systemd has not ended its job: %w", u.Name, ctx.Err())
	}
}

// jobError returns an error when a job ended without the unit having been
// started. Of one that was started and failed there is none: a candidate that
// does not come up is seen, and judged, by its Status.
func jobError(unit, result string) error {
	switch result {
	case "canceled", "dependency", "skipped":
		return fmt.Errorf("restart %s: systemd's job was %s", unit, result)
	}
	return nil
}

// Status implements Service.
func (u Unit) Status(ctx context.Context) (Status, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	// All in one answer: of two, one could be of the time before a restart.
	properties, err := conn.GetAllPropertiesContext(ctx, u.Name)
	if err != nil {
		return Status{}, fmt.Errorf("ask for %s: %w", u.Name, err)
	}
	s, err := unitStatus(properties)
	if err != nil {
		return Status{}, fmt.Errorf("ask for %s: %w", u.Name, err)
	}
	return s, nil
}

// cldExited is the ExecMainCode of a process that ended by itself (CLD_EXITED
// of wait(2)).
const cldExited = 1

// unitStatus reads the properties of a unit and of its service.
func unitStatus(properties map[string]any) (Status, error) {
	if load, _ := properties["LoadState"].(string); load != "loaded" {
		return Status{}, fmt.Errorf("systemd has no such unit (%s)", load)
	}
	active, ok := properties["ActiveState"].(string)
	sub, okSub := properties["SubState"].(string)
	pid, okPID := properties["MainPID"].(uint32)
	restarts, okRestarts := properties["NRestarts"].(uint32) // begins anew when somebody starts the unit
	code, okCode := properties["ExecMainCode"].(int32)       // 0 as long as the process runs
	status, okStatus := properties["ExecMainStatus"].(int32)
	result, okResult := properties["Result"].(string)
	if !ok || !okSub || !okPID || !okRestarts || !okCode || !okStatus || !okResult {
		return Status{}, errors.New("systemd's answer lacks what a service has")
	}
	s := Status{
		// A unit that reloads runs all the same; one that is being started has a
		// process, but has not said that it is ready.
		Running:  (active == "active" || active == "reloading" || active == "refreshing") && pid != 0,
		Restarts: int(restarts),
		// Between two tries a unit of some versions of systemd is failed for a
		// moment too, with another SubState.
		GaveUp: active == "failed" && sub == "failed",
		Reason: fmt.Sprintf("it is %s (%s)", active, sub),
	}
	if s.Running {
		s.PID = int(pid)
	}
	switch {
	case code == cldExited:
		s.ExitCode = int(status)
		s.Reason = fmt.Sprintf("%s (exit status %d)", result, status)
	case code != 0:
		s.ExitCode = -1
		s.Reason = fmt.Sprintf("%s (signal %d)", result, status)
	}
	return s, nil
}
