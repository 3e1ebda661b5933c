package ingest

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// ErrNoDevice means that nothing ever came from a device of that id.
var ErrNoDevice = errors.New("no such device")

// Device is what is known of one device.
type Device struct {
	DeviceID   string    `json:"device_id"`
	FirstSeen  time.Time `json:"first_seen"`
	LastSeen   time.Time `json:"last_seen"`
	Received   int64     `json:"received"`   // readings ever stored, pruned ones included
	Duplicates int64     `json:"duplicates"` // readings that came again, conflicts included
	Conflicts  int64     `json:"conflicts"`  // of those, the ones with other content than the first
	MinSeq     int64     `json:"min_seq"`    // lowest received or announced
	MaxSeq     int64     `json:"max_seq"`
	Announced  int64     `json:"announced"` // readings the device said it had to give up
	Missing    int64     `json:"missing"`   // neither received nor announced: under way, or lost
}

// Devices returns up to limit devices, the last seen first.
func (s *Store) Devices(ctx context.Context, limit int) ([]Device, error) {
	rows, err := s.reader.QueryContext(ctx, `SELECT device_id, first_seen, last_seen, received, duplicates,
		conflicts, min_seq, max_seq, announced FROM devices ORDER BY last_seen DESC, id LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("read the devices: %w", err)
	}
	defer rows.Close()
	devices := []Device{}
	for rows.Next() {
		var d Device
		var first, last int64
		if err := rows.Scan(&d.DeviceID, &first, &last, &d.Received, &d.Duplicates, &d.Conflicts, &d.MinSeq, &d.MaxSeq, &d.Announced); err != nil {
			return nil, fmt.Errorf("read the devices: %w", err)
		}
		d.FirstSeen, d.LastSeen = time.UnixMilli(first).UTC(), time.UnixMilli(last).UTC()
		if d.Received > 0 {
			d.Missing = max(0, d.MaxSeq-d.MinSeq+1-d.Received-d.Announced)
		}
		devices = append(devices, d)
	}
	return devices, rows.Err()
}

// Latest returns the newest reading of each of a device's sensors, by name, at
// most limit.
func (s *Store) Latest(ctx context.Context, device string, limit int) ([]wire.Reading, error) {
	return s.readings(ctx, device, "SELECT "+readingColumns+" FROM latest WHERE device = ? ORDER BY sensor LIMIT ?", limit)
}

// Query selects readings of one device.
type Query struct {
	Sensor string    // "" for all
	Since  time.Time // of the readings' own timestamps
	Limit  int
}

// Readings returns the readings that match q, those with the highest seq first.
func (s *Store) Readings(ctx context.Context, device string, q Query) ([]wire.Reading, error) {
	return s.readings(ctx, device, "SELECT "+readingColumns+` FROM readings WHERE device = ?1
		AND (?2 = '' OR sensor = ?2) AND timestamp >= ?3 ORDER BY seq DESC LIMIT ?4`,
		q.Sensor, q.Since.UnixMilli(), q.Limit)
}

// readings runs query with the device's row id and args.
func (s *Store) readings(ctx context.Context, device, query string, args ...any) ([]wire.Reading, error) {
	var id int64
	err := s.reader.QueryRowContext(ctx, "SELECT id FROM devices WHERE device_id = ?", device).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoDevice
	}
	if err != nil {
		return nil, fmt.Errorf("read the readings of %s: %w", device, err)
	}
	readings, err := scanReadings(s.reader.QueryContext(ctx, query, append([]any{id}, args...)...))
	if err != nil {
		return nil, fmt.Errorf("read the readings of %s: %w", device, err)
	}
	for i := range readings {
		readings[i].DeviceID = device
	}
	return readings, nil
}

const readingColumns = "seq, sensor, type, value, unit, timestamp, quality, extra"

// scanReadings returns the readings of a query for readingColumns, without
// their device id. It takes the query's error too, and closes rows.
func scanReadings(rows *sql.Rows, err error) ([]wire.Reading, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	readings := []wire.Reading{}
	for rows.Next() {
		var r wire.Reading
		var seq, timestamp int64
		var value any
		var more sql.NullString
		if err := rows.Scan(&seq, &r.Sensor, &r.Type, &value, &r.Unit, &timestamp, &r.Quality, &more); err != nil {
			return nil, err
		}
		r.Seq, r.Timestamp = uint64(seq), time.UnixMilli(timestamp).UTC()
		switch v := value.(type) {
		case float64:
			r.Value = wire.NumberValue(v)
		case string:
			r.Value = wire.TextValue(v)
		case int64:
			r.Value = wire.BoolValue(v != 0)
		}
		if more.Valid {
			var e extra
			if err := json.Unmarshal([]byte(more.String), &e); err != nil {
				return nil, fmt.Errorf("reading %d: %w", seq, err)
			}
			r.Reason, r.Clock, r.Tags, r.Meta = e.Reason, e.Clock, e.Tags, e.Meta
		}
		readings = append(readings, r)
	}
	return readings, rows.Err()
}
