package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair writes a self-signed certificate and its key into dir.
func writePair(t *testing.T, dir, certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "a.crt", "a.key")
	writePair(t, dir, "b.crt", "b.key")
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no PEM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxPEMBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "c.toml")
	for _, test := range []struct{ text, want string }{
		{"ca_file = 'a.crt'\ncert_file = 'a.crt'\nkey_file = '" + filepath.Join(dir, "a.key") + "'", ""},
		{"ca_file = ''\ncert_file = ''", ""},
		{"ca_file = 'none'", "2:1: cloud.ca_file: stat DIR/none: no such file or directory"},
		{"ca_file = '.'", "2:1: cloud.ca_file: DIR is not a regular file"},
		{"ca_file = 'a.key'", "2:1: cloud.ca_file: DIR/a.key holds no certificate in PEM"},
		{"ca_file = 'big'", "2:1: cloud.ca_file: DIR/big is too large for certificates"},
		{"cert_file = 'text'\nkey_file = 'a.key'", "2:1: cloud.cert_file: DIR/text holds no certificate in PEM"},
		{"cert_file = 'a.crt'\nkey_file = 'none'", "3:1: cloud.key_file: stat DIR/none: no such file or directory"},
		{"cert_file = 'a.crt'\nkey_file = 'b.key'", "3:1: cloud.key_file: DIR/b.key is not the key of cert_file: private key does not match public key"},
		{"cert_file = 'a.crt'\nkey_file = 'text'", "3:1: cloud.key_file: DIR/text is not the key of cert_file: failed to find any PEM data in key input"},
		{"ca_file = 5", "2:1: cloud.ca_file: expected a string, found a number"},
	} {
		c, err := Parse(path, []byte("[cloud]\n"+test.text), testOptions())
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.text, err)
		case test.want != "" && (err == nil || err.Error() != path+":"+strings.ReplaceAll(test.want, "DIR", dir)):
			t.Errorf("%s: got %v, want %s", test.text, err, test.want)
		}
		if c != nil && c.Cloud.CertFile != "" && c.Cloud.CertFile != filepath.Join(dir, "a.crt") {
			t.Errorf("the file is not meant from the folder of the config: %s", c.Cloud.CertFile)
		}
	}
	_, err := Parse(path, []byte(sensor+"ca_file = 'none'"), testOptions())
	if err == nil || !strings.Contains(err.Error(), ":4:1: sensors.devices[0].ca_file: ") {
		t.Errorf("the file of a sensor: %v", err)
	}
}
