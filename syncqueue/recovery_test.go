package syncqueue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A power cut between any two renames of a quarantine is made good by the next
// start: the salvaged file is in place, and nothing of the damaged one beside it.
func TestQuarantineInterrupted(t *testing.T) {
	for _, moved := range [][]string{{}, {"-wal"}, {"-wal", "-shm"}, {"-wal", "-shm", ""}} {
		f := filesOf(filepath.Join(t.TempDir(), "sync_queue.db"))
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.WriteFile(f.db+suffix, []byte("damaged"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		salvaged := make([]byte, 1024)
		salvaged[63] = formatVersion
		if err := os.WriteFile(f.salvage, salvaged, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range moved {
			if err := os.Rename(f.db+suffix, f.stem+".corrupt-20260102T030405.000Z.db"+suffix); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.finishQuarantine(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.db)
		if err != nil || string(got) != string(salvaged) {
			t.Errorf("after %q: %v", moved, err)
		}
		if exists(f.db+"-wal") || exists(f.salvage) {
			t.Errorf("after %q: files left behind", moved)
		}
	}
}

// A clock that was not set gives the file set aside now the oldest name of all.
func TestQuarantineBeforeTheClockIsSet(t *testing.T) {
	f := filesOf(filepath.Join(t.TempDir(), "sync_queue.db"))
	for i := range 4 {
		for _, path := range []string{f.db, f.salvage} {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		at := time.Date(2026, 1, 2+i, 0, 0, 0, 0, time.UTC)
		if i == 3 {
			at = time.Unix(60, 0)
		}
		if err := f.quarantine(at); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(f.stem + ".corrupt-*.db")
	if err != nil || len(kept) != 3 || !strings.Contains(kept[0], "-1970") || !strings.Contains(kept[1], "-20260103") {
		t.Errorf("kept %v, %v", kept, err)
	}
}

func TestIncompleteSalvageIsDiscarded(t *testing.T) {
	f := filesOf(filepath.Join(t.TempDir(), "sync_queue.db"))
	for path, content := range map[string]string{f.db: "damaged", f.salvage: strings.Repeat("\x00", 1024), f.repair: "x", f.repair + "-wal": "x"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.finishQuarantine(); err != nil {
		t.Fatal(err)
	}
	if exists(f.salvage) || exists(f.repair) || exists(f.repair+"-wal") || !exists(f.db) {
		t.Error("wrong files left")
	}
}

func TestResume(t *testing.T) {
	used := reservation{Oldest: 50, Next: 100, Reserved: 1000}
	for name, c := range map[string]struct {
		r          reservation
		unreadable bool
		fromFile   uint64
		sound      bool
		next       uint64
		jump       *span
	}{
		"new device":                     {sound: true, next: 1},
		"ordinary start":                 {r: used, fromFile: 120, sound: true, next: 120},
		"sidecar lost":                   {fromFile: 120, sound: true, next: 120},
		"sidecar unreadable":             {unreadable: true, fromFile: 120, sound: true, next: 120},
		"file lost":                      {r: used, sound: true, next: 1000, jump: &span{first: 50, last: 999}},
		"file older than the sidecar":    {r: used, fromFile: 99, sound: true, next: 1000, jump: &span{first: 50, last: 999}},
		"file damaged":                   {r: used, fromFile: 120, next: 1000, jump: &span{first: 50, last: 999}},
		"file damaged, sidecar lost":     {fromFile: 120, next: 5_000_000, jump: &span{first: 1, last: 4_999_999}},
		"file lost, sidecar unreadable":  {unreadable: true, sound: true, next: 5_000_000, jump: &span{first: 1, last: 4_999_999}},
		"sidecar behind the damaged one": {r: used, fromFile: 1200, next: 1200, jump: &span{first: 50, last: 1199}},
	} {
		next, jump := resume(c.r, c.unreadable, c.fromFile, c.sound, 5*time.Second.Microseconds())
		if next != c.next || (jump == nil) != (c.jump == nil) || jump != nil && *jump != *c.jump {
			t.Errorf("%s: %d, %+v; want %d, %+v", name, next, jump, c.next, c.jump)
		}
	}
}
