package syncqueue

import (
	"database/sql"
	"encoding/json"
	"errors"
	"time"
)

// Stats are the queue's figures. Counts are since the queue was created unless
// said otherwise; a crash can lose up to a minute of them.
type Stats struct {
	Depth       int64     `json:"depth"` // readings queued, leased ones included
	Bytes       int64     `json:"bytes"` // stored for them
	OldestAt    time.Time `json:"oldest_item_timestamp,omitzero"`
	LastAckAt   time.Time `json:"last_flush_time,omitzero"`
	SentToday   int64     `json:"messages_sent_today"` // readings acked since local midnight
	Retries     int64     `json:"total_retries"`
	DeadLetters int64     `json:"dead_letters"`         // kept now
	DeadEvicted int64     `json:"dead_letters_evicted"` // given up for newer ones
	Evicted     int64     `json:"evicted_total"`        // readings
	Salvaged    int64     `json:"salvaged"`             // readings saved from a damaged file by this process
	LostRows    int64     `json:"lost"`                 // readings known to be lost to damage, by this process
	Fault       string    `json:"fault,omitempty"`      // why the queue cannot work as it should now; "" when it can
}

// Stats returns the figures without touching the file.
func (q *Queue) Stats() Stats {
	now := q.o.Clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.counters.stats(now)
	s.Depth, s.Bytes, s.DeadLetters = q.index.depth, q.index.bytes, q.dead
	s.Salvaged, s.LostRows = q.salvaged, q.lost
	if ms, ok := q.index.oldest(); ok {
		s.OldestAt = time.UnixMilli(ms).UTC()
	}
	s.Fault = q.fault
	if q.full {
		s.Fault = ErrFull.Error()
	}
	return s
}

// counters are the figures that survive a restart, as the table meta has them.
type counters struct {
	Sent        int64     `json:"sent"` // on Day
	Day         string    `json:"day"`  // local date
	Retries     int64     `json:"retries"`
	Evicted     int64     `json:"evicted"`
	DeadEvicted int64     `json:"dead_evicted"`
	LastAckAt   time.Time `json:"last_ack_at"`
}

func (c counters) stats(now time.Time) Stats {
	s := Stats{LastAckAt: c.LastAckAt, Retries: c.Retries, Evicted: c.Evicted, DeadEvicted: c.DeadEvicted}
	if c.Day == localDay(now) {
		s.SentToday = c.Sent
	}
	return s
}

// delivered counts n readings acked at now.
func (c *counters) delivered(n int64, now time.Time) {
	if day := localDay(now); c.Day != day {
		c.Day, c.Sent = day, 0
	}
	c.Sent += n
	c.LastAckAt = now.Round(0).UTC()
}

func localDay(t time.Time) string { return t.Local().Format(time.DateOnly) }

const countersKey = "counters"

// countersDue reports whether the counters changed since they were last written,
// a while ago.
func (q *Queue) countersDue() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counters != q.saved && time.Since(q.savedAt) >= saveCountersEvery
}

// saveCounters writes the counters in a transaction of their own.
func (q *Queue) saveCounters() error {
	q.mu.Lock()
	c := q.counters
	q.mu.Unlock()
	err := q.store.update(lazy, func() error { return q.store.saveCounters(c) })
	if err == nil {
		q.saved, q.savedAt = c, time.Now()
	}
	return err
}

// saveCounters runs inside a transaction.
func (s *store) saveCounters(c counters) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = s.putMeta.ExecContext(bg, countersKey, string(data))
	return err
}

// loadCounters returns the zero counters when there are none that make sense.
func (s *store) loadCounters() (c counters, err error) {
	var data []byte
	err = s.write.QueryRowContext(bg, "SELECT value FROM meta WHERE key = ?", countersKey).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return c, nil
	}
	if err == nil && json.Unmarshal(data, &c) != nil {
		c = counters{}
	}
	return c, err
}

func (q *Queue) isFull() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.full
}

// empty reports whether nothing is queued.
func (q *Queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.index.depth == 0
}

// setFull notes that the disk has no room, or has again.
func (q *Queue) setFull(full bool) {
	q.mu.Lock()
	was := q.full
	q.full = full
	q.mu.Unlock()
	switch {
	case full && !was:
		q.o.Log.Error().Msg("disk full: no readings are accepted until there is room")
	case was && !full:
		q.o.Log.Info().Msg("room on disk again")
	}
}

// faulty reports whether the last change of the file failed.
func (q *Queue) faulty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fault != ""
}

// setFault notes how the last change of the file went.
func (q *Queue) setFault(err error) {
	text := ""
	if err != nil && !errors.Is(err, errNotLeased) {
		text = err.Error()
	}
	q.mu.Lock()
	was := q.fault
	q.fault = text
	q.mu.Unlock()
	switch {
	case text != "" && was == "":
		q.o.Log.Error().Err(err).Msg("queue fault")
	case text == "" && was != "":
		q.o.Log.Info().Msg("queue fault passed")
	}
}
