package syncqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// keepQuarantined is how many damaged files are kept for inspection.
const keepQuarantined = 3

// openFile opens the queue file and fills the index from it, setting a damaged
// file aside first.
func (q *Queue) openFile() error {
	if err := q.files.finishQuarantine(); err != nil {
		return err
	}
	err := q.load()
	if damaged(err) {
		q.o.Log.Error().Err(err).Msg("queue file found damaged")
		err = q.recover()
	}
	return err
}

// recover replaces a damaged file by what can be read of it. It is called by
// the writer, or before there is one.
func (q *Queue) recover() error {
	q.storeMu.Lock()
	if q.store != nil {
		// What closing a damaged file says is of no use to anyone.
		_ = q.store.close()
	}
	q.storeMu.Unlock()

	r, err := readReservation(q.files.sequence)
	if err != nil {
		q.o.Log.Error().Err(err).Msg("sequence reservation unreadable")
	}
	begin := max(r.Oldest, 1)
	if q.next > 0 { // while running
		q.mu.Lock()
		begin = q.index.oldestSeq(q.next)
		q.mu.Unlock()
	}
	saved, err := q.files.salvageFile(begin, q.losses, q.o.Beat)
	if diskFull(err) && q.files.deflate() {
		saved, err = q.files.salvageFile(begin, q.losses, q.o.Beat)
	}
	if err != nil {
		return fmt.Errorf("salvage the queue: %w", err)
	}
	if err := q.files.quarantine(time.Now()); err != nil {
		return fmt.Errorf("set the damaged queue file aside: %w", err)
	}
	q.o.Log.Error().Int64("salvaged", saved.readings).Int64("lost", saved.lost).Msg("damaged queue file set aside")
	q.mu.Lock()
	q.salvaged += saved.readings
	q.lost += saved.lost
	q.mu.Unlock()
	return q.load()
}

// load opens the file and rebuilds the index. Leases outlive it: their batches
// are still being delivered.
func (q *Queue) load() error {
	s, err := openStore(q.files.db)
	if err != nil {
		return err
	}
	if err := q.loadFrom(s); err != nil {
		return errors.Join(err, s.close())
	}
	q.storeMu.Lock()
	q.store = s
	q.storeMu.Unlock()
	return nil
}

func (q *Queue) loadFrom(s *store) error {
	state := q.o.Clock.State()
	var x index
	fromFile, err := s.scan(state.BootID, func(r row) { x.add(r, true) })
	if err != nil {
		return err
	}
	pending, err := s.loadLosses()
	if err != nil {
		return err
	}
	counted, err := s.loadCounters()
	if err != nil {
		return err
	}
	dead, err := s.countDead()
	if err != nil {
		return err
	}

	r, unreadable := readReservation(q.files.sequence)
	end, wasDamaged := pending[salvageEnd]
	delete(pending, salvageEnd)
	next, jump := resume(r, unreadable != nil, fromFile, !wasDamaged, q.o.Clock.Now().UnixMicro())
	if q.next > 0 { // recovery while running: memory knows
		next, jump = q.next, nil
		if wasDamaged && end.first < next {
			pending = pending.with(lostDamage, loss{first: end.first, last: next - 1})
		}
	}
	if jump != nil {
		q.o.Log.Error().Uint64("next_seq", next).Msg("sequence numbers jumped forward")
		// What was salvaged is not lost: only what is beyond it may be.
		pending = pending.with(lostJump, loss{first: min(max(jump.first, end.first), jump.last), last: jump.last})
	}
	if wasDamaged || jump != nil || fromFile == 0 {
		err := s.update(durable, func() error {
			if err := s.saveLosses(pending); err != nil {
				return err
			}
			return s.insertMarker(next)
		})
		if err != nil {
			return err
		}
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.leases {
		for _, first := range l.rows {
			if r, _ := x.find(first); r != nil {
				x.setLeased(r, true)
			}
		}
	}
	q.index, q.next, q.dead, q.losses = x, next, dead, pending
	if q.store == nil {
		q.counters, q.saved = counted, counted
	}
	q.reserved = r.Reserved
	return nil
}

// quarantine sets the queue file aside and puts the salvaged one in its place.
// The salvaged file is complete, so a power cut between two renames is made good
// by finishQuarantine.
func (f files) quarantine(now time.Time) error {
	name := f.stem + ".corrupt-" + now.UTC().Format("20060102T150405.000Z")
	if err := f.setAside(name); err != nil {
		return err
	}
	if err := os.Rename(f.salvage, f.db); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(f.dir()); err != nil {
		return err
	}
	return f.prune(name + ".db")
}

// setAside renames the three files of a database. The WAL goes first: left
// behind, it would be applied to the file that takes the place.
func (f files) setAside(name string) error {
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(f.db+suffix, name+".db"+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// finishQuarantine completes a quarantine that a power cut interrupted, and
// removes a salvaged file that was not complete.
func (f files) finishQuarantine() error {
	if complete(f.salvage) {
		if err := f.quarantine(time.Now()); err != nil {
			return err
		}
	}
	return f.removeSalvage()
}

// complete reports whether salvage wrote the file at path to its end: the
// user_version in the header is the last thing it sets.
func complete(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	var version [4]byte
	_, err = file.ReadAt(version[:], 60)
	return err == nil && binary.BigEndian.Uint32(version[:]) == formatVersion && !exists(path+"-wal")
}

func (f files) removeSalvage() error {
	return errors.Join(removeDatabase(f.salvage), removeDatabase(f.repair))
}

// removeDatabase removes the three files of a database, as far as they exist.
func removeDatabase(path string) error {
	var errs []error
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// prune removes all but the newest quarantined files. latest is one of them,
// whatever the clock said when it got its name.
func (f files) prune(latest string) error {
	found, err := filepath.Glob(escapeGlob(f.stem) + ".corrupt-*.db")
	if err != nil {
		return err
	}
	excess := max(0, len(found)-keepQuarantined)
	slices.Sort(found) // by time
	found = slices.DeleteFunc(found, func(name string) bool { return name == latest })
	var errs []error
	for _, name := range found[:excess] {
		errs = append(errs, removeDatabase(name))
	}
	return errors.Join(errs...)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
