package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestShortAnchor(t *testing.T) {
	text := `{"public_key":"` + FormatPublicKey(public("only")) + `"}`
	a, err := ParseAnchor([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for typ, signer := range map[PayloadType]string{ManifestType: "only", CommandType: "only", ConfigType: "only", AnchorType: "only"} {
		if _, err := a.Verify(sign(t, typ, `{}`, signer), typ, now); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
	if a.Version() != 1 || a.Expired(now.AddDate(100, 0, 0)) {
		t.Errorf("version %d, expires at %v", a.Version(), a.ExpiresAt())
	}
	if got, err := json.Marshal(a); err != nil || string(got) != text {
		t.Errorf("%s, %v; want %s", got, err, text)
	}
	same, err := SingleKey(public("only"))
	if err != nil || same.String() != a.String() {
		t.Errorf("%v, %v; want %v", same, err, a)
	}
}

func TestAnchorKeepsItsForm(t *testing.T) {
	a := fleetAnchor(t)
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseAnchor(data)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(b)
	if !bytes.Equal(data, again) {
		t.Errorf("%s\nbecame\n%s", data, again)
	}
	if b.Version() != 2 || !b.ExpiresAt().Equal(now.AddDate(1, 0, 0)) || len(b.Keys()) != 7 {
		t.Errorf("%v, %v", b, b.Keys())
	}
	if !b.Allows(CommandRole, KeyID(public("command"))) || b.Allows(ReleaseRole, KeyID(public("command"))) {
		t.Error("the command key has the wrong roles")
	}
	if rk := b.Role(RootRole); rk.Threshold != 2 || len(rk.KeyIDs) != 3 || !slices.IsSorted(rk.KeyIDs) {
		t.Errorf("root is %v", rk)
	}
	b.Role(RootRole).KeyIDs[0] = "x"
	b.Keys()[KeyID(public("command"))] = nil
	if after, _ := json.Marshal(b); !bytes.Equal(data, after) {
		t.Error("the anchor can be changed from outside")
	}
}

func TestParseAnchorRefuses(t *testing.T) {
	good, err := json.Marshal(fleetAnchor(t))
	if err != nil {
		t.Fatal(err)
	}
	id := func(name string) string { return KeyID(public(name)) }
	change := func(do func(f *anchorFile)) []byte {
		var f anchorFile
		if err := json.Unmarshal(good, &f); err != nil {
			t.Fatal(err)
		}
		do(&f)
		out, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	role := func(f *anchorFile, r Role, do func(rk *RoleKeys)) {
		rk := f.Roles[r]
		do(&rk)
		f.Roles[r] = rk
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "EOF"},
		{"no keys", []byte(`{}`), "version 0"},
		{"null", []byte(`null`), "version 0"},
		{"short key", []byte(`{"public_key":"00"}`), "64 hex"},
		{"weak key", []byte(`{"public_key":"` + smallOrder[1] + `"}`), "anyone can sign"},
		{"zero key", []byte(`{"public_key":"` + strings.Repeat("0", 64) + `"}`), "anyone can sign"},
		{"both forms", change(func(f *anchorFile) { f.PublicKey = FormatPublicKey(public("a")) }), "stands alone"},
		{"short form with a version", []byte(`{"version":2,"public_key":"` + FormatPublicKey(public("a")) + `"}`), "stands alone"},
		{"version 1", change(func(f *anchorFile) { f.Version = 1 }), "version 1"},
		{"version below 0", change(func(f *anchorFile) { f.Version = -2 }), "version -2"},
		{"unknown key in JSON", bytes.Replace(good, []byte(`{"version"`), []byte(`{"versoin":3,"version"`), 1), "versoin"},
		{"key in JSON twice", bytes.Replace(good, []byte(`{"version"`), []byte(`{"version":3,"version"`), 1), "given twice"},
		{"upper case in JSON", bytes.Replace(good, []byte(`"version"`), []byte(`"Version"`), 1), "Version"},
		{"something behind", append(bytes.Clone(good), 'x'), "follows"},
		{"too large", append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxAnchorBytes)...), "larger"},
		{"unknown role", change(func(f *anchorFile) { f.Roles["admin"] = f.Roles[RootRole] }), "role admin"},
		{"missing role", change(func(f *anchorFile) { delete(f.Roles, CommandRole) }), "role command is missing"},
		{"no roles", change(func(f *anchorFile) { f.Roles, f.Keys = nil, nil }), "is missing"},
		{"role without keys", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.KeyIDs = nil }) }), "no keys"},
		{"threshold 0", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.Threshold = 0 }) }), "threshold of 0"},
		{"threshold below 0", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.Threshold = -1 }) }), "threshold of -1"},
		{"threshold above", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.Threshold = 4 }) }), "threshold of 4"},
		{"one key twice in a role", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.KeyIDs[1] = rk.KeyIDs[0] }) }), "listed twice"},
		{"role of an unknown key", change(func(f *anchorFile) { role(f, RootRole, func(rk *RoleKeys) { rk.KeyIDs[0] = "0011223344556677" }) }), "not among"},
		{"key without a role", change(func(f *anchorFile) { f.Keys[id("stranger")] = FormatPublicKey(public("stranger")) }), "has no role"},
		{"key under another's id", change(func(f *anchorFile) { f.Keys[id("command")] = FormatPublicKey(public("stranger")) }), "has the id"},
		{"key that is not hex", change(func(f *anchorFile) { f.Keys[id("command")] = strings.Repeat("x", 64) }), "other characters"},
		{"too many keys", change(func(f *anchorFile) {
			for i := range MaxAnchorKeys {
				k := public(string(rune('a' + i)))
				f.Keys[KeyID(k)] = FormatPublicKey(k)
			}
		}), "more than"},
		{"expiry that is no time", bytes.Replace(good, []byte(`"expires_at":"2027`), []byte(`"expires_at":"then`), 1), "cannot parse"},
	} {
		if _, err := ParseAnchor(tt.data); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestInstallAnchor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trust_anchor.json")
	if _, err := LoadAnchor(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	short, err := SingleKey(public("only"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Anchor{short, fleetAnchor(t)} {
		if err := InstallAnchor(path, a); err != nil {
			t.Fatal(err)
		}
		got, err := LoadAnchor(path)
		if err != nil || got.String() != a.String() {
			t.Errorf("%v, %v; want %v", got, err, a)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte(`{"public_key":"x"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAnchor(path); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), path) {
		t.Errorf("a bad file: %v", err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte(" "), 2*MaxAnchorBytes), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAnchor(path); !errors.Is(err, ErrMalformed) {
		t.Errorf("a large file: %v", err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAnchor(fifo); !errors.Is(err, ErrMalformed) {
		t.Errorf("a FIFO: %v", err)
	}
}

// chain is the history of a fleet: version 1 has one key, and each later one
// replaces a root key. Envelope i leads to version i+2.
type chain struct {
	anchors   []*Anchor
	envelopes [][]byte
}

func newAnchorVersion(t testing.TB, version int, expires time.Time, roots ...string) *Anchor {
	t.Helper()
	a, err := NewAnchor(AnchorSpec{
		Version: version,
		Keys: map[Role][]ed25519.PublicKey{
			RootRole: publics(roots...), ReleaseRole: publics("release-1"), CommandRole: publics("command"),
		},
		Threshold: map[Role]int{RootRole: len(roots)},
		ExpiresAt: expires,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func signAnchor(t testing.TB, a *Anchor, names ...string) []byte {
	t.Helper()
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, AnchorType, string(data), names...)
}

func newChain(t testing.TB) chain {
	t.Helper()
	first, err := SingleKey(public("only"))
	if err != nil {
		t.Fatal(err)
	}
	c := chain{anchors: []*Anchor{first}}
	add := func(expires time.Time, roots []string, alsoSignedBy ...string) {
		a := newAnchorVersion(t, len(c.anchors)+1, expires, roots...)
		c.anchors = append(c.anchors, a)
		c.envelopes = append(c.envelopes, signAnchor(t, a, append(slices.Clone(roots), alsoSignedBy...)...))
	}
	add(now.AddDate(-2, 0, 0), []string{"root-1", "root-2"}, "only") // long expired
	add(now.AddDate(-1, 0, 0), []string{"root-2", "root-3"}, "root-1")
	add(now.AddDate(1, 0, 0), []string{"root-3", "root-4"}, "root-2")
	add(now.AddDate(2, 0, 0), []string{"root-3", "root-2"}, "root-4") // root-2 is back
	return c
}

func TestRotate(t *testing.T) {
	c := newChain(t)
	last := len(c.anchors) - 1
	for i, a := range c.anchors {
		// The whole chain serves every device; so does what it has not seen yet,
		// and the last step again.
		for from := range len(c.envelopes) {
			if from > i && from < len(c.envelopes) {
				continue
			}
			got, err := a.Rotate(now, c.envelopes[from:]...)
			if err != nil || got.Version() != c.anchors[last].Version() {
				t.Errorf("from version %d with %d envelopes: %v, %v", a.Version(), len(c.envelopes)-from, got, err)
			}
		}
	}
	got, err := c.anchors[0].Rotate(now, c.envelopes...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Verify(sign(t, CommandType, `{}`, "only"), CommandType, now); !errors.Is(err, ErrNotSigned) {
		t.Errorf("the first key is still trusted: %v", err)
	}
	if _, err := got.Verify(sign(t, CommandType, `{}`, "command"), CommandType, now); err != nil {
		t.Errorf("the new key is not trusted: %v", err)
	}
	// What leads to a or before it changes nothing.
	for i, a := range c.anchors[1:] {
		got, err := a.Rotate(now.AddDate(-3, 0, 0), c.envelopes[:i+1]...)
		if err != nil || got != a {
			t.Errorf("version %d with its own past: %v, %v", a.Version(), got, err)
		}
	}
}

func TestRotateRefuses(t *testing.T) {
	c := newChain(t)
	v2, v3 := c.anchors[1], c.anchors[2]
	forever := now.AddDate(9, 0, 0)
	fork := newAnchorVersion(t, 2, forever, "root-1", "root-2")
	thief := newAnchorVersion(t, 3, forever, "thief")
	step := newAnchorVersion(t, 3, forever, "root-2", "root-3")
	for _, tt := range []struct {
		name  string
		chain [][]byte
		want  error
		text  string
	}{
		{"nothing", nil, nil, "0 envelopes"},
		{"too long", slices.Repeat([][]byte{c.envelopes[0]}, MaxChain+1), nil, "65 envelopes"},
		{"a gap", [][]byte{signAnchor(t, c.anchors[3], "root-1", "root-2", "root-3", "root-4")}, nil, "does not follow"},
		{"signed by the new keys only", [][]byte{signAnchor(t, thief, "thief")}, ErrNotSigned, "role root"},
		{"signed by the old keys only", [][]byte{signAnchor(t, step, "root-1", "root-2")}, ErrThreshold, "its own root keys"},
		{"below the old threshold", [][]byte{signAnchor(t, step, "root-2", "root-3")}, ErrThreshold, "1 of the 2"},
		{"signed by the command key", [][]byte{signAnchor(t, step, "command")}, ErrNotSigned, ""},
		{"another of this version", [][]byte{signAnchor(t, fork, "root-1", "root-2")}, nil, "another anchor of version 2"},
		{"of another type", [][]byte{sign(t, CommandType, `{}`, "root-1", "root-2")}, ErrWrongType, ""},
		{"not an anchor", [][]byte{sign(t, AnchorType, `{"a":1}`, "root-1", "root-2")}, ErrMalformed, ""},
		{"not an envelope", [][]byte{[]byte("{}")}, ErrMalformed, ""},
		{"expired at its end", c.envelopes[:2], ErrExpired, "version 3"},
		{"a stranger in the middle", [][]byte{c.envelopes[1], signAnchor(t, thief, "thief"), c.envelopes[2]}, ErrNotSigned, "envelope 2"},
	} {
		got, err := v2.Rotate(now, tt.chain...)
		if err == nil || got != nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, %v; want %v with %q", tt.name, got, err, tt.want, tt.text)
		}
	}
	// A root key that was rotated out signs nothing any more.
	if _, err := v3.Rotate(now, signAnchor(t, newAnchorVersion(t, 4, forever, "root-1"), "root-1", "only")); !errors.Is(err, ErrNotSigned) {
		t.Errorf("a removed root key rotates: %v", err)
	}
}

func TestNewAnchorRefuses(t *testing.T) {
	keys := map[Role][]ed25519.PublicKey{RootRole: publics("a"), ReleaseRole: publics("b"), CommandRole: publics("c")}
	for _, tt := range []struct {
		name   string
		change func(s *AnchorSpec)
	}{
		{"no root", func(s *AnchorSpec) { delete(s.Keys, RootRole) }},
		{"version", func(s *AnchorSpec) { s.Version = 1 }},
		{"threshold", func(s *AnchorSpec) { s.Threshold = map[Role]int{ReleaseRole: 2} }},
		{"one key twice", func(s *AnchorSpec) { s.Keys[RootRole] = publics("a", "a") }},
		{"weak", func(s *AnchorSpec) { s.Keys[RootRole] = []ed25519.PublicKey{make([]byte, 32)} }},
	} {
		spec := AnchorSpec{Version: 2, Keys: maps.Clone(keys)}
		if _, err := NewAnchor(spec); err != nil {
			t.Fatal(err)
		}
		tt.change(&spec)
		if a, err := NewAnchor(spec); err == nil {
			t.Errorf("%s: %v", tt.name, a)
		}
	}
}
