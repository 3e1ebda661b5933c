package watchdog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

const (
	workBundle = workDir + "/bundle"

	// reserveBytes stay free: the agent's queue needs room to go on.
	reserveBytes = 32 << 20

	// maxBundleBytes bounds what is copied before anything of it is believed.
	maxBundleBytes = bundle.MaxPayloadBytes + 16<<20
)

// admit decides whether a release that was verified may come onto this device.
// Sum is that of the file, "" as long as that is not known.
func (w *Watchdog) admit(o *order, m bundle.Manifest, sum string) error {
	if m.Name != w.o.Component {
		return fmt.Errorf("the bundle holds %s, not %s", m.Name, w.o.Component)
	}
	if err := m.CheckTarget(w.o.Target); err != nil {
		return err
	}
	if err := m.CheckExpiry(w.state.Attempt.Now); err != nil {
		return err
	}
	if c := o.command; c != nil {
		switch {
		case c.Version != m.Version || c.Counter != 0 && c.Counter != m.Counter:
			return fmt.Errorf("the command orders version %s (counter %d), the bundle holds %s (%d)", clip(c.Version), c.Counter, m.Version, m.Counter)
		case m.Payload.Kind == bundle.Full && sum != "" && c.SHA256 != sum:
			// A delta has another hash; its version and counter are bound.
			return fmt.Errorf("%w: it is not the file whose sha256 the command names", bundle.ErrDamaged)
		}
	}
	digest := m.Digest()
	if digest == w.state.Active.Digest {
		return errAlreadyActive
	}
	allowed := o.command != nil && o.command.AllowDowngrade && o.release
	// What was committed last may come back after a repair or a rescue.
	again := m.Counter == w.state.Floor && digest == w.state.FloorDigest
	if m.Counter <= w.state.Floor && !again && !allowed {
		return fmt.Errorf("version %s has counter %d, and %d was committed; an older release needs a command with allow_downgrade that a release key signed too",
			m.Version, m.Counter, w.state.Floor)
	}
	if failed := w.state.Failed(digest); failed != nil && o.command == nil && !o.Retry { // which only root may ask for
		return fmt.Errorf("version %s failed on %s (%s); it takes a new signed command, or root's --retry, to try it again",
			m.Version, failed.At.UTC().Format("2006-01-02 15:04 UTC"), failed.Reason)
	}
	return nil
}

// preview looks at the bundle where the agent may still change it, so that the
// disk is spared a copy of what would be refused. It proves nothing else.
func (w *Watchdog) preview(o *order, anchor *trust.Anchor, now time.Time) error {
	f, size, err := w.openBundle(o.Bundle)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := bundle.Open(f, anchor, now)
	if err != nil {
		return err
	}
	v := r.Verified()
	m := v.Manifest()
	o.version = m.Version
	if err := w.admit(o, m, ""); err != nil {
		return err
	}
	if size != v.Size() {
		return fmt.Errorf("%w: the file has %d bytes instead of %d", bundle.ErrDamaged, size, v.Size())
	}
	return w.checkRoom(size + m.InstalledSize)
}

// checkRoom returns an error unless there is room for so many bytes.
func (w *Watchdog) checkRoom(bytes int64) error {
	free, err := w.o.Free()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if need := bytes + reserveBytes; free < need {
		return fmt.Errorf("it needs %d MiB of free space, %d of them as a reserve, and there are %d: %w", need>>20, reserveBytes>>20, free>>20, syscall.ENOSPC)
	}
	return nil
}

func (w *Watchdog) openBundle(name string) (f disk.File, size int64, err error) {
	if f, err = w.o.Home.Open(path.Join(path.Dir(requestFile), name)); err != nil {
		return nil, 0, fmt.Errorf("open the bundle: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open the bundle: %w", err), f.Close())
	}
	return f, info.Size(), nil
}

// copyBundle copies a bundle out of the agent's reach and returns its SHA-256.
func (w *Watchdog) copyBundle(ctx context.Context, name string) (string, error) {
	from, size, err := w.openBundle(name)
	if err != nil {
		return "", err
	}
	defer from.Close()
	if size > maxBundleBytes {
		return "", fmt.Errorf("the bundle has %d bytes, more than %d", size, int64(maxBundleBytes))
	}
	if err := w.checkRoom(size); err != nil { // it may have changed since it was looked at
		return "", err
	}
	if err := w.clear(workDir); err != nil {
		return "", fmt.Errorf("empty the work folder: %w", err)
	}
	if err := w.o.Disk.Mkdir(workDir, 0o700); err != nil {
		return "", fmt.Errorf("make the work folder: %w", err)
	}
	to, err := w.o.Disk.Create(workBundle, 0o600)
	if err != nil {
		return "", fmt.Errorf("copy the bundle: %w", err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(to, sum), io.LimitReader(reader{ctx, from}, size))
	if err = errors.Join(err, to.Close()); err != nil {
		return "", fmt.Errorf("copy the bundle: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
