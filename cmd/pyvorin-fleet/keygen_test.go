package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPassphraseGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "phrase")
	t.Setenv(passphraseEnv, "from the environment")
	for _, tt := range []struct{ content, want string }{
		{"from the file\n", "from the file"},
		{"from the file\r\nsecond line\n", "from the file"},
		{" spaces count ", " spaces count "},
		{"\n", ""},
		{"", ""},
	} {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := (&passphrase{file: path}).given()
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: %q, %v", tt.content, got, err)
		}
	}
	if got, err := (&passphrase{}).given(); err != nil || string(got) != "from the environment" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := (&passphrase{file: path + "absent"}).given(); err == nil {
		t.Error("a file that is not there says something")
	}
}

func TestParseWhen(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"24h": from.AddDate(0, 0, 1), "2027-01-31": time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), "2027-01-31T10:00:00+02:00": time.Date(2027, 1, 31, 8, 0, 0, 0, time.UTC),
	} {
		if got, err := parseWhen(text, from); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-24h", "0s", "2027", "soon"} {
		if got, err := parseWhen(text, from); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
