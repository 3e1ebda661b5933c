// Package httpjson is the ingest type "http": it asks a device's local HTTP
// API and takes values out of the JSON it answers.
//
// The answer is foreign and the request may carry secrets. So the answer is
// bounded, redirects never leave the configured host (they would take the
// headers along), TLS is always verified, and an error names scheme and host
// only: neither path nor query, where devices like to put their tokens, nor a
// header, nor anything of what was answered. The connection is kept open
// between reads.
package httpjson

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/neterr"
)

// Options are the config keys of an http sensor.
type Options struct {
	URL             string            `toml:"url" required:"true" doc:"http:// or https:// address that answers JSON. Secrets belong in headers, not here."`
	Method          string            `toml:"method" enum:"GET,POST" doc:"Request method."`
	Body            string            `toml:"body" secret:"true" doc:"POST: what is sent, as application/json unless headers say otherwise."`
	Headers         map[string]string `toml:"headers" secret:"true" doc:"Further request headers."`
	BearerToken     string            `toml:"bearer_token" secret:"true" doc:"Sent as Authorization: Bearer."`
	BearerTokenFile string            `toml:"bearer_token_file" doc:"File holding the token instead; read again for every request."`
	ExpectStatus    int               `toml:"expect_status" min:"0" max:"599" doc:"The status that is ok; 0 means any 2xx."`
	JSONPath        string            `toml:"json_path" doc:"Where the value is, in gjson syntax; @this is the whole answer."`
	Fields          map[string]string `toml:"fields" doc:"Several values instead: channel name to path."`
	TimestampPath   string            `toml:"timestamp_path" doc:"Where the time of measurement is: RFC 3339, or a number since 1970. Empty means now."`
	Meta            map[string]string `toml:"meta" doc:"Metadata: name to path. Texts are cut to 256 bytes."`
	CAFile          string            `toml:"ca_file" pem:"authorities" doc:"PEM file of the authorities to trust instead of the system's."`
	MaxBodyBytes    int               `toml:"max_body_bytes" min:"1" max:"67108864" doc:"A longer answer is refused."`
}

// Type is the ingest type "http".
var Type = sensors.Type{
	Name:    "http",
	Doc:     "A device's local HTTP API that answers JSON.",
	Options: func() any { return &Options{Method: http.MethodGet, MaxBodyBytes: 1 << 20} },
	New:     New,
}

const (
	maxTokenBytes = 8 << 10
	maxRedirects  = 5

	// drainBytes is what is read of an answer nobody wants, so that its
	// connection can be used again.
	drainBytes = 64 << 10
)

// sensor holds one kept-open connection, so it is a sensors.Closer.
type sensor struct {
	o      Options
	spec   jsonpath.Spec
	where  string       // scheme and host, for errors
	client *http.Client // made by the first Read, because ca_file is read then
}

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, _ sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: http options are %T", d.Options)
	}
	// The parse error would show the url, which may hold a password.
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, config.Problemf("url", "must be http:// or https:// with a host")
	case o.Body != "" && o.Method != http.MethodPost:
		return nil, config.Problemf("body", `needs method = "POST"`)
	case strings.ContainsAny(o.BearerToken, "\r\n\x00"):
		return nil, config.Problemf("bearer_token", "has a line break; remove it")
	case o.CAFile != "" && u.Scheme != "https":
		return nil, config.Problemf("ca_file", "needs an https:// url")
	}
	for name, value := range o.Headers {
		if name == "" || strings.ContainsAny(name, " :\r\n\x00") || strings.ContainsAny(value, "\r\n\x00") {
			return nil, config.Problemf("headers", "%q is not a valid header, or its value has a line break", name)
		}
	}
	spec := jsonpath.Spec{Path: o.JSONPath, Fields: o.Fields, Timestamp: o.TimestampPath, Meta: o.Meta}
	if spec.IsZero() {
		return nil, config.Problemf("json_path", "is needed, or fields; @this is the whole answer")
	}
	if err := spec.Check(); err != nil {
		return nil, err
	}
	return &sensor{o: *o, spec: spec, where: u.Scheme + "://" + u.Host}, nil
}

func (s *sensor) Read(ctx context.Context) ([]sensors.Sample, error) {
	body, err := s.fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", s.where, err)
	}
	samples, err := s.spec.Samples(body)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", s.where, err)
	}
	return samples, nil
}

// Close closes the kept-open connection.
func (s *sensor) Close() error {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	return nil
}

func (s *sensor) fetch(ctx context.Context) ([]byte, error) {
	req, err := s.request(ctx)
	if err != nil {
		return nil, err
	}
	if s.client == nil {
		if s.client, err = newClient(s.o.CAFile); err != nil {
			return nil, err
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, plain(err)
	}
	defer resp.Body.Close()
	if !s.expected(resp.StatusCode) {
		_, _ = io.CopyN(io.Discard, resp.Body, drainBytes)
		if resp.StatusCode/100 == 3 {
			return nil, fmt.Errorf("status %d, a redirect that is not followed; set url to the final address", resp.StatusCode)
		}
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(s.o.MaxBodyBytes)+1))
	if err != nil {
		return nil, plain(err)
	}
	if len(body) > s.o.MaxBodyBytes {
		return nil, fmt.Errorf("answer is longer than max_body_bytes (%d)", s.o.MaxBodyBytes)
	}
	return body, nil
}

func (s *sensor) expected(status int) bool {
	if s.o.ExpectStatus != 0 {
		return status == s.o.ExpectStatus
	}
	return status/100 == 2
}

func (s *sensor) request(ctx context.Context) (*http.Request, error) {
	var body io.Reader
	if s.o.Body != "" {
		body = strings.NewReader(s.o.Body)
	}
	req, err := http.NewRequestWithContext(ctx, s.o.Method, s.o.URL, body)
	if err != nil {
		return nil, errors.New("url or method is not valid")
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	token := s.o.BearerToken
	if s.o.BearerTokenFile != "" {
		if token, err = readToken(s.o.BearerTokenFile); err != nil {
			return nil, err
		}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for name, value := range s.o.Headers {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("bearer_token_file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("bearer_token_file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(data) > maxTokenBytes || strings.ContainsAny(token, "\r\n\x00") {
		return "", fmt.Errorf("bearer_token_file: %s does not hold one token on one line", path)
	}
	return token, nil
}

// newClient makes the client of one sensor. It has no timeout of its own: the
// context of each read is the limit.
func newClient(caFile string) (*http.Client, error) {
	authorities, err := pemfile.Authorities(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities},
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        5 * time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: sameHost,
	}, nil
}

// sameHost follows redirects on the same host and scheme only.
func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects || req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

// plain returns err without what it may quote: *url.Error has the whole
// address, and the errors of a malformed answer have parts of it. Network and
// certificate errors quote neither.
func plain(err error) error {
	var (
		inURL   *url.Error
		network *net.OpError
		cert    *tls.CertificateVerificationError
		timeout net.Error
	)
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("stopped")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no complete answer in time; see timeout_seconds")
	case errors.As(err, &network):
		return neterr.Steady(network)
	case errors.As(err, &cert):
		return cert
	case errors.Is(err, http.ErrSchemeMismatch):
		return errors.New("the server does not speak TLS; use http:// in url")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed before the answer was complete")
	}
	return errors.New("the answer is not valid HTTP")
}
