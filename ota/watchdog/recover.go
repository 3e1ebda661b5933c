package watchdog

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// recover applies the rule for the state that start-up found. Afterwards active
// names a complete release and nothing half-filled is left. It needs no
// service, and does nothing when it is done again. Moved says that active names
// something else than before.
func (w *Watchdog) recover() (moved bool, err error) {
	if err := w.tidy(); err != nil {
		return false, err
	}
	if w.state.Phase == ota.Trial {
		return false, w.recoverTrial()
	}
	moved = !w.activated(w.state.Active.Slot)
	active, why, err := w.point(w.state.Active)
	if err != nil {
		return false, err
	}
	if why != "" {
		if err := w.settle(active, why); err != nil {
			return false, err
		}
	}
	if w.state.Phase.AtRest() {
		w.settled()
	}
	return moved || why != "", nil
}

// recoverTrial has active name one of the two releases that the trial is about.
func (w *Watchdog) recoverTrial() error {
	a := w.state.Attempt
	if a.Verdict == "" {
		why, err := w.spoiled(a)
		if err != nil {
			return err
		}
		another := a.BootID != w.o.BootID || w.o.Uptime().Seconds() < a.BeganAt
		if why != "" || another {
			w.note(func(s *ota.State) {
				a := s.Attempt
				a.Verdict = why
				if !another {
					return
				}
				a.BootID, a.BeganAt, a.AskedAt = w.o.BootID, w.o.Uptime().Seconds(), 0
				a.Activated, a.Seen, a.Restarts = false, 0, nil
				if a.Boots++; a.Boots > maxBoots && why == "" {
					a.Verdict = fmt.Sprintf("the machine started %d times during its trial", maxBoots)
				}
			})
		}
	}
	if w.state.Attempt.Verdict == "" {
		return nil
	}
	_, _, err := w.point(*w.state.Attempt.Base)
	return err
}

// spoiled says why a trial cannot go on; "" when it can: then active names the
// candidate, or, before it was activated, the release that runs until then.
func (w *Watchdog) spoiled(a *ota.Attempt) (string, error) {
	if found, err := w.inspect(a.Candidate.Slot); err != nil || found.Digest != a.Candidate.Digest {
		return "its slot was damaged during its trial", nil
	}
	if w.activated(a.Candidate.Slot) {
		return "", nil
	}
	if w.activated(a.Base.Slot) {
		if a.Activated {
			return fmt.Sprintf("active was pointed back to version %s before the reason was written down", a.Base.Version), nil
		}
		if found, err := w.inspect(a.Base.Slot); err == nil && found.Digest == a.Base.Digest {
			return "", nil
		}
	}
	return "", w.activate(a.Candidate.Slot)
}

// point has active name the release want, or what is left of the device's
// releases when that one is broken: the other slot's, the seed when that one is
// broken too or has failed, and at last what has failed. Why is "" when it
// names want.
func (w *Watchdog) point(want ota.Release) (active ota.Release, why string, err error) {
	found, err := w.inspect(want.Slot)
	if err == nil && found.Digest == want.Digest {
		return want, "", w.activate(want.Slot)
	}
	if err == nil {
		err = fmt.Errorf("it holds version %s instead", found.Version)
	}
	why = fmt.Sprintf("version %s in slot %s is damaged: %v", want.Version, want.Slot, err)
	w.log.Error().Str("reason", why).Msg("release is damaged")

	other := ota.OtherSlot(want.Slot)
	instead, err := w.inspect(other)
	if err != nil || w.hasFailed(*instead) {
		seeded, seedErr := w.seed()
		switch {
		case seedErr == nil:
			instead = seeded
		case err != nil:
			return want, "", fmt.Errorf("%s; slot %s does not help: %w; nor does the seed: %w", why, other, err, seedErr)
		default:
			w.log.Error().Err(seedErr).Msg("release that has failed is all there is")
		}
	}
	return *instead, why, w.activate(instead.Slot)
}

// hasFailed reports whether a release was taken back, or is about to be.
func (w *Watchdog) hasFailed(r ota.Release) bool {
	a := w.state.Attempt
	return w.state.Failed(r.Digest) != nil || a != nil && a.Verdict != "" && a.Candidate.Digest == r.Digest
}

// settle makes release the committed one, whatever was under way.
func (w *Watchdog) settle(release ota.Release, why string) error {
	o := ota.Outcome{ID: newID(), At: w.now(), Action: ota.Repair, Result: ota.Repaired, From: w.state.Active.Version, To: release.Version, Reason: short(why)}
	// What was being staged is staged again. What was staged is answered.
	if a := w.state.Attempt; a != nil && w.state.Phase == ota.Staged {
		o.ID, o.Action, o.Nonce, o.RolloutID = a.ID, a.Action, a.Nonce, a.RolloutID
		o.Result, o.To = ota.Refused, a.Candidate.Version
		if a.Candidate.Digest == release.Digest {
			o.Result = ota.Installed
		}
	}
	w.writeHistory()
	return w.change(func(s *ota.State) error {
		s.Phase, s.Attempt = ota.RolledBack, nil
		s.Active, s.Previous = release, nil
		s.Last = &o
		return nil
	})
}

// activated reports whether active names the slot, and is the watchdog's own.
func (w *Watchdog) activated(slot string) bool {
	target, err := w.o.Disk.Readlink(activeLink)
	if err != nil || target != ota.SlotName(slot) {
		return false
	}
	info, err := w.o.Disk.Lstat(activeLink)
	return err == nil && w.mine(ownerOf(info))
}

// activate has active name slot.
func (w *Watchdog) activate(slot string) error {
	if w.activated(slot) {
		return nil
	}
	// A folder cannot be replaced by a link.
	if info, err := w.o.Disk.Lstat(activeLink); err == nil && info.IsDir() {
		if err := w.clear(activeLink); err != nil {
			return fmt.Errorf("remove the folder that is in the place of active: %w", err)
		}
	}
	target := ota.SlotName(slot)
	err := w.withRoom(func() error { return disk.ReplaceLink(w.o.Disk, target, activeLink) })
	if err != nil {
		// Who may write to the base dir can occupy the name of the temporary
		// link, but not one that it cannot know.
		err = errors.Join(err, w.withRoom(func() error { return w.replaceLink(target, activeLink+"."+newID()[:16]) }))
	}
	if err != nil && !w.activated(slot) {
		return fmt.Errorf("point active to slot %s: %w", slot, err)
	}
	return nil
}

// replaceLink is disk.ReplaceLink for active with another temporary name, which
// it removes when it fails.
func (w *Watchdog) replaceLink(target, temp string) error {
	if err := w.o.Disk.Symlink(target, temp); err != nil {
		return err
	}
	if err := w.o.Disk.Rename(temp, activeLink); err != nil {
		return errors.Join(err, w.o.Disk.Remove(temp))
	}
	return w.o.Disk.SyncDir(".")
}

// tidy puts a slot back that an interrupted staging had moved away, and removes
// what else it left. What cannot be removed stands in nobody's way.
func (w *Watchdog) tidy() error {
	for _, slot := range []string{ota.SlotA, ota.SlotB} {
		name := ota.SlotName(slot)
		w.clearForeign(name)
		w.clearForeign(name + suffixOld)
		switch missing, err := w.missing(name); {
		case err != nil:
			return fmt.Errorf("look at slot %s: %w", slot, err)
		case missing:
			if err := w.putBack(name); err != nil {
				return fmt.Errorf("put slot %s back: %w", slot, err)
			}
		default:
			w.sweep(name + suffixOld)
		}
		w.sweep(name + suffixNew)
	}
	w.sweep(workDir)
	return nil
}

func (w *Watchdog) missing(name string) (bool, error) {
	_, err := w.o.Disk.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// putBack gives a slot what was moved away from it, if anything was.
func (w *Watchdog) putBack(name string) error {
	if missing, err := w.missing(name + suffixOld); missing || err != nil {
		return err
	}
	if err := w.o.Disk.Rename(name+suffixOld, name); err != nil {
		return err
	}
	return w.o.Disk.SyncDir(".")
}

// sweep is clear for what is only a waste of space.
func (w *Watchdog) sweep(name string) {
	if err := w.clear(name); err != nil {
		w.log.Error().Err(err).Msg("leftovers not removed")
	}
}

// clearForeign moves away what is another user's.
func (w *Watchdog) clearForeign(name string) {
	if info, err := w.o.Disk.Lstat(name); err == nil && !w.mine(ownerOf(info)) {
		w.sweep(name)
	}
}

// setBusy makes or removes the file for which the service manager starts the
// watchdog again.
func (w *Watchdog) setBusy(yes bool) error {
	missing, err := w.missing(busyFile)
	switch {
	case err == nil && yes != missing:
		return nil
	case err == nil && yes:
		err = w.withRoom(func() error { return disk.WriteNew(w.o.Disk, busyFile, nil, 0o644) })
		if errors.Is(err, fs.ErrExist) {
			err = nil // it could be made, but not synced at first
		}
	case err == nil:
		err = w.o.Disk.Remove(busyFile)
	}
	if err == nil {
		err = w.o.Disk.SyncDir(otaDir)
	}
	if err != nil {
		return fmt.Errorf("mark as busy: %w", err)
	}
	return nil
}
