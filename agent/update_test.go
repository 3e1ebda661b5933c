package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestCheckConfigAsksForUpdates(t *testing.T) {
	for want, change := range map[string]func(c *config.OTA){
		`ota.download_window: hour: "25" is not from 0 to 23`:                       func(c *config.OTA) { c.DownloadWindow = "* 25 * * *" },
		`ota.install_window: it never opens: no month that it names has such a day`: func(c *config.OTA) { c.InstallWindow = "* * 31 2 *" },
		`ota.time_zone: unknown time zone Europe/Atlantis: take a name such as Europe/Berlin; the names are the files below /usr/share/zoneinfo, which the package tzdata brings`: func(c *config.OTA) {
			c.TimeZone = "Europe/Atlantis"
		},
	} {
		cfg := config.Default()
		change(&cfg.OTA)
		if diff := cmp.Diff(want, fmt.Sprint(CheckConfig(&cfg, all.Types()))); diff != "" {
			t.Error(diff)
		}
	}
}

// What the watchdog writes shows in the facts, before and after the updater has
// begun to look.
func TestUpdatesInFacts(t *testing.T) {
	dir := t.TempDir()
	write := func(version string) {
		s := ota.State{Phase: ota.Committed, Active: ota.Release{Slot: "a", Version: version, Counter: 1}}
		data, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ota", "state.json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "ota"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("9.9.1")
	cfg := config.Default()
	a, err := New(Options{Paths: NewPaths(dir, ""), Config: &cfg, Types: all.Types(), Clock: clock.System(time.Time{}), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	g, err := a.build(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.setGeneration(g)
	if got := a.facts().Health.OTA; got.Active != "9.9.1" || got.State != "committed" {
		t.Errorf("before the start: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.runUpdater(ctx, func() {}) }()
	write("9.9.10") // longer, so that even a coarse clock shows the change
	for deadline := time.Now().Add(30 * time.Second); a.facts().Health.OTA.Active != "9.9.10"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the facts do not follow: %+v", a.facts().Health.OTA)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A machine in trouble is left alone; a mere warning is no trouble.
func TestHold(t *testing.T) {
	for _, tt := range []struct {
		checks map[string]wire.CheckState
		want   string
	}{
		{nil, ""},
		{map[string]wire.CheckState{"disk_space": wire.CheckWarning, "sensors": wire.CheckCritical, "cloud": wire.CheckCritical}, ""},
		{map[string]wire.CheckState{"disk_space": wire.CheckCritical}, "the disk to have space again: the check disk_space is critical"},
		{map[string]wire.CheckState{"memory": wire.CheckCritical}, "the machine to have memory again: the check memory is critical"},
		{map[string]wire.CheckState{"temperature": wire.CheckCritical}, "the machine to cool down: the check temperature is critical"},
	} {
		if got := holdFor(tt.checks); got != tt.want {
			t.Errorf("%v: %q; want %q", tt.checks, got, tt.want)
		}
	}
}
