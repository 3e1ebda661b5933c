package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// The commands.
const (
	CommandUpdate       = "update"
	CommandRollback     = "rollback"
	CommandRestart      = "restart"
	CommandReport       = "report" // the /health document, now
	CommandLogLevel     = "log_level"
	CommandDiagnostics  = "diagnostics"
	CommandRotateAnchor = "rotate_anchor"
)

// Bounds of a command.
const (
	MaxCommandBytes = 64 << 10
	maxTargets      = 4096
	maxTextBytes    = 4096
	maxNameBytes    = 64
	maxAnchors      = 64 // as many as trust follows at once
)

// Command is the payload of a command envelope: a signed order. Fields that a
// command does not have are empty. An old device ignores fields that it does not
// know, so what must not be ignored is a new command.
type Command struct {
	Command   string    `json:"command"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Nonce     string    `json:"nonce"` // unique for ever; a device obeys each once
	Target    Target    `json:"target"`

	// Of update: the bundle to run.
	Component string `json:"component,omitempty"` // "" is the agent itself
	URL       string `json:"url,omitempty"`       // of the full bundle; of diagnostics, where to upload to
	SHA256    string `json:"sha256,omitempty"`    // of the full bundle's file, 64 hex digits
	Version   string `json:"version,omitempty"`
	Counter   uint64 `json:"counter,omitempty"`
	RolloutID string `json:"rollout_id,omitempty"`
	// AllowDowngrade lets the release be older than the last committed one. It
	// counts only when a release key signed the command as well.
	AllowDowngrade bool `json:"allow_downgrade,omitempty"`

	// Of rollback: the version to go back to; "" is the one before.
	TargetVersion string `json:"target_version,omitempty"`

	// Of log_level: the level, such as "debug".
	Level string `json:"level,omitempty"`

	// Of rotate_anchor: the envelopes that lead to the newest anchor, the oldest
	// first.
	Anchors []json.RawMessage `json:"anchors,omitempty"`
}

// Target says which devices a command is for. Exactly one field is set.
type Target struct {
	All     bool     `json:"all,omitempty"`
	Groups  []string `json:"groups,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// valid reports whether exactly one kind of target is set.
func (t Target) valid() bool {
	kinds := 0
	for _, set := range []bool{t.All, len(t.Groups) > 0, len(t.Devices) > 0} {
		if set {
			kinds++
		}
	}
	return kinds == 1 && len(t.Groups)+len(t.Devices) <= maxTargets
}

// Includes reports whether the target covers the device.
func (t Target) Includes(deviceID, group string) bool {
	return t.All || slices.Contains(t.Devices, deviceID) || group != "" && slices.Contains(t.Groups, group)
}

var (
	noncePattern  = regexp.MustCompile(`^[A-Za-z0-9._:-]{8,128}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseCommand reads the payload of a command envelope whose signatures were
// verified. It checks what every command must have and the bounds of the
// rest, not whether it has expired or whom it is for.
func ParseCommand(payload []byte) (Command, error) {
	if len(payload) > MaxCommandBytes {
		return Command{}, fmt.Errorf("command has %d bytes, more than %d", len(payload), MaxCommandBytes)
	}
	var c Command
	if err := json.Unmarshal(payload, &c); err != nil {
		return Command{}, fmt.Errorf("command is not valid: %w", err)
	}
	switch {
	case c.Command == "" || len(c.Command) > maxNameBytes:
		return Command{}, fmt.Errorf("command has no name of 1 to %d bytes", maxNameBytes)
	case !noncePattern.MatchString(c.Nonce):
		return Command{}, errors.New("command has no nonce of 8 to 128 letters, digits, dots, dashes, colons or underscores")
	case c.IssuedAt.IsZero() || c.ExpiresAt.IsZero():
		return Command{}, errors.New("command lacks issued_at or expires_at")
	case !c.ExpiresAt.After(c.IssuedAt):
		return Command{}, errors.New("command expires before it was issued")
	case !c.Target.valid():
		return Command{}, fmt.Errorf("command must have one target, which is all, groups or devices, of at most %d names", maxTargets)
	case len(c.Anchors) > maxAnchors:
		return Command{}, fmt.Errorf("command has more than %d anchors", maxAnchors)
	case len(c.Level) > maxTextBytes || len(c.URL) > maxTextBytes || len(c.Version) > maxTextBytes || len(c.TargetVersion) > maxTextBytes || len(c.RolloutID) > maxTextBytes || len(c.Component) > maxTextBytes:
		return Command{}, fmt.Errorf("command has a text of more than %d bytes", maxTextBytes)
	case c.Command == CommandUpdate && !digestPattern.MatchString(c.SHA256):
		return Command{}, errors.New("update command has no sha256 of 64 hex digits")
	case c.Command == CommandUpdate && (c.URL == "" || c.Version == ""):
		return Command{}, errors.New("update command lacks url or version")
	}
	return c, nil
}
