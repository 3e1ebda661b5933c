package fetch

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestOneBadPartCostsOnePart(t *testing.T) {
	want := small(t)
	v := verified(t, want)
	at, _ := v.Part(1)
	bad := true
	s := newServer(t, want)
	s.change = func(offset int, p []byte) {
		if i := int(at) + 5000 - offset; i >= 0 && i < len(p) && bad {
			p[i] ^= 0x10
			bad = false
		}
	}
	fetchOK(t, options(t.TempDir()), jobOf(s.url()), want)
	// What was in flight behind the part when the connection was given up was
	// served as well, so the requests tell.
	_, requests := s.stats()
	rest := "bytes=" + itoa(at) + "-" + itoa(int64(len(want)-len(v.Tail()))-1)
	if bad || len(requests) != 3 || requests[2] != rest {
		t.Errorf("requests %q; want the last one to be %s", requests, rest)
	}
}

func TestLies(t *testing.T) {
	want := small(t)
	other := packed(t, "1.2.0", 2*part, part, testKey(1))
	flip := func(from int) func(*server) {
		return func(s *server) {
			s.change = func(offset int, p []byte) {
				if offset >= from {
					p[0] ^= 1
				}
			}
		}
	}
	answer := func(status int, header ...string) func(*server) {
		return func(s *server) {
			s.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				for i := 0; i < len(header); i += 2 {
					w.Header().Set(header[i], header[i+1])
				}
				w.WriteHeader(status)
				return true
			}
		}
	}
	for _, tt := range []struct {
		name   string
		set    func(*server)
		want   error
		text   string
		served int64 // at most, beyond what is in flight
	}{
		{"bits flipped from the first part on", flip(64 << 10), bundle.ErrDamaged, "part 1 of 4", 5 * part},
		{"bits flipped in the head", flip(0), bundle.ErrMalformed, "does not begin", part},
		{"not found", answer(404), ErrNotFound, "404 Not Found", 0},
		{"gone", answer(410), ErrNotFound, "410", 0},
		{"forbidden", answer(403), ErrRefused, "403", 0},
		{"no", answer(501), nil, "6 times in a row: the server answered 501", 0},
		{"no content", answer(204), ErrRefused, "204", 0},
		{"range from elsewhere", answer(206, "Content-Range", "bytes 7-16383/99999"), ErrRefused, "from 0 on, and sends those from 7", 0},
		{"no range", answer(206), ErrRefused, "no Content-Range", 0},
		{"range that ends before it begins", answer(206, "Content-Range", "bytes 5-4/99999"), ErrRefused, "no Content-Range", 0},
		{"range beyond the end", answer(206, "Content-Range", "bytes 0-9/5"), ErrRefused, "no Content-Range", 0},
		{"range below 0", answer(206, "Content-Range", "bytes -1-9/50"), ErrRefused, "no Content-Range", 0},
		{"compressed", answer(200, "Content-Encoding", "gzip"), ErrRefused, "Content-Encoding", 0},
		{"unsatisfiable", answer(416), bundle.ErrDamaged, "ends within the manifest", 0},
		{"empty", func(s *server) { s.content, s.noRange = nil, true }, bundle.ErrDamaged, "ends within the manifest", 0},
		{"no bundle", func(s *server) { s.content = bytes.Repeat([]byte("<html>"), 10000) }, bundle.ErrMalformed, "does not begin with", part},
		{"no bundle, and short", func(s *server) { s.content = []byte("<html>") }, bundle.ErrDamaged, "ends within the manifest", 0},
		{"signed by nobody we know", func(s *server) { s.content = packed(t, "1.1.0", 3*part+part/2, part, testKey(2)) }, trust.ErrNotSigned, "", part},
		{"manifest of one, payload of another", func(s *server) {
			s.content = append(bytes.Clone(want[:len(verified(t, want).Head())]), other[len(verified(t, other).Head()):]...)
		}, bundle.ErrDamaged, "and what was signed", 2 * part},
		{"truncated", func(s *server) { s.content = want[:2*part] }, bundle.ErrDamaged, "and what was signed", 2 * part},
		{"longer", func(s *server) { s.content = append(bytes.Clone(want), 0) }, bundle.ErrDamaged, "and what was signed", 2 * part},
		{"to http in circles", func(s *server) {
			s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, s.url(), http.StatusFound)
				return true
			}
		}, ErrRefused, "redirects more than 5 times", 0},
		{"to a file", answer(302, "Location", "file:///etc/passwd"), nil, "unsupported protocol scheme", 0},
	} {
		s := newServer(t, want)
		tt.set(s)
		dir := t.TempDir()
		_, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(s.url()))
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want %v with %q", tt.name, err, tt.want, tt.text)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error shows the token: %v", tt.name, err)
		}
		if served, requests := s.stats(); served > tt.served+16*part || len(requests) > 12 {
			t.Errorf("%s: %d bytes in %d requests", tt.name, served, len(requests))
		}
		if _, err := os.Stat(filepath.Join(dir, "x.bundle")); err == nil {
			t.Errorf("%s: it is in the inbox", tt.name)
		}
		if tt.served == 0 {
			wantFiles(t, dir)
		}
		// Once the server is well again, so is the next try.
		s.set(func(s *server) { s.content, s.change, s.before, s.noRange = want, nil, nil, false })
		fetchOK(t, options(dir), jobOf(s.url()), want)
	}
}

// The server's file changes while it is fetched.
func TestAnotherFileLater(t *testing.T) {
	first := small(t)
	second := packed(t, "1.2.0", 2*part, part, testKey(1))
	foreign := packed(t, "1.2.0", 2*part, part, testKey(2))
	sameSize := packed(t, "1.1.1", 3*part+part/2, part, testKey(1))
	for _, tt := range []struct {
		name    string
		etag    bool
		content []byte
		want    error
	}{
		{"another bundle", false, second, nil},
		{"another bundle, and it says so", true, second, nil},
		{"of the same size", false, sameSize, nil},
		{"of another key", false, foreign, trust.ErrNotSigned},
		{"of another key, and it says so", true, foreign, trust.ErrNotSigned},
		{"no bundle at all", false, bytes.Repeat([]byte("<html>"), 1000000), bundle.ErrMalformed},
		{"nothing but another name for it", true, first, nil},
	} {
		for _, restart := range []bool{false, true} {
			s := newServer(t, first)
			s.cut = 5 * part / 4
			if tt.etag {
				s.etag = `"first"`
			}
			turn := func() {
				s.set(func(s *server) {
					s.content, s.cut, s.before = tt.content, 0, nil
					if tt.etag {
						s.etag = `"second"`
					}
				})
			}
			dir := t.TempDir()
			if restart {
				ctx, cancel := context.WithCancel(t.Context())
				s.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
					if n == 3 {
						cancel()
					}
					return n >= 3
				}
				if _, err := newFetcher(t, options(dir)).Fetch(ctx, jobOf(s.url())); !errors.Is(err, context.Canceled) {
					t.Fatalf("%s: %v", tt.name, err)
				}
				cancel()
				turn()
			} else {
				s.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
					if n == 3 {
						turn()
						panic(http.ErrAbortHandler)
					}
					return false
				}
			}
			_, err := newFetcher(t, options(dir)).Fetch(t.Context(), jobOf(s.url()))
			if !errors.Is(err, tt.want) {
				t.Errorf("%s, restart %v: %v", tt.name, restart, err)
			} else if err == nil {
				wantComplete(t, dir, tt.content)
			} else {
				// What had come of the good one is kept.
				kept, err := os.ReadFile(filepath.Join(dir, "x.bundle.part"))
				if err != nil || !bytes.HasPrefix(first, kept[:part]) {
					t.Errorf("%s, restart %v: the part that was fetched is lost: %v", tt.name, restart, err)
				}
			}
		}
	}
}

func TestAnotherBundleThanAskedFor(t *testing.T) {
	want := small(t)
	s := newServer(t, want)
	j := jobOf(s.url())
	j.SHA256 = hashOf([]byte("another"))
	dir := t.TempDir()
	if _, err := newFetcher(t, options(dir)).Fetch(t.Context(), j); !errors.Is(err, ErrOther) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x.bundle")); err == nil {
		t.Error("it is in the inbox")
	}
}

func TestAServerThatIsBusy(t *testing.T) {
	want := small(t)
	s := newServer(t, want)
	s.before = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		status := map[int]int{1: 503, 2: 429, 3: 500, 4: 408, 7: 502}[n]
		if status == 0 {
			return false
		}
		w.WriteHeader(status)
		return true
	}
	fetchOK(t, options(t.TempDir()), jobOf(s.url()), want)
}

// A server that sends nothing, or a byte now and then, is left.
func TestStalls(t *testing.T) {
	want := small(t)
	for name, rate := range map[string]time.Duration{"nothing": time.Hour, "a trickle": 5 * time.Millisecond} {
		s := newServer(t, want)
		s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", itoa(int64(len(want))))
			for i := 0; i < len(want); i++ {
				if _, err := w.Write(want[i : i+1]); err != nil {
					break
				}
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(rate):
				}
			}
			return true
		}
		o := options(t.TempDir())
		o.Stall = 100 * time.Millisecond
		if _, err := newFetcher(t, o).Fetch(t.Context(), jobOf(s.url())); !errors.Is(err, errStalled) {
			t.Errorf("%s: %v", name, err)
		}
		// A good server is not taken for one, and what had come is used.
		s.set(func(s *server) { s.before = nil })
		o.Stall = time.Minute
		fetchOK(t, o, jobOf(s.url()), want)
	}
}

// A body that never ends costs no more than what was signed.
func TestEndless(t *testing.T) {
	want := small(t)
	for _, noRange := range []bool{false, true} {
		s := newServer(t, want)
		s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if !noRange {
				span := strings.TrimPrefix(r.Header.Get("Range"), "bytes=")
				w.Header().Set("Content-Range", "bytes "+span+"/*")
				w.WriteHeader(http.StatusPartialContent)
				first, _, _ := strings.Cut(span, "-")
				if _, err := w.Write(want[atoi(first):]); err != nil {
					return true
				}
			} else if _, err := w.Write(want); err != nil {
				return true
			}
			for garbage := make([]byte, 64<<10); ; {
				if _, err := w.Write(garbage); err != nil {
					return true
				}
			}
		}
		fetchOK(t, options(t.TempDir()), jobOf(s.url()), want)
	}
}
