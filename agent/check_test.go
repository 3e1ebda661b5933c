package agent

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
)

// What every part refuses is told at once and with its key.
func TestCheckConfigAsksEveryPart(t *testing.T) {
	cfg := config.Default()
	cfg.Cloud.Enabled, cfg.Cloud.Endpoint = true, "ftp://h"
	var rule config.Rule
	rule.SetDefaults()
	rule.Action, rule.Tag = "drop", "cellar"
	cfg.Privacy.Rules = []config.Rule{rule}
	for _, ingest := range []string{"http", "telepathy"} {
		var s config.Sensor
		s.SetDefaults()
		s.Name, s.IngestType = ingest, ingest
		if options := all.Options()[ingest]; options != nil {
			s.Options = options()
		}
		cfg.Sensors.Devices = append(cfg.Sensors.Devices, s)
	}
	want := `the config has 4 problems:
sensors.devices[0].url: must be http:// or https:// with a host
sensors.devices[1].ingest_type: "telepathy" is unknown (see 'pyvorin-edge sensors list --types')
cloud: uplink: endpoint: scheme "ftp" is not http or https
privacy.rules[0].tag: "cellar" can match no tag: it is held against key=value, such as room=cellar or room=*`
	if diff := cmp.Diff(want, fmt.Sprint(CheckConfig(&cfg, all.Types()))); diff != "" {
		t.Error(diff)
	}
	fine := config.Default()
	if err := CheckConfig(&fine, all.Types()); err != nil {
		t.Errorf("the default config: %v", err)
	}
}

// A warning of the config stands in the log from the start.
func TestWarningsAreLogged(t *testing.T) {
	cfg := config.Default()
	cfg.Source.Warnings = []string{"privacy.enabled: false lets everything pass"}
	var log bytes.Buffer
	a, err := New(Options{Paths: NewPaths(t.TempDir(), ""), Config: &cfg, Types: all.Types(), Clock: clock.System(time.Time{}), Log: zerolog.New(zerolog.SyncWriter(&log))})
	if err != nil {
		t.Fatal(err)
	}
	g, err := a.build(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.start()
	g.stop()
	if !bytes.Contains(log.Bytes(), []byte(`"warning":"privacy.enabled: false lets everything pass"`)) {
		t.Errorf("the log is %s", &log)
	}
}
