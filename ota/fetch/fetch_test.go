package fetch

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

func TestFetch(t *testing.T) {
	want := small(t)
	for _, etag := range []string{"", `"a"`, `W/"a"`} {
		s := newServer(t, want)
		s.etag = etag
		var told []int64
		j := jobOf(s.url())
		j.SHA256 = hashOf(want)
		j.Progress = func(done, total int64) {
			if total != int64(len(want)) {
				t.Fatalf("the total is %d", total)
			}
			told = append(told, done)
		}
		v := fetchOK(t, options(t.TempDir()), j, want)
		if v.Manifest().Version != "1.1.0" {
			t.Errorf("version %s", v.Manifest().Version)
		}
		if !slices.IsSorted(told) || told[0] > 64<<10 || told[len(told)-1] != int64(len(want)) {
			t.Errorf("progress %d … %d of %d", told[0], told[len(told)-1], len(want))
		}
		served, requests := s.stats()
		if served > int64(len(want)) || len(requests) != 2 || requests[0] != "bytes=0-16383" {
			t.Errorf("%d bytes of %d were served, for %q", served, len(want), requests)
		}
		strong := strings.TrimPrefix(etag, `W/"a"`) // a weak one identifies no bytes
		if !slices.Equal(s.ifRange, []string{"", strong}) {
			t.Errorf("with the etag %s, If-Range was %q", etag, s.ifRange)
		}
	}
}

// Nothing of the payload is asked for before the caller has seen the manifest.
func TestAdmitComesFirst(t *testing.T) {
	s := newServer(t, small(t))
	j := jobOf(s.url())
	no := errors.New("not here")
	j.Admit = func(v bundle.Verified) error {
		if served, _ := s.stats(); served > headBytes {
			t.Errorf("%d bytes were served", served)
		}
		return no
	}
	dir := t.TempDir()
	if _, err := newFetcher(t, options(dir)).Fetch(t.Context(), j); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	if served, requests := s.stats(); served > headBytes || len(requests) != 1 {
		t.Errorf("%d bytes in %d requests", served, len(requests))
	}
}

func TestACompleteBundleIsNotFetchedAgain(t *testing.T) {
	want, dir := small(t), t.TempDir()
	s := newServer(t, want)
	fetchOK(t, options(dir), jobOf(s.url()), want)
	before, _ := s.stats()
	j := jobOf(s.url())
	j.SHA256 = hashOf(want)
	fetchOK(t, options(dir), j, want)
	if after, _ := s.stats(); after != before {
		t.Errorf("%d bytes were served again", after-before)
	}
	// Once it is damaged, it is.
	path := filepath.Join(dir, "x.bundle")
	damaged := bytes.Clone(want)
	damaged[len(damaged)/2] ^= 1
	must(t, os.WriteFile(path, damaged, 0o600))
	fetchOK(t, options(dir), j, want)
	no := errors.New("not here")
	j.Admit = func(bundle.Verified) error { return no }
	if _, err := newFetcher(t, options(dir)).Fetch(t.Context(), j); !errors.Is(err, no) {
		t.Errorf("what is there is not admitted: %v", err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	want, dir := small(t), t.TempDir()
	s := newServer(t, want)
	asked, goOn := make(chan struct{}, 8), make(chan struct{})
	s.before = func(int, http.ResponseWriter, *http.Request) bool {
		asked <- struct{}{}
		<-goOn
		return false
	}
	done := make(chan error, 1)
	go func() {
		_, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(s.url()))
		done <- err
	}()
	wait(t, "the first request", asked)
	if _, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(s.url())); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("the second: %v", err)
	}
	close(goOn)
	must(t, wait(t, "the first fetch", done))
	wantComplete(t, dir, want)
}

func TestFreeSpace(t *testing.T) {
	want := small(t)
	size := int64(len(want))
	room := StagingRoom(verified(t, want))
	const reserve = 10 << 20
	for _, tt := range []struct {
		name string
		free func(call int) int64
		ok   bool
	}{
		{"just enough", func(int) int64 { return reserve + room + size + part }, true},
		{"too little", func(int) int64 { return reserve + room + size - 64<<10 }, false},
		{"less and less", func(call int) int64 { return 20<<20 - int64(call)*(5<<20) }, false},
		{"none", func(int) int64 { return 0 }, false},
	} {
		s := newServer(t, want)
		o := options(t.TempDir())
		call := -1
		o.Reserve = reserve
		o.Free = func() (int64, error) { call++; return tt.free(call), nil }
		j := jobOf(s.url())
		j.Room = StagingRoom
		_, err := newFetcher(t, o).Fetch(t.Context(), j)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.name == "too little" {
			if served, _ := s.stats(); served > headBytes || !strings.Contains(err.Error(), "10 MiB of them as a reserve") {
				t.Errorf("%s: %d bytes served; %v", tt.name, served, err)
			}
		}
		// It goes on by itself when there is room.
		o.Free = plenty
		fetchOK(t, o, j, want)
	}
	o := options(t.TempDir())
	o.Free = func() (int64, error) { return 0, errors.New("no answer") }
	s := newServer(t, want)
	if _, err := newFetcher(t, o).Fetch(t.Context(), jobOf(s.url())); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
	if _, requests := s.stats(); len(requests) != 1 {
		t.Errorf("%d requests, though the server is not at fault", len(requests))
	}
}

// A disk that is full all the same, whatever it said.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=700k"); err != nil {
		t.Skipf("no small disk here: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	want := small(t)
	s := newServer(t, want)
	if _, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(s.url())); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if _, requests := s.stats(); len(requests) > 2 {
		t.Errorf("%d requests, though the server is not at fault", len(requests))
	}
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=10m"))
	_, before := s.stats()
	fetchOK(t, options(dir), jobOf(s.url()), want)
	if _, requests := s.stats(); atoi(strings.TrimPrefix(requests[len(before)], "bytes=")) < part {
		t.Errorf("it did not go on where it was: %q", requests)
	}
}

func TestFiles(t *testing.T) {
	want := small(t)
	stick := t.TempDir()
	path := filepath.Join(stick, "agent.bundle")
	must(t, os.WriteFile(path, want, 0o644))
	for _, source := range []string{path, "file://" + path, "file://localhost" + path} {
		fetchOK(t, options(t.TempDir()), jobOf(source), want)
	}
	fifo := filepath.Join(stick, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o644))
	bad := filepath.Join(stick, "bad")
	flipped := bytes.Clone(want)
	flipped[2*part] ^= 1
	must(t, os.WriteFile(bad, flipped, 0o644))
	short := filepath.Join(stick, "short")
	must(t, os.WriteFile(short, want[:len(want)-600], 0o644))
	for source, wanted := range map[string]error{
		filepath.Join(stick, "none"):     ErrNotFound,
		stick:                            ErrRefused,
		fifo:                             ErrRefused,
		bad:                              bundle.ErrDamaged,
		short:                            bundle.ErrDamaged,
		"agent.bundle":                   ErrRefused,
		"ftp://x/agent.bundle":           ErrRefused,
		"file://elsewhere/agent.bundle":  ErrRefused,
		"https:///agent.bundle":          ErrRefused,
		"http://127.0.0.1:x/\x01?s3cret": ErrRefused,
		"":                               ErrRefused,
	} {
		dir := t.TempDir()
		_, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(source))
		if !errors.Is(err, wanted) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v; want %v", source, err, wanted)
		}
		if _, err := os.Stat(filepath.Join(dir, "x.bundle")); err == nil {
			t.Errorf("%q: it is in the inbox", source)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no folder":          func(o *Options) { o.Dir = "" },
		"no free":            func(o *Options) { o.Free = nil },
		"certificate alone":  func(o *Options) { o.CertFile = "x" },
		"key alone":          func(o *Options) { o.KeyFile = "x" },
		"too little to live": func(o *Options) { o.MaxBandwidth = MinBandwidth - 1 },
		"negative":           func(o *Options) { o.Reserve = -1 },
	} {
		o := options(t.TempDir())
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	f := newFetcher(t, options(t.TempDir()))
	for _, name := range []string{"", "../x", "a/b", ".x", strings.Repeat("x", 193)} {
		if _, err := f.Fetch(t.Context(), Job{Source: "/x", Name: name, Anchor: anchor}); err == nil {
			t.Errorf("%q is the name of a bundle", name)
		}
	}
}
