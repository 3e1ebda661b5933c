package watchdog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// ballastBytes is room for a few states.
const ballastBytes = 256 << 10

// load reads the state. Where there is none, or it is damaged, what the slots
// hold is taken as committed: then the memory of failed releases is lost, and
// no more.
func (w *Watchdog) load() error {
	w.state = nil
	if err := w.ownDir(); err != nil {
		return err
	}
	data, owner, err := w.read(w.o.Disk, stateFile, ota.MaxStateBytes)
	if err == nil && !w.mine(owner) {
		err = errForeign
	}
	if err == nil {
		w.state, err = ota.ParseState(data)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, ota.ErrNoState), errors.Is(err, disk.ErrNotRegular), errors.Is(err, errForeign), errors.Is(err, errTooLarge), errors.Is(err, syscall.EIO):
		w.log.Error().Err(err).Msg("state is damaged, set aside and made anew from the slots")
		if err := w.setAside(stateFile, stateFile+".bad"); err != nil {
			return fmt.Errorf("set a damaged state aside: %w", err)
		}
	default:
		return fmt.Errorf("read state: %w", err)
	}
	return w.found()
}

var (
	errForeign  = errors.New("it belongs to another user")
	errTooLarge = errors.New("it is too large")
)

// ownDir makes the watchdog's folder where it is absent, or not its own.
func (w *Watchdog) ownDir() error {
	info, err := w.o.Disk.Lstat(".")
	if err != nil {
		return fmt.Errorf("look at the base dir: %w", err)
	}
	if !w.mine(ownerOf(info)) || w.o.CheckOwners && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		w.log.Error().Stringer("mode", info.Mode()).Msg("base dir lets others replace what is root's in it; chown it to root and chmod it to 1775")
	}
	info, err = w.o.Disk.Lstat(otaDir)
	if err == nil && (!info.IsDir() || !w.mine(ownerOf(info))) {
		if err := w.moveAway(otaDir); err != nil {
			return err
		}
	}
	if err := disk.MkdirAll(w.o.Disk, otaDir, 0o755); err != nil {
		return fmt.Errorf("make the watchdog's folder: %w", err)
	}
	return nil
}

// read returns the content of a file and whose it was: both of the one file
// that it opened, since by then its name may lead to another.
func (w *Watchdog) read(fsys disk.FS, name string, limit int64) (data []byte, owner uint32, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("read %s: %w", name, errTooLarge)
	}
	return data, ownerOf(info), err
}

// mine reports whether what has this owner is believed.
func (w *Watchdog) mine(owner uint32) bool { return !w.o.CheckOwners || owner == w.o.Owner }

// ownerOf returns the user to whom a file belongs.
func ownerOf(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return ^uint32(0)
}

// change writes the state as f leaves it, and only then takes it over.
func (w *Watchdog) change(f func(*ota.State) error) error {
	next, err := clone(w.state)
	if err != nil {
		return err
	}
	phase := next.Phase
	if err := f(next); err != nil {
		return err
	}
	if next.Attempt != nil && next.Phase != phase {
		next.Attempt.Transitions++
	}
	return w.save(next)
}

// note is change for what has to be taken into account even if it cannot be
// written: a disk that is full or failing must not save a release that is bad.
func (w *Watchdog) note(f func(*ota.State)) {
	err := w.change(func(s *ota.State) error { f(s); return nil })
	if err != nil {
		w.log.Error().Err(err).Msg("state is kept in memory only")
		f(w.state)
	}
}

func (w *Watchdog) save(s *ota.State) error {
	data, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if len(data) > ota.MaxStateBytes {
		return fmt.Errorf("internal error: a state of %d bytes", len(data))
	}
	err = w.withRoom(func() error { return disk.WriteFile(w.o.Disk, stateFile, data, 0o644) })
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	w.state = s
	return nil
}

// layBallast keeps room for the state of an attempt: a disk that others fill
// while it is under way must not keep the watchdog from taking it back.
func (w *Watchdog) layBallast() error {
	if info, err := w.o.Disk.Lstat(ballastFile); err == nil && info.Size() == ballastBytes {
		return nil
	}
	if err := disk.RemoveAll(w.o.Disk, ballastFile); err != nil {
		return fmt.Errorf("keep room for the state: %w", err)
	}
	// Random bytes, or a file system that compresses would keep no room.
	filler := make([]byte, ballastBytes)
	rand.Read(filler)
	if err := disk.WriteNew(w.o.Disk, ballastFile, filler, 0o600); err != nil {
		return fmt.Errorf("keep room for the state: %w", err)
	}
	return nil
}

// withRoom does f, and once more without the ballast when the disk is full.
func (w *Watchdog) withRoom(f func() error) error {
	err := f()
	if isFull(err) && w.o.Disk.Remove(ballastFile) == nil {
		err = f()
	}
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// clear has nothing lie at name. What is another user's is not entered, since
// that user could make it as deep and as busy as it likes.
func (w *Watchdog) clear(name string) error {
	info, err := w.o.Disk.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if !w.mine(ownerOf(info)) {
		return w.moveAway(name)
	}
	return disk.RemoveAll(w.o.Disk, name)
}

// moveAway leaves what does not belong to the watchdog to whom it belongs to,
// under another name.
func (w *Watchdog) moveAway(name string) error {
	to := name + ".foreign-" + newID()[:8]
	w.log.Error().Str("name", name).Str("to", to).Msg("moved away what is in the place of the watchdog's own and belongs to another user")
	if err := w.o.Disk.Rename(name, to); err != nil {
		return fmt.Errorf("move %s away, which is not the watchdog's: %w", name, err)
	}
	return nil
}

// setAside keeps a file of the watchdog's own under another name, for people.
func (w *Watchdog) setAside(name, to string) error {
	if err := disk.RemoveAll(w.o.Disk, to); err != nil {
		return err
	}
	return w.o.Disk.Rename(name, to)
}

func clone(s *ota.State) (*ota.State, error) {
	data, err := s.Encode()
	if err != nil {
		return nil, fmt.Errorf("copy state: %w", err)
	}
	return ota.ParseState(data)
}

// now is the time that something is compared with: never before what this
// program or anything trusted has told, whatever the clock says.
func (w *Watchdog) now() time.Time {
	var trusted time.Time
	if w.state != nil {
		trusted = w.state.TrustedTime
	}
	return trust.Now(w.o.Clock.Now(), w.o.Build, trusted).UTC()
}
