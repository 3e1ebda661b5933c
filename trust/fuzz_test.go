package trust

import (
	"bytes"
	"encoding/json"
	"testing"
)

// What comes out of Verify was signed, whatever went in.
func FuzzEnvelope(f *testing.F) {
	a := fleetAnchor(f)
	good := sign(f, ManifestType, `{"hello":1}`, "release-1", "release-2")
	f.Add(good)
	f.Add(sign(f, ManifestType, `{"hello":1}`, "release-1"))
	f.Add(sign(f, CommandType, `{"hello":1}`, "command", "stranger"))
	f.Add([]byte(`{"payloadType":"","payload":"","signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, err := Inspect(data); err == nil && len(u.KeyIDs) == 0 {
			t.Error("an envelope without signatures was read")
		}
		v, err := a.Verify(data, ManifestType, now)
		if err != nil {
			return
		}
		if string(v.Payload()) != `{"hello":1}` || !v.SignedFor(ReleaseRole) {
			t.Errorf("%q is verified, signed by %v", v.Payload(), v.Signers())
		}
		again, err := AddSignatures(data, testKey("release-1"), testKey("release-2"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Verify(again, ManifestType, now); err != nil {
			t.Errorf("signed once more, it fails: %v", err)
		}
	})
}

// What ParseAnchor accepts has its promises, and keeps them when it is written
// and read again.
func FuzzAnchor(f *testing.F) {
	long, err := json.Marshal(fleetAnchor(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(long)
	f.Add([]byte(`{"public_key":"` + FormatPublicKey(public("only")) + `"}`))
	f.Add([]byte(`{"version":2,"keys":{},"roles":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseAnchor(data)
		if err != nil {
			return
		}
		for _, r := range Roles {
			rk := a.Role(r)
			if rk.Threshold < 1 || rk.Threshold > len(rk.KeyIDs) {
				t.Errorf("role %s needs %d of %d", r, rk.Threshold, len(rk.KeyIDs))
			}
			for _, id := range rk.KeyIDs {
				if key := a.Keys()[id]; KeyID(key) != id || isWeak(key) {
					t.Errorf("key %s is %x", id, key)
				}
			}
		}
		if a.Version() < 1 {
			t.Errorf("version %d", a.Version())
		}
		written, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseAnchor(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if again, _ := json.Marshal(b); !bytes.Equal(written, again) {
			t.Errorf("%s\nbecame\n%s", written, again)
		}
	})
}
