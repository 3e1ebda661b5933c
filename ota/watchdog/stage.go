package watchdog

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

const (
	defaultHealthySeconds  = 60
	defaultDeadlineSeconds = 300

	// startSeconds is what a release is given to come up before it has to be
	// well, or as long as it has to be well.
	startSeconds = 60
)

// install carries out an order to install.
func (w *Watchdog) install(ctx context.Context, o *order) error {
	err := w.layBallast()
	if err == nil {
		err = w.setBusy(true)
	}
	if err != nil {
		return w.conclude(o, ota.Outcome{Result: ota.Refused, Reason: err.Error(), Remedy: remedy(err)})
	}
	attempt := w.newAttempt(o.ID, ota.Install)
	attempt.Tries, attempt.Baseline = 1, w.baseline(ctx)
	err = w.change(func(s *ota.State) error {
		s.Attempt = attempt
		return s.To(ota.Staging)
	})
	if err != nil {
		return err
	}
	w.log.Info().Str("bundle", o.Bundle).Msg("staging began")
	return w.tryStage(ctx, o)
}

// restage goes on with a staging that was interrupted: from its beginning, but
// not for ever.
func (w *Watchdog) restage(ctx context.Context) error {
	o := w.readRequest()
	switch {
	case o == nil || o.ID != w.state.Attempt.ID || o.fault != "" || o.Action != ota.Install:
		return w.refuse(errors.New("the update was interrupted, and its request is gone"), "")
	case w.state.Attempt.Tries >= maxTries:
		return w.refuse(fmt.Errorf("the update was interrupted %d times", maxTries), "")
	}
	err := w.change(func(s *ota.State) error {
		s.Attempt.Tries++
		return nil
	})
	if err != nil {
		return err
	}
	return w.tryStage(ctx, o)
}

// tryStage stages what is ordered and begins its trial, or refuses it.
func (w *Watchdog) tryStage(ctx context.Context, o *order) error {
	err := w.stage(ctx, o)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the next Run stages again
	case errors.Is(err, errAlreadyActive):
		return w.finish(func(s *ota.State, out *ota.Outcome) error {
			out.Result, out.To, out.Reason = ota.Installed, s.Active.Version, "it runs already"
			mark(s, o, out.At)
			return s.To(ota.Committed)
		})
	case err != nil:
		return w.refuse(err, o.version)
	}
	return w.beginTrial(ctx, w.state.Attempt.Tries > 1)
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
	if o.command != nil {
		err = w.change(func(s *ota.State) error {
			s.Attempt.Nonce, s.Attempt.RolloutID = o.command.Nonce, o.command.RolloutID
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := w.preview(o, anchor, now); err != nil {
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
	o.version = m.Version
	if err := w.admit(o, m, sum); err != nil {
		return err
	}
	if err := w.checkRoom(m.InstalledSize); err != nil {
		return err
	}
	slot := ota.OtherSlot(w.state.Active.Slot)
	if err := w.fill(ctx, o, r, ota.SlotName(slot)+suffixNew); err != nil {
		return err
	}
	if err := w.forgetPrevious(); err != nil { // its slot is about to hold the candidate
		return err
	}
	if err := w.replaceSlot(slot); err != nil {
		return err
	}
	candidate := ota.Release{Slot: slot, Version: m.Version, Counter: m.Counter, Digest: m.Digest()}
	err = w.change(func(s *ota.State) error {
		a := s.Attempt
		a.Candidate = &candidate
		a.MinHealthySeconds = max(orDefault(m.Health.MinHealthySeconds, defaultHealthySeconds), longer(o.MinHealthySeconds))
		a.DeadlineSeconds = max(orDefault(m.Health.DeadlineSeconds, defaultDeadlineSeconds), longer(o.DeadlineSeconds), leastSeconds(a.MinHealthySeconds))
		a.Required = m.Health.Required
		mark(s, o, now)
		return s.To(ota.Staged)
	})
	if err != nil {
		return err
	}
	w.sweep(workDir)
	return nil
}

// forgetPrevious writes down that no release is retained.
func (w *Watchdog) forgetPrevious() error {
	if w.state.Previous == nil {
		return nil
	}
	return w.change(func(s *ota.State) error {
		s.Previous = nil
		return nil
	})
}

// fill makes the folder dir, with what is in the bundle, and tests it.
func (w *Watchdog) fill(ctx context.Context, o *order, r *bundle.Reader, dir string) error {
	m := r.Verified().Manifest()
	if err := w.clear(dir); err != nil {
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
	if w.o.Selftest == nil {
		return nil
	}
	if err := w.o.Selftest(ctx, path.Join(w.o.Layout.Base, dir)); ctx.Err() != nil {
		return ctx.Err() // it was broken off, which is not its fault
	} else if err != nil {
		return w.failSelftest(o, m, err)
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

// failSelftest has a release that did not even pass its own test not tried
// again.
func (w *Watchdog) failSelftest(o *order, m bundle.Manifest, why error) error {
	why = fmt.Errorf("selftest of version %s: %w", m.Version, why)
	err := w.change(func(s *ota.State) error {
		remember(s, ota.Release{Version: m.Version, Digest: m.Digest()}, why.Error(), w.now())
		mark(s, o, s.Attempt.Now)
		return nil
	})
	return errors.Join(why, err)
}

func orDefault(given int, otherwise float64) float64 {
	if given == 0 {
		return otherwise
	}
	return float64(given)
}

// longer bounds what a request may add to a trial.
func longer(s float64) float64 { return min(s, 24*60*60) }

// leastSeconds is the shortest deadline by which a release can have been well
// for minHealthy seconds.
func leastSeconds(minHealthy float64) float64 { return minHealthy + min(minHealthy, startSeconds) }
