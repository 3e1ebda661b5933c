package watchdog

import "context"

// Service runs the component that is updated.
type Service interface {
	// Restart stops what runs and starts what active names. It returns once
	// that was started, ready or not, and its Status.Restarts begin at 0. It may
	// be called again after an error or a power cut.
	Restart(ctx context.Context) error
	// Status tells how it is. It ends soon after ctx.
	Status(ctx context.Context) (Status, error)
}

// Status is what a service manager knows.
type Status struct {
	Running  bool
	PID      int    // of the main process; 0 while it does not run
	Restarts int    // by itself, since the last Restart
	GaveUp   bool   // it ends again and again, or must not be started again as it is
	ExitCode int    // of the last end, or -1 for a signal; 0 before the first
	Reason   string // how it ended last, for people
}
