package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
)

// selftest runs the verb on a base dir and returns both outputs.
func selftest(dir string) (out, errOut string, err error) {
	var o, e bytes.Buffer
	err = run(context.Background(), []string{"selftest", "--base-dir", dir}, strings.NewReader(""), &o, &e)
	return o.String(), e.String(), err
}

func TestSelftest(t *testing.T) {
	queueOf := func(statement string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := queueIn(t, dir, 3).Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if statement == "" {
				return
			}
			db, err := sql.Open("sqlite", filepath.Join(dir, "sync_queue.db"))
			if err == nil {
				_, err = db.Exec(statement)
				err = errors.Join(err, db.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, string)
		note    string // "" is none
		fails   string // "" is not
		code    int
	}{
		{name: "a new device", prepare: func(*testing.T, string) {}, note: "no config: "},
		{name: "a good config", prepare: write("config.toml", "[sensors]\npoll_interval_seconds = 3\n")},
		{name: "a config in JSON", prepare: write("config.json", `{"sensors":{"poll_interval_seconds":3}}`)},
		{name: "an unknown key", prepare: write("config.toml", "[sensors]\nnonsense = 3\n"), fails: "sensors.nonsense: unknown key", code: exitConfig},
		{name: "what only the parts see", prepare: write("config.toml", "[sensors]\ndevices = [{name = \"a\", ingest_type = \"simulator\", min = 5, max = 1}]\n"), fails: "is above max", code: exitConfig},
		{name: "variables of the service", prepare: write("config.toml", "[cloud]\nenabled = true\nendpoint = \"${SELFTEST_URL}\"\napi_key = \"${SELFTEST_KEY}\"\n"), note: "not set here: SELFTEST_KEY, SELFTEST_URL"},
		{name: "something wrong beside them", prepare: write("config.toml", "[cloud]\napi_key = \"${SELFTEST_KEY}\"\nbatch_size = \"many\"\n"), fails: "config.toml:3:1: cloud.batch_size: expected a whole number", code: exitConfig},
		{name: "an unknown table around them", prepare: write("config.toml", "[nonsense]\nkey = \"${SELFTEST_KEY}\"\n"), fails: "nonsense: unknown key", code: exitConfig},
		{name: "a queue", prepare: queueOf(""), note: "no config: "},
		{name: "a queue with additions", prepare: queueOf("CREATE TABLE later(x)"), note: "no config: "},
		{name: "a queue of a later format", prepare: queueOf("PRAGMA user_version=2"), note: "no config: ", fails: "queue of this device: the queue file has another format", code: 1},
		{name: "a damaged queue", prepare: write("sync_queue.db", strings.Repeat("no database ", 1000)), note: "not looked at: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, temp := t.TempDir(), t.TempDir()
			t.Setenv("TMPDIR", temp)
			tt.prepare(t, dir)
			before := contents(t, dir)
			out, notes, err := selftest(dir)
			if tt.fails == "" && (err != nil || out != "ok "+buildinfo.Version+"\n") {
				t.Errorf("%v: %q", err, out)
			}
			if tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails) || exitCode(err) != tt.code || out != "") {
				t.Errorf("%v: %q, want exit code %d and %q", err, out, tt.code, tt.fails)
			}
			if (notes == "") != (tt.note == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
				t.Errorf("it changed the device: %s", diff)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestSelftestWithoutRoom(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "absent"))
	if out, _, err := selftest(t.TempDir()); err == nil || !strings.HasPrefix(err.Error(), "queue: ") {
		t.Errorf("%v: %q", err, out)
	}
}

// contents returns the files below dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
