package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
)

func TestDeviceIDIsMadeOnceAndKept(t *testing.T) {
	p := NewPaths(filepath.Join(t.TempDir(), "base"), "")
	first, err := p.ensureDeviceID()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := p.ensureDeviceID(); err != nil || second != first {
		t.Errorf("the id was %s and is now %s, %v", first, second, err)
	}
	if other, err := NewPaths(t.TempDir(), "").ensureDeviceID(); err != nil || other == first {
		t.Errorf("two devices are called %s, %v", first, err)
	}
}

func TestDeviceIDOfProvisioningIsChecked(t *testing.T) {
	for content, want := range map[string]string{
		"FLEET-0123456789ab\n": "FLEET-0123456789ab",
		"pi 4":                 "",
		"":                     "",
		"a/b":                  "",
		"+":                    "",
	} {
		p := NewPaths(t.TempDir(), "")
		if err := os.WriteFile(p.DeviceID, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := p.ensureDeviceID(); got != want || (err == nil) != (want != "") {
			t.Errorf("%q gives %q, %v; want %q", content, got, err, want)
		}
	}
}

func TestPaths(t *testing.T) {
	if p := NewPaths(DefaultBaseDir, ""); p.Socket != "/run/pyvorin-edge/health.sock" {
		t.Errorf("an installed agent serves %s", p.Socket)
	}
	dir := t.TempDir()
	if p := NewPaths(dir+"/", ""); p.Config != filepath.Join(dir, "config.toml") || p.Socket != filepath.Join(dir, "run", "health.sock") {
		t.Errorf("paths %+v", p)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := NewPaths(dir, ""); p.Config != filepath.Join(dir, "config.json") || p.LastGoodConfig() != filepath.Join(dir, "config.last-good.json") {
		t.Errorf("with only a config.json the config is %s, kept as %s", p.Config, p.LastGoodConfig())
	}
}

func TestRestartsAreCountedWithinTheWindow(t *testing.T) {
	boot := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	st := func(id string) clock.State { return clock.State{BootID: id, Offset: time.Duration(boot.UnixNano())} }
	dir := t.TempDir()
	for _, step := range []struct {
		boot  string
		after time.Duration
		want  int
	}{
		{"one", time.Minute, 0}, // the first start of a boot is none
		{"one", 2 * time.Minute, 1},
		{"one", 3 * time.Minute, 2},
		{"one", 6*time.Minute + 30*time.Second, 3},
		{"one", 60 * time.Minute, 1}, // a restart, though nothing else is in the window
		{"two", time.Minute, 0},
	} {
		l, err := recordStart(dir, st(step.boot), boot.Add(step.after))
		if err != nil {
			t.Fatal(err)
		}
		if got := l.restarts(step.after); got != step.want {
			t.Errorf("boot %s after %s: %d restarts, want %d", step.boot, step.after, got, step.want)
		}
		if got := l.restarts(step.after + restartWindow); got != 0 {
			t.Errorf("boot %s after %s: %d restarts five minutes later", step.boot, step.after, got)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "starts.json"), []byte("{cut sho"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := recordStart(dir, st("two"), boot.Add(2*time.Minute)); err != nil || l.restarts(2*time.Minute) != 0 {
		t.Errorf("a broken log: %+v, %v", l, err)
	}
}

func TestTheBaseDirIsForOneAgent(t *testing.T) {
	p := NewPaths(t.TempDir(), "")
	release, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.lock(); err == nil || !strings.Contains(err.Error(), p.Base) {
		t.Errorf("a second lock: %v", err)
	}
	release()
	release, err = p.lock()
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	release()
}

func TestHintLastGood(t *testing.T) {
	p := NewPaths(t.TempDir(), "")
	_, bad := config.Parse(p.Config, []byte("[nonsense]\n"), config.Options{})
	if got := p.HintLastGood(bad); got != bad {
		t.Errorf("a hint at a file that is not there: %v", got)
	}
	if err := os.WriteFile(p.LastGoodConfig(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := p.HintLastGood(bad)
	if invalid := (*config.Error)(nil); !errors.As(got, &invalid) || !strings.HasSuffix(got.Error(), "kept as "+p.LastGoodConfig()) {
		t.Errorf("no hint in %v", got)
	}
	if other := errors.New("port in use"); p.HintLastGood(other) != other {
		t.Error("a hint for what no config mends")
	}
}
