package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/strictjson"
)

// Bounds of an envelope.
const (
	MaxEnvelopeBytes = 1 << 20
	MaxSignatures    = 32
)

type envelope struct {
	PayloadType PayloadType `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// Unverified is what an envelope says of itself. Nothing of it is to be
// obeyed: it is for showing, for adding signatures, and for reading what root
// has installed after verifying it.
type Unverified struct {
	Type    PayloadType
	Payload []byte
	KeyIDs  []string // that the signatures claim to be of
}

// pae is what is signed: DSSE's pre-authentication encoding. The library for it
// is used in a test only, because it brings an SSH implementation along.
func pae(t PayloadType, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(t), t, len(payload), payload)
}

// Inspect reads an envelope without verifying it.
func Inspect(data []byte) (Unverified, error) {
	e, payload, err := parse(data)
	if err != nil {
		return Unverified{}, err
	}
	u := Unverified{Type: e.PayloadType, Payload: payload}
	for _, s := range e.Signatures {
		u.KeyIDs = append(u.KeyIDs, s.KeyID)
	}
	return u, nil
}

func parse(data []byte) (e envelope, payload []byte, err error) {
	fail := func(err error) (envelope, []byte, error) {
		return envelope{}, nil, fmt.Errorf("%w envelope: %w", ErrMalformed, err)
	}
	if err := strictjson.Unmarshal(data, MaxEnvelopeBytes, &e); err != nil {
		return fail(err)
	}
	if len(e.Signatures) == 0 || len(e.Signatures) > MaxSignatures {
		return fail(fmt.Errorf("%d signatures, not 1 to %d", len(e.Signatures), MaxSignatures))
	}
	for i, s := range e.Signatures {
		if !isKeyID(s.KeyID) {
			return fail(errors.New("a keyid is not 16 lower case hex digits"))
		}
		if slices.ContainsFunc(e.Signatures[:i], func(other signature) bool { return other.KeyID == s.KeyID }) {
			return fail(fmt.Errorf("two signatures of key %s", s.KeyID))
		}
	}
	if payload, err = decode64(e.Payload); err != nil {
		return fail(errors.New("the payload is not base64"))
	}
	return e, payload, nil
}

// decode64 is strict, so that there is one spelling of everything. The decoder
// itself skips line ends.
func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line end in base64")
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// Verify returns the payload of an envelope of type t when enough keys of the
// role that t needs have signed it. An anchor that has expired at now trusts
// nothing but its successor.
func (a *Anchor) Verify(data []byte, t PayloadType, now time.Time) (Verified, error) {
	if t != AnchorType && a.Expired(now) {
		return Verified{}, fmt.Errorf("trust anchor version %d: %w on %s; rotate it", a.Version(), ErrExpired, a.expiresAt.Format(time.RFC3339))
	}
	return a.verify(data, t)
}

func (a *Anchor) verify(data []byte, t PayloadType) (Verified, error) {
	role := t.Role()
	if role == "" {
		return Verified{}, fmt.Errorf("%w: nothing can sign %q", ErrWrongType, t)
	}
	e, payload, err := parse(data)
	if err != nil {
		return Verified{}, err
	}
	if e.PayloadType != t {
		return Verified{}, fmt.Errorf("%w: %q instead of %q", ErrWrongType, e.PayloadType, t)
	}
	v := Verified{t: t, payload: payload}
	signed := pae(t, payload)
	for _, s := range e.Signatures {
		key, known := a.keys[s.KeyID]
		sig, err := decode64(s.Sig)
		if known && err == nil && ed25519.Verify(key, signed, sig) {
			v.signers = append(v.signers, s.KeyID)
		}
	}
	slices.Sort(v.signers)
	for _, r := range Roles {
		if need := a.roles[r].Threshold; need > 0 && a.count(r, v.signers) >= need {
			v.roles = append(v.roles, r)
		}
	}
	if v.SignedFor(role) {
		return v, nil
	}
	if n := a.count(role, v.signers); n > 0 {
		return Verified{}, fmt.Errorf("%w: %d of the %d that role %s needs", ErrThreshold, n, a.roles[role].Threshold, role)
	}
	var ids []string
	for _, s := range e.Signatures {
		if a.Allows(role, s.KeyID) {
			return Verified{}, fmt.Errorf("%w: what stands for the signature of key %s does not fit; something was changed", ErrNotSigned, s.KeyID)
		}
		ids = append(ids, s.KeyID)
	}
	return Verified{}, fmt.Errorf("%w: role %s needs %d of %s, and the signatures are of %s",
		ErrNotSigned, role, a.roles[role].Threshold, strings.Join(a.roles[role].KeyIDs, ", "), strings.Join(ids, ", "))
}

// count returns how many of the signers have role.
func (a *Anchor) count(role Role, signers []string) int {
	n := 0
	for _, id := range signers {
		if a.Allows(role, id) {
			n++
		}
	}
	return n
}

// Sign returns an envelope with the signatures of keys.
func Sign(t PayloadType, payload []byte, keys ...ed25519.PrivateKey) ([]byte, error) {
	if t.Role() == "" {
		return nil, fmt.Errorf("%w: nothing can sign %q", ErrWrongType, t)
	}
	return envelope{PayloadType: t, Payload: base64.StdEncoding.EncodeToString(payload)}.sign(payload, keys)
}

// AddSignatures returns the envelope with the signatures of keys added, where
// the keys' holders do not meet. A signature that a key made before is
// replaced.
func AddSignatures(data []byte, keys ...ed25519.PrivateKey) ([]byte, error) {
	e, payload, err := parse(data)
	if err != nil {
		return nil, err
	}
	return e.sign(payload, keys)
}

// sign is deterministic: Ed25519 is, and signatures are sorted by their keys.
func (e envelope) sign(payload []byte, keys []ed25519.PrivateKey) ([]byte, error) {
	signed := pae(e.PayloadType, payload)
	byID := map[string]string{}
	for _, s := range e.Signatures {
		byID[s.KeyID] = s.Sig
	}
	for _, k := range keys {
		public, _ := k.Public().(ed25519.PublicKey)
		byID[KeyID(public)] = base64.StdEncoding.EncodeToString(ed25519.Sign(k, signed))
	}
	e.Signatures = nil
	for id, sig := range byID {
		e.Signatures = append(e.Signatures, signature{id, sig})
	}
	slices.SortFunc(e.Signatures, func(x, y signature) int { return strings.Compare(x.KeyID, y.KeyID) })
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	_, _, err = parse(data) // what we refuse to read we do not write
	return data, err
}
