package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSensorsDoc feeds every example of docs/sensors.md to the config check:
// each block of TOML, and each sensor in a row of the table of common devices.
func TestSensorsDoc(t *testing.T) {
	page, err := os.ReadFile("../../docs/sensors.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	check := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name+".toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		supply(t, dir, text)
		if _, err := (&app{baseDir: dir}).checkConfig(path, nil); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}

	blocks := 0
	section := ""
	for part := range strings.SplitSeq(string(page), "```") {
		if text, ok := strings.CutPrefix(part, "toml\n"); ok {
			blocks++
			check(section, text)
		}
		if m := regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(part, -1); m != nil {
			section = strings.ReplaceAll(m[len(m)-1][1], " ", "-")
		}
	}
	_, table, ok := strings.Cut(string(page), "\n## Common devices\n")
	if !ok {
		t.Fatal("docs/sensors.md has no section Common devices")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	rows := regexp.MustCompile("`(\\{ name = .*?\\})`").FindAllStringSubmatch(table, -1)
	var all strings.Builder
	for _, row := range rows {
		check("row", "[sensors]\ndevices = ["+row[1]+"]\n")
		all.WriteString("    " + row[1] + ",\n")
	}
	check("all-rows", "[sensors]\ndevices = [\n"+all.String()+"]\n") // their names differ
	if blocks < 8 || len(rows) < 25 {
		t.Errorf("found %d blocks and %d rows", blocks, len(rows))
	}
}

// supply makes what text refers to: the variables of the environment, and the
// files of certificates.
func supply(t *testing.T, dir, text string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`\$\{(\w+)\}`).FindAllStringSubmatch(text, -1) {
		t.Setenv(m[1], "s3cret")
	}
	for _, m := range regexp.MustCompile(`"([\w-]+\.pem)"`).FindAllStringSubmatch(text, -1) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
		if err != nil {
			t.Fatal(err)
		}
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, m[1]), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
