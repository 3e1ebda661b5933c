package syncqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

const (
	peekDefault = 10
	peekMax     = 1000
	deadMax     = 10_000
)

// API serves what the queue verbs of the command line ask of a running agent:
//
//	GET  /api/queue/stats               Stats
//	GET  /api/queue/peek?n=10           the first readings, as NDJSON
//	POST /api/queue/flush               deliver what is queued now; answers when it is done
//	GET  /api/queue/dead?limit=1000     list of DeadLetter
//	POST /api/queue/dead/retry?seq=7…   {"retried":n}; all when no seq is named
//	GET  /api/queue/export              all readings, as NDJSON
//
// Whoever serves it decides who may ask. flush blocks until all is delivered,
// or says why not.
func API(q *Queue, flush func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/queue/stats", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, q.Stats(), nil)
	})
	mux.HandleFunc("GET /api/queue/peek", func(w http.ResponseWriter, r *http.Request) {
		n, err := number(r, "n", peekDefault, peekMax)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		q.serveLines(w, r, n)
	})
	mux.HandleFunc("GET /api/queue/export", func(w http.ResponseWriter, r *http.Request) {
		q.serveLines(w, r, 0)
	})
	mux.HandleFunc("POST /api/queue/flush", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, flush(r.Context()))
	})
	mux.HandleFunc("GET /api/queue/dead", func(w http.ResponseWriter, r *http.Request) {
		limit, err := number(r, "limit", 1000, deadMax)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		list, err := q.DeadList(r.Context(), limit)
		answer(w, list, err)
	})
	mux.HandleFunc("POST /api/queue/dead/retry", func(w http.ResponseWriter, r *http.Request) {
		var seqs []uint64
		for _, s := range r.URL.Query()["seq"] {
			seq, err := strconv.ParseUint(s, 10, 63)
			if err != nil {
				http.Error(w, fmt.Sprintf("seq %q is not a sequence number", s), http.StatusBadRequest)
				return
			}
			seqs = append(seqs, seq)
		}
		n, err := q.DeadRetry(r.Context(), seqs...)
		answer(w, map[string]int{"retried": n}, err)
	})
	return mux
}

// number returns a query parameter between 1 and most.
func number(r *http.Request, name string, missing, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return missing, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s must be a number from 1 to %d", name, most)
	}
	return n, nil
}

func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, ErrFull), errors.Is(err, ErrClosed):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		// The client that has gone away is the only one to hear of an error.
		_ = json.NewEncoder(w).Encode(v)
	}
}

// serveLines writes up to limit queued readings; 0 means all.
func (q *Queue) serveLines(w http.ResponseWriter, r *http.Request, limit int) {
	reader, err := OpenReader(q.o.Path)
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer reader.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	skipped, err := reader.Export(r.Context(), w, limit)
	if err != nil {
		// Cut off, so that nobody takes the part for the whole.
		q.o.Log.Warn().Err(err).Msg("export broken off")
		panic(http.ErrAbortHandler)
	}
	if skipped > 0 {
		q.o.Log.Warn().Int("rows", skipped).Msg("damaged rows left out of an export")
	}
}
