package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// Offline is not failed, so it is this row that must tell of it.
func TestStatusOfTheCloud(t *testing.T) {
	now := time.Now()
	delivered := now.Add(-3 * time.Minute)
	refused := "dial tcp 127.0.0.1:1: connect: connection refused"
	hostile := "\x1b[2J"
	for _, tt := range []struct {
		name  string
		cloud wire.CloudHealth
		want  string
	}{
		{"disabled", wire.CloudHealth{}, "cloud    disabled\nprivacy"},
		{"fine", wire.CloudHealth{Enabled: true, MessagesSentToday: 7}, "cloud    7 sent today"},
		{"failing", wire.CloudHealth{Enabled: true, LastError: &refused, LastFlushTime: &delivered},
			"cloud    failing: " + refused + "; retried\n         0 sent today, 0 retries, 0 dead letters, last delivery 3 min ago\n"},
		{"paused", wire.CloudHealth{Enabled: true, LastError: &refused, Paused: "the key was refused"}, "cloud    paused: the key was refused\n         0 sent"},
		{"hostile", wire.CloudHealth{Enabled: true, LastError: &hostile}, `failing: \x1b[2J; retried`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if err := printStatus(&out, wire.Health{Status: wire.Healthy, Cloud: tt.cloud}, now); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("%q is missing in\n%s", tt.want, &out)
			}
		})
	}
}

func TestStatusOfUpdates(t *testing.T) {
	last := "rolled back 1.1.0: it \x1b[2Jended"
	for _, tt := range []struct {
		ota  wire.OTAHealth
		want string
	}{
		{wire.OTAHealth{State: "committed", Active: "1.0.0"}, ""},
		{wire.OTAHealth{State: "trial", Active: "1.1.0", LastOutcome: &last}, "trial (see 'pyvorin-edge ota status')"},
		{wire.OTAHealth{State: "rolled_back", Active: "1.0.0", LastOutcome: &last}, `rolled back 1.1.0: it \x1b[2Jended`},
		{wire.OTAHealth{}, ""}, // an agent that does not say
	} {
		if got := updateText(tt.ota); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.ota, got, tt.want)
		}
	}
}

func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	receiver, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	endpoint := receiver.Addr().String()
	for name, content := range map[string]string{
		"device_id": "pi 4\n",
		"key":       "secret",
		"config.toml": `
[cloud]
enabled = true
endpoint = "http://` + endpoint + `"
api_key_file = "` + filepath.Join(dir, "key") + `"
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := runCapture(t, "--base-dir", dir, "doctor")
	if err == nil || err.Error() != "there are problems" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{
		"✗ device id  " + filepath.Join(dir, "device_id") + " holds no device id",
		"‼ config     ", "every user can read",
		"✓ cloud      " + endpoint + " answers\n", // nobody listens in on loopback
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
