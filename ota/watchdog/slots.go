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
	"syscall"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// What is added to a slot's name while it is filled, and while it is replaced.
const (
	suffixNew = ".new"
	suffixOld = ".old"
)

// agentProgram is the file of a seeded slot.
const agentProgram = ota.AgentComponent

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
	if owned, err := w.owned(dir); err != nil {
		return nil, fmt.Errorf("look at slot %s: %w", slot, err)
	} else if !owned {
		return nil, fmt.Errorf("slot %s belongs to another user", slot)
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

// seed fills slot a with the package's program.
func (w *Watchdog) seed() (*ota.Release, error) {
	if w.o.Seed == nil {
		return nil, errors.New("there is none")
	}
	dir := ota.SlotName(ota.SlotA) + suffixNew
	if err := disk.RemoveAll(w.o.Disk, dir); err != nil {
		return nil, fmt.Errorf("seed slot a: %w", err)
	}
	if err := w.o.Disk.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("seed slot a: %w", err)
	}
	wrote, err := w.copySeed(path.Join(dir, agentProgram))
	if err != nil {
		return nil, fmt.Errorf("seed slot a: %w", err)
	}
	if err := w.o.Disk.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("seed slot a: %w", err)
	}
	if err := w.replaceSlot(ota.SlotA); err != nil {
		return nil, err
	}
	found, err := w.inspectSeeded(ota.SlotA)
	if err != nil {
		return nil, err
	}
	if found.Digest != wrote {
		return nil, errors.New("seed slot a: what is read back is not what was written; the disk may be failing")
	}
	return found, nil
}

func (w *Watchdog) copySeed(name string) (digest string, err error) {
	from, err := os.Open(w.o.Seed.Path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := w.o.Disk.Create(name, 0o755)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(to, h), from)
	if err == nil {
		err = to.Sync()
	}
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, to.Close())
}

// replaceSlot puts slot-x.new, which is complete, in the place of slot-x. A
// power cut in between leaves slot-x.old, which tidy puts back.
func (w *Watchdog) replaceSlot(slot string) error {
	name := ota.SlotName(slot)
	err := w.o.Disk.Rename(name, name+suffixOld)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = w.o.Disk.Rename(name+suffixNew, name)
	}
	if err == nil {
		err = w.o.Disk.SyncDir(".")
	}
	if err != nil {
		return fmt.Errorf("replace slot %s: %w", slot, err)
	}
	if err := disk.RemoveAll(w.o.Disk, name+suffixOld); err != nil {
		return fmt.Errorf("remove what was in slot %s: %w", slot, err)
	}
	return nil
}

// owned reports whether name belongs to the user whom the watchdog trusts.
func (w *Watchdog) owned(name string) (bool, error) {
	info, err := w.o.Disk.Lstat(name)
	if err != nil {
		return false, err
	}
	return !w.o.CheckOwners || ownerOf(info) == w.o.Owner, nil
}

func ownerOf(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return ^uint32(0)
}

// found makes the first state, of what the slots hold: active's release, else
// that of any slot, else the seed.
func (w *Watchdog) found() error {
	if err := w.tidy(); err != nil {
		return err
	}
	slots := []string{ota.SlotA, ota.SlotB}
	if target, err := w.o.Disk.Readlink(activeLink); err == nil && target == ota.SlotName(ota.SlotB) {
		slots = []string{ota.SlotB, ota.SlotA}
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
	s := &ota.State{Phase: ota.Committed, Active: *releases[0], Floor: releases[0].Counter}
	if len(releases) > 1 {
		s.Previous = releases[1]
		// The state that knew which one was committed last is lost: neither
		// may be undercut.
		s.Floor = max(s.Floor, releases[1].Counter)
	}
	return w.save(s)
}
