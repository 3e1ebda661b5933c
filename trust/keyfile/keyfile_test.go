package keyfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestMain(m *testing.M) {
	logN = minLogN
	os.Exit(m.Run())
}

func secret(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func TestCreateAndLoad(t *testing.T) {
	for _, passphrase := range []string{"", "correct horse"} {
		dir := t.TempDir()
		public, err := Create(dir, "release", []byte(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		keyPath, pubPath := Paths(dir, "release")
		key, err := Load(keyPath, secret(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		if !public.Equal(key.Public()) {
			t.Error("the loaded key has another public key")
		}
		text, err := os.ReadFile(pubPath)
		if err != nil || string(text) != trust.FormatPublicKey(public)+"\n" {
			t.Errorf("%s holds %q, %v", pubPath, text, err)
		}
		if info, _ := os.Stat(keyPath); info.Mode() != 0o600 {
			t.Errorf("%s has the mode %v", keyPath, info.Mode())
		}
		if data, _ := os.ReadFile(keyPath); passphrase != "" && bytes.Contains(data, []byte("BEGIN PRIVATE KEY")) {
			t.Error("the key with a passphrase is not encrypted")
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 2 {
			t.Errorf("%v were written", entries)
		}
	}
}

func TestKeysAreNeverOverwritten(t *testing.T) {
	for _, there := range []string{"a.key", "a.pub"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, there), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(dir, "a", nil); err == nil || !strings.Contains(err.Error(), there) {
			t.Errorf("with %s there: %v", there, err)
		}
		entries, _ := os.ReadDir(dir)
		data, _ := os.ReadFile(filepath.Join(dir, there))
		if len(entries) != 1 || string(data) != "precious" {
			t.Errorf("with %s there: the folder now holds %v, the file %q", there, entries, data)
		}
	}
}

func TestNamesStayInTheFolder(t *testing.T) {
	for _, name := range []string{"", "../a", "a/b", ".a", "-a", strings.Repeat("a", 65)} {
		if _, err := Create(t.TempDir(), name, nil); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	_, key, _ := ed25519.GenerateKey(nil)
	plain, err := Marshal(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Marshal(key, []byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, _ := x509.MarshalPKCS8PrivateKey(curve)
	for _, tt := range []struct {
		name       string
		data       []byte
		mode       os.FileMode
		passphrase func() ([]byte, error)
		want       string
	}{
		{"others can read it", plain, 0o644, nil, "chmod 600"},
		{"its group can read it", plain, 0o640, nil, "chmod 600"},
		{"wrong passphrase", sealed, 0o600, secret("wrong"), ErrPassphrase.Error()},
		{"no passphrase", sealed, 0o600, nil, "no passphrase"},
		{"no passphrase given", sealed, 0o600, func() ([]byte, error) { return nil, errors.New("no terminal") }, "no terminal"},
		{"costly", bytes.Replace(sealed, []byte("LogN: 10"), []byte("LogN: 40"), 1), 0o600, secret("right"), "does not know"},
		{"another salt", bytes.Replace(sealed, []byte("Salt: "), []byte("Salt: 00"), 1), 0o600, secret("right"), "does not know"},
		{"not PEM", []byte("hello"), 0o600, nil, "PEM"},
		{"two keys", append(bytes.Clone(plain), plain...), 0o600, nil, "PEM"},
		{"public key", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key[32:]}), 0o600, nil, "PUBLIC KEY"},
		{"not a key", pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: []byte("hello")}), 0o600, nil, "not a private key"},
		{"other algorithm", pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: der}), 0o600, nil, "Ed25519"},
		{"huge", make([]byte, maxFileBytes+1), 0o600, nil, "too large"},
	} {
		path := filepath.Join(dir, "a.key")
		if err := os.WriteFile(path, tt.data, tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, tt.passphrase)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	if _, err := Load(filepath.Join(dir, "absent"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := Load(dir, nil); err == nil {
		t.Error("a folder was loaded")
	}
}

// The plain form is nobody's invention.
func TestOpensslReadsIt(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	dir := t.TempDir()
	public, err := Create(dir, "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := exec.Command(openssl, "pkey", "-in", filepath.Join(dir, "a.key"), "-pubout", "-outform", "DER").Output()
	if err != nil || !bytes.HasSuffix(der, public) {
		t.Errorf("openssl says %x, %v", der, err)
	}
}
