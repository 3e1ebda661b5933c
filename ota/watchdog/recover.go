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
// service, and does nothing when it is done again.
func (w *Watchdog) recover() error {
	if err := w.tidy(); err != nil {
		return err
	}
	switch w.state.Phase {
	case ota.Committed, ota.RolledBack, ota.Staging, ota.Staged:
		if err := w.point(w.state.Active); err != nil {
			return err
		}
	case ota.Trial:
		if err := w.recoverTrial(); err != nil {
			return err
		}
	}
	if !w.state.Phase.AtRest() {
		return nil
	}
	if err := w.writeHistory(); err != nil {
		return err
	}
	return w.setBusy(false)
}

// recoverTrial has active name what the trial wants it to.
func (w *Watchdog) recoverTrial() error {
	a := w.state.Attempt
	if a.Verdict == "" && a.BootID != w.o.BootID {
		err := w.change(func(s *ota.State) error {
			a := s.Attempt
			a.BootID, a.BeganAt = w.o.BootID, w.o.Uptime().Seconds()
			a.Activated, a.Seen, a.Restarts = false, 0, nil
			if a.Boots++; a.Boots > maxBoots {
				a.Verdict = fmt.Sprintf("the machine started %d times during its trial", maxBoots)
			}
			return nil
		})
		if err != nil {
			return err
		}
		a = w.state.Attempt
	}
	if a.Verdict == "" {
		if found, err := w.inspect(a.Candidate.Slot); err == nil && found.Digest == a.Candidate.Digest {
			return w.activate(a.Candidate.Slot)
		}
		err := w.change(func(s *ota.State) error {
			s.Attempt.Verdict = "its slot was damaged during its trial"
			return nil
		})
		if err != nil {
			return err
		}
	}
	return w.point(*a.Base)
}

// point has active name the release want, or what is left of the device's
// releases when that one is broken: the other slot's, and at last the seed.
func (w *Watchdog) point(want ota.Release) error {
	found, err := w.inspect(want.Slot)
	if err == nil && found.Digest == want.Digest {
		return w.activate(want.Slot)
	}
	if err == nil {
		err = fmt.Errorf("it holds version %s instead", found.Version)
	}
	why := fmt.Sprintf("version %s in slot %s is damaged: %v", want.Version, want.Slot, err)
	w.log.Error().Str("reason", why).Msg("release is damaged")
	instead, err := w.inspect(ota.OtherSlot(want.Slot))
	if err != nil {
		why += fmt.Sprintf("; so is slot %s: %v", ota.OtherSlot(want.Slot), err)
		if instead, err = w.seed(); err != nil {
			return fmt.Errorf("%s; the seed does not help: %w", why, err)
		}
	}
	if err := w.activate(instead.Slot); err != nil {
		return err
	}
	return w.settle(*instead, ota.Outcome{
		ID: newID(), Action: ota.Repair, Result: ota.Repaired,
		From: want.Version, To: instead.Version, Reason: why,
	})
}

// settle makes release the committed one, whatever was under way.
func (w *Watchdog) settle(release ota.Release, o ota.Outcome) error {
	next, err := clone(w.state)
	if err != nil {
		return err
	}
	if a := next.Attempt; a != nil {
		o.Nonce, o.RolloutID = a.Nonce, a.RolloutID
	}
	o.At = w.now()
	next.Phase, next.Attempt = ota.RolledBack, nil
	next.Active, next.Previous = release, nil
	next.Last = &o
	return w.save(next)
}

// activate has active name slot, owned by the right user.
func (w *Watchdog) activate(slot string) error {
	target, err := w.o.Disk.Readlink(activeLink)
	if err == nil && target == ota.SlotName(slot) {
		if owned, err := w.owned(activeLink); err != nil {
			return fmt.Errorf("look at active: %w", err)
		} else if owned {
			return nil
		}
		w.log.Warn().Msg("active belonged to another user, made anew")
	}
	// A folder cannot be replaced by a link.
	if info, err := w.o.Disk.Lstat(activeLink); err == nil && info.IsDir() {
		if err := disk.RemoveAll(w.o.Disk, activeLink); err != nil {
			return fmt.Errorf("remove the folder that is in the place of active: %w", err)
		}
	}
	if err := disk.ReplaceLink(w.o.Disk, ota.SlotName(slot), activeLink); err != nil {
		return fmt.Errorf("point active to slot %s: %w", slot, err)
	}
	return nil
}

// tidy removes what an interrupted staging left, and puts a slot back that it
// had moved away.
func (w *Watchdog) tidy() error {
	for _, slot := range []string{ota.SlotA, ota.SlotB} {
		name := ota.SlotName(slot)
		if err := disk.RemoveAll(w.o.Disk, name+suffixNew); err != nil {
			return fmt.Errorf("remove a half-filled slot: %w", err)
		}
		_, err := w.o.Disk.Lstat(name + suffixOld)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("look for a replaced slot: %w", err)
		}
		if _, err := w.o.Disk.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := w.o.Disk.Rename(name+suffixOld, name); err != nil {
				return fmt.Errorf("put slot %s back: %w", slot, err)
			}
			if err := w.o.Disk.SyncDir("."); err != nil {
				return fmt.Errorf("put slot %s back: %w", slot, err)
			}
			continue
		}
		if err := disk.RemoveAll(w.o.Disk, name+suffixOld); err != nil {
			return fmt.Errorf("remove a replaced slot: %w", err)
		}
	}
	if err := disk.RemoveAll(w.o.Disk, workDir); err != nil {
		return fmt.Errorf("empty the work folder: %w", err)
	}
	return nil
}

// setBusy makes or removes the file for which the service manager starts the
// watchdog again.
func (w *Watchdog) setBusy(yes bool) error {
	_, err := w.o.Disk.Lstat(busyFile)
	if yes == (err == nil) {
		return nil
	}
	if yes {
		err = disk.WriteNew(w.o.Disk, busyFile, nil, 0o644)
	} else if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else {
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
