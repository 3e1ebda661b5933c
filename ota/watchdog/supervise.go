package watchdog

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

const (
	// superviseInterval is how often a supervisor looks whether there is
	// something to do.
	superviseInterval = 500 * time.Millisecond
	// superviseRetry is how long it waits after the watchdog's own trouble,
	// such as a full disk.
	superviseRetry = 10 * time.Second
)

// Supervise is the watchdog of machines without systemd: it keeps child, which
// is w's Service, running, and runs w whenever there is something to do. When
// ctx ends the child is stopped.
func Supervise(ctx context.Context, w *Watchdog, child *Child, log zerolog.Logger) error {
	if err := w.Boot(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return child.Run(ctx) })
	group.Go(func() error {
		tick := time.NewTicker(superviseInterval)
		defer tick.Stop()
		for {
			wait := tick.C
			if w.wanted(ctx) {
				if err := w.Run(ctx); err != nil && ctx.Err() == nil {
					log.Error().Err(err).Msg("watchdog failed, tried again soon")
					wait, w.crashLoop = time.After(superviseRetry), false
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-wait:
			}
		}
	})
	return group.Wait()
}

// wanted reports whether a Run may find something to do. A crash loop is looked
// into once: what can be done about it is done then.
func (w *Watchdog) wanted(ctx context.Context) bool {
	if w.state == nil || !w.state.Phase.AtRest() || w.asked() {
		return true
	}
	status, err := w.status(ctx)
	began := err == nil && status.GaveUp && !w.crashLoop
	w.crashLoop = err == nil && status.GaveUp
	return began
}
