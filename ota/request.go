package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
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
// proves nothing. The watchdog may be older than the agent, which is updated
// without it, so it ignores fields that it does not know: what must not be
// ignored is a new action, or a new format.
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
	idPattern      = regexp.MustCompile(`^[0-9a-f]{32}$`)
	bundlePattern  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+~-]{0,199}$`)
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z.+-]{0,64}$`)
)

// requestFormat is that of this version.
const requestFormat = 1

// ParseRequest reads a request and checks its form. With an error comes what
// could be read, so that the request can be answered; its ID is valid or "".
func ParseRequest(data []byte) (Request, error) {
	var r Request
	if len(data) > MaxRequestBytes {
		return r, fmt.Errorf("request has more than %d bytes", MaxRequestBytes)
	}
	err := json.Unmarshal(data, &r)
	if !idPattern.MatchString(r.ID) {
		r.ID = ""
	}
	if err != nil {
		return r, fmt.Errorf("request is not valid: %w", err)
	}
	switch {
	case r.Format != requestFormat:
		return r, fmt.Errorf("request has format %d, and this watchdog knows %d: update the package, which the watchdog comes with", r.Format, requestFormat)
	case r.ID == "":
		return r, errors.New("request has no id of 32 hex digits")
	case r.Component != "" && !namePattern.MatchString(r.Component):
		return r, errors.New("request names no component")
	case r.Action == Install && !bundlePattern.MatchString(r.Bundle):
		return r, errors.New("request names no bundle in the inbox")
	case r.Action != Install && r.Action != Rollback:
		return r, fmt.Errorf("request asks for %q; want install or rollback", r.Action)
	case !versionPattern.MatchString(r.TargetVersion):
		return r, errors.New("request has a version that is none")
	}
	return r, nil
}

// WriteRequest asks the watchdog. The bundle is in the inbox already. Root may
// call it as well: the inbox is the agent's, and no link in it is followed.
func WriteRequest(l Layout, r Request) error {
	r.Format = requestFormat
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := ParseRequest(data); err != nil {
		return err
	}
	base, err := disk.Open(l.Base)
	if err == nil {
		err = errors.Join(disk.WriteFile(base, inboxDir+"/"+RequestFile, data, 0o600), base.Close())
	}
	if err != nil {
		return fmt.Errorf("ask the watchdog: %w", err)
	}
	return nil
}
