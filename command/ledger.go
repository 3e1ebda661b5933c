package command

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// LedgerOptions are what a Ledger needs.
type LedgerOptions struct {
	Path  string // of state.db; state.mark is beside it
	Clock clock.Clock

	// Floor returns a time that is known to have passed, such as that of the build
	// or the watchdog's last trusted one; may be nil. It must not block.
	Floor func() time.Time

	Log zerolog.Logger
}

// reopenPause is how long a file that cannot be opened is left alone.
const reopenPause = 10 * time.Second

// Ledger is what was obeyed, and what is still to be reported. It is safe for
// concurrent use, and outlives Listeners.
type Ledger struct {
	o    LedgerOptions
	log  zerolog.Logger
	wake chan struct{} // there is a report to send

	mu        sync.Mutex
	closed    bool
	db        *sql.DB // nil while it is not open
	lastErr   error
	nextTry   time.Time
	mark      mark
	markState markState

	epoch   uint64
	seq     uint64    // of the newest report
	trusted time.Time // the newest from a disciplined clock
	horizon int64     // what expires until then may be forgotten
	lost    int64     // what was issued until then may be forgotten
	newest  map[string]int64
	bytes   int // of the reports

	statsMu sync.Mutex
	stats   LedgerStats
}

// LedgerStats say how the ledger is.
type LedgerStats struct {
	LastCommandAt  time.Time // when an order was last begun; zero: never
	ReportsWaiting int       // not acknowledged by the controller
	ReportsDropped uint64    // since the start, to make room
	SetAside       uint64    // damaged files, since the start
	LedgerError    string    // why it cannot be used; "" while it can
}

// Stats never waits for the disk.
func (l *Ledger) Stats() LedgerStats {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	return l.stats
}

func (l *Ledger) count(change func(*LedgerStats)) {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	change(&l.stats)
}

// NewLedger returns the ledger in the file at o.Path. It does no I/O: the file
// is opened with its first use, and opened again, and when it is damaged begun
// anew, whenever that is needed.
func NewLedger(o LedgerOptions) *Ledger {
	return &Ledger{o: o, log: o.Log.With().Str("component", "ledger").Logger(), wake: make(chan struct{}, 1)}
}

// Close closes the file. What is called after it fails.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.db == nil {
		return nil
	}
	err := l.db.Close()
	l.db = nil
	return err
}

func (l *Ledger) markPath() string { return strings.TrimSuffix(l.o.Path, ".db") + ".mark" }

// moment fixes the time of a decision.
func (l *Ledger) moment() moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The file knows the last trusted time. Without it there are the other
	// floors, and nothing can be obeyed anyway.
	_ = l.ready()
	return l.momentLocked()
}

func (l *Ledger) momentLocked() moment {
	floors := []time.Time{l.trusted}
	if l.o.Floor != nil {
		floors = append(floors, l.o.Floor())
	}
	state := l.o.Clock.State()
	wall := l.o.Clock.Now()
	return moment{now: trust.Now(wall, floors...), disciplined: state.Set && state.Synchronized}
}

var errClosed = errors.New("the ledger is closed")

// ready opens the file if it is not.
func (l *Ledger) ready() error {
	switch {
	case l.closed:
		return errClosed
	case l.db != nil:
		return nil
	case l.lastErr != nil && time.Now().Before(l.nextTry):
		return l.lastErr
	}
	l.lastErr = l.open()
	l.nextTry = time.Now().Add(reopenPause)
	l.failed(l.lastErr)
	return l.lastErr
}

func (l *Ledger) open() error {
	l.loadMark()
	db, err := openStore(l.o.Path, l.begun)
	if damaged(err) {
		if err := l.quarantine(err); err != nil {
			return err
		}
		db, err = openStore(l.o.Path, l.begun)
	}
	if err != nil {
		return err
	}
	if err := l.load(db); err != nil {
		return errors.Join(err, db.Close())
	}
	l.db = db
	return nil
}

// quarantine sets the file aside. The mark is made first: without one, the file
// that takes the place would be that of a new device.
func (l *Ledger) quarantine(why error) error {
	err := l.ensureMark()
	if err == nil {
		err = setAside(l.o.Path, l.o.Clock.Now())
	}
	if err != nil {
		return fmt.Errorf("set the damaged ledger aside: %w", err)
	}
	l.count(func(s *LedgerStats) { s.SetAside++ })
	l.log.Error().Err(why).Msg("damaged ledger set aside")
	return nil
}

// begun fills a new file. Where there is a mark, the file takes the place of one
// that is lost.
func (l *Ledger) begun(tx *sql.Tx) error {
	if l.markState == markAbsent {
		return nil
	}
	if err := l.ensureMark(); err != nil {
		return err
	}
	lost := l.mark.Issued
	if m := l.momentLocked(); m.disciplined { // a time to come, taken when the clock was wrong, must not shut out all others
		lost = min(lost, m.now.Add(futureSkew).UnixMicro())
	}
	return errors.Join(setMeta(tx, "lost", lost), setMeta(tx, "seq", int64(l.mark.Seq)))
}

// load reads what is kept in memory, from the file and the mark.
func (l *Ledger) load(db *sql.DB) error {
	meta := map[string]int64{}
	rows, err := db.QueryContext(bg, "SELECT key, value FROM meta")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		var value int64
		if err := rows.Scan(&key, &value); err != nil {
			return damage(err.Error())
		}
		meta[key] = value
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	var last sql.NullInt64
	var waiting int
	if err := db.QueryRowContext(bg, "SELECT (SELECT max(at) FROM commands WHERE state != ?), (SELECT count(*) FROM reports), (SELECT coalesce(sum(length(body)), 0) FROM reports)", stateRefused).
		Scan(&last, &waiting, &l.bytes); err != nil {
		return err
	}
	l.count(func(s *LedgerStats) { s.LastCommandAt, s.ReportsWaiting = fromMicros(last.Int64), waiting })
	l.horizon, l.lost, l.trusted = meta["horizon"], meta["lost"], fromMicros(meta["trusted"])
	l.newest = map[string]int64{string(configChannel): meta["newest/config"], string(desiredChannel): meta["newest/desired"]}
	l.seq = max(l.seq, uint64(meta["seq"]))
	l.epoch = max(l.epoch, uint64(meta["epoch"]))
	// The mark may have been lost alone.
	err = l.raise(mark{Epoch: l.epoch, Seq: l.seq, Issued: meta["issued"]})
	l.signal()
	return err
}

// update runs fn as one transaction, which also keeps the time.
func (l *Ledger) update(m moment, fn func(tx *sql.Tx) error) error {
	return l.use(func(db *sql.DB) error {
		trusted := l.trusted
		err := inTx(db, func(tx *sql.Tx) error {
			if m.disciplined && m.now.After(trusted) {
				trusted = m.now
				if err := setMeta(tx, "trusted", micros(trusted)); err != nil {
					return err
				}
			}
			return fn(tx)
		})
		if err == nil {
			l.trusted = trusted
		}
		return err
	})
}

// use calls fn with the open file. A file that turns out to be damaged is set
// aside, for the next call to begin anew.
func (l *Ledger) use(fn func(db *sql.DB) error) error {
	if err := l.ready(); err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	err := fn(l.db)
	l.failed(err)
	if damaged(err) {
		// What closing a damaged file says is of no use to anyone.
		_ = l.db.Close()
		l.db = nil
		if failed := l.quarantine(err); failed != nil {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// failed notes how the last use of the file came out.
func (l *Ledger) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.count(func(s *LedgerStats) { s.LedgerError = text })
}

func setMeta(tx *sql.Tx, key string, value int64) error {
	_, err := tx.ExecContext(bg, "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

// trustedAge is how old the time that is kept may get.
const trustedAge = 6 * time.Hour

// maintain keeps the time, so that a clock that starts in the past can be seen
// to be wrong, and forgets what has expired.
func (l *Ledger) maintain() error {
	m := l.moment()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(); err != nil {
		return err
	}
	if !m.disciplined || m.now.Sub(l.trusted) < trustedAge {
		return nil
	}
	return l.update(m, func(tx *sql.Tx) error { return l.forget(tx, m) })
}

// signal wakes whoever sends reports.
func (l *Ledger) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
