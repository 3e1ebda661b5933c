package watchdog

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
)

// script makes a folder with a release whose selftest is these lines of shell.
func script(t *testing.T, lines string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "program"), []byte("#!/bin/sh\n"+lines+"\n"), 0o755))
	return dir
}

func TestASelftest(t *testing.T) {
	t.Setenv("API_KEY", "secret")
	tests := []struct {
		name, lines, want string
	}{
		{"passes", `test "$1" = selftest && test -z "$API_KEY" && test "$(pwd)" = /`, ""},
		{"fails", "echo all is well; echo it is not >&2; exit 3", "exit status 3: all is well; it is not"},
		{"says nothing", "exit 1", "exit status 1"},
		{"says too much", "yes | head -c 100000; printf 'the \\033[31mend'; exit 1", "y; the ?[31mend"},
		{"is killed", "kill -9 $$", "signal: killed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := RunSelftest(t.Context(), script(t, tt.lines), []string{"program", "selftest"}, nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if err := RunSelftest(t.Context(), script(t, ""), []string{"nothing"}, nil); err == nil || !strings.Contains(err.Error(), "start it") {
		t.Errorf("%v", err)
	}
}

// TestTheTailIsBounded, however much a selftest prints.
func TestTheTailIsBounded(t *testing.T) {
	said := &tail{limit: 10}
	if n, err := io.Copy(said, io.LimitReader(zeros{}, 1<<20)); n != 1<<20 || err != nil || said.kept.Cap() > 1<<17 {
		t.Errorf("%d, %v, %d bytes are held", n, err, said.kept.Cap())
	}
	for _, text := range []string{"0123456", "789", "abc", "", strings.Repeat("x", 50) + "de"} {
		if _, err := said.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	if got := said.String(); got != "xxxxxxxxde" {
		t.Errorf("%q", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestASelftestRunsAsTheAgent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have something run as another user")
	}
	lines := `echo $(id -u) $(id -g) $(id -G); exit 1`
	err := RunSelftest(t.Context(), script(t, lines), []string{"program"}, &User{UID: hostile, GID: stranger, Groups: []uint32{7, 8}})
	if err == nil || !strings.Contains(err.Error(), "12345 12346 12346 7 8") {
		t.Errorf("%v", err)
	}
}

// TestASelftestLeavesNothingBehind, whether it ended or was broken off.
func TestASelftestLeavesNothingBehind(t *testing.T) {
	for _, last := range []string{"", "wait"} {
		dir := script(t, "sleep 1000 & printf $! > $1.tmp; mv $1.tmp $1; "+last)
		f := &family{t: t, dir: dir}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- RunSelftest(ctx, dir, []string{"program", filepath.Join(dir, "pid")}, nil) }()
		var pid int
		if last == "" {
			must(t, <-ended)
			pid = f.pid("pid")
		} else {
			pid = f.pid("pid")
			cancel()
			if err := <-ended; err == nil {
				t.Error("it was broken off without an error")
			}
		}
		gone(t, pid)
	}
}

func TestTheLock(t *testing.T) {
	l := ota.Layout{Base: tempDir(t)}
	must(t, Locked(t.Context(), l, 0, func() error {
		if err := Locked(t.Context(), l, 0, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		if err := Locked(t.Context(), l, 60*time.Millisecond, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		return nil
	}))
	mine := errors.New("mine")
	if err := Locked(t.Context(), l, 0, func() error { return mine }); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
	// One that is given up is got.
	held, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Locked(context.Background(), l, 0, func() error { close(held); <-release; return nil })
	}()
	<-held
	go func() { time.Sleep(10 * time.Millisecond); close(release) }()
	must(t, Locked(t.Context(), l, 30*time.Second, func() error { return nil }))
	must(t, <-done)
}

// TestTheLockIsNotMadeElsewhere: before there is a folder for it, the agent may
// put a link there.
func TestTheLockIsNotMadeElsewhere(t *testing.T) {
	l, elsewhere := ota.Layout{Base: tempDir(t)}, tempDir(t)
	must(t, os.Symlink(elsewhere, l.Dir()))
	must(t, Locked(t.Context(), l, 0, func() error { return nil }))
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := os.Lstat(l.Dir()); err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.RemoveAll(l.Base))
	must(t, os.WriteFile(l.Base, nil, 0o644))
	if err := Locked(t.Context(), l, 0, nil); err == nil {
		t.Error("a base dir that is a file")
	}
}
