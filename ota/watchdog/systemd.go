package watchdog

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit is the Service of a systemd unit.
type Unit struct{ Name string }

// Restart implements Service. It waits for systemd's job: for a unit of
// Type=notify that is until it is ready or has failed to become so.
func (u Unit) Restart(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
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
	case <-done:
		// "failed" is not an error here: a candidate that does not come up is
		// seen, and judged, by its Status.
		return nil
	case <-ctx.Done():
		return fmt.Errorf("restart %s: %w", u.Name, ctx.Err())
	}
}

// Status implements Service.
func (u Unit) Status(ctx context.Context) (Status, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	unit, err := conn.GetUnitPropertiesContext(ctx, u.Name)
	if err != nil {
		return Status{}, fmt.Errorf("ask for %s: %w", u.Name, err)
	}
	if load, _ := unit["LoadState"].(string); load != "loaded" {
		return Status{}, fmt.Errorf("systemd has no unit %s (%s)", u.Name, load)
	}
	service, err := conn.GetUnitTypePropertiesContext(ctx, u.Name, "Service")
	if err != nil {
		return Status{}, fmt.Errorf("ask for %s: %w", u.Name, err)
	}
	return unitStatus(unit, service), nil
}

// cldExited is the ExecMainCode of a process that ended by itself (CLD_EXITED
// of wait(2)).
const cldExited = 1

func unitStatus(unit, service map[string]any) Status {
	active, _ := unit["ActiveState"].(string)
	pid, _ := service["MainPID"].(uint32)
	restarts, _ := service["NRestarts"].(uint32)
	code, _ := service["ExecMainCode"].(int32)
	status, _ := service["ExecMainStatus"].(int32)
	result, _ := service["Result"].(string)
	s := Status{
		Running:  active == "active" && pid != 0,
		Restarts: int(restarts),
		GaveUp:   active == "failed",
		ExitCode: int(status),
	}
	if s.Running {
		s.PID = int(pid)
	}
	switch {
	case code != 0 && code != cldExited:
		s.ExitCode = -1
		s.Reason = fmt.Sprintf("%s (signal %d)", result, status)
	case code == cldExited:
		s.Reason = fmt.Sprintf("%s (exit status %d)", result, status)
	}
	return s
}
