package fetch

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// roundTripper is a server without sockets, for tests in which time is not real.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// whole answers with content, whatever range is asked for.
func whole(content []byte) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: int64(len(content)),
		Body: io.NopCloser(bytes.NewReader(content)),
	}
}

func status(code int, header ...string) *http.Response {
	r := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestWaits(t *testing.T) {
	want := small(t)
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begun := time.Now()
		answers := []func() (*http.Response, error){
			func() (*http.Response, error) { return status(503, "Retry-After", "100"), nil },
			func() (*http.Response, error) {
				now := time.Now().UTC()
				return status(429, "Date", now.Add(time.Hour).Format(http.TimeFormat), "Retry-After", now.Add(time.Hour+200*time.Second).Format(http.TimeFormat)), nil
			},
			func() (*http.Response, error) { return status(503, "Retry-After", "99999999"), nil },
			func() (*http.Response, error) { return status(503, "Retry-After", "soon"), nil },
			func() (*http.Response, error) { return nil, errors.New("connection refused") },
			func() (*http.Response, error) { return whole(want), nil },
		}
		o := options(t.TempDir())
		o.Wait = time.Second
		o.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Since(begun))
			return answers[len(at)-1]()
		})
		fetchOK(t, o, jobOf("http://bundles.test/x"), want)
		// Each wait is what the server asked for, and up to a bound that doubles.
		for i, min := range []time.Duration{100 * time.Second, 200 * time.Second, maxRetryAfter, 0, 0} {
			if wait, bound := at[i+1]-at[i], time.Second<<i; wait < min-time.Second || wait > min+bound {
				t.Errorf("wait %d was %v; want %v and up to %v", i+1, wait, min, bound)
			}
		}
	})
}

// Failures in a row are bounded, and so is the time that they take.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		o := options(t.TempDir())
		o.Wait = time.Second
		o.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
			requests++
			return nil, errors.New("connection refused")
		})
		begun := time.Now()
		_, err := newFetcher(t, o).Fetch(t.Context(), jobOf("http://user:s3cret@bundles.test/x?token=s3cret"))
		if err == nil || err.Error() != "fetch http://bundles.test/x: 6 times in a row: connection refused" {
			t.Errorf("%v", err)
		}
		if took := time.Since(begun); requests != maxFailures || took > time.Minute {
			t.Errorf("%d requests in %v", requests, took)
		}
	})
}

// What gets further does not count as a failure, however often it breaks off.
func TestSlowProgressIsProgress(t *testing.T) {
	want := small(t)
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		o := options(t.TempDir())
		o.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			requests++
			from := atoi(strings.TrimPrefix(r.Header.Get("Range"), "bytes="))
			resp := status(http.StatusPartialContent, "Content-Range", "bytes "+itoa(int64(from))+"-"+itoa(int64(len(want))-1)+"/"+itoa(int64(len(want))))
			resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(want[from:min(from+5000, len(want))]), failing{}))
			return resp, nil
		})
		fetchOK(t, o, jobOf("http://bundles.test/x"), want)
		if requests < len(want)/5000 {
			t.Errorf("%d requests", requests)
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The cap holds in every second, not only on average.
func TestPace(t *testing.T) {
	want := small(t)
	synctest.Test(t, func(t *testing.T) {
		const rate = 64 << 10
		o := options(t.TempDir())
		o.MaxBandwidth = rate
		o.Transport = roundTripper(func(*http.Request) (*http.Response, error) { return whole(want), nil })
		j := jobOf("http://bundles.test/x")
		type point struct {
			at   time.Time
			done int64
		}
		var points []point
		begun := time.Now()
		j.Progress = func(done, _ int64) { points = append(points, point{time.Now(), done}) }
		fetchOK(t, o, j, want)
		least := time.Duration(float64(len(want)) / rate * float64(time.Second))
		if took := time.Since(begun); took < least-time.Second || took > least+time.Second {
			t.Errorf("%d bytes took %v at %d bytes a second; want %v", len(want), took, rate, least)
		}
		for i, p := range points {
			for _, q := range points[i:] {
				if q.at.Sub(p.at) <= time.Second && q.done-p.done > rate+rate/4 {
					t.Fatalf("%d bytes within %v", q.done-p.done, q.at.Sub(p.at))
				}
			}
		}
	})
}

// With a cap the kernel takes in little ahead of it.
func TestBufferIsLimited(t *testing.T) {
	for bandwidth, most := range map[int64]int{0: 0, 4 << 10: 8 << 10, 128 << 10: 64 << 10, 1 << 40: 1 << 20} {
		o := options(t.TempDir())
		o.MaxBandwidth = bandwidth
		s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		must(t, err)
		defer syscall.Close(s)
		before, err := syscall.GetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_RCVBUF)
		must(t, err)
		must(t, newFetcher(t, o).limitBuffer("", "", rawSocket(s)))
		got, err := syscall.GetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_RCVBUF)
		must(t, err)
		if bandwidth == 0 && got != before || bandwidth > 0 && got > 2*most { // the kernel doubles it for its own needs
			t.Errorf("%d bytes a second: a buffer of %d bytes, before %d", bandwidth, got, before)
		}
	}
}

type rawSocket int

func (s rawSocket) Control(f func(uintptr)) error  { f(uintptr(s)); return nil }
func (s rawSocket) Read(func(uintptr) bool) error  { return nil }
func (s rawSocket) Write(func(uintptr) bool) error { return nil }

func TestCertificates(t *testing.T) {
	want := small(t)
	s := &server{content: want}
	ts := httptest.NewUnstartedServer(s)
	ts.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.StartTLS()
	t.Cleanup(ts.Close)
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, ca, "CERTIFICATE", ts.Certificate().Raw)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "PRIVATE KEY", keyDER)

	o := options(t.TempDir())
	fetch := func() error {
		_, err := newFetcher(t, o).Fetch(t.Context(), jobOf(ts.URL+"/x"))
		return err
	}
	if err := fetch(); err == nil || !strings.Contains(err.Error(), "set ota.ca_file") {
		t.Errorf("an unknown authority: %v", err)
	}
	o.CAFile = ca
	if err := fetch(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a client certificate: %v", err)
	}
	o.CertFile, o.KeyFile = cert, filepath.Join(dir, "none")
	if err := fetch(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
	o.KeyFile = key
	fetchOK(t, o, jobOf(ts.URL+"/x"), want)
	o.CAFile = key
	if err := fetch(); err != nil {
		t.Errorf("what is there needs no server: %v", err)
	}

	// From https there is no way down.
	o = options(t.TempDir())
	o.CAFile, o.CertFile, o.KeyFile = ca, cert, key
	plain := newServer(t, want)
	down := plain.url()
	s.set(func(s *server) {
		s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, down, http.StatusFound)
			return true
		}
	})
	if err := fetch(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "redirects from https to http") {
		t.Errorf("%v", err)
	}
	if _, requests := plain.stats(); len(requests) > 0 {
		t.Error("it was followed")
	}
	// From http there is one up, and the URL with the token is not passed on.
	s.set(func(s *server) {
		s.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			if r.Referer() != "" {
				t.Errorf("the referer is %q", r.Referer())
			}
			return false
		}
	})
	plain.set(func(s *server) {
		s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, ts.URL+"/x", http.StatusFound)
			return true
		}
	})
	fetchOK(t, o, jobOf(plain.url()), want)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// A proxy is taken from the environment, by a process of its own, because Go
// looks there once only.
func TestProxy(t *testing.T) {
	want, dir := small(t), t.TempDir()
	s := newServer(t, want)
	s.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.URL.String() != "http://bundles.invalid/agent.bundle" {
			t.Errorf("the proxy was asked for %s", r.URL)
		}
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), helperSource+"=http://bundles.invalid/agent.bundle", helperDir+"="+dir, "HTTP_PROXY="+s.root(), "http_proxy="+s.root(), "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantComplete(t, dir, want)
}

// Whatever an answer's headers say, a response lies where it was asked for and
// has a size that makes sense.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/1234", "bytes 5-5/*", "bytes */7", "", "bytes 1-0/2", "bytes 9223372036854775807-9223372036854775807/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, end, size, err := contentRange(text)
		if err == nil && (at < 0 || end <= at || size != -1 && size < end) {
			t.Errorf("%q: from %d to %d of %d", text, at, end, size)
		}
	})
}
