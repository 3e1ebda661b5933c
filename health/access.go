package health

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// origin is where a request came from, as far as the connection proves it.
// Headers such as X-Forwarded-For prove nothing and are not looked at.
type origin int

const (
	remote   origin = iota // another machine, or a web page that made a browser here speak for it
	loopback               // a program of this machine that knew whom it called
	socket                 // the unix socket, whose file mode already decided
)

func originOf(r *http.Request) origin {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return socket
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	// With DNS rebinding a hostile name resolves to 127.0.0.1, but the browser
	// still says that name.
	if err == nil && peer.Addr().Unmap().IsLoopback() && localHost(r.Host) {
		return loopback
	}
	return remote
}

// localHost reports whether a Host header names this machine from within.
func localHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	switch strings.ToLower(strings.Trim(host, "[]")) {
	case "localhost", "127.0.0.1", "::1":
		return true
	}
	return false
}

// admit lets a request through that may have what it asks for, and answers the
// others.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		from := originOf(r)
		switch {
		case isPublic(r.URL.Path), from == socket, s.hasToken(r):
		case from == loopback && r.URL.Path != reloadPath:
			if err := provesIntent(r); err != nil {
				s.denied.Add(1)
				fail(w, http.StatusForbidden, err.Error())
				return
			}
		default:
			s.denied.Add(1)
			w.Header().Set("WWW-Authenticate", `Bearer realm="pyvorin-edge"`)
			if s.settings.Load().config.AdminToken == "" {
				fail(w, http.StatusUnauthorized, "this needs a token, and none is configured: set health.admin_token or health.admin_token_file")
				return
			}
			fail(w, http.StatusUnauthorized, "this needs the token of health.admin_token: send Authorization: Bearer TOKEN")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isPublic reports whether everybody may have path.
func isPublic(path string) bool {
	switch path {
	case "/health", "/livez", "/readyz", "/metrics":
		return true
	}
	return false
}

// hasToken compares in a time that tells nothing of the token.
func (s *Server) hasToken(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	admin := s.settings.Load().config.AdminToken
	if admin == "" || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	want, got := sha256.Sum256([]byte(admin)), sha256.Sum256([]byte(strings.TrimSpace(token)))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

var sameOrigin = http.NewCrossOriginProtection()

// provesIntent refuses what a foreign web page could make a browser on this
// machine send: requests that say so themselves, and those that a page can
// send without asking first.
func provesIntent(r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	if err := sameOrigin.Check(r); err != nil {
		return errors.New("refused: another web site's page sent this")
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media == "application/json" || r.Header.Get("X-Requested-With") != "" {
		return nil
	}
	return errors.New("refused: send Content-Type: application/json or an X-Requested-With header, so that this cannot come from a web page")
}

// secure sets the headers of every answer.
func secure(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
}
