package watchdog

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/pyvorin/pyvorin-edge/ota"
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
					wait = time.After(superviseRetry)
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

// wanted reports whether a Run may find something to do.
func (w *Watchdog) wanted(ctx context.Context) bool {
	if w.state == nil || !w.state.Phase.AtRest() {
		return true
	}
	if _, err := w.o.Home.Lstat(requestFile); err == nil {
		return true
	}
	status, err := w.o.Service.Status(ctx)
	return err == nil && status.GaveUp && !w.state.RescueUsed && w.state.Previous != nil
}

// ErrBusy is what Locked returns when another watchdog is at work.
var ErrBusy = errors.New("another watchdog is at work")

// Locked runs f while this process holds the lock of the component, which it
// waits for as long as patience. The folder for it is made where it is absent.
func Locked(ctx context.Context, l ota.Layout, patience time.Duration, f func() error) error {
	lock, err := takeLock(ctx, l, patience)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Unlock())
}
