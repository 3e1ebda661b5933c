package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/pyvorin/pyvorin-edge/ota"
)

const lockPoll = 50 * time.Millisecond

// takeLock waits for the lock at most as long as patience.
func takeLock(ctx context.Context, l ota.Layout, patience time.Duration) (*flock.Flock, error) {
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		return nil, fmt.Errorf("make the watchdog's folder: %w", err)
	}
	lock := flock.New(l.Lock(), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err == nil && !locked && patience > 0 {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		locked, err = lock.TryLockContext(waiting, lockPoll)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.Lock(), err)
	}
	if !locked {
		return nil, ErrBusy
	}
	return lock, nil
}
