package watchdog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// What is added to a slot's name while it is filled, and while it is replaced.
const (
	suffixNew = ".new"
	suffixOld = ".old"
)

// agentProgram is the file of a seeded slot, and seedPerm its mode.
const (
	agentProgram = ota.AgentComponent
	seedPerm     = 0o755
)

// inspect returns what a slot holds, after reading and hashing all of it. The
// error says why it must not run.
func (w *Watchdog) inspect(slot string) (*ota.Release, error) {
	dir := ota.SlotName(slot)
	info, err := w.o.Disk.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at slot %s: %w", slot, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("look at slot %s: %w", slot, disk.ErrNotRegular)
	}
	switch {
	case !w.mine(ownerOf(info)):
		return nil, fmt.Errorf("slot %s belongs to another user", slot)
	case w.o.CheckOwners && info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("slot %s can be changed by others (%v)", slot, info.Mode())
	}
	files := disk.Sub(w.o.Disk, dir)
	m, err := bundle.ReadInstalled(files)
	if errors.Is(err, fs.ErrNotExist) {
		return w.inspectSeeded(slot)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifest of slot %s: %w", slot, err)
	}
	if m.Name != w.o.Component {
		return nil, fmt.Errorf("slot %s holds %s", slot, m.Name)
	}
	if err := bundle.VerifyInstalled(context.Background(), files, m); err != nil {
		return nil, fmt.Errorf("check slot %s: %w", slot, err)
	}
	return &ota.Release{Slot: slot, Version: m.Version, Counter: m.Counter, Digest: m.Digest()}, nil
}

// inspectSeeded is inspect for a slot without a manifest: it must hold the
// seed, the present one or the one that was recorded when it was filled.
func (w *Watchdog) inspectSeeded(slot string) (*ota.Release, error) {
	f, err := w.o.Disk.Open(path.Join(ota.SlotName(slot), agentProgram))
	if err != nil {
		return nil, fmt.Errorf("slot %s has neither a manifest nor a seed: %w", slot, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("read slot %s: %w", slot, err)
	} else if info.Mode() != seedPerm {
		return nil, fmt.Errorf("the program in slot %s has the mode %v", slot, info.Mode())
	}
	digest, err := digestOf(f)
	if err != nil {
		return nil, fmt.Errorf("read slot %s: %w", slot, err)
	}
	if w.state != nil {
		for _, known := range []*ota.Release{&w.state.Active, w.state.Previous} {
			if known != nil && known.Seed && known.Digest == digest {
				found := *known
				found.Slot = slot
				return &found, nil
			}
		}
	}
	if w.o.Seed != nil {
		if of, err := w.seedDigest(); err != nil {
			return nil, err
		} else if of == digest {
			return &ota.Release{Slot: slot, Version: w.o.Seed.Version, Digest: digest, Seed: true}, nil
		}
	}
	return nil, fmt.Errorf("slot %s has no manifest, and a program that is not the seed", slot)
}

func (w *Watchdog) seedDigest() (string, error) {
	f, err := os.Open(w.o.Seed.Path)
	if err != nil {
		return "", fmt.Errorf("open the seed: %w", err)
	}
	defer f.Close()
	digest, err := digestOf(f)
	if err != nil {
		return "", fmt.Errorf("read the seed: %w", err)
	}
	return digest, nil
}

func digestOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// seed fills slot a with the package's program, unless that is there.
func (w *Watchdog) seed() (*ota.Release, error) {
	if w.o.Seed == nil {
		return nil, errors.New("there is none")
	}
	digest, err := w.seedDigest()
	if err != nil {
		return nil, err
	}
	if found, err := w.inspect(ota.SlotA); err == nil && found.Seed && found.Digest == digest {
		return found, nil
	}
	if err := w.fillWithSeed(digest); err != nil {
		w.sweep(ota.SlotName(ota.SlotA) + suffixNew) // the disk may be full
		return nil, fmt.Errorf("seed slot a: %w", err)
	}
	return w.inspectSeeded(ota.SlotA)
}

func (w *Watchdog) fillWithSeed(digest string) error {
	dir := ota.SlotName(ota.SlotA) + suffixNew
	if err := w.clear(dir); err != nil {
		return err
	}
	if err := w.o.Disk.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := w.copySeed(path.Join(dir, agentProgram)); err != nil {
		return err
	}
	if err := w.o.Disk.SyncDir(dir); err != nil {
		return err
	}
	f, err := w.o.Disk.Open(path.Join(dir, agentProgram))
	if err != nil {
		return err
	}
	defer f.Close()
	if wrote, err := digestOf(f); err != nil {
		return err
	} else if wrote != digest {
		return errors.New("what is read back is not what was written; the disk may be failing")
	}
	return w.replaceSlot(ota.SlotA)
}

func (w *Watchdog) copySeed(name string) error {
	from, err := os.Open(w.o.Seed.Path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := w.o.Disk.Create(name, seedPerm)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// replaceSlot puts slot-x.new, which is complete, in the place of slot-x. A
// power cut in between leaves slot-x.old, which tidy puts back.
func (w *Watchdog) replaceSlot(slot string) error {
	name := ota.SlotName(slot)
	w.clearForeign(name)
	if err := w.clear(name + suffixOld); err != nil {
		return fmt.Errorf("replace slot %s: %w", slot, err)
	}
	err := w.o.Disk.Rename(name, name+suffixOld)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		if err = w.o.Disk.Rename(name+suffixNew, name); err != nil {
			err = errors.Join(err, w.putBack(name))
		}
	}
	if err == nil {
		err = w.o.Disk.SyncDir(".")
	}
	if err != nil {
		return fmt.Errorf("replace slot %s: %w", slot, err)
	}
	w.sweep(name + suffixOld)
	return nil
}

// found makes the first state, of what the slots hold: active's release, else
// that of any slot, else the seed.
func (w *Watchdog) found() error {
	if err := w.tidy(); err != nil {
		return err
	}
	slots := []string{ota.SlotA, ota.SlotB}
	if w.activated(ota.SlotB) {
		slices.Reverse(slots)
	}
	var releases []*ota.Release
	for _, slot := range slots {
		r, err := w.inspect(slot)
		switch {
		case err == nil:
			releases = append(releases, r)
		case !errors.Is(err, fs.ErrNotExist):
			w.log.Error().Err(err).Msg("slot cannot be used")
		}
	}
	if len(releases) == 0 {
		r, err := w.seed()
		if err != nil {
			return fmt.Errorf("no slot holds a release, and no seed can be used: %w", err)
		}
		releases = append(releases, r)
	}
	s := &ota.State{Phase: ota.Committed, Active: *releases[0]}
	for _, r := range releases {
		// The state that knew which one was committed last is lost: neither may
		// be undercut.
		if r.Counter > s.Floor {
			s.Floor, s.FloorDigest = r.Counter, r.Digest
		}
	}
	if len(releases) > 1 {
		// Perhaps what runs was on trial. If it crashes, it is taken back.
		s.Previous = releases[1]
		w.stampCommit(s)
	}
	return w.save(s)
}

// stampCommit writes down when Active was committed.
func (w *Watchdog) stampCommit(s *ota.State) {
	s.CommittedAt, s.RescueUsed = time.Time{}, false
	if w.o.Clock.State().Set {
		s.CommittedAt = w.now()
	}
	s.CommittedBoot, s.CommittedUp = w.o.BootID, w.o.Uptime().Seconds()
}
