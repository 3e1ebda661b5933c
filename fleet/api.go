package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/pyvorin/pyvorin-edge/fleet/ingest"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Bounds of what one request reads.
const (
	maxDevices      = 10_000
	maxLatest       = 1000
	defaultReadings = 100
	maxReadings     = 1000
	queryTimeout    = 10 * time.Second
)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+ingestPath, s.ingest)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, health{Status: "ok"}) })
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /api/v1/devices", s.guarded(s.devices))
	mux.HandleFunc("GET /api/v1/devices/{id}/latest", s.guarded(s.latest))
	mux.HandleFunc("GET /api/v1/devices/{id}/readings", s.guarded(s.readings))
	mux.HandleFunc("GET /{$}", s.guarded(s.page))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

type health struct {
	Status  string `json:"status"` // "ok" or "failing"
	Version string `json:"version,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// healthz answers 503 while the database cannot be written. The reason is
// short, because anyone may ask.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	switch err := s.store.Failure(); {
	case errors.Is(err, ingest.ErrFull):
		writeJSON(w, http.StatusServiceUnavailable, health{"failing", buildinfo.Version, ingest.ErrFull.Error()})
	case err != nil:
		writeJSON(w, http.StatusServiceUnavailable, health{"failing", buildinfo.Version, ingest.ErrUnavailable.Error()})
	default:
		writeJSON(w, http.StatusOK, health{Status: "ok", Version: buildinfo.Version})
	}
}

func (s *Server) devices(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	devices, err := s.store.Devices(ctx, maxDevices)
	if err != nil {
		s.failQuery(w, err)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Devices []ingest.Device `json:"devices"`
		Refused map[int]int64   `json:"refused"` // ingest requests since the start, by status
	}{devices, s.ingest.Refused()})
}

func (s *Server) latest(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	readings, err := s.store.Latest(ctx, r.PathValue("id"), maxLatest)
	s.answerReadings(w, readings, err)
}

func (s *Server) readings(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	q := ingest.Query{Sensor: query.Get("sensor"), Limit: defaultReadings}
	if text := query.Get("since"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			failJSON(w, http.StatusBadRequest, "since must be a time such as 2026-01-02T03:04:05Z")
			return
		}
		q.Since = since
	}
	if text := query.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxReadings {
			failJSON(w, http.StatusBadRequest, "limit must be a number from 1 to "+strconv.Itoa(maxReadings))
			return
		}
		q.Limit = limit
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	readings, err := s.store.Readings(ctx, r.PathValue("id"), q)
	s.answerReadings(w, readings, err)
}

func (s *Server) answerReadings(w http.ResponseWriter, readings []wire.Reading, err error) {
	switch {
	case errors.Is(err, ingest.ErrNoDevice):
		failJSON(w, http.StatusNotFound, "nothing came from a device of that id")
	case err != nil:
		s.failQuery(w, err)
	default:
		writeJSON(w, http.StatusOK, struct {
			Readings []wire.Reading `json:"readings"`
		}{readings})
	}
}

func (s *Server) failQuery(w http.ResponseWriter, err error) {
	s.log.Error().Err(err).Msg("query failed")
	failJSON(w, http.StatusServiceUnavailable, "the database cannot be read now, the log says why")
}

func failJSON(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, struct {
		Error string `json:"error"`
	}{reason})
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document) // the client is gone
}
