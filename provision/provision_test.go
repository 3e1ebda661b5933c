package provision

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestProvision(t *testing.T) {
	r := newRig(t)
	report := r.run()
	if report.DeviceID != idA || report.Source != SourceCPUInfo || !report.Changed || len(report.Warnings) > 0 {
		t.Errorf("%+v", report)
	}
	r.want("device_id", idA+"\n")
	r.want("config.toml", rendered(idA, "s3cret-key"))
	if a, err := trust.LoadAnchor(filepath.Join(r.o.BaseDir, anchorFile)); err != nil || a.String() != r.o.Anchor.String() {
		t.Errorf("the anchor is %v, %v", a, err)
	}
	if _, err := privacy.LoadKey(filepath.Join(r.o.BaseDir, keyFile)); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]fs.FileMode{
		"device_id": 0o644, "trust_anchor.json": 0o644, "config.toml": 0o640, "provision.json": 0o640,
		"secrets": fs.ModeDir | 0o700, "inbox": fs.ModeDir | 0o700, "secrets/privacy.key": 0o600,
	} {
		if info, err := os.Lstat(filepath.Join(r.o.BaseDir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if strings.Contains(r.base("provision.json"), "s3cret") {
		t.Error("provision.json holds a secret")
	}
	r.unchanged()

	// Nor does one with nothing to do but to look.
	r.o.Template, r.o.Anchor, r.o.Vars = nil, nil, nil
	r.unchanged()
}

func TestDryRunChangesNothing(t *testing.T) {
	r := newRig(t)
	r.o.DryRun = true
	write(t, r.dropPath(), "[nonsense]\n")
	if _, err := Run(t.Context(), r.o); err == nil {
		t.Error("a bad drop was not refused")
	}
	must(t, os.Remove(r.dropPath()))
	before := tree(t, r.root)
	report := r.run()
	if !report.DryRun || !report.Changed || len(report.Steps) < 6 || tree(t, r.root) != before {
		t.Errorf("%+v", report)
	}
	if _, err := os.Lstat(r.o.BaseDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the base dir is there: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	t.Run("another prefix", func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.o.Prefix = "PLANT"
		r.refused("is called "+idA, "PLANT-3a4c73a54aba", "--force=identity")
		r.o.Force.Identity = true
		if report := r.run(); report.DeviceID != "PLANT-3a4c73a54aba" || len(report.Warnings) == 0 {
			t.Errorf("%+v", report)
		}
		r.want("config.toml", rendered("PLANT-3a4c73a54aba", "s3cret-key"))
		r.o.Force.Identity = false
		r.o.Prefix = "" // is the one that it has
		r.unchanged()
	})
	t.Run("a copied card", func(t *testing.T) {
		r := newRig(t)
		r.run()
		if b, err := CheckBoard(r.o.BaseDir, r.root); err != nil || b.DeviceID != idA || b.Warning() != "" {
			t.Errorf("its own board: %+v, %v", b, err)
		}
		r.board(boardB)
		b, err := CheckBoard(r.o.BaseDir, r.root)
		if err != nil || b.Own != idB || !strings.Contains(b.Warning(), idA) || !strings.Contains(b.Warning(), "--force=identity") {
			t.Errorf("another board: %+v, %v", b, err)
		}
		r.refused(idA, idB, "the card was copied", "--force=identity")
		r.o.Template, r.o.Anchor, r.o.Prefix = nil, nil, ""
		r.refused(idA, idB)
		r.o.Force = Force{Identity: true}
		if report := r.run(); report.DeviceID != idB {
			t.Errorf("%+v", report)
		}
		if b, err := CheckBoard(r.o.BaseDir, r.root); err != nil || b.Warning() != "" {
			t.Errorf("after that: %+v, %v", b, err)
		}
	})
	t.Run("an id of the agent's own", func(t *testing.T) {
		r := newRig(t)
		write(t, filepath.Join(r.o.BaseDir, "device_id"), "FLEET-0123456789ab\n")
		r.refused("FLEET-0123456789ab", idA, "before it was provisioned", "--force=identity")
		r.o.Force.Identity = true
		r.run()
		r.want("device_id", idA+"\n")
	})
	t.Run("no serial number", func(t *testing.T) {
		r := newRig(t)
		r.board("processor : 0\nSerial : 0000000000000000\n")
		report := r.run()
		if report.Source != SourceRandom || prefixOf(report.DeviceID) != "FLEET" || len(report.Warnings) != 1 {
			t.Errorf("%+v", report)
		}
		r.unchanged()
		must(t, os.Remove(filepath.Join(r.o.BaseDir, "device_id")))
		if again := r.run(); again.DeviceID != report.DeviceID {
			t.Errorf("the lost id %s became %s", report.DeviceID, again.DeviceID)
		}
		r.board(boardA) // a newer kernel tells it
		r.unchanged()
		r.want("device_id", report.DeviceID+"\n")
		if b, err := CheckBoard(r.o.BaseDir, r.root); err != nil || b.Warning() != "" {
			t.Errorf("a random id: %+v, %v", b, err)
		}
		r.o.Prefix = "PLANT"
		r.refused("--force=identity")
	})
	t.Run("no serial number, and an id", func(t *testing.T) {
		r := newRig(t)
		r.board("")
		write(t, filepath.Join(r.o.BaseDir, "device_id"), "pi-kitchen")
		r.o.Prefix = ""
		if report := r.run(); report.DeviceID != "pi-kitchen" || report.Source != SourceKept {
			t.Errorf("%+v", report)
		}
		r.board(boardA)
		r.unchanged()
	})
	t.Run("no id at all", func(t *testing.T) {
		r := newRig(t)
		write(t, filepath.Join(r.o.BaseDir, "device_id"), "a/b\n")
		r.refused("holds no device id", "--force=identity")
		r.o.Force.Identity = true
		r.run()
		r.want("device_id", idA+"\n")
	})
	t.Run("an impossible prefix", func(t *testing.T) {
		for _, prefix := range []string{"a/b", "-x", strings.Repeat("p", 60), "ä"} {
			r := newRig(t)
			r.o.Prefix = prefix
			r.refused("prefix")
		}
	})
}

func TestAnchor(t *testing.T) {
	r := newRig(t)
	r.run()
	provisioned := r.o.Anchor

	// The same in the article's own spelling is the same.
	write(t, filepath.Join(r.o.BaseDir, anchorFile), `{"public_key": "`+strings.Repeat("b1", 32)+`"}`)
	r.unchanged()

	// Another one is an attack or a mistake.
	r.o.Anchor = anchor(t, 2)
	r.refused("trusts other keys", "--force=anchor")
	r.o.Force = Force{Identity: true, Config: true}
	r.refused("--force=anchor")
	r.o.Force = Force{}

	// A rotation since is neither, when what was provisioned is given again.
	must(t, trust.InstallAnchor(filepath.Join(r.o.BaseDir, anchorFile), anchor(t, 3)))
	r.o.Anchor = provisioned
	r.unchanged()
	r.o.Anchor = anchor(t, 2)
	r.refused("trusts other keys")
	r.o.Force.Anchor = true
	r.run()
	r.o.Force.Anchor = false
	r.unchanged()

	write(t, filepath.Join(r.o.BaseDir, anchorFile), `{"public_key": "00"}`)
	r.refused("cannot be used", "--force=anchor")
	r.o.Anchor = nil
	if report := r.run(); len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "obeys no command") {
		t.Errorf("%+v", report)
	}
	must(t, os.Remove(filepath.Join(r.o.BaseDir, anchorFile)))
	if report := r.run(); len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "no trust anchor") {
		t.Errorf("%+v", report)
	}
}

func TestAnExpiredAnchorIsRefused(t *testing.T) {
	r := newRig(t)
	keys := anchor(t, 1).Keys()
	spec := trust.AnchorSpec{Version: 2, ExpiresAt: r.o.Now, Keys: map[trust.Role][]ed25519.PublicKey{}}
	for _, role := range trust.Roles {
		for _, key := range keys {
			spec.Keys[role] = append(spec.Keys[role], key)
		}
	}
	var err error
	r.o.Anchor, err = trust.NewAnchor(spec)
	must(t, err)
	r.refused("expired on 2026-06-01")
	r.o.Now = r.o.Now.Add(-time.Hour)
	r.run()
	r.o.Now = r.o.Now.Add(2 * time.Hour) // it is the device's now, and running out is not ours
	r.o.Anchor = nil
	r.unchanged()
}

func TestConfig(t *testing.T) {
	installed := func(r *rig) string { return filepath.Join(r.o.BaseDir, "config.toml") }
	t.Run("a new template", func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.o.Vars["API_KEY"] = "another-key"
		r.run()
		r.want("config.toml", rendered(idA, "another-key"))
		r.unchanged()
	})
	t.Run("an edit", func(t *testing.T) {
		r := newRig(t)
		r.run()
		write(t, installed(r), "# mine\n")
		r.unchanged() // nothing new came
		r.o.Vars["API_KEY"] = "another-key"
		r.refused("config.toml was changed since", "fleet.toml", "--force=config")
		r.o.Force = Force{Identity: true, Anchor: true}
		r.refused("--force=config")
		r.o.Force = Force{Config: true}
		r.run()
		r.want("config.toml", rendered(idA, "another-key"))
	})
	t.Run("one that was there before", func(t *testing.T) {
		r := newRig(t)
		write(t, installed(r), "# mine\n")
		r.refused("config.toml was changed since it was provisioned, or not provisioned at all")
		r.o.Template = nil
		r.run()
		r.want("config.toml", "# mine\n")
	})
	t.Run("lost", func(t *testing.T) {
		r := newRig(t)
		r.run()
		must(t, os.Remove(installed(r)))
		r.run()
		r.want("config.toml", rendered(idA, "s3cret-key"))
	})
	t.Run("none", func(t *testing.T) {
		r := newRig(t)
		r.o.Template = nil
		r.refused("no config", "--template", DropFile)
	})
	t.Run("what the agent would not load", func(t *testing.T) {
		r := newRig(t)
		r.o.Template.Text = []byte(someTemplate + "[logging]\nlevel = \"${API_KEY}\"\nformt = \"json\"\n")
		err := r.refused("fleet.toml:8:1: logging.level", "fleet.toml:9:1: logging.formt: unknown key")
		var bad *config.Error
		if !errors.As(err, &bad) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a missing variable", func(t *testing.T) {
		r := newRig(t)
		r.o.Vars = nil
		err := r.refused("fleet.toml:4:12: ${API_KEY} has no value")
		if !errors.As(err, new(*config.Error)) {
			t.Errorf("%v", err)
		}
	})
	t.Run("unused variables", func(t *testing.T) {
		r := newRig(t)
		r.o.Vars["API_KEYS"], r.o.Vars["A"] = "x", "y"
		if report := r.run(); strings.Join(report.Unused, " ") != "A API_KEYS" {
			t.Errorf("%q", report.Unused)
		}
	})
	t.Run("JSON", func(t *testing.T) {
		r := newRig(t)
		r.o.Template = &Template{Name: "fleet.json", Text: []byte(`{"device": {"labels": {"id": "${DEVICE_ID}", "k": "${API_KEY}"}}}`)}
		r.refused("one is JSON")
		r.o.Config = filepath.Join(r.o.BaseDir, "config.json")
		r.o.Vars["API_KEY"] = `"}`
		r.run()
		r.want("config.json", `{"device": {"labels": {"id": "`+idA+`", "k": "\"}"}}}`)
	})
	t.Run("elsewhere", func(t *testing.T) {
		r := newRig(t)
		r.o.Config = filepath.Join(t.TempDir(), "etc", "edge.toml")
		r.refused("no folder")
		must(t, os.Mkdir(filepath.Dir(r.o.Config), 0o755))
		r.run()
		if got := content(t, r.o.Config); got != rendered(idA, "s3cret-key") {
			t.Errorf("it is %s", got)
		}
		r.unchanged()
	})
	t.Run("a state that cannot be read", func(t *testing.T) {
		r := newRig(t)
		r.run()
		write(t, filepath.Join(r.o.BaseDir, stateFile), "{cut sho")
		if report := r.run(); len(report.Warnings) != 1 {
			t.Errorf("%+v", report)
		}
		r.unchanged()
	})
}

func TestOnlyOneProvisioningAtATime(t *testing.T) {
	r := newRig(t)
	r.board("") // each would make up an id of its own
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			report, err := Run(t.Context(), r.o)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = report.DeviceID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id+"\n" != r.base("device_id") {
			t.Errorf("one was told %s, the device is %s", id, r.base("device_id"))
		}
	}
	if !strings.Contains(r.base("config.toml"), ids[0]) {
		t.Errorf("the config is of another: %s", r.base("config.toml"))
	}

	release, err := lock(t.Context(), r.o.BaseDir)
	must(t, err)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, r.o); err == nil || !strings.Contains(err.Error(), "another provisioning") {
		t.Errorf("%v", err)
	}
}

func TestReportHasAJSONForm(t *testing.T) {
	data, err := json.Marshal(newRig(t).run())
	must(t, err)
	var fields map[string]any
	must(t, json.Unmarshal(data, &fields))
	if fields["device_id"] != idA || fields["changed"] != true || len(fields["steps"].([]any)) < 6 {
		t.Errorf("%s", data)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := Run(t.Context(), Options{}); err == nil {
		t.Error("empty options were taken")
	}
}
