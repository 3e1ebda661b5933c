package health

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/pyvorin/pyvorin-edge/wire"
)

const reloadPath = "/config/reload"

// routes returns the handler of both listeners.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.getHealth)
	mux.HandleFunc("GET /livez", s.getLive)
	mux.HandleFunc("GET /readyz", s.getReady)
	mux.Handle("GET /metrics", s.metricsHandler())
	mux.HandleFunc("GET /{$}", s.getPage)
	mux.HandleFunc("/api/readings", s.getReadings)
	if s.o.API != nil {
		mux.Handle("/api/", s.o.API)
	}
	if s.o.Reload != nil {
		mux.HandleFunc("POST "+reloadPath, s.postReload)
	}
	return s.recovered(s.admit(mux))
}

// recovered turns a panic into an answer and one line in the log.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.o.Log.Error().Str("path", r.URL.Path).Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("health request panicked")
			fail(w, http.StatusInternalServerError, "internal error: see the agent's log")
		}()
		next.ServeHTTP(w, r)
	})
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// getHealth answers GET /health.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) {
	doc := s.Document()
	status := http.StatusOK
	if doc.Status == wire.Unhealthy {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, doc)
}

// getLive answers GET /livez: the loops of this process turn. Nothing outside
// the process has a say, for restarting it would not help.
func (s *Server) getLive(w http.ResponseWriter, _ *http.Request) {
	if stalled := s.o.Source().Stalled; len(stalled) > 0 {
		writeText(w, http.StatusServiceUnavailable, "stalled: "+strings.Join(stalled, ", "))
		return
	}
	writeText(w, http.StatusOK, "ok")
}

// getReady answers GET /readyz: the queue takes readings, and a sensor was
// polled, with whatever outcome.
func (s *Server) getReady(w http.ResponseWriter, _ *http.Request) {
	f := s.o.Source()
	switch sensors := f.Health.Sensors; {
	case f.QueueFault != "":
		writeText(w, http.StatusServiceUnavailable, "not ready: the queue cannot accept readings: "+f.QueueFault)
	case f.QueueOpening:
		writeText(w, http.StatusServiceUnavailable, "not ready: the queue is being opened")
	case sensors.Configured > 0 && sensors.OK+len(sensors.Failing) == 0:
		writeText(w, http.StatusServiceUnavailable, "not ready: no sensor was polled yet")
	default:
		writeText(w, http.StatusOK, "ready")
	}
}

// getReadings answers GET /api/readings: what Live holds.
func (s *Server) getReadings(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "readings can only be read")
		return
	}
	readings, omitted := s.o.Live.Snapshot()
	for i := range readings {
		readings[i].Timestamp = *travelling(&readings[i].Timestamp)
	}
	writeJSON(w, http.StatusOK, struct {
		Readings []LiveReading `json:"readings"`
		Omitted  uint64        `json:"omitted_total"` // readings of sensors beyond the bound
	}{readings, omitted})
}

// writeJSON answers with v, whole or not at all.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Errorf("encode an answer: %w", err)) // our own types: cannot fail
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // whoever hung up does not want it
}

// fail answers with an error for people and programs.
func fail(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, struct {
		Error string `json:"error"`
	}{message})
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}
