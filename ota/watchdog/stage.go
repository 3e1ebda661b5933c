package watchdog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

const (
	workBundle = workDir + "/bundle"

	// reserveBytes stay free: the agent's queue needs room to go on.
	reserveBytes = 32 << 20

	// maxBundleBytes bounds what is copied before anything of it is believed.
	maxBundleBytes = bundle.MaxPayloadBytes + 16<<20

	defaultHealthySeconds  = 60
	defaultDeadlineSeconds = 300
)

// install carries out an order to install, from the beginning.
func (w *Watchdog) install(ctx context.Context, o *order, try int) error {
	if err := w.setBusy(true); err != nil {
		return err
	}
	if err := w.layBallast(); err != nil {
		return err
	}
	if try == 1 {
		err := w.change(func(s *ota.State) error {
			base := s.Active
			s.Attempt = &ota.Attempt{ID: o.ID, Action: ota.Install, Now: w.now(), Base: &base, Tries: 1}
			return s.To(ota.Staging)
		})
		if err != nil {
			return err
		}
		w.log.Info().Str("bundle", o.Bundle).Msg("staging began")
	}
	err := w.stage(ctx, o)
	if ctx.Err() != nil {
		return ctx.Err() // the next Run stages again
	}
	if errors.Is(err, errAlreadyActive) {
		return w.finish(func(s *ota.State, out *ota.Outcome) error {
			out.Result, out.To, out.Reason = ota.Installed, s.Active.Version, "it runs already"
			return s.To(ota.Committed)
		})
	}
	if err != nil {
		return w.refuse(err.Error())
	}
	return w.beginTrial(ctx)
}

// restage goes on with a staging that was interrupted: from its beginning, but
// not for ever.
func (w *Watchdog) restage(ctx context.Context) error {
	req, err := w.readRequest()
	if err != nil {
		return err
	}
	switch {
	case req == nil || req.ID != w.state.Attempt.ID:
		return w.refuse("the update was interrupted, and its request is gone")
	case w.state.Attempt.Tries >= maxTries:
		return w.refuse(fmt.Sprintf("the update was interrupted %d times", maxTries))
	}
	err = w.change(func(s *ota.State) error {
		s.Attempt.Tries++
		return nil
	})
	if err != nil {
		return err
	}
	return w.install(ctx, req, w.state.Attempt.Tries)
}

var errAlreadyActive = errors.New("the release runs already")

// stage verifies the bundle, fills the inactive slot with it, and turns the
// state to staged. Nothing that the agent can change is used after it was
// verified: the bundle is copied first.
func (w *Watchdog) stage(ctx context.Context, o *order) error {
	now := w.state.Attempt.Now
	anchor, err := w.anchor()
	if err != nil {
		return err
	}
	if why := w.authorize(o, anchor, now); why != "" {
		return errors.New(why)
	}
	err = w.change(func(s *ota.State) error {
		if o.command != nil {
			s.Attempt.Nonce, s.Attempt.RolloutID = o.command.Nonce, o.command.RolloutID
		}
		return mark(s, o, now)
	})
	if err != nil {
		return err
	}
	sum, err := w.copyBundle(ctx, o.Bundle)
	if err != nil {
		return err
	}
	f, err := w.o.Disk.Open(workBundle)
	if err != nil {
		return fmt.Errorf("open the copied bundle: %w", err)
	}
	defer f.Close()
	r, err := bundle.Open(f, anchor, now)
	if err != nil {
		return err
	}
	m := r.Verified().Manifest()
	if err := w.admit(o, m, sum); err != nil {
		return err
	}
	free, err := w.o.Free()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if need := m.InstalledSize + reserveBytes; free < need {
		return fmt.Errorf("it needs %d MiB of free space, %d of them as a reserve, and there are %d", need>>20, reserveBytes>>20, free>>20)
	}
	slot := ota.OtherSlot(w.state.Active.Slot)
	dir := ota.SlotName(slot) + suffixNew
	if err := disk.RemoveAll(w.o.Disk, dir); err != nil {
		return fmt.Errorf("make room for the new slot: %w", err)
	}
	if err := w.o.Disk.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the new slot: %w", err)
	}
	files := disk.Sub(w.o.Disk, dir)
	if err := r.Unpack(ctx, files, bundle.UnpackOptions{Base: w.baseOf(m)}); err != nil {
		return err
	}
	if err := bundle.VerifyInstalled(ctx, files, m); err != nil {
		return fmt.Errorf("read back: %w; the disk may be failing", err)
	}
	if w.o.Selftest != nil {
		if err := w.o.Selftest(ctx, path.Join(w.o.Layout.Base, dir)); ctx.Err() != nil {
			return ctx.Err() // it was broken off, which is not its fault
		} else if err != nil {
			return w.failSelftest(m, err)
		}
	}
	if err := w.replaceSlot(slot); err != nil {
		return err
	}
	candidate := ota.Release{Slot: slot, Version: m.Version, Counter: m.Counter, Digest: m.Digest()}
	err = w.change(func(s *ota.State) error {
		a := s.Attempt
		a.Candidate = &candidate
		a.MinHealthySeconds = max(orDefault(m.Health.MinHealthySeconds, defaultHealthySeconds), longer(o.MinHealthySeconds))
		a.DeadlineSeconds = max(orDefault(m.Health.DeadlineSeconds, defaultDeadlineSeconds), longer(o.DeadlineSeconds), a.MinHealthySeconds)
		a.Required = m.Health.Required
		s.Previous = nil // its slot holds the candidate now
		return s.To(ota.Staged)
	})
	if err != nil {
		return err
	}
	return w.tidy()
}

func orDefault(given int, otherwise float64) float64 {
	if given == 0 {
		return otherwise
	}
	return float64(given)
}

// longer bounds what a request may add to a trial.
func longer(s float64) float64 { return min(s, 24*60*60) }

// failSelftest has a release that did not even pass its own test not tried
// again.
func (w *Watchdog) failSelftest(m bundle.Manifest, why error) error {
	why = fmt.Errorf("selftest of version %s: %w", m.Version, why)
	err := w.change(func(s *ota.State) error {
		remember(s, ota.Release{Version: m.Version, Digest: m.Digest()}, why.Error(), w.now())
		return nil
	})
	return errors.Join(why, err)
}

// admit decides whether a release that was verified may come onto this device.
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
			return fmt.Errorf("the command orders version %s (counter %d), the bundle holds %s (%d)", c.Version, c.Counter, m.Version, m.Counter)
		case m.Payload.Kind == bundle.Full && c.SHA256 != sum:
			// A delta has another hash; its version and counter are bound.
			return errors.New("the bundle is not the file whose sha256 the command names")
		}
	}
	digest := m.Digest()
	if digest == w.state.Active.Digest {
		return errAlreadyActive
	}
	allowed := o.command != nil && o.command.AllowDowngrade && o.release
	if m.Counter <= w.state.Floor && !allowed {
		return fmt.Errorf("version %s has counter %d, and %d was committed; an older release needs a command with allow_downgrade that a release key signed too",
			m.Version, m.Counter, w.state.Floor)
	}
	if failed := w.state.Failed(digest); failed != nil && o.command == nil && (!o.Retry || !o.byRoot) {
		return fmt.Errorf("version %s failed on %s (%s); it takes a new signed command, or root's --retry, to try it again",
			m.Version, failed.At.UTC().Format("2006-01-02 15:04 UTC"), failed.Reason)
	}
	return nil
}

// baseOf returns the slot that a delta was made against; nil when there is none.
func (w *Watchdog) baseOf(m bundle.Manifest) disk.FS {
	if m.Payload.Kind != bundle.Delta {
		return nil
	}
	for _, r := range []*ota.Release{&w.state.Active, w.state.Previous} {
		if r != nil && r.Digest == m.Payload.BaseSHA256 {
			return disk.Sub(w.o.Disk, ota.SlotName(r.Slot))
		}
	}
	return nil
}

// copyBundle copies a bundle out of the agent's reach and returns its SHA-256.
func (w *Watchdog) copyBundle(ctx context.Context, name string) (string, error) {
	from, err := w.o.Home.Open(path.Join("inbox", name))
	if err != nil {
		return "", fmt.Errorf("open the bundle: %w", err)
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return "", fmt.Errorf("open the bundle: %w", err)
	}
	size := info.Size()
	free, err := w.o.Free()
	if err != nil {
		return "", fmt.Errorf("ask for free space: %w", err)
	}
	switch {
	case size > maxBundleBytes:
		return "", fmt.Errorf("the bundle has %d bytes, more than %d", size, int64(maxBundleBytes))
	case free < size+reserveBytes:
		return "", fmt.Errorf("to copy the bundle takes %d MiB of free space, %d of them as a reserve, and there are %d", (size+reserveBytes)>>20, reserveBytes>>20, free>>20)
	}
	if err := disk.RemoveAll(w.o.Disk, workDir); err != nil {
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
