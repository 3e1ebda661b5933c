package ota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodID = "0123456789abcdef0123456789abcdef"

func TestParseRequest(t *testing.T) {
	request := func(more string) string {
		return fmt.Sprintf(`{"format":1,"id":%q,"at":"2026-11-22T12:00:00Z","action":"rollback"%s}`, goodID, more)
	}
	tests := []struct {
		name, text, want string
		anonymous        bool // nobody can be told
	}{
		{"rollback", request(""), "", false},
		{"to a version", request(`,"target_version":"1.2.0-rc.1+build"`), "", false},
		{"install", request(`,"action":"install","bundle":"pyvorin-edge_1.2.0~rc1+x.bundle"`), "", false},
		{"of another component", request(`,"component":"camera-1"`), "", false},
		{"with a field of the future", request(`,"mood":[1]`), "", false},
		{"empty", "", "not valid", true},
		{"no object", "[]", "not valid", true},
		{"torn", request("")[:60], "not valid", true},
		{"something behind", request("") + "{}", "not valid", true},
		{"too large", strings.Repeat(" ", MaxRequestBytes) + request(""), "more than", true},
		{"deep", strings.Repeat("[", 20000), "not valid", true},
		{"a number where none is", request(`,"bundle":7`), "not valid", false},
		{"another format", request(`,"format":2`), "update the package", false},
		{"no id", request(`,"id":""`), "no id", true},
		{"an id with a path", request(`,"id":"../../../../../../../../etc/pass"`), "no id", true},
		{"another action", request(`,"action":"format"`), `"format"`, false},
		{"no bundle", request(`,"action":"install"`), "no bundle", false},
		{"a bundle elsewhere", request(`,"action":"install","bundle":"../x"`), "no bundle", false},
		{"a hidden bundle", request(`,"action":"install","bundle":".x"`), "no bundle", false},
		{"a bundle with a NUL", request(`,"action":"install","bundle":"a\u0000b"`), "no bundle", false},
		{"a long bundle", request(`,"action":"install","bundle":"` + strings.Repeat("x", 300) + `"`), "no bundle", false},
		{"no component", request(`,"component":"../x"`), "no component", false},
		{"no version", request(`,"target_version":"1.2\u001b[2J"`), "version", false},
		{"a long version", request(`,"target_version":"` + strings.Repeat("1", 100) + `"`), "version", false},
	}
	for _, tt := range tests {
		r, err := ParseRequest([]byte(tt.text))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
		if want := map[bool]string{false: goodID}[tt.anonymous]; r.ID != want {
			t.Errorf("%s: id %q", tt.name, r.ID)
		}
	}
}

func TestWriteRequest(t *testing.T) {
	l := Layout{Base: t.TempDir()}
	want := Request{ID: goodID, At: time.Now().UTC(), Action: Rollback}
	if err := WriteRequest(l, want); err == nil || !strings.Contains(err.Error(), "ask the watchdog") {
		t.Errorf("no inbox: %v", err)
	}
	if err := os.Mkdir(l.Inbox(), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces the first
		if err := WriteRequest(l, want); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(l.Request())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ParseRequest(data); err != nil || r.ID != goodID || r.Action != Rollback || !r.At.Equal(want.At) {
		t.Errorf("%+v, %v", r, err)
	}
	if info, err := os.Stat(l.Request()); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, err := os.ReadDir(l.Inbox()); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := WriteRequest(l, Request{}); err == nil {
		t.Error("a request that nobody would take")
	}
	if err := WriteRequest(Layout{Base: "/nowhere"}, want); err == nil {
		t.Error("no base dir")
	}
}

// TestWriteRequestFollowsNoLink: root may ask, and the inbox is the agent's.
func TestWriteRequestFollowsNoLink(t *testing.T) {
	l, elsewhere := Layout{Base: t.TempDir()}, t.TempDir()
	if err := os.Symlink(elsewhere, l.Inbox()); err != nil {
		t.Fatal(err)
	}
	if err := WriteRequest(l, Request{ID: goodID, Action: Rollback}); err == nil {
		t.Error("no error")
	}
	precious := filepath.Join(elsewhere, "precious")
	if err := errors.Join(os.Remove(l.Inbox()), os.Mkdir(l.Inbox(), 0o700), os.WriteFile(precious, []byte("x"), 0o600), os.Symlink(precious, l.Request())); err != nil {
		t.Fatal(err)
	}
	if err := WriteRequest(l, Request{ID: goodID, Action: Rollback}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// FuzzParseRequest: what is accepted is in its bounds, and whatever is said, an
// id is an id.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"` + goodID + `","action":"rollback","target_version":"1.0.0"}`))
	f.Add([]byte(`{"format":1,"id":"` + goodID + `","action":"install","bundle":"x.bundle","command":{"payloadType":""}}`))
	f.Add([]byte(`{"format":"1","id":"` + goodID + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRequest(data)
		if r.ID != "" && !idPattern.MatchString(r.ID) {
			t.Errorf("id %q", r.ID)
		}
		if err == nil && (r.ID == "" || strings.ContainsAny(r.Bundle+r.Component+r.TargetVersion, "/\\\x00\n\x1b") || r.Action != Install && r.Action != Rollback) {
			t.Errorf("%+v", r)
		}
	})
}

// FuzzParseState: what is accepted can be written, and is the same when it is
// read again.
func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"format":1,"state":"committed","active":{"slot":"a"}}`))
	f.Add([]byte(`{"format":1,"state":"trial","active":{"slot":"a"},"attempt":{"candidate":{"slot":"b"},"base":{"slot":"a"},"restarts":[1.5]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseState(data)
		if err != nil {
			return
		}
		written, err := s.Encode()
		if err != nil || len(written) > MaxStateBytes {
			return // such as a time that JSON has no form for
		}
		if _, err := ParseState(written); err != nil {
			t.Errorf("%v\n%s", err, written)
		}
	})
}
