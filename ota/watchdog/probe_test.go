package watchdog

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// answering serves handler on a unix socket, as an agent does.
func answering(t *testing.T, handler http.HandlerFunc) Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "wd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := Agent{Socket: filepath.Join(dir, "health.sock")}
	listener, err := net.Listen("unix", a.Socket)
	must(t, err)
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return a
}

func TestAnAgentIsLookedAt(t *testing.T) {
	last, failed := time.Now().Add(-time.Minute), "it failed"
	health := wire.Health{
		Version: "1.2.0", UptimeSeconds: 600, Checks: map[string]wire.CheckState{"sensors": wire.CheckOK, "queue": wire.CheckWarning},
		Cloud: wire.CloudHealth{Enabled: true, LastFlushTime: &last}, Fleet: wire.FleetHealth{Connected: true},
	}
	a := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable) // unhealthy, and says how
		_ = json.NewEncoder(w).Encode(health)
	})
	look := func() Report {
		t.Helper()
		r, err := a.Look(t.Context(), os.Getpid())
		must(t, err)
		return r
	}
	want := Report{Version: "1.2.0", Checks: health.Checks, CloudGood: true, CloudProven: true, FleetConnected: true}
	if diff := cmp.Diff(want, look()); diff != "" {
		t.Error(diff)
	}
	b := look().Baseline()
	if strings.Join(b.Checks, " ") != "sensors" || strings.Join(b.Unwell, " ") != "queue" || !b.CloudGood || !b.FleetConnected {
		t.Errorf("%+v", b)
	}
	// What another process delivered before proves nothing.
	health.UptimeSeconds = 30
	if r := look(); r.CloudProven || !r.CloudGood || r.Baseline().CloudGood {
		t.Errorf("%+v", r)
	}
	health.Cloud.LastError = &failed
	if r := look(); r.CloudGood {
		t.Errorf("%+v", r)
	}
	health.Cloud.LastError, health.Cloud.Paused = nil, "401"
	if r := look(); r.CloudGood {
		t.Errorf("%+v", r)
	}
	health.Cloud = wire.CloudHealth{LastFlushTime: &last}
	if r := look(); r.CloudGood {
		t.Errorf("%+v", r)
	}
	// A leftover of the version before is not it.
	if _, err := a.Look(t.Context(), os.Getpid()+1); err == nil || !strings.Contains(err.Error(), "answers, not") {
		t.Errorf("%v", err)
	}
}

// TestAnAgentThatAnswersNonsense has a row for each way in which a candidate can
// try the watchdog.
func TestAnAgentThatAnswersNonsense(t *testing.T) {
	release := make(chan struct{})
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("fine")) }, "not valid"},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, "not valid"},
		{"no version", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }, "no version"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte(`{"version":"`))
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat("9", 1<<16))); err != nil {
					return
				}
			}
		}, "not valid"},
		{"deep", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(strings.Repeat(`{"checks":`, 1<<16))) }, "not valid"},
		{"long headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "ask for health"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, "not valid"},
		{"never", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}, "deadline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := answering(t, tt.handler)
			ctx := t.Context()
			if tt.name == "never" { // which takes lookTimeout otherwise
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
			}
			if _, err := a.Look(ctx, os.Getpid()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := (Agent{Socket: "/nowhere/health.sock"}).Look(t.Context(), 1); err == nil {
		t.Error("no socket")
	}
}

func TestAnApplicationIsLookedAt(t *testing.T) {
	status := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	address := server.Listener.Addr().String()
	for _, e := range []Endpoint{{URL: server.URL}, {TCP: address}} {
		if r, err := e.Look(t.Context(), 0); err != nil || r.Checks[checkUp] != wire.CheckOK || r.Version != "" {
			t.Errorf("%+v: %+v, %v", e, r, err)
		}
	}
	if r, err := (Endpoint{}).Look(t.Context(), 0); err != nil || len(r.Checks) != 0 {
		t.Errorf("nothing to ask: %+v, %v", r, err)
	}
	status = http.StatusServiceUnavailable
	if _, err := (Endpoint{URL: server.URL}).Look(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
	server.Close()
	for _, e := range []Endpoint{{URL: server.URL}, {TCP: address}, {URL: "://"}} {
		if _, err := e.Look(t.Context(), 0); err == nil {
			t.Errorf("%+v: no error", e)
		}
	}
}
