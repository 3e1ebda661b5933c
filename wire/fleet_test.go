package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func pushOf(version, content string) ConfigPush {
	sum := sha256.Sum256([]byte(content))
	return ConfigPush{
		Version: version, Timestamp: at("2026-01-02T03:04:05Z"),
		ConfigB64: base64.StdEncoding.EncodeToString([]byte(content)), ChecksumSHA256: hex.EncodeToString(sum[:]),
	}
}

func commandOf(name string, change func(*Command)) Command {
	c := Command{
		Command: name, IssuedAt: at("2026-01-02T03:04:05Z"), ExpiresAt: at("2026-01-09T03:04:05Z"),
		Nonce: "0123456789abcdef", Target: Target{All: true},
	}
	change(&c)
	return c
}

// goldenMessages are the lines of testdata/fleet.ndjson: the record of the
// format. A change there is a change of the protocol.
var goldenMessages = []any{
	commandOf(CommandRollback, func(c *Command) { c.TargetVersion = "2.3.0" }),
	commandOf(CommandUpdate, func(c *Command) {
		c.Target = Target{Groups: []string{"north", "south"}}
		c.URL, c.SHA256, c.Version, c.Counter, c.RolloutID = "https://127.0.0.1/b", strings.Repeat("0a", 32), "2.3.1", 231, "r-1"
		c.Component, c.AllowDowngrade = "model", true
	}),
	commandOf(CommandLogLevel, func(c *Command) { c.Target, c.Level = Target{Devices: []string{"FLEET-0123456789ab"}}, "debug" }),
	commandOf(CommandRotateAnchor, func(c *Command) { c.Anchors = []json.RawMessage{json.RawMessage(`{"payloadType":"x"}`)} }),
	pushOf("7", "[sensors]\n"),
	func() ConfigPush {
		p := pushOf("8", "{}")
		p.Format, p.Target = FormatJSON, &Target{Groups: []string{"north"}}
		return p
	}(),
	Presence{Online: true, Epoch: 12, At: at("2026-01-02T03:04:05Z")},
	Report{Seq: 1, Kind: ReportCommand, Nonce: "0123456789abcdef", Outcome: OutcomeRefused, Reason: "expired", At: at("2026-01-02T03:04:05Z")},
	Report{Seq: 2, Kind: ReportConfig, Outcome: OutcomeDone, Detail: map[string]any{"version": "7"}, At: at("2026-01-02T03:04:05Z")},
	ReportAck{Seq: 2},
}

func TestFleetGolden(t *testing.T) {
	const path = "testdata/fleet.ndjson"
	var got []byte
	for _, m := range goldenMessages {
		line, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got = append(append(got, line...), '\n')
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the lines differ from %s (-want +got):\n%s", path, diff)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(want), []byte("\n")) {
		switch m := goldenMessages[i].(type) {
		case Command:
			if c, err := ParseCommand(line); err != nil || !cmp.Equal(c, m) {
				t.Errorf("line %d: %v, %s", i+1, err, cmp.Diff(m, c))
			}
		case ConfigPush:
			if p, _, err := ParseConfigPush(line); err != nil || !cmp.Equal(p, m) {
				t.Errorf("line %d: %v, %s", i+1, err, cmp.Diff(m, p))
			}
		}
	}
}

func TestParseCommandRefuses(t *testing.T) {
	long := strings.Repeat("x", maxTextBytes+1)
	for name, change := range map[string]func(*Command){
		"no name":             func(c *Command) { c.Command = "" },
		"long name":           func(c *Command) { c.Command = strings.Repeat("x", maxNameBytes+1) },
		"no nonce":            func(c *Command) { c.Nonce = "" },
		"short nonce":         func(c *Command) { c.Nonce = "1234567" },
		"long nonce":          func(c *Command) { c.Nonce = strings.Repeat("1", 129) },
		"nonce with a slash":  func(c *Command) { c.Nonce = "config/12345678" },
		"not issued":          func(c *Command) { c.IssuedAt = time.Time{} },
		"no expiry":           func(c *Command) { c.ExpiresAt = time.Time{} },
		"expired when issued": func(c *Command) { c.ExpiresAt = c.IssuedAt },
		"no target":           func(c *Command) { c.Target = Target{} },
		"two targets":         func(c *Command) { c.Target.Groups = []string{"north"} },
		"many targets":        func(c *Command) { c.Target = Target{Devices: make([]string, maxTargets+1)} },
		"long url":            func(c *Command) { c.URL = long },
		"long version":        func(c *Command) { c.Version = long },
		"long level":          func(c *Command) { c.Level = long },
		"many anchors":        func(c *Command) { c.Anchors = make([]json.RawMessage, maxAnchors+1) },
		"too large": func(c *Command) {
			c.Anchors = []json.RawMessage{json.RawMessage(`"` + strings.Repeat("x", MaxCommandBytes) + `"`)}
		},
		"update without bundle": func(c *Command) { c.Command = CommandUpdate },
		"update without url":    func(c *Command) { c.Command, c.SHA256, c.Version = CommandUpdate, strings.Repeat("0a", 32), "1" },
	} {
		payload, err := json.Marshal(commandOf(CommandRollback, change))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := ParseCommand(payload); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if _, err := ParseCommand([]byte("{")); err == nil {
		t.Error("no JSON")
	}
}

func TestParseConfigPush(t *testing.T) {
	for name, change := range map[string]func(*ConfigPush){
		"no version":     func(p *ConfigPush) { p.Version = "" },
		"long version":   func(p *ConfigPush) { p.Version = strings.Repeat("x", maxTextBytes+1) },
		"no time":        func(p *ConfigPush) { p.Timestamp = time.Time{} },
		"no base64":      func(p *ConfigPush) { p.ConfigB64 = "x" },
		"no file":        func(p *ConfigPush) { p.ConfigB64 = "" },
		"other checksum": func(p *ConfigPush) { p.ChecksumSHA256 = strings.Repeat("0", 64) },
		"upper case":     func(p *ConfigPush) { p.ChecksumSHA256 = strings.ToUpper(p.ChecksumSHA256) },
		"other format":   func(p *ConfigPush) { p.Format = "yaml" },
		"empty target":   func(p *ConfigPush) { p.Target = &Target{} },
		"large file":     func(p *ConfigPush) { *p = pushOf("7", strings.Repeat("x", MaxConfigBytes+1)) },
		"larger file":    func(p *ConfigPush) { *p = pushOf("7", strings.Repeat("x", 2*MaxConfigBytes)) },
	} {
		p := pushOf("7", "content")
		change(&p)
		payload, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, file, err := ParseConfigPush(payload); err == nil || file != nil {
			t.Errorf("%s: %q, %v", name, file, err)
		}
	}
	payload, err := json.Marshal(pushOf("7", strings.Repeat("x", MaxConfigBytes)))
	if err != nil {
		t.Fatal(err)
	}
	if p, file, err := ParseConfigPush(payload); err != nil || len(file) != MaxConfigBytes || p.Version != "7" {
		t.Errorf("%d bytes, %v", len(file), err)
	}
	if p, _, err := ParseConfigPush([]byte(`{"version":"7","timestamp":1780315200.5}`)); err == nil || p.Version != "7" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestTopics(t *testing.T) {
	topics := Topics{Prefix: "p"}
	want := []string{
		"p/fleet/config/update", "p/fleet/command/+", "p/device/d/config/update", "p/device/d/command/+", "p/device/d/desired", "p/device/d/report/ack",
	}
	if diff := cmp.Diff(want, topics.Subscriptions("d", "")); diff != "" {
		t.Error(diff)
	}
	want = append(want, "p/group/g/config/update", "p/group/g/command/+")
	if diff := cmp.Diff(want, topics.Subscriptions("d", "g")); diff != "" {
		t.Error(diff)
	}
	for topic, want := range map[string]string{
		topics.Presence("d"): "p/device/d/presence", topics.Health("d"): "p/device/d/health", topics.Report("d"): "p/device/d/report",
		topics.FleetCommand("rollback"): "p/fleet/command/rollback", topics.GroupCommand("g", "x"): "p/group/g/command/x",
	} {
		if topic != want {
			t.Errorf("%s instead of %s", topic, want)
		}
	}
	for s, want := range map[string]bool{
		"FLEET-0123456789ab": true, "north wing": true, "é": true,
		"": false, "a/b": false, "+": false, "a#": false, "$SYS": false, "a\x00": false, strings.Repeat("x", 129): false,
	} {
		if TopicLevel(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		target        Target
		device, group string
		want          bool
	}{
		{Target{All: true}, "d", "", true},
		{Target{Devices: []string{"c", "d"}}, "d", "", true},
		{Target{Devices: []string{"c"}}, "d", "c", false},
		{Target{Groups: []string{"g"}}, "d", "g", true},
		{Target{Groups: []string{"g"}}, "g", "h", false},
		{Target{Groups: []string{""}}, "d", "", false},
		{Target{}, "d", "g", false},
	} {
		if got := tt.target.Includes(tt.device, tt.group); got != tt.want {
			t.Errorf("%+v includes %s of %s: %v", tt.target, tt.device, tt.group, got)
		}
	}
}
