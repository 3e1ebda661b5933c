// Package ingest takes the readings that devices deliver and keeps each of
// them exactly once.
//
// The parties are devices, which send batches at least once (a retry may cut
// them differently); the Handler, which checks a batch as a whole and refuses
// it as a whole; and the Store, whose one writer goroutine puts the batches of
// all devices into SQLite, many to a commit. (device_id, seq) identifies a
// reading for ever: what comes again is counted and not stored, and what comes
// again with other content is a conflict, counted, and the first one stays.
//
// Files: the database, and SQLite's -wal and -shm beside it. An answer of 200
// means that the commit reached the disk (WAL, synchronous=FULL). After a power
// loss, or when an answer was lost, the device sends again and the store counts
// duplicates. Pruning remembers the numbers of what it deleted, so even a
// reading that comes again after the retention is known.
//
// What a device may do with an answer: 2xx forget the batch; 400 and 413 halve
// it until the offending reading is found; 401 wait for another key; 408, 429,
// 503 and 507 send it again later.
package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// Limits bound what one request, one device and all of them together can cost.
// A zero field means its default.
type Limits struct {
	BodyBytes    int64         // of a request as it travels; 8 MiB
	DecodedBytes int64         // of a request's readings; 32 MiB
	Readings     int           // in one request; 10,000
	Uploads      int           // requests at once; 128
	DeviceUpload int           // requests at once of one device, or of one address that names none; 4
	Decoding     int           // requests past their upload at once; 4 for each processor
	BodyTime     time.Duration // for the upload of one body; 60 s
	WaitTime     time.Duration // for a turn at decoding; 5 s
}

func (l Limits) withDefaults() Limits {
	return Limits{
		BodyBytes:    cmp.Or(l.BodyBytes, 8<<20),
		DecodedBytes: cmp.Or(l.DecodedBytes, 32<<20),
		Readings:     cmp.Or(l.Readings, 10_000),
		Uploads:      cmp.Or(l.Uploads, 128),
		DeviceUpload: cmp.Or(l.DeviceUpload, 4),
		Decoding:     cmp.Or(l.Decoding, 4*runtime.GOMAXPROCS(0)),
		BodyTime:     cmp.Or(l.BodyTime, time.Minute),
		WaitTime:     cmp.Or(l.WaitTime, 5*time.Second),
	}
}

// Adder stores readings; the Store is one. Add blocks until they are durable
// and is idempotent by device and seq.
type Adder interface {
	Add(ctx context.Context, device string, readings []wire.Reading) (Result, error)
}

// Keys checks API keys. Check returns the name of a key that is in force.
type Keys interface {
	Check(presented string) (name string, ok bool)
}

// Handler is the endpoint that devices post their batches to.
type Handler struct {
	store   Adder
	keys    Keys
	limits  Limits
	log     zerolog.Logger
	uploads *gate
	turns   chan struct{} // one element for each request being decoded or stored

	mu      sync.Mutex
	refused map[int]int64 // requests, by status
}

// NewHandler returns the endpoint.
func NewHandler(store Adder, keys Keys, limits Limits, log zerolog.Logger) *Handler {
	limits = limits.withDefaults()
	return &Handler{
		store:   store,
		keys:    keys,
		limits:  limits,
		log:     log.With().Str("component", "ingest").Logger().Sample(&zerolog.BurstSampler{Burst: 20, Period: time.Minute}),
		uploads: newGate(limits.Uploads, limits.DeviceUpload),
		turns:   make(chan struct{}, limits.Decoding),
		refused: map[int]int64{},
	}
}

// Refused returns how many requests were refused since the start, by status.
func (h *Handler) Refused() map[int]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.refused)
}

// refusal is why a request was not accepted.
type refusal struct {
	status int
	line   int // of the body, from 1; 0 when it is not about a line
	reason string
	retry  time.Duration // 0: no Retry-After
}

func refuse(status int, reason string) *refusal { return &refusal{status: status, reason: reason} }

func retryLater(status int, reason string, after time.Duration) *refusal {
	return &refusal{status: status, reason: reason, retry: after}
}

// ServeHTTP implements http.Handler for POST.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result, no := h.serve(w, r)
	if no != nil {
		h.refuse(w, r, no)
		return
	}
	writeJSON(w, http.StatusOK, result)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (Result, *refusal) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Result{}, refuse(http.StatusUnauthorized, "an API key is missing: send Authorization: Bearer KEY")
	}
	keyName, ok := h.keys.Check(strings.TrimSpace(key))
	if !ok {
		return Result{}, refuse(http.StatusUnauthorized, "the API key is not known")
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType != typeNDJSON && mediaType != typeJSON {
		return Result{}, refuse(http.StatusUnsupportedMediaType, "the Content-Type must be "+typeNDJSON+" or "+typeJSON)
	}
	device := deviceOfKey(r.Header.Get("Idempotency-Key"))
	leave := h.uploads.enter(client(r, device))
	if leave == nil {
		return Result{}, retryLater(http.StatusTooManyRequests, "too many requests at once", time.Second)
	}
	defer leave()
	body, no := h.readBody(w, r)
	if no != nil {
		return Result{}, no
	}
	done, no := h.turn(r.Context())
	if no != nil {
		return Result{}, no
	}
	defer done()
	decoded, no := decode(r.Header.Get("Content-Encoding"), body, h.limits.DecodedBytes)
	if no != nil {
		return Result{}, no
	}
	batch, no := parse(mediaType, decoded, device, h.limits.Readings)
	if no != nil {
		return Result{}, no
	}
	result, err := h.store.Add(r.Context(), batch.device, batch.readings)
	switch {
	case errors.Is(err, ErrFull):
		return Result{}, retryLater(http.StatusInsufficientStorage, ErrFull.Error(), 30*time.Second)
	case err != nil:
		return Result{}, retryLater(http.StatusServiceUnavailable, ErrUnavailable.Error(), 10*time.Second)
	}
	if result.Conflicts > 0 {
		h.log.Warn().Str("device_id", batch.device).Str("key", keyName).Int("readings", result.Conflicts).Msg("readings came again with other content, the first ones stay")
	}
	return result, nil
}

// turn waits for a place among the requests that are decoded and stored. Those
// that wait get it in the order they came, and a device is among them no more
// often than its uploads allow, so a flood of one cannot starve another.
func (h *Handler) turn(ctx context.Context) (done func(), no *refusal) {
	timer := time.NewTimer(h.limits.WaitTime)
	defer timer.Stop()
	select {
	case h.turns <- struct{}{}:
		return func() { <-h.turns }, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, retryLater(http.StatusTooManyRequests, "too much to do", 2*time.Second)
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, no *refusal) {
	h.mu.Lock()
	h.refused[no.status]++
	h.mu.Unlock()
	device := deviceOfKey(r.Header.Get("Idempotency-Key"))
	h.log.Warn().Str("remote", r.RemoteAddr).Str("device_id", device).Int("status", no.status).Int("line", no.line).Str("reason", no.reason).Msg("request refused")
	if no.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(no.retry.Seconds())))
	}
	switch no.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusUnsupportedMediaType:
		w.Header().Set("Accept-Encoding", "zstd, gzip")
	}
	writeJSON(w, no.status, struct {
		Error string `json:"error"`
		Line  int    `json:"line,omitempty"`
	}{no.reason, no.line})
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document) // the client is gone: it will ask again
}

// deviceOfKey returns the device id in an Idempotency-Key of the form
// <device_id>:<first seq>-<last seq>, or "" for a key of another form.
func deviceOfKey(key string) string {
	device, seqs, _ := strings.Cut(key, ":")
	first, last, ok := strings.Cut(seqs, "-")
	if !ok || !isNumber(first) || !isNumber(last) || !wire.ValidDeviceID(device) {
		return ""
	}
	return device
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

// client names whom the upload limit is for.
func client(r *http.Request, device string) string {
	if device != "" {
		return device
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "address " + r.RemoteAddr
	}
	return "address " + host
}
