package command

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// seedRollback and seedConfig are what the seed's Python publishers send.
func seedRollback(nonce string, at float64) []byte {
	return fmt.Appendf(nil, `{"command": "rollback", "target_version": "2.3.0", "issued_at": %f, "nonce": "%s"}`, at, nonce)
}

func seedConfig(t testing.TB, version, content string, at float64) []byte {
	t.Helper()
	p := configPush(version, content, today)
	return fmt.Appendf(nil, `{"version": "%s", "timestamp": %f, "config_b64": "%s", "checksum_sha256": "%s"}`, version, at, p.ConfigB64, p.ChecksumSHA256)
}

func change(c wire.Command, do func(*wire.Command)) wire.Command {
	do(&c)
	return c
}

// A row for each reason, and for each way to it. told is whether the controller
// hears of it; where it does not, nothing may be written.
func TestRefusals(t *testing.T) {
	own, fleet := topics.DeviceCommand(device, "rollback"), topics.FleetCommand("rollback")
	fleetConfig := topics.FleetConfig()
	good := signed(t, rollback("nonce-good"))
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(good, &parts); err != nil {
		t.Fatal(err)
	}
	with := func(key, value string) []byte {
		m := map[string]json.RawMessage{}
		for k, v := range parts {
			m[k] = v
		}
		m[key] = json.RawMessage(value)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	payload := func(c wire.Command) []byte {
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	quoted := func(data []byte) string { return `"` + base64.StdEncoding.EncodeToString(data) + `"` }
	badSum := configPush("7", "content", today)
	badSum.ChecksumSHA256 = strings.Repeat("0", 64)
	otherTarget := configPush("7", "content", today)
	otherTarget.Target = &wire.Target{Groups: []string{"south"}}
	twoTargets := configPush("7", "content", today)
	twoTargets.Target = &wire.Target{All: true, Groups: []string{"south"}}

	for _, tt := range []struct {
		name    string
		topic   string
		payload []byte
		want    Reason
		told    bool
	}{
		{"nonsense", own, []byte("\x00\xff"), ReasonMalformed, false},
		{"another topic", "pyvorin/device/other/command/rollback", good, ReasonWrongTopic, false},
		{"a level too many", own + "/x", good, ReasonWrongTopic, false},
		{"unsigned", fleet, seedRollback("0123456789abcdef", 1780315200.5), ReasonUnsigned, false},
		{"unsigned config", fleetConfig, seedConfig(t, "7", "content", 1780315200.5), ReasonUnsigned, false},
		{"no signatures", own, with("signatures", `[]`), ReasonMalformed, false},
		{"two signatures of a key", own, with("signatures", `[{"keyid":"0011223344556677","sig":""},{"keyid":"0011223344556677","sig":""}]`), ReasonMalformed, false},
		{"key given twice", own, bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"payload":"","payloadType"`), 1), ReasonMalformed, false},
		{"payload changed", own, with("payload", quoted(payload(rollback("nonce-evil")))), ReasonNotSigned, false},
		{"payload encoded anew", own, with("payload", quoted(append(payload(rollback("nonce-good")), ' '))), ReasonNotSigned, false},
		{"signature without its padding", own, bytes.Replace(good, []byte(`=="}]`), []byte(`"}]`), 1), ReasonNotSigned, false},
		{"signed by a stranger", own, sign(t, trust.CommandType, rollback("nonce-good"), "stranger"), ReasonNotSigned, false},
		{"signed by the release key", own, sign(t, trust.CommandType, rollback("nonce-good"), "release"), ReasonWrongRole, false},
		{"signed by the root key", own, sign(t, trust.CommandType, rollback("nonce-good"), "root"), ReasonWrongRole, false},
		{"a config as a command", own, signedConfig(t, configPush("7", "content", today)), ReasonWrongType, false},
		{"a command as a config", fleetConfig, good, ReasonWrongType, false},
		{"type changed", fleetConfig, with("payloadType", `"`+string(trust.ConfigType)+`"`), ReasonNotSigned, false},
		{"large", own, append(bytes.Clone(good), bytes.Repeat([]byte(" "), maxCommandEnvelope)...), ReasonTooLarge, false},
		{"large config", fleetConfig, bytes.Repeat([]byte(" "), trust.MaxEnvelopeBytes+1), ReasonTooLarge, false},
		{"no command", own, sign(t, trust.CommandType, map[string]int{"a": 1}, "command"), ReasonInvalid, false},
		{"no nonce", own, signed(t, rollback("")), ReasonInvalid, false},
		{"no expiry", own, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.ExpiresAt = time.Time{} })), ReasonInvalid, false},
		{"no target", own, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.Target = wire.Target{} })), ReasonInvalid, false},
		{"config with another checksum", fleetConfig, signedConfig(t, badSum), ReasonInvalid, false},
		{"config with two targets", fleetConfig, signedConfig(t, twoTargets), ReasonInvalid, false},
		{"config without content", fleetConfig, signedConfig(t, configPush("7", "", today)), ReasonInvalid, false},
		{"config that is too large", fleetConfig, signedConfig(t, configPush("7", strings.Repeat("x", wire.MaxConfigBytes+1), today)), ReasonInvalid, false},
		{"config without version", fleetConfig, signedConfig(t, configPush("", "content", today)), ReasonInvalid, false},
		{"config without time", fleetConfig, signedConfig(t, configPush("7", "content", time.Time{})), ReasonInvalid, false},

		{"other device", fleet, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.Target = wire.Target{Devices: []string{"other"}} })), ReasonOtherTarget, false},
		{"other group", fleet, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.Target = wire.Target{Groups: []string{"south"}} })), ReasonOtherTarget, false},
		{"other group's config", fleetConfig, signedConfig(t, otherTarget), ReasonOtherTarget, false},
		{"other device on our topic", own, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.Target = wire.Target{Devices: []string{"other"}} })), ReasonOtherTarget, true},
		{"other command", topics.DeviceCommand(device, "restart"), good, ReasonWrongTopic, true},
		{"desired rollback", topics.Desired(device), good, ReasonWrongTopic, true},
		{"expired", own, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.IssuedAt, c.ExpiresAt = today.AddDate(0, 0, -2), today })), ReasonExpired, true},
		{"future", own, signed(t, change(rollback("nonce-1234"), func(c *wire.Command) { c.IssuedAt = today.Add(futureSkew + time.Second) })), ReasonFuture, true},
		{"config of the future", fleetConfig, signedConfig(t, configPush("7", "content", today.Add(futureSkew+time.Second))), ReasonFuture, true},
		{"unknown", topics.DeviceCommand(device, "dance"), signed(t, command("dance", "nonce-1234")), ReasonUnknown, true},
		{"the config handler as a command", topics.DeviceCommand(device, ConfigName), signed(t, command(ConfigName, "nonce-1234")), ReasonUnknown, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, nil)
			for range 3 { // told once, counted each time
				r.hear(t, tt.topic, tt.payload)
			}
			if diff := cmp.Diff(map[Reason]uint64{tt.want: 3}, r.Stats().Refused); diff != "" {
				t.Error(diff)
			}
			if n := r.actions.count(); n != 0 {
				t.Errorf("obeyed %d times", n)
			}
			reports := r.reports(t)
			if told := len(reports) > 0; told != tt.told {
				t.Fatalf("reports %+v, want some: %v", reports, tt.told)
			}
			if !tt.told {
				if n := rowsOf(t, r.ledger); n != 0 {
					t.Errorf("%d rows were written for it", n)
				}
				return
			}
			if len(reports) != 1 || reports[0].Outcome != wire.OutcomeRefused || !strings.HasPrefix(reports[0].Reason, string(tt.want)+": ") {
				t.Errorf("%+v", reports)
			}
		})
	}
}

func rowsOf(t testing.TB, l *Ledger) (n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.db == nil {
		return 0
	}
	if err := l.db.QueryRow("SELECT (SELECT count(*) FROM commands) + (SELECT count(*) FROM reports)").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAnchors(t *testing.T) {
	own := topics.DeviceCommand(device, "rollback")
	two := newAnchor(t, 2)
	for _, tt := range []struct {
		name    string
		anchor  *trust.Anchor
		now     time.Time
		signers []string
		want    Reason // "": obeyed
	}{
		{"none", nil, today, []string{"command"}, ReasonNoAnchor},
		{"one of two", two, today, []string{"command"}, ReasonTooFewSigned},
		{"both", two, today, []string{"command", "command-2"}, ""},
		{"one of them twice", two, today, []string{"command", "command"}, ReasonTooFewSigned},
		{"and a stranger", two, today, []string{"command", "stranger"}, ReasonTooFewSigned},
		{"expired", two, today.AddDate(6, 0, 0), []string{"command", "command-2"}, ReasonAnchorExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.Anchor = func() *trust.Anchor { return tt.anchor } })
			r.clock.set(tt.now, true)
			c := rollback("nonce-1234")
			c.ExpiresAt = tt.now.AddDate(0, 0, 1)
			r.hear(t, own, sign(t, trust.CommandType, c, tt.signers...))
			if obeyed := r.actions.count() == 1; obeyed != (tt.want == "") || tt.want != "" && r.Stats().Refused[tt.want] != 1 {
				t.Errorf("obeyed %v, refused %v", obeyed, r.Stats().Refused)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	for _, target := range []wire.Target{{All: true}, {Groups: []string{"south", group}}, {Devices: []string{"other", device}}} {
		for _, topic := range []string{topics.FleetCommand("rollback"), topics.GroupCommand(group, "rollback"), topics.DeviceCommand(device, "rollback")} {
			r := newRig(t, nil)
			c := rollback("nonce-1234")
			c.Target = target
			r.hear(t, topic, signed(t, c))
			if r.actions.count() != 1 {
				t.Errorf("%+v by %s: %v", target, topic, r.Stats().Refused)
			}
		}
	}
	// A device without a group is in none.
	r := newRig(t, func(o *Options) { o.Group = "" })
	c := rollback("nonce-1234")
	c.Target = wire.Target{Groups: []string{"", group}}
	r.hear(t, topics.FleetCommand("rollback"), signed(t, c))
	r.hear(t, topics.GroupCommand("", "rollback"), signed(t, rollback("nonce-1234")))
	if r.actions.count() != 0 {
		t.Errorf("obeyed: %v", r.Stats().Refused)
	}
}

// The same order in another envelope is the same order.
func TestEncodedAnewIsADuplicate(t *testing.T) {
	r := newRig(t, nil)
	own := topics.DeviceCommand(device, "rollback")
	good := signed(t, rollback("nonce-1234"))
	more, err := trust.AddSignatures(good, key("stranger"))
	if err != nil {
		t.Fatal(err)
	}
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, good, "", "  "); err != nil {
		t.Fatal(err)
	}
	again := rollback("nonce-1234") // and another with its nonce
	again.TargetVersion = "1.0.0"
	for _, payload := range [][]byte{good, more, spaced.Bytes(), signed(t, again), good} {
		r.hear(t, own, payload)
	}
	r.hear(t, topics.FleetCommand("rollback"), good)
	if n := r.actions.count(); n != 1 {
		t.Errorf("obeyed %d times", n)
	}
	if diff := cmp.Diff(map[Reason]uint64{ReasonDuplicate: 5}, r.Stats().Refused); diff != "" {
		t.Error(diff)
	}
	if got := outcomes(r.reports(t)); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestUnsigned(t *testing.T) {
	at := float64(today.UnixMicro()) / 1e6
	fleet, fleetConfig := topics.FleetCommand("rollback"), topics.FleetConfig()
	obeyed := func(t *testing.T, topic string, payload []byte) (*rig, bool) {
		t.Helper()
		r := newRig(t, func(o *Options) { o.AllowUnsigned = true })
		r.hear(t, topic, payload)
		return r, r.actions.count() == 1
	}
	r, ok := obeyed(t, fleet, seedRollback("0123456789abcdef", at+0.25))
	if !ok {
		t.Fatalf("%v", r.Stats().Refused)
	}
	o := r.actions.last(t)
	if o.Signed || o.TargetVersion != "2.3.0" || !o.IssuedAt.Equal(today.Add(250*time.Millisecond)) || o.Nonce != "0123456789abcdef" {
		t.Errorf("%+v", o)
	}
	r.hear(t, fleet, seedRollback("0123456789abcdef", at+0.25))
	if r.actions.count() != 1 {
		t.Error("obeyed twice")
	}
	// Signed ones are still obeyed, and those that are signed badly are not.
	r.hear(t, fleet, signed(t, rollback("nonce-signed")))
	if r.actions.count() != 2 || !r.actions.last(t).Signed {
		t.Errorf("%v", r.Stats().Refused)
	}
	r.hear(t, fleet, sign(t, trust.CommandType, rollback("nonce-strange"), "stranger"))
	if r.actions.count() != 2 {
		t.Error("a bad signature counts as none")
	}

	r, ok = obeyed(t, fleetConfig, seedConfig(t, "7", "content", at))
	if !ok {
		t.Fatalf("%v", r.Stats().Refused)
	}
	if o := r.actions.last(t); o.Signed || o.Config == nil || string(o.Config.File) != "content" || o.Config.Version != "7" || !o.Config.Timestamp.Equal(today) {
		t.Errorf("%+v", o)
	}

	for _, tt := range []struct {
		name, topic, payload string
		want                 Reason
	}{
		{"restart", topics.FleetCommand("restart"), `{"command":"restart","issued_at":1780315200,"nonce":"0123456789abcdef"}`, ReasonUnsigned},
		{"update by the topic of rollback", fleet, `{"command":"update","issued_at":1780315200,"nonce":"0123456789abcdef"}`, ReasonUnsigned},
		{"desired", topics.Desired(device), `{"command":"rollback","issued_at":1780315200,"nonce":"0123456789abcdef"}`, ReasonUnsigned},
		{"no nonce", fleet, `{"command":"rollback","issued_at":1780315200}`, ReasonInvalid},
		{"short nonce", fleet, `{"command":"rollback","issued_at":1780315200,"nonce":"x"}`, ReasonInvalid},
		{"no time", fleet, `{"command":"rollback","nonce":"0123456789abcdef"}`, ReasonInvalid},
		{"a time that is none", fleet, `{"command":"rollback","issued_at":"now","nonce":"0123456789abcdef"}`, ReasonInvalid},
		{"a time out of range", fleet, `{"command":"rollback","issued_at":1e300,"nonce":"0123456789abcdef"}`, ReasonInvalid},
		{"expired", fleet, string(seedRollback("0123456789abcdef", at-unsignedValidity.Seconds())), ReasonExpired},
		{"future", fleet, string(seedRollback("0123456789abcdef", at+3600)), ReasonFuture},
		{"checksum", fleetConfig, strings.Replace(string(seedConfig(t, "7", "content", at)), `sha256": "`, `sha256": "0`, 1), ReasonInvalid},
		{"config without time", fleetConfig, strings.Replace(string(seedConfig(t, "7", "content", at)), `"timestamp"`, `"time"`, 1), ReasonInvalid},
	} {
		r, ok := obeyed(t, tt.topic, []byte(tt.payload))
		if ok || r.Stats().Refused[tt.want] != 1 {
			t.Errorf("%s: obeyed %v, refused %v", tt.name, ok, r.Stats().Refused)
		}
	}
}

// What was refused because the clock was wrong is obeyed when it is right.
func TestARefusalDoesNotUseUpTheNonce(t *testing.T) {
	r := newRig(t, nil)
	own := topics.DeviceCommand(device, "rollback")
	c := rollback("nonce-1234")
	r.clock.set(today.Add(-time.Hour), true)
	r.hear(t, own, signed(t, c))
	r.hear(t, topics.DeviceCommand(device, "restart"), signed(t, c))
	r.clock.set(today, true)
	r.hear(t, own, signed(t, c))
	r.hear(t, own, signed(t, c))
	if r.actions.count() != 1 {
		t.Errorf("obeyed %d times: %v", r.actions.count(), r.Stats().Refused)
	}
	if diff := cmp.Diff([]string{"command nonce-1234 refused", "command nonce-1234 done"}, outcomes(r.reports(t))); diff != "" {
		t.Error(diff)
	}
}

// A device whose clock starts in 1970 obeys, because it cannot say that anything
// is of the future; it refuses what expired before its build, or before what it
// knew when it was last on.
func TestClockIn1970(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	own := topics.DeviceCommand(device, "rollback")
	r := newRigIn(t, dir, c, nil)
	c.set(time.Unix(12, 0), false)
	valid := func(nonce string, from, to time.Time) []byte {
		return signed(t, change(rollback(nonce), func(c *wire.Command) { c.IssuedAt, c.ExpiresAt = from, to }))
	}
	r.hear(t, own, valid("nonce-now", today, today.AddDate(0, 0, 1)))
	r.hear(t, own, valid("nonce-before-build", built.AddDate(-1, 0, 0), built.AddDate(0, 0, -1)))
	r.hear(t, own, valid("nonce-after-build", built, built.AddDate(0, 1, 0)))
	if got := r.actions.count(); got != 2 || r.Stats().Refused[ReasonExpired] != 1 {
		t.Errorf("obeyed %d, refused %v", got, r.Stats().Refused)
	}
	// The time is learned, and kept with what is written then.
	c.set(today, true)
	r.hear(t, own, valid("nonce-learned", today, today.AddDate(0, 0, 1)))
	r.ledger.Close()

	c.set(time.Unix(12, 0), false)
	r = newRigIn(t, dir, c, nil)
	r.hear(t, own, valid("nonce-of-yesterday", built, today.AddDate(0, 0, -1)))
	if r.Stats().Refused[ReasonExpired] != 1 || r.actions.count() != 0 {
		t.Errorf("obeyed %d, refused %v: the last trusted time was forgotten", r.actions.count(), r.Stats().Refused)
	}
	for _, nonce := range []string{"nonce-now", "nonce-learned"} {
		r.hear(t, own, valid(nonce, today, today.AddDate(0, 0, 1)))
	}
	r.hear(t, own, valid("nonce-later", today.AddDate(1, 0, 0), today.AddDate(1, 0, 1)))
	if r.actions.count() != 1 || r.Stats().Refused[ReasonDuplicate] != 2 {
		t.Errorf("obeyed %d, refused %v", r.actions.count(), r.Stats().Refused)
	}
	for _, report := range r.reports(t) {
		if report.At.Before(built) {
			t.Errorf("a report of 1970: %+v", report)
		}
	}
}

func FuzzJudge(f *testing.F) {
	at := float64(today.UnixMicro()) / 1e6
	topicOf := []string{
		topics.FleetCommand("rollback"), topics.DeviceCommand(device, "update"), topics.Desired(device), topics.FleetConfig(), topics.GroupConfig(group), "else",
	}
	for i := range topicOf {
		f.Add(i, false, signed(f, rollback("nonce-1234")))
		f.Add(i, true, seedRollback("0123456789abcdef", at))
		f.Add(i, true, seedConfig(f, "7", "content", at))
		f.Add(i, false, signedConfig(f, configPush("7", "content", today)))
		f.Add(i, true, []byte(`{"command":[],"config_b64":{}}`))
	}
	anchor := newAnchor(f, 1)
	m := moment{now: today, disciplined: true}
	f.Fuzz(func(t *testing.T, topic int, unsigned bool, payload []byte) {
		if topic < 0 || topic >= len(topicOf) {
			return
		}
		r := rules{topics: topics, deviceID: device, group: group, anchor: func() *trust.Anchor { return anchor }, allowUnsigned: unsigned}
		o, rec, no := r.judge(message{topic: topicOf[topic], payload: payload}, m)
		if no != nil && (no.reason == "" || no.err == nil) || no != nil && no.tell && rec.key == "" {
			t.Fatalf("%+v of %+v", no, rec)
		}
		if no != nil {
			return
		}
		if rec.key == "" || rec.name == "" || rec.issued.IsZero() || (rec.name == ConfigName) != (o.Config != nil) {
			t.Fatalf("%+v, %+v", o, rec)
		}
		if !o.Signed {
			if !unsigned || rec.name != wire.CommandRollback && rec.name != ConfigName {
				t.Fatalf("obeyed without a signature: %+v", o)
			}
			return
		}
		typ := trust.CommandType
		if o.Config != nil {
			typ = trust.ConfigType
		}
		if _, err := anchor.Verify(payload, typ, today); err != nil {
			t.Fatalf("obeyed although %v", err)
		}
	})
}
