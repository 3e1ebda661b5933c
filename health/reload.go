package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
)

const (
	maxConfigBytes = 1 << 20
	maxFormBytes   = maxConfigBytes + 64<<10 // a form around it
	reloadTimeout  = 25 * time.Second        // below the server's write timeout, so that the sender learns of it
)

// refusal is an answer to a request that cannot be followed.
type refusal struct {
	status  int
	message string
}

func (e *refusal) Error() string { return e.message }

// postReload answers POST /config/reload.
func (s *Server) postReload(w http.ResponseWriter, r *http.Request) {
	name, body, err := sentConfig(w, r)
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), reloadTimeout)
		defer cancel()
		err = s.o.Reload(ctx, name, body)
	}
	var refused *refusal
	var invalid *config.Error
	switch {
	case err == nil:
		withFile(s.o.Log.Info(), name).Msg("config reloaded on request")
		writeJSON(w, http.StatusOK, struct {
			Status string `json:"status"`
		}{"applied"})
	case errors.As(err, &refused):
		fail(w, refused.status, refused.message)
	case errors.As(err, &invalid):
		fail(w, http.StatusUnprocessableEntity, err.Error())
	default:
		withFile(s.o.Log.Error(), name).Err(err).Msg("config reload on request failed")
		fail(w, http.StatusInternalServerError, err.Error())
	}
}

// withFile adds the file name that the sender gave, if any.
func withFile(e *zerolog.Event, name string) *zerolog.Event {
	if name == "" {
		return e
	}
	return e.Str("file", name)
}

// sentConfig returns the config in a request, from the form field "config" or
// the body itself, and the file name that was sent with it; "" when there was
// none and nothing else tells the format.
func sentConfig(w http.ResponseWriter, r *http.Request) (name string, body []byte, err error) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	src := io.Reader(http.MaxBytesReader(w, r.Body, maxFormBytes))
	if media == "multipart/form-data" {
		r.Body = io.NopCloser(src)
		if name, src, media, err = configPart(r); err != nil {
			return "", nil, err
		}
	}
	if name == "" && media == "application/json" {
		name = "config.json"
	}
	body, err = io.ReadAll(io.LimitReader(src, maxConfigBytes+1))
	switch {
	case err != nil:
		return "", nil, formError(err)
	case len(body) > maxConfigBytes:
		return "", nil, tooLarge()
	case len(body) == 0:
		return "", nil, &refusal{http.StatusBadRequest, "there is no config in the request: send it as the form field \"config\" or as the body"}
	}
	return name, body, nil
}

// configPart finds the form field "config".
func configPart(r *http.Request) (name string, src io.Reader, media string, err error) {
	form, err := r.MultipartReader()
	if err != nil {
		return "", nil, "", formError(err)
	}
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return "", nil, "", &refusal{http.StatusBadRequest, `the form has no field "config"`}
		}
		if err != nil {
			return "", nil, "", formError(err)
		}
		if part.FormName() == "config" {
			media, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
			return part.FileName(), part, media, nil
		}
	}
}

// formError tells a body that is too large from one that is broken.
func formError(err error) error {
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return tooLarge()
	}
	return &refusal{http.StatusBadRequest, fmt.Sprintf("read the request: %v", err)}
}

func tooLarge() error {
	return &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("a config may have at most %s", human.Bytes(maxConfigBytes))}
}
