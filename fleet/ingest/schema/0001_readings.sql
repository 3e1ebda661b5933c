-- Times are milliseconds since 1970, UTC.

CREATE TABLE devices (
  id         INTEGER PRIMARY KEY,
  device_id  TEXT    NOT NULL UNIQUE,
  first_seen INTEGER NOT NULL,
  last_seen  INTEGER NOT NULL,
  received   INTEGER NOT NULL DEFAULT 0, -- readings ever stored, pruned ones included
  duplicates INTEGER NOT NULL DEFAULT 0, -- readings that came again, conflicts included
  conflicts  INTEGER NOT NULL DEFAULT 0, -- of those, the ones with other content than the first
  announced  INTEGER NOT NULL DEFAULT 0, -- readings the device said it had to give up
  min_seq    INTEGER NOT NULL DEFAULT 0, -- lowest received or announced as given up; 0: nothing received
  max_seq    INTEGER NOT NULL DEFAULT 0,
  pruned_seq INTEGER NOT NULL DEFAULT 0  -- the highest seq in pruned
) STRICT;

-- value is REAL, TEXT, INTEGER (a truth value) or NULL. extra is JSON: reason,
-- clock, tags and meta, as far as there are any.
CREATE TABLE readings (
  device    INTEGER NOT NULL,
  seq       INTEGER NOT NULL,
  received  INTEGER NOT NULL,
  sensor    TEXT    NOT NULL,
  type      TEXT    NOT NULL,
  value     ANY,
  unit      TEXT    NOT NULL,
  timestamp INTEGER NOT NULL,
  quality   TEXT    NOT NULL,
  extra     TEXT,
  PRIMARY KEY (device, seq)
) STRICT, WITHOUT ROWID;

-- The reading with the highest seq of each sensor; pruning leaves it alone.
CREATE TABLE latest (
  device    INTEGER NOT NULL,
  seq       INTEGER NOT NULL,
  received  INTEGER NOT NULL,
  sensor    TEXT    NOT NULL,
  type      TEXT    NOT NULL,
  value     ANY,
  unit      TEXT    NOT NULL,
  timestamp INTEGER NOT NULL,
  quality   TEXT    NOT NULL,
  extra     TEXT,
  PRIMARY KEY (device, sensor)
) STRICT, WITHOUT ROWID;

-- Sequence numbers (inclusive) whose readings were stored and then pruned, so
-- that one of them coming late is still known to be a duplicate. No two ranges
-- of a device overlap or touch.
CREATE TABLE pruned (
  device INTEGER NOT NULL,
  first  INTEGER NOT NULL,
  last   INTEGER NOT NULL,
  PRIMARY KEY (device, first)
) STRICT, WITHOUT ROWID;
