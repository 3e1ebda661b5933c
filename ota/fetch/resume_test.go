package fetch

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// interrupted serves one response of each process, and tells when the second is
// asked for.
func interrupted(s *server, cut int) (again <-chan struct{}) {
	ch := make(chan struct{})
	served := false
	s.set(func(s *server) {
		s.cut = cut
		s.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			s.mu.Lock()
			second := served
			served = !served
			s.mu.Unlock()
			if second {
				select {
				case ch <- struct{}{}:
				case <-time.After(30 * time.Second):
				}
				<-r.Context().Done()
			}
			return second
		}
	})
	return ch
}

// A link that is cut every 64 KiB, and a restart each time.
func TestLittleIsFetchedTwice(t *testing.T) {
	want, dir := large(t), t.TempDir()
	s := newServer(t, want)
	again := interrupted(s, 64<<10)
	restarts := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := newFetcher(t, options(dir)).Fetch(ctx, jobOf(s.url()))
			done <- err
		}()
		var err error
		select {
		case <-again:
			restarts++
			cancel()
			err = wait(t, "the end of a fetch", done)
		case err = <-done:
		}
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	wantComplete(t, dir, want)
	served, _ := s.stats()
	twice := float64(served-int64(len(want))) / float64(len(want))
	t.Logf("%d restarts, %d of %d bytes served, %.2f %% twice", restarts, served, len(want), 100*twice)
	if twice >= 0.05 || restarts < 50 {
		t.Errorf("%d restarts, %.1f %% of the bundle was served twice", restarts, 100*twice)
	}
}

// The same with processes that are killed.
func TestKilledProcesses(t *testing.T) {
	want, dir := large(t), t.TempDir()
	s := newServer(t, want)
	again := interrupted(s, 320<<10)
	kills := 0
	for {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helperSource+"="+s.url(), helperDir+"="+dir)
		var said bytes.Buffer
		cmd.Stderr = &said
		must(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-again:
			kills++
			must(t, cmd.Process.Kill())
			_ = wait(t, "the end of a process", done)
			continue
		case err := <-done:
			if err != nil {
				t.Fatalf("%v: %s", err, said.String())
			}
		}
		break
	}
	wantComplete(t, dir, want)
	served, _ := s.stats()
	twice := float64(served-int64(len(want))) / float64(len(want))
	t.Logf("%d kills, %.2f %% twice", kills, 100*twice)
	if twice >= 0.05 || kills < 8 {
		t.Errorf("%d kills, %.1f %% of the bundle was served twice", kills, 100*twice)
	}
}

// Cuts without a restart, and a server that cannot begin in the middle.
func TestCuts(t *testing.T) {
	want := small(t)
	s := newServer(t, want)
	s.cut = 64 << 10
	fetchOK(t, options(t.TempDir()), jobOf(s.url()), want)
	if served, _ := s.stats(); served > int64(len(want)) {
		t.Errorf("%d of %d bytes served", served, len(want))
	}

	s = newServer(t, want)
	s.noRange = true
	fetchOK(t, options(t.TempDir()), jobOf(s.url()), want)
	if served, requests := s.stats(); served != int64(len(want)) || len(requests) != 1 {
		t.Errorf("%d bytes served in %d requests", served, len(requests))
	}

	s = newServer(t, want)
	s.noRange, s.cut = true, 2*part
	dir := t.TempDir()
	s.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 3 {
			s.set(func(s *server) { s.cut = 0 })
		}
		return false
	}
	fetchOK(t, options(dir), jobOf(s.url()), want)
}

// What lies in the inbox is believed in nothing.
func TestDamageInTheInbox(t *testing.T) {
	want := small(t)
	v := verified(t, want)
	second, _ := v.Part(1)
	for _, tt := range []struct {
		name   string
		part   func(b []byte) []byte // of what the part file holds: all but the last part
		piece  []byte
		served int64 // at most
	}{
		{"as it was", func(b []byte) []byte { return b }, nil, part},
		{"a good piece", func(b []byte) []byte { return b }, want[3*part:][:0], part},
		{"one bit", func(b []byte) []byte { b[second] ^= 4; return b }, nil, 2 * part},
		{"one bit of a part and garbage as its piece", func(b []byte) []byte { b[second] ^= 4; return b }, bytes.Repeat([]byte("x"), 300<<10), 3 * part},
		{"a piece that is longer than a part", func(b []byte) []byte { return b }, make([]byte, 2*part), part},
		{"cut off", func(b []byte) []byte { return b[:second+1] }, nil, 3 * part},
		{"cut off in the head", func(b []byte) []byte { return b[:700] }, nil, 5 * part},
		{"the head", func(b []byte) []byte { b[600] ^= 1; return b }, nil, 5 * part},
		{"the second header", func(b []byte) []byte { b[len(v.Head())-200] ^= 1; return b }, nil, part},
		{"zeros, as after a power cut", func(b []byte) []byte { clear(b[second:]); return b }, nil, 3 * part},
		{"too long", func(b []byte) []byte { return append(b, make([]byte, 36*part)...) }, nil, part},
		{"nothing", func([]byte) []byte { return nil }, []byte("<html>"), 5 * part},
	} {
		dir := t.TempDir()
		last, _ := v.Part(v.Parts() - 1)
		must(t, os.WriteFile(filepath.Join(dir, "x.bundle.part"), tt.part(bytes.Clone(want[:last])), 0o600))
		if tt.piece != nil {
			must(t, os.WriteFile(filepath.Join(dir, "x.bundle.piece"), tt.piece, 0o600))
		}
		s := newServer(t, want)
		fetchOK(t, options(dir), jobOf(s.url()), want)
		if served, _ := s.stats(); served > tt.served {
			t.Errorf("%s: %d bytes were served", tt.name, served)
		}
	}
	// A key that is trusted no more.
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "x.bundle.part"), packed(t, "1.1.0", 3*part+part/2, part, testKey(2)), 0o600))
	fetchOK(t, options(dir), jobOf(newServer(t, want).url()), want)
}

func TestCancel(t *testing.T) {
	want := small(t)
	s := newServer(t, want)
	why := errors.New("the window closed")
	ctx, cancel := context.WithCancelCause(t.Context())
	j := jobOf(s.url())
	j.Progress = func(done, _ int64) {
		if done > 2*part+part/2 {
			cancel(why)
		}
	}
	dir := t.TempDir()
	if _, err := newFetcher(t, options(dir)).Fetch(ctx, j); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	wantFiles(t, dir, "x.bundle.part", "x.bundle.piece")
	if _, err := newFetcher(t, options(dir)).Fetch(ctx, j); !errors.Is(err, why) {
		t.Errorf("begun after the end: %v", err)
	}
	_, before := s.stats()
	fetchOK(t, options(dir), jobOf(s.url()), want)
	if _, requests := s.stats(); len(requests) != len(before)+1 || atoi(strings.TrimPrefix(requests[len(before)], "bytes=")) < 2*part {
		t.Errorf("it did not go on where it was: %q", requests)
	}
}

// Whatever another user laid in the place of our files, nothing else is written.
func TestHostileInbox(t *testing.T) {
	want := small(t)
	for name, lay := range map[string]func(path, victim string) error{
		"link":     func(path, victim string) error { return os.Symlink(victim, path) },
		"hardlink": func(path, victim string) error { return os.Link(victim, path) },
		"fifo":     func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"dangling": func(path, victim string) error { return os.Symlink(victim+".none", path) },
	} {
		for _, suffix := range []string{"", PartSuffix, PieceSuffix} {
			dir, elsewhere := t.TempDir(), t.TempDir()
			victim := filepath.Join(elsewhere, "victim")
			must(t, os.WriteFile(victim, []byte("precious"), 0o600))
			must(t, lay(filepath.Join(dir, "x.bundle"+suffix), victim))
			fetchOK(t, options(dir), jobOf(newServer(t, want).url()), want)
			if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
				t.Errorf("%s in the place of %q: %q, %v", name, suffix, data, err)
			}
			wantFiles(t, elsewhere, "victim")
		}
	}
}
