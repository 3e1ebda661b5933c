package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/pyvorin/pyvorin-edge/ota"
)

const lockPoll = 50 * time.Millisecond

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

// takeLock waits for the lock at most as long as patience.
func takeLock(ctx context.Context, l ota.Layout, patience time.Duration) (*flock.Flock, error) {
	if err := makeDir(l.Dir()); err != nil {
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

// makeDir makes the watchdog's folder. A link that the agent put in its place,
// when there was none yet, would have root write elsewhere.
func makeDir(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	info, lookErr := os.Lstat(dir)
	if lookErr != nil || info.IsDir() {
		return errors.Join(err, lookErr)
	}
	if err := os.Rename(dir, dir+".foreign-"+newID()[:8]); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
