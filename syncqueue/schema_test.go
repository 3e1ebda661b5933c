package syncqueue_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// additions are what docs/formats.md lets a later version make of the file
// without a new number.
const additions = `
ALTER TABLE frames ADD COLUMN origin;
ALTER TABLE frames ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead ADD COLUMN origin;
ALTER TABLE loss ADD COLUMN origin TEXT DEFAULT 'here';
ALTER TABLE meta ADD COLUMN origin;
CREATE TABLE routes(name TEXT PRIMARY KEY, value BLOB NOT NULL);
INSERT INTO routes VALUES('a', x'01');
INSERT INTO meta(key, value, origin) VALUES('routes', '{"n":1}', 'trial');
UPDATE frames SET origin = 'trial', tries = 3`

// A release on trial may have added to the file when the one before it gets it
// back.
func TestAdditionsAreNoOtherFormat(t *testing.T) {
	o, want := filled(t, syncqueue.Zstd)
	alter(t, o.Path, additions)
	if err := syncqueue.CheckFormat(o.Path); err != nil {
		t.Errorf("check: %v", err)
	}

	q := open(t, o)
	b, _ := lease(t, q, syncqueue.Want{Readings: 1})
	if err := q.DeadLetter(context.Background(), b, b.First, 422, "no"); err != nil {
		t.Fatal(err)
	}
	ack(t, q, b)
	for seq := b.First + 1; seq <= b.Last; seq++ {
		delete(want, seq)
	}
	if n, err := q.DeadRetry(context.Background()); err != nil || n != 1 {
		t.Errorf("%d dead letters queued again, %v", n, err)
	}
	enqueue(t, q, 100, config.PriorityHigh)
	out := deliverAll(t, q)
	out.check(t, "with additions", want)
	if len(out.readings) != len(want)+100 || len(out.lost) != 0 {
		t.Errorf("%d readings delivered and %d announced as lost", len(out.readings), len(out.lost))
	}
	shut(t, q)
	notQuarantined(t, o.Path)
	db := database(t, o.Path)
	var routes, version int
	if err := db.QueryRow("SELECT (SELECT count(*) FROM routes), user_version FROM pragma_user_version").Scan(&routes, &version); err != nil || routes != 1 || version != 1 {
		t.Errorf("%d routes, format %d, %v: the additions are gone", routes, version, err)
	}
}

// Nor do additions cost anything when the file is damaged as well.
func TestDamageAfterAdditions(t *testing.T) {
	for name, page := range map[string]int64{"the first page": 0, "a page in the middle": 11} {
		t.Run(name, func(t *testing.T) {
			o, want := filled(t, syncqueue.Zstd)
			alter(t, o.Path, additions)
			overwrite(t, o.Path, page*pageSize, garbage(pageSize))
			q := open(t, o)
			enqueue(t, q, 1, config.PriorityNormal) // carries what was found
			out := deliverAll(t, q)
			out.check(t, name, want)
			if saved := len(out.readings) - 1; saved < len(want)/2 || page == 0 && saved < len(want) {
				t.Errorf("only %d of %d readings were saved", saved, len(want))
			}
		})
	}
}

func TestCheckFormat(t *testing.T) {
	for _, tt := range []struct {
		name  string
		alter string
		want  error
	}{
		{"as it is", "", nil},
		{"a later format", "PRAGMA user_version=2", syncqueue.ErrFormat},
		{"no format", "PRAGMA user_version=0", syncqueue.ErrFormat},
		{"a column is missing", "ALTER TABLE dead DROP COLUMN reason", syncqueue.ErrFormat},
		{"a table is missing", "DROP TABLE loss", syncqueue.ErrFormat},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, _ := filled(t, syncqueue.Zstd)
			if tt.alter != "" {
				alter(t, o.Path, tt.alter)
			}
			before := contentOf(t, o.Path)
			if err := syncqueue.CheckFormat(o.Path); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if !bytes.Equal(before, contentOf(t, o.Path)) {
				t.Error("the check changed the file")
			}
		})
	}
}

func TestCheckFormatOfWhatIsNoQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sync_queue.db")
	if err := syncqueue.CheckFormat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for name, content := range map[string][]byte{"empty": nil, "no database": bytes.Repeat([]byte("x"), 4096)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := syncqueue.CheckFormat(path)
		if (err == nil) != (content == nil) || errors.Is(err, syncqueue.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// While an agent works with the file most of it may be in its WAL.
func TestCheckFormatBesideAnAgent(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	enqueue(t, q, 10, config.PriorityNormal)
	before, wal := contentOf(t, o.Path), contentOf(t, o.Path+"-wal")
	if err := syncqueue.CheckFormat(o.Path); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(before, contentOf(t, o.Path)) || !bytes.Equal(wal, contentOf(t, o.Path+"-wal")) {
		t.Error("the check changed the file")
	}
	enqueue(t, q, 10, config.PriorityNormal)
	if got := len(deliverAll(t, q).readings); got != 20 {
		t.Errorf("%d readings", got)
	}
}

func database(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func alter(t *testing.T, path, statements string) {
	t.Helper()
	db := database(t, path)
	if _, err := db.Exec(statements); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func notQuarantined(t *testing.T, path string) {
	t.Helper()
	if found, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*corrupt*")); err != nil || len(found) > 0 {
		t.Errorf("the file was set aside: %q, %v", found, err)
	}
}
