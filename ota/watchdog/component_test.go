package watchdog

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestAComponent is updated in a folder of its own, by requests in the agent's
// inbox, and has no seed.
func TestAComponent(t *testing.T) {
	r := newRig(t)
	name := func(o *pack.Options) { o.Name = "camera" }
	home, root := r.dir, tempDir(t)
	fsys, err := disk.Open(root)
	must(t, err)
	t.Cleanup(func() { fsys.Close() })
	r.options.Component, r.options.Seed = "camera", nil
	r.options.Disk, r.options.Home = fsys, r.real

	// What it begins with was put there with the application.
	first, err := os.ReadFile(filepath.Join(home, "inbox", r.bundle("1.0.0", 10, name)))
	must(t, err)
	anchor, err := trust.LoadAnchor(filepath.Join(home, anchorFile))
	must(t, err)
	from, err := bundle.Open(bytes.NewReader(first), anchor, today)
	must(t, err)
	must(t, fsys.Mkdir("slot-a", 0o755))
	must(t, from.Unpack(t.Context(), disk.Sub(fsys, "slot-a"), bundle.UnpackOptions{}))

	r.device.dir = root
	must(t, r.watchdog().Boot())
	r.device.start()
	run := func(req ota.Request) *ota.State {
		t.Helper()
		req.Component = "camera"
		r.dir = home
		r.ask(req)
		must(t, r.watchdog().Run(t.Context()))
		s, err := ota.ReadState(ota.Layout{Base: root})
		must(t, err)
		return s
	}
	if s := run(ota.Request{Action: ota.Install, Bundle: r.bundle("1.1.0", 11, name)}); s.Active.Version != "1.1.0" || r.device.running != "1.1.0" {
		t.Fatalf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
	}
	if s := run(ota.Request{Action: ota.Install, Bundle: r.bundle("2.0.0", 20, nil)}); !strings.Contains(s.Last.Reason, "holds pyvorin-edge, not camera") {
		t.Errorf("%v", s.Last)
	}
	order := r.order(wire.Command{Command: wire.CommandRollback, Component: "camera"})
	if s := run(ota.Request{Action: ota.Rollback, Command: order}); s.Active.Version != "1.0.0" || r.device.running != "1.0.0" {
		t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
	}
	if _, err := os.Lstat(filepath.Join(home, requestFile)); err == nil {
		t.Error("the request is left")
	}
	// Without a release and without a seed there is nothing to begin with.
	must(t, os.RemoveAll(root))
	must(t, os.Mkdir(root, 0o755))
	if fsys, err = disk.Open(root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	r.options.Disk = fsys
	if err := r.watchdog().Boot(); err == nil || !strings.Contains(err.Error(), "no slot holds a release") {
		t.Errorf("%v", err)
	}
}
