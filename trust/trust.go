// Package trust decides what a device obeys.
//
// The parties are the operator, who holds private keys (trust/keyfile); the
// device, which has the public ones in its trust anchor; and everything in
// between (controller, broker, web server, USB stick), which is believed in
// nothing. What they pass on is an envelope: a payload, its type, and
// signatures over both (DSSE with Ed25519). Verify looks at nothing inside the
// payload before enough keys of the right role have signed it.
//
// # Roles
//
// An anchor gives each role keys and a threshold, the number of them that must
// sign. Release keys sign manifests and stay offline. The command key signs
// commands and configs and lies on the controller. Root keys sign the next
// anchor. So who takes over a controller can annoy its fleet, and cannot ship
// code to it. In the short form of the anchor, one key has every role.
//
// # Rotation
//
// Anchors are numbered. The next one is signed by enough root keys of the one
// before and by enough of its own, so a device that missed several walks
// through all of them. InstallAnchor replaces the file whole: after a power cut
// there is the old anchor or the new.
//
// # Time
//
// A device may boot in 1970. Whoever checks an expiry passes the time, fixed
// once for an attempt and never before what is known to have passed already
// (Now): a clock that was set back cannot revive what has expired.
package trust

import (
	"errors"
	"slices"
	"time"
)

// PayloadType says what a payload is. It is signed too, so that a document of
// one kind never passes as another.
type PayloadType string

// What can be signed.
const (
	ManifestType PayloadType = "application/vnd.pyvorin.manifest+json"
	CommandType  PayloadType = "application/vnd.pyvorin.command+json"
	ConfigType   PayloadType = "application/vnd.pyvorin.config+json"
	AnchorType   PayloadType = "application/vnd.pyvorin.anchor+json"
)

// Role is what keys are there for.
type Role string

// The roles.
const (
	RootRole    Role = "root"    // the next anchor
	ReleaseRole Role = "release" // manifests; an update command that allows a downgrade
	CommandRole Role = "command" // commands and configs
)

// Roles are all of them.
var Roles = []Role{RootRole, ReleaseRole, CommandRole}

// Role returns whose signatures a payload of type t needs, or "" for an unknown
// type.
func (t PayloadType) Role() Role {
	switch t {
	case ManifestType:
		return ReleaseRole
	case CommandType, ConfigType:
		return CommandRole
	case AnchorType:
		return RootRole
	}
	return ""
}

// Why something is not trusted. Errors wrap one of these where a caller may
// want to know.
var (
	ErrMalformed = errors.New("malformed")                   // not an envelope or anchor at all
	ErrWrongType = errors.New("wrong type of document")      // signed or not, it is not what is expected here
	ErrNotSigned = errors.New("not signed by a trusted key") // no signature of the role's keys holds
	ErrThreshold = errors.New("too few signatures")          // some hold, but fewer than the threshold
	ErrExpired   = errors.New("expired")
)

// Verified is a payload that enough keys signed. Only Anchor.Verify makes one;
// the zero value has no type, no payload and no signers.
type Verified struct {
	t       PayloadType
	payload []byte
	signers []string
	roles   []Role
}

// Type returns what the payload is, "" of the zero value.
func (v Verified) Type() PayloadType { return v.t }

// Payload returns a copy of what was signed.
func (v Verified) Payload() []byte { return slices.Clone(v.payload) }

// Signers returns the ids of the anchor's keys that signed, sorted, whatever
// their roles.
func (v Verified) Signers() []string { return slices.Clone(v.signers) }

// SignedFor reports whether the signatures are enough for role as well: an
// update command that allows a downgrade must be signed for ReleaseRole too.
func (v Verified) SignedFor(role Role) bool { return slices.Contains(v.roles, role) }

// Now returns the time to check an expiry with: the wall clock, but never
// before any of the floors, such as the time of the build and the last trusted
// time. Take a floor only from a clock that was synchronized or from something
// signed: one that is too late lets everything expire.
func Now(wall time.Time, floors ...time.Time) time.Time {
	for _, f := range floors {
		if f.After(wall) {
			wall = f
		}
	}
	return wall
}
