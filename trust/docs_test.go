package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// exampleKey is one of the keys in docs/formats.md: its seed counts up from
// first.
func exampleKey(first byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = first + byte(i)
	}
	return ed25519.NewKeyFromSeed(seed)
}

func examplePublic(first byte) ed25519.PublicKey {
	return exampleKey(first).Public().(ed25519.PublicKey)
}

// documented fails the test unless docs/formats.md has each of the texts.
func documented(t *testing.T, texts ...string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if !strings.Contains(string(doc), text) {
			t.Errorf("docs/formats.md does not have this part of an example, which is what the code makes:\n%s", text)
		}
	}
}

func TestDocumentedEnvelope(t *testing.T) {
	payload := `{"command":"restart"}`
	key := exampleKey(0)
	data, err := Sign(CommandType, []byte(payload), key)
	if err != nil {
		t.Fatal(err)
	}
	documented(t, payload, hex.EncodeToString(key.Seed()), FormatPublicKey(examplePublic(0)), KeyID(examplePublic(0)),
		string(pae(CommandType, []byte(payload))), string(data))
}

func TestDocumentedAnchors(t *testing.T) {
	short, err := SingleKey(examplePublic(0))
	if err != nil {
		t.Fatal(err)
	}
	long, err := NewAnchor(AnchorSpec{
		Version: 2,
		Keys: map[Role][]ed25519.PublicKey{
			RootRole: {examplePublic(0x20), examplePublic(0x40)}, ReleaseRole: {examplePublic(0x60)}, CommandRole: {examplePublic(0x80)},
		},
		Threshold: map[Role]int{RootRole: 2},
		ExpiresAt: time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Anchor{short, long} {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, text, "", "  "); err != nil {
			t.Fatal(err)
		}
		if len(text) < 100 {
			indented = *bytes.NewBuffer(text)
		}
		documented(t, indented.String())
	}
	// The step from the one to the other, as the text tells it.
	payload, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := Sign(AnchorType, payload, exampleKey(0), exampleKey(0x20), exampleKey(0x40))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := short.Rotate(now, envelope); err != nil || got.Version() != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// Each test that docs/security.md names is there: a threat without a test that
// can fail is only an opinion.
func TestSecurityNamesTests(t *testing.T) {
	doc, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/-]+) ((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(doc), -1)
	if len(named) < 30 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, n := range named {
		files, err := filepath.Glob(filepath.Join("..", n[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(path string) bool {
			source, err := os.ReadFile(path)
			return err == nil && strings.Contains(string(source), "func "+n[2]+"(")
		}) {
			t.Errorf("docs/security.md names %s in %s, which is not there", n[2], n[1])
		}
	}
}
