package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
)

const (
	answerPatience = 30 * time.Second // for a connection, a handshake, the headers of an answer
	maxHeaderBytes = 64 << 10
	maxRedirects   = 5
	maxRetryAfter  = time.Hour
)

// busyError is an answer after which it is worth trying again.
type busyError struct {
	status int
	after  time.Duration // not before; 0 when the server did not say
}

func (e *busyError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status)))
}

// errChanged: the server says that the file is not the one of before.
var errChanged = doubtful(errors.New("the file has changed on the server"))

// httpSource is a file on a web server.
type httpSource struct {
	f      *Fetcher
	url    *url.URL
	client *http.Client

	etag      string // of the file, when the server tells one that identifies its bytes
	forgotten bool   // the server's etags say nothing
}

func (f *Fetcher) openHTTP(u *url.URL) (source, error) {
	transport := f.o.Transport
	if transport == nil {
		var err error
		if transport, err = f.transport(); err != nil {
			return nil, err
		}
	}
	return &httpSource{f: f, url: u, client: &http.Client{Transport: transport, CheckRedirect: checkRedirect}}, nil
}

// transport reads the certificates and sets up connections. They speak HTTP/1.1,
// because in HTTP/2 megabytes travel before they are asked for, whatever the
// bandwidth cap says.
func (f *Fetcher) transport() (*http.Transport, error) {
	authorities, err := pemfile.Authorities(f.o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}
	if f.o.CertFile != "" {
		if _, err := f.certificate(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = f.certificate
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: answerPatience, KeepAlive: 30 * time.Second, Control: f.limitBuffer}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    answerPatience,
		ResponseHeaderTimeout:  answerPatience,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        answerPatience,
		DisableCompression:     true, // parts are hashed as they are
	}, nil
}

func (f *Fetcher) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.o.CertFile, f.o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cert_file and key_file: %w", err)
	}
	return &c, nil
}

// limitBuffer keeps the kernel from taking in, ahead of the bandwidth cap, more
// than what half a second brings.
func (f *Fetcher) limitBuffer(_, _ string, c syscall.RawConn) error {
	if f.o.MaxBandwidth == 0 {
		return nil
	}
	size := int(min(1<<20, max(8<<10, f.o.MaxBandwidth/2)))
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size)
	}); controlErr != nil {
		return controlErr
	}
	return err
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: it redirects more than %d times", ErrRefused, maxRedirects)
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: it redirects from https to %s", ErrRefused, req.URL.Scheme)
	}
	req.Header.Del("Referer") // the URL before may carry a token
	return nil
}

func (s *httpSource) name() string { return place(s.url) }

// place is a URL without what may be secret in it.
func place(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (s *httpSource) forget() { s.etag, s.forgotten = "", true }
func (s *httpSource) close()  { s.client.CloseIdleConnections() }

func (s *httpSource) open(ctx context.Context, from, end int64) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: its URL cannot be asked for", ErrRefused)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, end-1))
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", s.f.o.UserAgent)
	if s.etag != "" {
		req.Header.Set("If-Range", s.etag)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, explain(ctx, err)
	}
	r, err := s.judge(resp, from)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return r, nil
}

// judge turns an answer into a response, or says what it means.
func (s *httpSource) judge(resp *http.Response, from int64) (*response, error) {
	status := resp.StatusCode
	answered := (&busyError{status: status}).Error()
	switch {
	case status == http.StatusOK || status == http.StatusPartialContent:
	case status == http.StatusNotFound || status == http.StatusGone:
		return nil, fmt.Errorf("%w: %s", ErrNotFound, answered)
	case status == http.StatusRequestedRangeNotSatisfiable:
		return nil, errChanged
	case status == http.StatusRequestTimeout || status == http.StatusTooEarly || status == http.StatusTooManyRequests || status >= 500:
		return nil, &busyError{status: status, after: retryAfter(resp.Header, time.Now())}
	default:
		return nil, fmt.Errorf("%w: %s", ErrRefused, answered)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, fmt.Errorf("%w: it sends the bundle with a Content-Encoding; bundles are compressed already", ErrRefused)
	}
	r := &response{body: resp.Body, end: resp.ContentLength, size: resp.ContentLength}
	if status == http.StatusPartialContent {
		var err error
		if r.at, r.end, r.size, err = contentRange(resp.Header.Get("Content-Range")); err != nil {
			return nil, err
		}
		if r.at != from {
			return nil, fmt.Errorf("%w: it was asked for the bytes from %d on, and sends those from %d", ErrRefused, from, r.at)
		}
	}
	return r, s.remember(resp)
}

// remember compares the file's etag with that of before.
func (s *httpSource) remember(resp *http.Response) error {
	etag := resp.Header.Get("ETag")
	if s.forgotten || strings.HasPrefix(etag, "W/") || len(etag) > 256 {
		return nil
	}
	if s.etag != "" && etag != s.etag {
		return errChanged
	}
	s.etag = etag
	return nil
}

// contentRange reads a header such as "bytes 0-99/1234".
func contentRange(text string) (at, end, size int64, err error) {
	bad := fmt.Errorf("%w: its answer has no Content-Range that makes sense", ErrRefused)
	span, ok := strings.CutPrefix(text, "bytes ")
	span, whole, found := strings.Cut(span, "/")
	first, last, isSpan := strings.Cut(span, "-")
	if !ok || !found || !isSpan {
		return 0, 0, 0, bad
	}
	a, errA := strconv.ParseUint(first, 10, 62)
	l, errL := strconv.ParseUint(last, 10, 62)
	size = -1
	if whole != "*" {
		n, errN := strconv.ParseUint(whole, 10, 62)
		if errN != nil || l >= n {
			return 0, 0, 0, bad
		}
		size = int64(n)
	}
	if errA != nil || errL != nil || l < a {
		return 0, 0, 0, bad
	}
	return int64(a), int64(l) + 1, size, nil
}

// retryAfter reads the header of that name: seconds, or a date, which is compared
// with the server's own clock where it tells it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}

// explain says what to do about a request that got no answer, without its URL,
// which may carry a token.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var invalid x509.CertificateInvalidError
	if now := time.Now(); errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore) {
		return fmt.Errorf("the server's certificate is not valid before %s, and this device's clock says %s: set the clock (is time synchronization running?)",
			invalid.Cert.NotBefore.UTC().Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	}
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		return fmt.Errorf("the server's certificate is not signed by a trusted authority: set ota.ca_file to the one that signed it (%w)", err)
	}
	return err
}
