package fetch

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperSource) != "" {
		os.Exit(helper())
	}
	goleak.VerifyTestMain(m)
}

var today = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func anchorOf(key ed25519.PrivateKey) *trust.Anchor {
	a, err := trust.SingleKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err)
	}
	return a
}

var anchor = anchorOf(testKey(1))

// made are the bundles that were packed, by what is in them: the same each time.
var made sync.Map

// packed packs a release with a program of size random bytes.
func packed(t testing.TB, version string, size, partSize int, key ed25519.PrivateKey) []byte {
	t.Helper()
	id := fmt.Sprint(version, " ", size, " ", trust.KeyID(key.Public().(ed25519.PublicKey)))
	if b, ok := made.Load(id); ok {
		return b.([]byte)
	}
	dir := t.TempDir()
	program := make([]byte, size)
	random := rand.NewChaCha8(sha256.Sum256([]byte(version)))
	random.Read(program)
	must(t, os.WriteFile(filepath.Join(dir, ota.AgentComponent), program, 0o755))
	var out bytes.Buffer
	_, err := pack.Create(t.Context(), &out, pack.Options{
		From: dir, Name: ota.AgentComponent, Version: version, Counter: 1, Arch: "arm64",
		CreatedAt: today.AddDate(0, 0, -1), ExpiresAt: today.AddDate(0, 0, 30),
		PartSize: int64(partSize), Keys: []ed25519.PrivateKey{key},
	})
	must(t, err)
	made.Store(id, out.Bytes())
	return out.Bytes()
}

// part is the size of the parts of small.
const part = 256 << 10

func small(t testing.TB) []byte { return packed(t, "1.1.0", 3*part+part/2, part, testKey(1)) }

// large has parts of the ordinary size.
func large(t testing.TB) []byte { return packed(t, "1.3.0", 7<<19, 0, testKey(1)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// verified is the manifest of a good bundle.
func verified(t testing.TB, b []byte) bundle.Verified {
	t.Helper()
	r, err := bundle.Open(bytes.NewReader(b), anchor, today)
	must(t, err)
	return r.Verified()
}

// server is a web server that may be as bad as one can be. What it serves may be
// set until url is first called, and later with set.
type server struct {
	t     testing.TB
	start sync.Once
	http  *httptest.Server

	mu       sync.Mutex
	content  []byte
	etag     string
	noRange  bool
	cut      int                                                             // bytes of each response, after which the connection is cut; 0 for all
	change   func(offset int, p []byte)                                      // of what is sent
	before   func(n int, w http.ResponseWriter, r *http.Request) (done bool) // of request n, from 1
	requests []string                                                        // their Range headers
	ifRange  []string                                                        // their If-Range headers
	served   int64
}

func newServer(t testing.TB, content []byte) *server {
	t.Helper()
	return &server{t: t, content: content}
}

// root returns the URL of the server, which runs from now on.
func (s *server) root() string {
	s.start.Do(func() {
		s.http = httptest.NewServer(s)
		s.t.Cleanup(s.http.Close)
	})
	return s.http.URL
}

func (s *server) url() string { return s.root() + "/agent.bundle?token=s3cret" }

func (s *server) set(change func(s *server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) stats() (served int64, requests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served, append([]string{}, s.requests...)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Header.Get("Range"))
	s.ifRange = append(s.ifRange, r.Header.Get("If-Range"))
	n := len(s.requests)
	content, etag, noRange, cut, change, before := s.content, s.etag, s.noRange, s.cut, s.change, s.before
	s.mu.Unlock()
	if before != nil && before(n, w, r) {
		return
	}
	from, end := 0, len(content)
	status := http.StatusOK
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	if span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !noRange && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == etag) {
		first, last, _ := strings.Cut(span, "-")
		from, _ = strconv.Atoi(first)
		if l, err := strconv.Atoi(last); err == nil {
			end = min(end, l+1)
		}
		if from >= len(content) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, end-1, len(content)))
		status = http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(end-from))
	w.WriteHeader(status)
	sent := 0
	for from < end {
		n := min(16<<10, end-from)
		if cut > 0 {
			n = min(n, cut-sent)
		}
		p := bytes.Clone(content[from : from+n])
		if change != nil {
			change(from, p)
		}
		if _, err := w.Write(p); err != nil {
			return
		}
		sent, from = sent+n, from+n
		s.set(func(s *server) { s.served += int64(n) })
		if cut > 0 && sent >= cut && from < end {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
}

// plenty is free space without end.
func plenty() (int64, error) { return 1 << 50, nil }

// options are those of a fetcher that does not wait long.
func options(dir string) Options {
	return Options{Dir: dir, Free: plenty, Wait: time.Millisecond, Log: zerolog.Nop()}
}

func newFetcher(t testing.TB, o Options) *Fetcher {
	t.Helper()
	f, err := New(o)
	must(t, err)
	return f
}

// jobOf fetches from a place.
func jobOf(source string) Job {
	return Job{Source: source, Name: "x.bundle", Anchor: anchor, Now: today}
}

// fetchOK fetches, expects want in the inbox and nothing else, and returns the
// manifest.
func fetchOK(t testing.TB, o Options, j Job, want []byte) bundle.Verified {
	t.Helper()
	v, err := newFetcher(t, o).Fetch(t.Context(), j)
	must(t, err)
	wantComplete(t, o.Dir, want)
	return v
}

func wantComplete(t testing.TB, dir string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, "x.bundle"))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("what is in the inbox is not what was to be fetched")
	}
	wantFiles(t, dir, "x.bundle")
}

func wantFiles(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("the inbox holds %q, not %q", got, names)
	}
}

// wait waits until the test's deadline.
func wait[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("timed out waiting for %s", what)
	}
	return v
}

// The helper process fetches as the environment says, until it is killed.
const (
	helperSource = "FETCH_TEST_SOURCE"
	helperDir    = "FETCH_TEST_DIR"
)

func helper() int {
	f, err := New(options(os.Getenv(helperDir)))
	if err == nil {
		_, err = f.Fetch(context.Background(), jobOf(os.Getenv(helperSource)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// atoi reads the number that s begins with.
func atoi(s string) int {
	s, _, _ = strings.Cut(s, "-")
	n, _ := strconv.Atoi(s)
	return n
}
