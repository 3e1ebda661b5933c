package syncqueue

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// salvageTime bounds salvage; what was not read by then counts as lost. A full
// queue of single readings takes minutes on a small board.
const salvageTime = 10 * time.Minute

// salvageRows is how many rows one transaction of salvage writes.
const salvageRows = 500

// salvaged is the outcome of reading a damaged file.
type salvaged struct {
	readings int64
	lost     int64  // readings known to be lost
	spans    []span // that no row was read for: lost, or delivered long ago
	end      uint64 // seq after the newest row that could be read
	losses   losses // those that the damaged file had not announced
}

// salvageFile reads what it can of the damaged queue file into a new one at
// f.salvage. What was queued before the seq begin was delivered or announced;
// noted are the losses to announce, should the file's own table be unreadable.
// The damaged file stays as it is.
func (f files) salvageFile(begin uint64, noted losses, beat func()) (_ salvaged, err error) {
	if err := f.removeSalvage(); err != nil {
		return salvaged{}, err
	}
	to, err := openSalvage(f.salvage)
	if err != nil {
		return salvaged{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, to.close(), f.removeSalvage())
		}
	}()
	out := salvaged{end: begin, losses: noted}
	fresh, err := f.freshHead(to)
	if err != nil {
		return salvaged{}, err
	}
	from, err := f.openLent(fresh)
	if err == nil {
		v := salvage{from: from, to: to, beat: beat, until: time.Now().Add(salvageTime), out: out}
		err = v.run()
		from.close()
		out = v.out
		if err != nil {
			return salvaged{}, err
		}
	} else if diskFull(err) {
		return salvaged{}, err
	} // else not even its tables could be read
	losses := out.losses.with(salvageEnd, loss{first: out.end})
	for _, s := range out.spans {
		losses = losses.with(lostDamage, loss{n: int64(s.last - s.first + 1), exact: s.exact, first: s.first, last: s.last})
		if s.exact {
			out.lost += int64(s.last - s.first + 1)
		}
	}
	if err := to.saveLosses(losses); err != nil {
		return salvaged{}, err
	}
	if _, err := to.write.ExecContext(bg, fmt.Sprintf("PRAGMA user_version=%d", formatVersion)); err != nil {
		return salvaged{}, err
	}
	if err := to.close(); err != nil {
		return salvaged{}, err
	}
	if err := removeDatabase(f.repair); err != nil {
		return salvaged{}, err
	}
	file, err := os.OpenFile(f.salvage, os.O_RDWR, 0)
	if err != nil {
		return salvaged{}, err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return salvaged{}, err
	}
	return out, atomicfile.SyncDir(f.dir())
}

// freshHead returns the first page of the new file.
func (f files) freshHead(to *store) ([]byte, error) {
	if _, err := to.write.ExecContext(bg, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return nil, err
	}
	return readHead(f.salvage)
}

func readHead(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 1024)
	_, err = io.ReadFull(file, head)
	return head, errors.Join(err, file.Close())
}

// openLent opens the damaged file. One whose first page says anything else of its
// size, or of the tables than a fresh one may hide rows: it is lent the fresh one.
func (f files) openLent(fresh []byte) (*damagedFile, error) {
	from, err := openDamaged(f.db)
	if err == nil && f.plausibleHead(fresh) {
		return from, nil
	}
	if lendErr := f.lendHead(fresh); lendErr != nil {
		if err == nil {
			return from, nil // as it is
		}
		return nil, lendErr
	}
	if err == nil {
		from.close()
	}
	return openDamaged(f.repair)
}

func (f files) plausibleHead(fresh []byte) bool {
	info, err := os.Stat(f.db)
	if err != nil {
		return false
	}
	head, err := readHead(f.db)
	return err == nil && bytes.Equal(head[schemaOffset:], fresh[schemaOffset:]) &&
		int64(binary.BigEndian.Uint32(head[sizeOffset:]))*int64(len(head)) == info.Size()
}

// sizeOffset is where the file header names the number of pages, schemaOffset
// where it ends and the list of tables begins.
const (
	sizeOffset   = 28
	schemaOffset = 100
)

// lendHead makes f.repair a copy of the damaged file with a fresh first page.
// Those of all queue files are alike but for the size of the file and the list of
// free pages, which reading does not need.
func (f files) lendHead(fresh []byte) error {
	head := bytes.Clone(fresh)
	size, err := copyFile(f.repair, f.db)
	if err != nil {
		return err
	}
	if _, err := copyFile(f.repair+"-wal", f.db+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	binary.BigEndian.PutUint32(head[sizeOffset:], uint32(size/1024))
	clear(head[32:40])           // no free pages
	copy(head[92:96], head[24:]) // the size is valid
	repair, err := os.OpenFile(f.repair, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = repair.WriteAt(head, 0)
	return errors.Join(err, repair.Close())
}

func copyFile(to, from string) (size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(out, in)
	return size, errors.Join(err, out.Close())
}

// openSalvage creates an empty queue file without its user_version.
func openSalvage(path string) (*store, error) {
	s, err := openStore(path)
	if err != nil {
		return nil, err
	}
	if err := s.closeReader(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if _, err := s.write.ExecContext(bg, "PRAGMA user_version=0"); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// damagedFile is the file that salvage reads.
type damagedFile struct {
	db            *sql.DB
	conn          *sql.Conn
	head, payload *sql.Stmt
}

func openDamaged(path string) (_ *damagedFile, err error) {
	d := &damagedFile{}
	if d.db, d.conn, err = connect(path, "ro", "cache_size=-256"); err != nil {
		return nil, err
	}
	d.head, err = d.conn.PrepareContext(bg, `SELECT first, n, prio, ts0, ts1, encoding, clock, boot, offset, sum FROM frames WHERE first >= ? ORDER BY first LIMIT 1`)
	if err == nil {
		d.payload, err = d.conn.PrepareContext(bg, `SELECT payload FROM frames WHERE first = ?`)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// close ignores complaints: that the file is damaged is known.
func (d *damagedFile) close() {
	for _, s := range []*sql.Stmt{d.head, d.payload} {
		if s != nil {
			_ = s.Close()
		}
	}
	_ = d.conn.Close()
	_ = d.db.Close()
}

// head is a row without its payload.
type head struct {
	stored
	ts0, ts1 int64
}

// next returns the first row at or after seq; ok is false when there is none.
func (d *damagedFile) next(seq uint64) (h head, ok bool, err error) {
	var boot sql.NullString
	var offset sql.NullInt64
	var first, n, prio, encoding, clock, sum int64
	err = d.head.QueryRowContext(bg, int64(seq)).Scan(&first, &n, &prio, &h.ts0, &h.ts1, &encoding, &clock, &boot, &offset, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return h, false, nil
	}
	if err == nil && (uint64(first) < seq || n < 0 || n > maxFrameReadings || prio < 0 || prio >= int64(priorities) ||
		encoding < 0 || encoding > int64(Zstd) || uint64(first) > maxSeq || clock < 0 || clock > int64(clockUnset)) {
		err = damage(fmt.Sprintf("row %d is not a queue row", first))
	}
	h.first, h.n, h.prio, h.encoding, h.clock, h.sum = uint64(first), uint32(n), priority(prio), Encoding(encoding), clockMark(clock), uint32(sum)
	h.boot, h.offset = boot.String, offset.Int64
	return h, err == nil, err
}

// salvage is one pass over a damaged file.
type salvage struct {
	from  *damagedFile
	to    *store
	beat  func()
	until time.Time
	bad   uint64 // readings claimed by the damaged rows since out.end
	out   salvaged
}

func (v *salvage) run() error {
	if ls, err := (&store{write: v.from.conn}).loadLosses(); err == nil {
		v.out.losses = ls
	}
	v.copySmall("SELECT seq, at, prio, status, reason, line FROM dead", v.to.putDead)
	v.copySmall("SELECT key, value FROM meta", v.to.putMeta)
	for seq, more := uint64(1), true; more; {
		err := v.to.update(lazy, func() (err error) { // the whole is synced at its end
			for range salvageRows {
				if seq, more, err = v.step(seq); err != nil || !more {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		v.beat()
	}
	return nil
}

// step copies the first row at or after seq, and returns where to go on. Its
// errors are those of writing.
func (v *salvage) step(seq uint64) (next uint64, more bool, err error) {
	if time.Now().After(v.until) {
		return 0, false, nil
	}
	h, ok, err := v.from.next(seq)
	if err != nil {
		next, more = v.skip(seq)
		return next, more, nil
	}
	if !ok {
		return 0, false, nil
	}
	if h.n == 0 && h.sum == 0 {
		v.reach(h.first)
		return h.first + 1, true, nil
	}
	if err := v.from.payload.QueryRowContext(bg, int64(h.first)).Scan(&h.payload); err != nil || !h.intact() || verifyFrame(&h.stored) != nil {
		v.bad += uint64(h.n) // as far as that can be believed
		return h.first + 1, true, nil
	}
	v.reach(h.first)
	r := row{first: h.first, n: h.n, prio: h.prio, ts0: h.ts0, span: clampSpan(h.ts0, h.ts1), encoding: h.encoding, clock: h.clock}
	if err := v.to.insertRow(r, h.boot, h.offset, h.payload); err != nil {
		return 0, false, err
	}
	v.out.readings += int64(h.n)
	v.out.end = max(v.out.end, r.last()+1) // a dead letter queued again is older than begin
	return r.last() + 1, true, nil
}

// reach notes what lies between the last row that was read and seq. A damaged
// page can hide rows without an error, so every gap may be a loss, those that
// acks left included. What lies beyond the last row is for who takes over.
func (v *salvage) reach(seq uint64) {
	if seq > v.out.end {
		v.out.spans = append(v.out.spans, span{v.out.end, seq - 1, v.bad == seq-v.out.end})
		v.out.end = seq
	}
	v.bad = 0
}

// skip finds the next seq after seq from which the table can be read again: a
// damaged page hides all rows in it, and it is passed by galloping.
func (v *salvage) skip(seq uint64) (next uint64, more bool) {
	readable := func(s uint64) bool {
		_, _, err := v.from.next(s)
		return err == nil
	}
	bad, good, stride := seq, seq+1, uint64(1)
	for !readable(good) {
		if good >= maxSeq {
			return 0, false
		}
		bad, good, stride = good, good+2*stride, 2*stride
	}
	for good-bad > 1 {
		if mid := bad + (good-bad)/2; readable(mid) {
			good = mid
		} else {
			bad = mid
		}
	}
	return good, true
}

// copySmall copies a table as far as it can be read: to is given the columns of
// each row that from yields.
func (v *salvage) copySmall(from string, to *sql.Stmt) {
	rows, err := v.from.conn.QueryContext(bg, from)
	if err != nil {
		return
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return
	}
	values := make([]any, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if rows.Scan(into...) != nil {
			return
		}
		if _, err := to.ExecContext(bg, values...); err != nil {
			return
		}
	}
}
