package ingest

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	groupReadings = 10_000 // a commit takes no further batch once it has as many
	insertRows    = 32     // readings in one INSERT of many
)

// Result is what became of a batch.
type Result struct {
	Accepted   int `json:"accepted"`            // stored now
	Duplicates int `json:"duplicates"`          // stored before, conflicts included
	Conflicts  int `json:"conflicts,omitempty"` // of the duplicates: with other content, which was not stored
}

// job is one batch on its way to the writer goroutine.
type job struct {
	device   string
	readings []wire.Reading // sorted by the writer
	result   Result
	done     chan error // buffered: the writer never waits for a client
}

// chore is other work for the writer, one transaction.
type chore struct {
	do   func() error
	done chan error
}

// Add stores the readings of one device, each (device, seq) once. When it
// returns nil all of them are durable, by this call or an earlier one. On an
// error none was stored by this call, unless the error is ctx's: then the
// outcome is unknown, and adding the same again settles it. It takes over
// readings.
func (s *Store) Add(ctx context.Context, device string, readings []wire.Reading) (Result, error) {
	j := &job{device: device, readings: readings, done: make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-s.stopped:
		return Result{}, ErrUnavailable
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	select {
	case err := <-j.done:
		return j.result, err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// inWriter runs do in a transaction of the writer goroutine.
func (s *Store) inWriter(ctx context.Context, do func() error) error {
	c := chore{do, make(chan error, 1)}
	select {
	case s.chores <- c:
		return <-c.done
	case <-s.stopped:
		return ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the writer goroutine. Batches that arrive while one commit waits for
// the disk share the next one.
func (s *Store) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.chores:
			c.done <- s.transaction(c.do)
		case j := <-s.jobs:
			s.commit(s.group(j))
		}
	}
}

// group returns first and the batches that wait behind it.
func (s *Store) group(first *job) []*job {
	jobs, n := []*job{first}, len(first.readings)
	for n < groupReadings {
		select {
		case j := <-s.jobs:
			jobs, n = append(jobs, j), n+len(j.readings)
		default:
			return jobs
		}
	}
	return jobs
}

// commit stores jobs in one transaction and answers them. When that fails each
// gets a transaction of its own, so that none suffers from another.
func (s *Store) commit(jobs []*job) {
	err := s.transaction(func() error {
		for _, j := range jobs {
			if err := s.apply(j); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && len(jobs) > 1 {
		for _, j := range jobs {
			s.commit([]*job{j})
		}
		return
	}
	// Only a batch proves it: a chore may have had nothing to write.
	if err == nil && s.failure.Swap(nil) != nil {
		s.log.Info().Msg("database writable again")
	}
	for _, j := range jobs {
		if err != nil {
			j.result = Result{}
		}
		j.done <- err
	}
}

// transaction runs do between BEGIN and a durable COMMIT.
func (s *Store) transaction(do func() error) error {
	ctx := context.Background() // a commit is not interrupted half-way
	_, err := s.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	if err == nil {
		if err = do(); err == nil {
			_, err = s.conn.ExecContext(ctx, "COMMIT")
		}
		if err != nil {
			// SQLite may have rolled back already, which makes this one fail.
			_, _ = s.conn.ExecContext(ctx, "ROLLBACK")
		}
	}
	if err != nil {
		err = writeError(err)
		if s.failure.Swap(&err) == nil {
			s.log.Error().Err(err).Msg("database not writable")
		}
		return err
	}
	return nil
}

// apply stores one batch inside the writer's transaction. It may run again
// after a rollback.
func (s *Store) apply(j *job) error {
	ctx := context.Background()
	now := s.now().UnixMilli()
	var device, maxSeq, prunedSeq int64
	if err := s.stmts.touchDevice.QueryRowContext(ctx, j.device, now).Scan(&device, &maxSeq, &prunedSeq); err != nil {
		return err
	}
	slices.SortStableFunc(j.readings, func(a, b wire.Reading) int { return cmp.Compare(a.Seq, b.Seq) })
	j.result = Result{}
	known, err := s.known(device, j.readings, maxSeq, prunedSeq)
	if err != nil {
		return err
	}
	fresh := make([]*wire.Reading, 0, len(j.readings))
	for i := range j.readings {
		r := &j.readings[i]
		first := known[r.Seq]
		if len(fresh) > 0 && fresh[len(fresh)-1].Seq == r.Seq {
			first = fresh[len(fresh)-1]
		}
		if first == nil {
			fresh = append(fresh, r)
			continue
		}
		j.result.Duplicates++
		if first != prunedReading && !sameContent(first, r) {
			j.result.Conflicts++
		}
	}
	j.result.Accepted = len(fresh)
	if err := s.insert(device, now, fresh); err != nil {
		return err
	}
	var announced, low, high int64
	if len(fresh) > 0 {
		low, high = int64(fresh[0].Seq), int64(fresh[len(fresh)-1].Seq)
	}
	for _, r := range fresh {
		n, first := announcedLoss(r)
		announced, low = announced+n, min(low, first)
	}
	_, err = s.stmts.countDevice.ExecContext(ctx, device, j.result.Accepted, j.result.Duplicates, j.result.Conflicts, announced, low, high)
	return err
}

// insert stores readings that are new, and the last of each sensor as its
// latest.
func (s *Store) insert(device, now int64, fresh []*wire.Reading) error {
	ctx := context.Background()
	latest := map[string]*wire.Reading{}
	args := make([]any, 0, 2+insertRows*readingArgs)
	for chunk := range slices.Chunk(fresh, insertRows) {
		stmt := s.stmts.insertMany
		if len(chunk) < insertRows {
			stmt = s.stmts.insertOne
		}
		args = append(args[:0], device, now)
		for _, r := range chunk {
			latest[r.Sensor] = r
			args = appendReading(args, r)
			if stmt == s.stmts.insertOne {
				if _, err := stmt.ExecContext(ctx, args...); err != nil {
					return err
				}
				args = args[:2]
			}
		}
		if stmt == s.stmts.insertMany {
			if _, err := stmt.ExecContext(ctx, args...); err != nil {
				return err
			}
		}
	}
	for _, r := range latest {
		if _, err := s.stmts.upsertLatest.ExecContext(ctx, appendReading(append(args[:0], device, now), r)...); err != nil {
			return err
		}
	}
	return nil
}

// prunedReading stands for one that was stored and is gone, so that its
// content can no longer be compared.
var prunedReading = new(wire.Reading)

// known returns those of readings, which are sorted, that were stored before.
// Up to maxSeq anything may have been; up to prunedSeq some may be pruned.
func (s *Store) known(device int64, readings []wire.Reading, maxSeq, prunedSeq int64) (map[uint64]*wire.Reading, error) {
	if len(readings) == 0 || readings[0].Seq > uint64(maxSeq) {
		return nil, nil
	}
	known := map[uint64]*wire.Reading{}
	for i := 0; i < len(readings) && readings[i].Seq <= uint64(maxSeq); {
		end := i + 1
		for end < len(readings) && readings[end].Seq <= readings[end-1].Seq+1 {
			end++
		}
		first, last := int64(readings[i].Seq), int64(readings[end-1].Seq)
		if first <= prunedSeq {
			if err := s.addPruned(known, device, first, last); err != nil {
				return nil, err
			}
		}
		stored, err := scanReadings(s.stmts.selectRange.QueryContext(context.Background(), device, first, last))
		if err != nil {
			return nil, err
		}
		for k := range stored {
			known[stored[k].Seq] = &stored[k]
		}
		i = end
	}
	return known, nil
}

func (s *Store) addPruned(known map[uint64]*wire.Reading, device, first, last int64) error {
	ranges, err := s.stmts.selectPruned.QueryContext(context.Background(), device, first, last)
	if err != nil {
		return err
	}
	defer ranges.Close()
	for ranges.Next() {
		var from, to int64
		if err := ranges.Scan(&from, &to); err != nil {
			return err
		}
		for seq := max(from, first); seq <= min(to, last); seq++ {
			known[uint64(seq)] = prunedReading
		}
	}
	return ranges.Err()
}

// sameContent compares a stored reading, which has no device id, with one that
// came.
func sameContent(stored, came *wire.Reading) bool {
	a, b := *stored, *came
	a.DeviceID, b.DeviceID = "", ""
	return string(a.AppendJSON(nil)) == string(b.AppendJSON(nil))
}

// announcedLoss returns how many readings r says the device gave up, and the
// lowest seq that is accounted for by r: what was given up may be older than
// anything that came.
func announcedLoss(r *wire.Reading) (n, first int64) {
	first = int64(r.Seq)
	if r.Sensor != wire.LossSensor || (r.Type != wire.LossEvicted && r.Type != wire.LossLost) {
		return 0, first
	}
	n, ok := wholeNumber(r.Value)
	if from, known := wholeNumber(r.Meta["first_seq"]); ok && known && from > 0 {
		first = min(first, from)
	}
	return n, first
}

// wholeNumber returns v if it is one from 0 to 2^53.
func wholeNumber(v wire.Value) (n int64, ok bool) {
	f, ok := v.Float()
	if !ok || f < 0 || f > 1<<53 || f != math.Trunc(f) {
		return 0, false
	}
	return int64(f), true
}

// extra is what few readings have.
type extra struct {
	Reason string                `json:"reason,omitempty"`
	Clock  wire.Clock            `json:"clock,omitempty"`
	Tags   map[string]string     `json:"tags,omitempty"`
	Meta   map[string]wire.Value `json:"meta,omitempty"`
}

const readingArgs = 8 // what appendReading appends

// appendReading appends the columns of r from seq on, without received.
func appendReading(args []any, r *wire.Reading) []any {
	var value, more any
	if f, ok := r.Value.Float(); ok {
		value = f
	} else if text, ok := r.Value.Text(); ok {
		value = text
	} else if b, ok := r.Value.Bool(); ok {
		value = int64(0)
		if b {
			value = int64(1)
		}
	}
	if r.Reason != "" || r.Clock != wire.ClockOK || len(r.Tags) > 0 || len(r.Meta) > 0 {
		text, _ := json.Marshal(extra{r.Reason, r.Clock, r.Tags, r.Meta}) // strings and wire.Values always encode
		more = string(text)
	}
	return append(args, int64(r.Seq), r.Sensor, r.Type, value, r.Unit, r.Timestamp.UnixMilli(), string(r.Quality), more)
}

// statements are the writer's, prepared once on its connection.
type statements struct {
	touchDevice, countDevice  *sql.Stmt
	insertOne, insertMany     *sql.Stmt
	upsertLatest              *sql.Stmt
	selectRange, selectPruned *sql.Stmt
}

func (s *statements) prepare(ctx context.Context, conn *sql.Conn) error {
	const (
		columns = "(device, received, seq, sensor, type, value, unit, timestamp, quality, extra)"
		row     = "(?1, ?2, ?, ?, ?, ?, ?, ?, ?, ?)"
	)
	for stmt, text := range map[**sql.Stmt]string{
		&s.touchDevice: `INSERT INTO devices (device_id, first_seen, last_seen) VALUES (?1, ?2, ?2)
			ON CONFLICT (device_id) DO UPDATE SET last_seen = max(last_seen, excluded.last_seen)
			RETURNING id, max_seq, pruned_seq`,
		&s.countDevice: `UPDATE devices SET received = received + ?2, duplicates = duplicates + ?3,
			conflicts = conflicts + ?4, announced = announced + ?5,
			min_seq = CASE WHEN ?2 = 0 THEN min_seq WHEN min_seq = 0 THEN ?6 ELSE min(min_seq, ?6) END,
			max_seq = max(max_seq, ?7) WHERE id = ?1`,
		&s.insertOne:  "INSERT INTO readings " + columns + " VALUES " + row,
		&s.insertMany: "INSERT INTO readings " + columns + " VALUES " + row + strings.Repeat(", "+row, insertRows-1),
		&s.upsertLatest: "INSERT INTO latest " + columns + " VALUES " + row + `
			ON CONFLICT (device, sensor) DO UPDATE SET seq = excluded.seq, received = excluded.received,
			type = excluded.type, value = excluded.value, unit = excluded.unit,
			timestamp = excluded.timestamp, quality = excluded.quality, extra = excluded.extra
			WHERE excluded.seq > seq`,
		&s.selectRange:  "SELECT " + readingColumns + " FROM readings WHERE device = ? AND seq BETWEEN ? AND ?",
		&s.selectPruned: "SELECT first, last FROM pruned WHERE device = ?1 AND last >= ?2 AND first <= ?3",
	} {
		prepared, err := conn.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		*stmt = prepared
	}
	return nil
}
