package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func TestParsePublicKey(t *testing.T) {
	good := FormatPublicKey(public("a"))
	if key, err := ParsePublicKey(" " + strings.ToUpper(good) + "\n"); err != nil || !key.Equal(public("a")) {
		t.Errorf("%x, %v", key, err)
	}
	for _, text := range []string{"", good[:62], good + "00", strings.Replace(good, good[:1], "g", 1), strings.Repeat("0", 64)} {
		if _, err := ParsePublicKey(text); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
}

// With each key that is refused as weak, a signature that crypto/ed25519 accepts
// is made here without any private key. This is what the list is for.
func TestWeakKeysCanBeForged(t *testing.T) {
	var encodings [][]byte
	for _, text := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			b[31] |= sign
			encodings = append(encodings, b)
		}
	}
	for _, key := range encodings {
		if _, err := ParsePublicKey(hex.EncodeToString(key)); err == nil {
			t.Errorf("%x is accepted", key)
		}
		if !forge(key, encodings) {
			t.Errorf("%x cannot be forged: is the list right?", key)
		}
	}
}

// forge looks for a message that R and S = 0 sign, where both R and the key are
// among the few points of small order.
func forge(key ed25519.PublicKey, points [][]byte) bool {
	for i := range 64 {
		for _, r := range points {
			sig := append(append([]byte{}, r...), make([]byte, 32)...)
			if ed25519.Verify(key, fmt.Append(nil, "install this, no. ", i), sig) {
				return true
			}
		}
	}
	return false
}
