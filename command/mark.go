package command

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// block is how many epochs, and how many numbers of reports, are set aside at
// once, so that the mark is seldom written.
const block = 256

const (
	markFormat   = 1
	maxMarkBytes = 4096
)

// mark is state.mark: what outlives a damaged ledger.
type mark struct {
	Format int    `json:"format"`
	Epoch  uint64 `json:"epoch"` // no connection had a higher one
	Seq    uint64 `json:"seq"`   // no report had a higher one
	// Issued is when the newest command that was obeyed was issued, in
	// microseconds since 1970.
	Issued int64 `json:"issued"`
}

// readMark returns the mark; the error is fs.ErrNotExist when there is none.
func readMark(path string) (mark, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return mark{}, err
	}
	var m mark
	if len(data) > maxMarkBytes {
		return mark{}, fmt.Errorf("%s has more than %d bytes", path, maxMarkBytes)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return mark{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if m.Format != markFormat {
		return mark{}, fmt.Errorf("%s has format %d, and this version knows %d", path, m.Format, markFormat)
	}
	return m, nil
}

func writeMark(path string, m mark) error {
	m.Format = markFormat
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// markState is what became of the mark.
type markState int

const (
	markUnread markState = iota
	markAbsent           // as on a device that never had one
	markDamaged
	markRead
)

// loadMark reads the mark once.
func (l *Ledger) loadMark() {
	if l.markState != markUnread {
		return
	}
	m, err := readMark(l.markPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.markState = markAbsent
	case err != nil:
		l.log.Error().Err(err).Msg("mark unreadable")
		l.markState = markDamaged
	default:
		l.markState = markRead
	}
	l.mark, l.epoch = m, m.Epoch
}

// ensureMark makes a mark when there is none that could be read. Nobody knows
// then what was obeyed, so everything up to now counts as that, and the numbers
// go on where no earlier ones can have been.
func (l *Ledger) ensureMark() error {
	if l.markState == markRead {
		return nil
	}
	now := l.momentLocked().now
	millis := uint64(max(now.UnixMilli(), 0))
	if err := l.raise(mark{Epoch: millis, Seq: millis, Issued: now.UnixMicro()}); err != nil {
		return err
	}
	l.epoch = max(l.epoch, l.mark.Epoch)
	return nil
}

// raise makes the mark at least m, durably.
func (l *Ledger) raise(m mark) error {
	m = mark{Epoch: max(m.Epoch, l.mark.Epoch), Seq: max(m.Seq, l.mark.Seq), Issued: max(m.Issued, l.mark.Issued)}
	if m.Epoch == l.mark.Epoch && m.Seq == l.mark.Seq && m.Issued == l.mark.Issued {
		return nil
	}
	if err := writeMark(l.markPath(), m); err != nil {
		return err
	}
	l.mark, l.markState = m, markRead
	return nil
}

// NextEpoch returns a number that grows with each call, over restarts and
// whatever is lost. It always returns one: where nothing can be written, a
// connection is worth more than the certainty that its epoch is new.
func (l *Ledger) NextEpoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(); err != nil {
		l.log.Error().Err(err).Msg("ledger cannot be used")
		l.loadMark()
	}
	l.epoch++
	if l.epoch > l.mark.Epoch {
		err := l.raise(mark{Epoch: l.epoch + block})
		if err == nil {
			err = l.update(l.momentLocked(), func(tx *sql.Tx) error { return setMeta(tx, "epoch", int64(l.mark.Epoch)) })
		}
		if err != nil {
			l.log.Error().Err(err).Msg("epoch cannot be kept")
		}
	}
	return l.epoch
}

// micros is a time in a table; that of no time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
