package fleet

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guarded lets through who may read: someone on this machine, or with a key.
func (s *Server) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !fromThisMachine(r) && !s.hasKey(r) {
			// A browser asks for the key by itself.
			w.Header().Set("WWW-Authenticate", `Basic realm="pyvorin-fleet, the password is an API key"`)
			failJSON(w, http.StatusUnauthorized, "an API key is needed; on this machine itself http://localhost works without one")
			return
		}
		next(w, r)
	}
}

func (s *Server) hasKey(r *http.Request) bool {
	_, key, basic := r.BasicAuth()
	if !basic {
		scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return false
		}
		key = strings.TrimSpace(rest)
	}
	_, ok := s.keys.Check(key)
	return ok
}

// fromThisMachine is true for requests that were made here and for here: from
// a loopback address, to a loopback name, through no proxy. The name matters
// because a web page elsewhere can point its own name at 127.0.0.1 (DNS
// rebinding) and have this machine's browser ask.
func fromThisMachine(r *http.Request) bool {
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(header) != "" {
			return false
		}
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !remote.Addr().Unmap().IsLoopback() {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
