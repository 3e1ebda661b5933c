package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// testKey returns the same key for the same name, always.
func testKey(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func public(name string) ed25519.PublicKey { return testKey(name).Public().(ed25519.PublicKey) }

func privates(names ...string) (keys []ed25519.PrivateKey) {
	for _, n := range names {
		keys = append(keys, testKey(n))
	}
	return keys
}

func publics(names ...string) (keys []ed25519.PublicKey) {
	for _, n := range names {
		keys = append(keys, public(n))
	}
	return keys
}

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// fleetAnchor trusts two of root-1..3, two of release-1..3, and command.
func fleetAnchor(t testing.TB) *Anchor {
	t.Helper()
	a, err := NewAnchor(AnchorSpec{
		Version: 2,
		Keys: map[Role][]ed25519.PublicKey{
			RootRole:    publics("root-1", "root-2", "root-3"),
			ReleaseRole: publics("release-1", "release-2", "release-3"),
			CommandRole: publics("command"),
		},
		Threshold: map[Role]int{RootRole: 2, ReleaseRole: 2},
		ExpiresAt: now.AddDate(1, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sign(t testing.TB, typ PayloadType, payload string, names ...string) []byte {
	t.Helper()
	data, err := Sign(typ, []byte(payload), privates(names...)...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// edit changes the envelope's JSON as a tree.
func edit(t testing.TB, data []byte, change func(e *envelope)) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	change(&e)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestVerify(t *testing.T) {
	a := fleetAnchor(t)
	for _, tt := range []struct {
		t       PayloadType
		signers []string
		for_    []Role
	}{
		{ManifestType, []string{"release-1", "release-3"}, []Role{ReleaseRole}},
		{ManifestType, []string{"release-1", "release-2", "stranger", "command"}, []Role{ReleaseRole, CommandRole}},
		{CommandType, []string{"command"}, []Role{CommandRole}},
		{ConfigType, []string{"command"}, []Role{CommandRole}},
		{CommandType, []string{"command", "release-2", "release-1"}, []Role{ReleaseRole, CommandRole}},
		{CommandType, []string{"command", "release-1"}, []Role{CommandRole}}, // one of two release keys
		{AnchorType, []string{"root-2", "root-3"}, []Role{RootRole}},
	} {
		v, err := a.Verify(sign(t, tt.t, `{"hello":1}`, tt.signers...), tt.t, now)
		if err != nil {
			t.Errorf("%s by %v: %v", tt.t, tt.signers, err)
			continue
		}
		var want []string
		for _, name := range tt.signers {
			if name != "stranger" {
				want = append(want, KeyID(public(name)))
			}
		}
		slices.Sort(want)
		if v.Type() != tt.t || string(v.Payload()) != `{"hello":1}` || !slices.Equal(v.Signers(), want) {
			t.Errorf("%s by %v: %s, %q, signed by %v", tt.t, tt.signers, v.Type(), v.Payload(), v.Signers())
		}
		for _, r := range Roles {
			if v.SignedFor(r) != slices.Contains(tt.for_, r) {
				t.Errorf("%s by %v: SignedFor(%s) is %v", tt.t, tt.signers, r, v.SignedFor(r))
			}
		}
		v.Payload()[0] = 'x'
		if string(v.Payload()) != `{"hello":1}` {
			t.Error("the payload can be changed from outside")
		}
	}
}

// One row for each way to get something obeyed that should not be.
func TestVerifyRefuses(t *testing.T) {
	a := fleetAnchor(t)
	good := sign(t, ManifestType, `{"hello":1}`, "release-1", "release-2")
	forged := base64.StdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"not signed at all", edit(t, good, func(e *envelope) { e.Signatures = nil }), ErrMalformed},
		{"signed by a stranger", sign(t, ManifestType, `{}`, "stranger"), ErrNotSigned},
		{"signed by the command key", sign(t, ManifestType, `{}`, "command"), ErrNotSigned},
		{"signed by root keys", sign(t, ManifestType, `{}`, "root-1", "root-2"), ErrNotSigned},
		{"below the threshold", sign(t, ManifestType, `{}`, "release-1"), ErrThreshold},
		{"below the threshold, and others", sign(t, ManifestType, `{}`, "release-1", "command", "root-1", "stranger"), ErrThreshold},
		{"one key's signature twice", edit(t, good, func(e *envelope) { e.Signatures[1] = e.Signatures[0] }), ErrMalformed},
		{"one key's signature under another's id", edit(t, good, func(e *envelope) { e.Signatures[1].Sig = e.Signatures[0].Sig }), ErrThreshold},
		{"a stranger's signature under a trusted id", edit(t, sign(t, ManifestType, `{}`, "stranger"), func(e *envelope) {
			e.Signatures[0].KeyID = KeyID(public("release-1"))
		}), ErrNotSigned},
		{"zero signatures", edit(t, good, func(e *envelope) { e.Signatures[0].Sig, e.Signatures[1].Sig = forged, forged }), ErrNotSigned},
		{"empty signatures", edit(t, good, func(e *envelope) { e.Signatures[0].Sig, e.Signatures[1].Sig = "", "" }), ErrNotSigned},
		{"another payload", edit(t, good, func(e *envelope) { e.Payload = b64(`{"hello":2}`) }), ErrNotSigned},
		{"no payload", edit(t, good, func(e *envelope) { e.Payload = "" }), ErrNotSigned},
		{"a command in a manifest's place", sign(t, CommandType, `{}`, "release-1", "release-2", "command"), ErrWrongType},
		{"a command that calls itself a manifest", edit(t, sign(t, CommandType, `{}`, "release-1", "release-2"), func(e *envelope) {
			e.PayloadType = ManifestType
		}), ErrNotSigned},
		{"an unknown type", edit(t, good, func(e *envelope) { e.PayloadType = "text/plain" }), ErrWrongType},
		{"no type", edit(t, good, func(e *envelope) { e.PayloadType = "" }), ErrWrongType},
		{"the other base64", edit(t, sign(t, ManifestType, "\xff\xff\xff", "release-1", "release-2"), func(e *envelope) {
			e.Payload = strings.ReplaceAll(e.Payload, "/", "_")
		}), ErrMalformed},
		{"line ends in base64", edit(t, good, func(e *envelope) { e.Payload = "\n" + e.Payload }), ErrMalformed},
		{"trailing bits in base64", edit(t, good, func(e *envelope) { e.Payload = "e31=" }), ErrMalformed},
		{"too many signatures", edit(t, good, func(e *envelope) {
			for i := range MaxSignatures {
				e.Signatures = append(e.Signatures, signature{fmt.Sprintf("%016x", i), forged})
			}
		}), ErrMalformed},
		{"upper case keyid", edit(t, good, func(e *envelope) { e.Signatures[0].KeyID = strings.ToUpper(e.Signatures[0].KeyID) }), ErrMalformed},
		{"a key twice", bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"payload":"e30=","payloadType"`), 1), ErrMalformed},
		{"an unknown key", bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"x":1,"payloadType"`), 1), ErrMalformed},
		{"something behind", append(bytes.Clone(good), good...), ErrMalformed},
		{"truncated", good[:len(good)-20], ErrMalformed},
		{"too large", append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxEnvelopeBytes)...), ErrMalformed},
		{"empty", nil, ErrMalformed},
		{"null", []byte("null"), ErrMalformed},
	} {
		v, err := a.Verify(tt.data, ManifestType, now)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", tt.name, err, tt.want)
		}
		if v.Type() != "" || v.Payload() != nil || v.Signers() != nil || v.SignedFor(ReleaseRole) {
			t.Errorf("%s: an error comes with a payload", tt.name)
		}
	}
	// Wherever a bit flips, it is refused, or says the same as before.
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		if v, err := a.Verify(flipped, ManifestType, now); err == nil && string(v.Payload()) != `{"hello":1}` {
			t.Fatalf("a flipped bit in byte %d makes it %q", i, v.Payload())
		}
	}
}

func TestAnchorExpires(t *testing.T) {
	a := fleetAnchor(t)
	end := a.ExpiresAt()
	for _, tt := range []struct {
		at   time.Time
		want error
	}{{time.Unix(0, 0), nil}, {end.Add(-time.Second), nil}, {end, ErrExpired}, {end.AddDate(10, 0, 0), ErrExpired}} {
		if _, err := a.Verify(sign(t, CommandType, `{}`, "command"), CommandType, tt.at); !errors.Is(err, tt.want) {
			t.Errorf("at %v: %v; want %v", tt.at, err, tt.want)
		}
	}
	if _, err := a.Verify(sign(t, AnchorType, `{}`, "root-1", "root-2"), AnchorType, end); err != nil {
		t.Errorf("an expired anchor refuses its successor: %v", err)
	}
}

func TestNothingTrustsNothing(t *testing.T) {
	var a Anchor
	for _, typ := range []PayloadType{ManifestType, CommandType, ConfigType, AnchorType, ""} {
		if _, err := a.Verify(sign(t, ManifestType, `{}`, "release-1"), typ, now); err == nil {
			t.Errorf("the zero anchor trusts a %q", typ)
		}
	}
	var v Verified
	for _, r := range append(slices.Clone(Roles), "") {
		if v.SignedFor(r) {
			t.Errorf("the zero Verified is signed for %q", r)
		}
	}
	if _, err := Sign("text/plain", nil, testKey("command")); !errors.Is(err, ErrWrongType) {
		t.Errorf("an unknown type was signed: %v", err)
	}
	if _, err := Sign(CommandType, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("no key signed: %v", err)
	}
}

// What is signed is DSSE, so that any implementation can sign and verify.
func TestEnvelopesAreDSSE(t *testing.T) {
	for _, tt := range []struct{ typ, payload string }{
		{"", ""}, {"http://example.com/HelloWorld", "hello world"}, {"http://example.com/HelloWorld", "ಠ"},
		{string(ManifestType), "\x00\xff 5 "}, {string(CommandType), strings.Repeat("x", 100_000)},
	} {
		if got, want := pae(PayloadType(tt.typ), []byte(tt.payload)), dsse.PAE(tt.typ, []byte(tt.payload)); !bytes.Equal(got, want) {
			t.Errorf("%q: %.100q, want %.100q", tt.typ, got, want)
		}
	}
	var e dsse.Envelope
	if err := json.Unmarshal(sign(t, CommandType, `{"a":1}`, "command"), &e); err != nil {
		t.Fatal(err)
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil || !ed25519.Verify(public("command"), dsse.PAE(e.PayloadType, payload), sig) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestSigningInTurns(t *testing.T) {
	a := fleetAnchor(t)
	once := sign(t, ManifestType, `{"a":1}`, "release-2")
	both, err := AddSignatures(once, privates("release-1", "release-2")...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(both, ManifestType, now); err != nil {
		t.Error(err)
	}
	if together := sign(t, ManifestType, `{"a":1}`, "release-1", "release-2"); !bytes.Equal(both, together) {
		t.Errorf("signed in turns:\n%s\nsigned together:\n%s", both, together)
	}
	if _, err := AddSignatures([]byte("{}"), testKey("release-1")); !errors.Is(err, ErrMalformed) {
		t.Errorf("what is no envelope was signed: %v", err)
	}
	u, err := Inspect(once)
	if err != nil || u.Type != ManifestType || string(u.Payload) != `{"a":1}` || !slices.Equal(u.KeyIDs, []string{KeyID(public("release-2"))}) {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestNow(t *testing.T) {
	build, last := now.AddDate(0, -6, 0), now.AddDate(0, -1, 0)
	for _, tt := range []struct{ wall, want time.Time }{
		{now, now}, {time.Unix(0, 0), last}, {build, last},
	} {
		if got := Now(tt.wall, build, last, time.Time{}); !got.Equal(tt.want) {
			t.Errorf("Now(%v) is %v, want %v", tt.wall, got, tt.want)
		}
	}
}
