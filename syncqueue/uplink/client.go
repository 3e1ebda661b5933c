package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
)

const (
	maxDialWait         = 10 * time.Second
	maxIdle             = 90 * time.Second // longer than the default flush interval
	maxHeaderBytes      = 64 << 10
	certificateTimeForm = "2006-01-02 15:04 MST"
)

// newClient returns a client that never follows a redirect: the key and the
// readings are for the configured endpoint only.
func newClient(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// transport reads the CA file and sets up connections; proxies come from the
// environment.
func (u *Uplink) transport() (http.RoundTripper, error) {
	if u.o.Transport != nil {
		return u.o.Transport, nil
	}
	authorities, err := pemfile.Authorities(u.o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}
	if u.o.CertFile != "" {
		if _, err := u.clientCertificate(nil); err != nil {
			return nil, err
		}
		config.GetClientCertificate = u.clientCertificate
	}
	wait := min(maxDialWait, u.o.RequestTimeout)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: wait, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    wait,
		ResponseHeaderTimeout:  u.o.RequestTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        maxIdle,
		DisableCompression:     true, // answers are only glanced at
		ForceAttemptHTTP2:      true,
	}, nil
}

// clientCertificate reads the certificate anew, so that a renewed one is used
// from the next connection on.
func (u *Uplink) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(u.o.CertFile, u.o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cert_file and key_file: %w", err)
	}
	return &c, nil
}

// explain turns the error of a request that got no answer into words that say
// what to do. The URL is left out: it may carry a token.
func explain(err error, timeout time.Duration) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var (
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		network   net.Error
	)
	switch now := time.Now(); {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return fmt.Errorf("the server's certificate is not valid before %s, and this device's clock says %s: set the clock (is time synchronization running?)",
			invalid.Cert.NotBefore.UTC().Format(certificateTimeForm), now.UTC().Format(certificateTimeForm))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the server's certificate expired at %s, and this device's clock says %s: renew it, or set the clock",
			invalid.Cert.NotAfter.UTC().Format(certificateTimeForm), now.UTC().Format(certificateTimeForm))
	case errors.As(err, &authority):
		return fmt.Errorf("the server's certificate is not signed by a trusted authority: set cloud.ca_file to the one that signed it (%w)", err)
	case errors.As(err, &hostname):
		return fmt.Errorf("the server's certificate is for another name: check the host in cloud.endpoint (%w)", err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("no answer in time (%w); a request may take %v", err, timeout)
	}
	return err
}
