package ota

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// Action is what is asked of the watchdog, or what it did by itself.
type Action string

// The actions.
const (
	Install  Action = "install"
	Rollback Action = "rollback"
	Rescue   Action = "rescue" // back from a crash loop after the commit; by the watchdog itself
	Repair   Action = "repair" // at boot, or because what active named was broken; the same
)

// Request is inbox/request.json: what the agent, or an operator at the device,
// wants. To the watchdog it is hostile input: it says what to look at, and
// proves nothing.
type Request struct {
	Format    int       `json:"format"`
	ID        string    `json:"id"` // random; names the attempt
	At        time.Time `json:"at"`
	Component string    `json:"component,omitempty"` // "" is the agent
	Action    Action    `json:"action"`

	// Bundle is the name of a file in the inbox; of Install.
	Bundle string `json:"bundle,omitempty"`

	// TargetVersion is that of the retained release; of Rollback. "" is whatever
	// is retained.
	TargetVersion string `json:"target_version,omitempty"`

	// Command is the signed envelope that told the agent to ask. Without one a
	// bundle may still be installed, since it carries signatures of its own, but
	// neither a failed nor an older one; and only root may ask for a rollback.
	Command json.RawMessage `json:"command,omitempty"`

	// Retry lets root have a failed release tried again.
	Retry bool `json:"retry,omitempty"`

	// MinHealthySeconds and DeadlineSeconds may make a trial longer than the
	// bundle asks for, never shorter.
	MinHealthySeconds float64 `json:"min_healthy_seconds,omitempty"`
	DeadlineSeconds   float64 `json:"deadline_seconds,omitempty"`
}

// MaxRequestBytes bounds request.json.
const MaxRequestBytes = 128 << 10

var (
	idPattern     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	bundlePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+~-]{0,199}$`)
	namePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// ParseRequest reads a request and checks its form.
func ParseRequest(data []byte) (Request, error) {
	var r Request
	if len(data) > MaxRequestBytes {
		return r, fmt.Errorf("request has more than %d bytes", MaxRequestBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("request is not valid: %w", err)
	}
	switch {
	case r.Format != 1:
		return r, fmt.Errorf("request has format %d; this watchdog knows 1", r.Format)
	case !idPattern.MatchString(r.ID):
		return r, errors.New("request has no id of 32 hex digits")
	case r.Component != "" && !namePattern.MatchString(r.Component):
		return r, errors.New("request names no component")
	case r.Action == Install && !bundlePattern.MatchString(r.Bundle):
		return r, errors.New("request names no bundle in the inbox")
	case r.Action != Install && r.Action != Rollback:
		return r, fmt.Errorf("request asks for %q; want install or rollback", r.Action)
	case len(r.TargetVersion) > 256:
		return r, errors.New("request has too long a version")
	}
	return r, nil
}

// WriteRequest asks the watchdog. The bundle is in the inbox already.
func WriteRequest(l Layout, r Request) error {
	r.Format = 1
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := ParseRequest(data); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(l.Inbox(), RequestFile), data, 0o600); err != nil {
		return fmt.Errorf("ask the watchdog: %w", err)
	}
	return nil
}
