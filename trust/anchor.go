package trust

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/strictjson"
)

// Bounds of an anchor.
const (
	MaxAnchorBytes = 64 << 10
	MaxAnchorKeys  = MaxSignatures
)

// Anchor is the keys that a device trusts, and for what. It does not change.
type Anchor struct {
	version   int
	keys      map[string]ed25519.PublicKey
	roles     map[Role]RoleKeys
	expiresAt time.Time // zero: never
	short     bool      // {"public_key": …}
}

// RoleKeys are the keys of a role, and how many of them must sign.
type RoleKeys struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

// AnchorSpec is what NewAnchor makes an anchor of.
type AnchorSpec struct {
	Version   int
	Keys      map[Role][]ed25519.PublicKey
	Threshold map[Role]int // 0 or absent means 1
	ExpiresAt time.Time    // zero: never
}

// anchorFile is both forms of the file.
type anchorFile struct {
	PublicKey string            `json:"public_key,omitempty"`
	Version   int               `json:"version,omitempty"`
	Keys      map[string]string `json:"keys,omitempty"`
	Roles     map[Role]RoleKeys `json:"roles,omitempty"`
	ExpiresAt *time.Time        `json:"expires_at,omitempty"`
}

// NewAnchor returns the anchor that spec describes.
func NewAnchor(spec AnchorSpec) (*Anchor, error) {
	f := anchorFile{Version: spec.Version, Keys: map[string]string{}, Roles: map[Role]RoleKeys{}}
	for role, keys := range spec.Keys {
		rk := RoleKeys{Threshold: max(1, spec.Threshold[role])}
		for _, k := range keys {
			id := KeyID(k)
			f.Keys[id] = FormatPublicKey(k)
			rk.KeyIDs = append(rk.KeyIDs, id)
		}
		f.Roles[role] = rk
	}
	if !spec.ExpiresAt.IsZero() {
		f.ExpiresAt = &spec.ExpiresAt
	}
	return newAnchor(f)
}

// SingleKey returns the anchor in which key has every role.
func SingleKey(key ed25519.PublicKey) (*Anchor, error) {
	return newAnchor(anchorFile{PublicKey: FormatPublicKey(key)})
}

// ParseAnchor reads an anchor in either form.
func ParseAnchor(data []byte) (*Anchor, error) {
	var f anchorFile
	if err := strictjson.Unmarshal(data, MaxAnchorBytes, &f); err != nil {
		return nil, fmt.Errorf("%w trust anchor: %w", ErrMalformed, err)
	}
	a, err := newAnchor(f)
	if err != nil {
		return nil, fmt.Errorf("%w trust anchor: %w", ErrMalformed, err)
	}
	return a, nil
}

func newAnchor(f anchorFile) (*Anchor, error) {
	if f.PublicKey != "" {
		return newShortAnchor(f)
	}
	a := &Anchor{version: f.Version, keys: map[string]ed25519.PublicKey{}, roles: map[Role]RoleKeys{}}
	if f.Version < 2 {
		return nil, fmt.Errorf("version %d: an anchor with roles has version 2 or higher; 1 is the form with public_key alone", f.Version)
	}
	if f.ExpiresAt != nil {
		a.expiresAt = f.ExpiresAt.UTC().Truncate(time.Second)
	}
	if len(f.Keys) > MaxAnchorKeys {
		return nil, fmt.Errorf("%d keys, more than %d", len(f.Keys), MaxAnchorKeys)
	}
	for id, text := range f.Keys {
		key, err := ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", id, err)
		}
		if KeyID(key) != id {
			return nil, fmt.Errorf("key %s has the id %s", id, KeyID(key))
		}
		a.keys[id] = key
	}
	used := map[string]bool{}
	for role, rk := range f.Roles {
		if err := a.checkRole(role, rk); err != nil {
			return nil, fmt.Errorf("role %s: %w", role, err)
		}
		rk.KeyIDs = slices.Sorted(slices.Values(rk.KeyIDs))
		a.roles[role] = rk
		for _, id := range rk.KeyIDs {
			used[id] = true
		}
	}
	for _, role := range Roles {
		if _, ok := a.roles[role]; !ok {
			return nil, fmt.Errorf("role %s is missing", role)
		}
	}
	if len(used) < len(a.keys) {
		return nil, errors.New("a key has no role")
	}
	return a, nil
}

func newShortAnchor(f anchorFile) (*Anchor, error) {
	if f.Version != 0 || f.Keys != nil || f.Roles != nil || f.ExpiresAt != nil {
		return nil, errors.New("public_key stands alone; an anchor with roles lists keys instead")
	}
	key, err := ParsePublicKey(f.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public_key: %w", err)
	}
	id := KeyID(key)
	a := &Anchor{version: 1, keys: map[string]ed25519.PublicKey{id: key}, roles: map[Role]RoleKeys{}, short: true}
	for _, role := range Roles {
		a.roles[role] = RoleKeys{KeyIDs: []string{id}, Threshold: 1}
	}
	return a, nil
}

func (a *Anchor) checkRole(role Role, rk RoleKeys) error {
	if !slices.Contains(Roles, role) {
		return errors.New("there is no such role; there are root, release and command")
	}
	if len(rk.KeyIDs) == 0 {
		return errors.New("it has no keys")
	}
	for i, id := range rk.KeyIDs {
		if _, ok := a.keys[id]; !ok {
			return fmt.Errorf("key %s is not among the keys", id)
		}
		if slices.Contains(rk.KeyIDs[:i], id) {
			return fmt.Errorf("key %s is listed twice", id)
		}
	}
	if rk.Threshold < 1 || rk.Threshold > len(rk.KeyIDs) {
		return fmt.Errorf("a threshold of %d with %d keys", rk.Threshold, len(rk.KeyIDs))
	}
	return nil
}

// MarshalJSON writes the anchor in its own form, always the same way.
func (a *Anchor) MarshalJSON() ([]byte, error) {
	if a.short {
		for _, key := range a.keys {
			return json.Marshal(anchorFile{PublicKey: FormatPublicKey(key)})
		}
	}
	f := anchorFile{Version: a.version, Keys: map[string]string{}, Roles: a.roles}
	for id, key := range a.keys {
		f.Keys[id] = FormatPublicKey(key)
	}
	if !a.expiresAt.IsZero() {
		f.ExpiresAt = &a.expiresAt
	}
	return json.Marshal(f)
}

// Version counts rotations. The short form is version 1.
func (a *Anchor) Version() int { return a.version }

// ExpiresAt returns when the anchor stops being trusted; zero is never.
func (a *Anchor) ExpiresAt() time.Time { return a.expiresAt }

// Expired reports whether the anchor has expired at now.
func (a *Anchor) Expired(now time.Time) bool {
	return !a.expiresAt.IsZero() && !now.Before(a.expiresAt)
}

// Allows reports whether the key has the role.
func (a *Anchor) Allows(role Role, keyID string) bool {
	return slices.Contains(a.roles[role].KeyIDs, keyID)
}

// Role returns the keys of a role.
func (a *Anchor) Role(role Role) RoleKeys {
	rk := a.roles[role]
	rk.KeyIDs = slices.Clone(rk.KeyIDs)
	return rk
}

// Keys returns the public keys by their ids.
func (a *Anchor) Keys() map[string]ed25519.PublicKey { return maps.Clone(a.keys) }

// LoadAnchor reads an anchor from a file. Who may write that file decides whom
// this device obeys, so its owner has to be checked by who knows it.
func LoadAnchor(path string) (*Anchor, error) {
	// A FIFO in its place would otherwise be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("load trust anchor: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxAnchorBytes+1))
	if err != nil {
		return nil, fmt.Errorf("load trust anchor: %w", err)
	}
	a, err := ParseAnchor(data)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return a, nil
}

// InstallAnchor replaces the anchor file at path by a. A power cut leaves the
// old one or the new.
func InstallAnchor(path string, a *Anchor) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o644)
}

// String is the anchor in a line, for people.
func (a *Anchor) String() string {
	var roles []string
	for _, r := range Roles {
		roles = append(roles, fmt.Sprintf("%s %d of %d", r, a.roles[r].Threshold, len(a.roles[r].KeyIDs)))
	}
	return fmt.Sprintf("version %d: %s", a.version, strings.Join(roles, ", "))
}
