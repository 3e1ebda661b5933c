package ingest

import (
	"context"
	"fmt"
	"time"
)

const (
	pruneInterval   = 10 * time.Minute
	pruneStep       = 500  // readings deleted in one transaction: what ingest may have to wait for
	latestPerDevice = 1000 // sensors whose latest reading is kept
)

// pruneOften prunes at once and then at every interval, until ctx ends.
func (s *Store) pruneOften(ctx context.Context) {
	ticker := time.NewTicker(pruneInterval)
	defer ticker.Stop()
	for {
		n, err := s.prune(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn().Err(err).Int("readings", n).Msg("pruning ended early, the next round goes on")
		case n > 0:
			s.log.Info().Int("readings", n).Str("retention", s.retention.String()).Msg("old readings pruned")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// prune deletes the readings that were received longer ago than the retention,
// in small transactions, and returns how many. A device's readings go in order
// of seq: one that came late keeps those behind it until it is old itself, and
// no index on the time of receipt is needed.
func (s *Store) prune(ctx context.Context) (int, error) {
	cutoff := s.now().Add(-s.retention).UnixMilli()
	total := 0
	for device := int64(0); ; {
		var err error
		if device, err = s.nextOld(ctx, device, cutoff); err != nil {
			return total, fmt.Errorf("prune: %w", err)
		}
		if device == 0 {
			return total, nil
		}
		for {
			n := 0
			err := s.inWriter(ctx, func() (err error) {
				n, err = s.pruneDevice(device, cutoff)
				return err
			})
			if err != nil {
				return total, fmt.Errorf("prune: %w", err)
			}
			if total += n; n < pruneStep {
				break
			}
		}
	}
}

// nextOld returns the id of the device after the one given whose first reading
// is older than cutoff, or 0.
func (s *Store) nextOld(ctx context.Context, after, cutoff int64) (id int64, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT coalesce(min(id), 0) FROM devices WHERE id > ?1 AND
		(SELECT received FROM readings WHERE device = devices.id ORDER BY seq LIMIT 1) < ?2`, after, cutoff).Scan(&id)
	return id, err
}

// pruneDevice is one step, inside the writer's transaction.
func (s *Store) pruneDevice(device, cutoff int64) (int, error) {
	runs, n, err := s.oldRuns(device, cutoff)
	if err != nil {
		return 0, err
	}
	for _, run := range runs {
		if err := s.pruneRun(device, run); err != nil {
			return 0, err
		}
	}
	_, err = s.conn.ExecContext(context.Background(), `DELETE FROM latest WHERE device = ?1 AND seq <
		(SELECT seq FROM latest WHERE device = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)`, device, latestPerDevice-1)
	return n, err
}

// seqRun is an unbroken range of sequence numbers, inclusive.
type seqRun struct{ first, last int64 }

// oldRuns returns the first readings of a device as far as all are older than
// cutoff, at most pruneStep.
func (s *Store) oldRuns(device, cutoff int64) (runs []seqRun, n int, err error) {
	rows, err := s.conn.QueryContext(context.Background(),
		"SELECT seq, received FROM readings WHERE device = ? ORDER BY seq LIMIT ?", device, pruneStep)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq, received int64
		if err := rows.Scan(&seq, &received); err != nil {
			return nil, 0, err
		}
		if received >= cutoff {
			break
		}
		if n++; len(runs) > 0 && runs[len(runs)-1].last == seq-1 {
			runs[len(runs)-1].last = seq
		} else {
			runs = append(runs, seqRun{seq, seq})
		}
	}
	return runs, n, rows.Err()
}

// pruneRun deletes the readings of run and records their numbers, joined with
// the recorded ranges that run touches.
func (s *Store) pruneRun(device int64, run seqRun) error {
	ctx := context.Background()
	exec := func(query string, args ...any) error {
		_, err := s.conn.ExecContext(ctx, query, args...)
		return err
	}
	if err := exec("DELETE FROM readings WHERE device = ? AND seq BETWEEN ? AND ?", device, run.first, run.last); err != nil {
		return err
	}
	if err := exec("UPDATE devices SET pruned_seq = max(pruned_seq, ?) WHERE id = ?", run.last, device); err != nil {
		return err
	}
	var joined seqRun
	err := s.conn.QueryRowContext(ctx, `SELECT
		coalesce((SELECT first FROM (SELECT first, last FROM pruned WHERE device = ?1 AND first < ?2 ORDER BY first DESC LIMIT 1) WHERE last = ?2 - 1), ?2),
		coalesce((SELECT last FROM pruned WHERE device = ?1 AND first = ?3 + 1), ?3)`,
		device, run.first, run.last).Scan(&joined.first, &joined.last)
	if err != nil {
		return err
	}
	if err := exec("DELETE FROM pruned WHERE device = ? AND first BETWEEN ? AND ?", device, joined.first, joined.last); err != nil {
		return err
	}
	return exec("INSERT INTO pruned (device, first, last) VALUES (?, ?, ?)", device, joined.first, joined.last)
}
