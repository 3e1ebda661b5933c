package watchdog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestMain is also what the children in these tests run.
func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		os.Exit(childMain(mode))
	}
	goleak.VerifyTestMain(m)
}

// today is when the tests play.
var today = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// rig is a device with files of its own, on which the version that active names
// runs, and an operator who signs.
type rig struct {
	t       *testing.T
	dir     string
	real    *disk.OS // of dir
	disk    disk.FS  // the same; a test may wrap it
	device  *device
	options Options

	release, command ed25519.PrivateKey
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := tempDir(t)
	fsys, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close(); os.RemoveAll(dir + graves) })
	r := &rig{t: t, dir: dir, real: fsys, disk: fsys, release: key(1), command: key(2)}
	anchor, err := trust.NewAnchor(trust.AnchorSpec{Version: 2, Keys: map[trust.Role][]ed25519.PublicKey{
		trust.RootRole:    {public(key(3))},
		trust.ReleaseRole: {public(r.release)},
		trust.CommandRole: {public(r.command)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	must(t, trust.InstallAnchor(filepath.Join(dir, "trust_anchor.json"), anchor))
	must(t, os.WriteFile(filepath.Join(dir, "device_id"), []byte("FLEET-000000000001\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "inbox"), 0o700))
	seed := filepath.Join(tempDir(t), "seed")
	must(t, os.WriteFile(seed, []byte("seed 1.0.0"), 0o755))
	r.device = &device{dir: dir, behaves: map[string]*behaviour{}, boots: 1, uptime: time.Minute, wall: today, synced: true}
	r.options = Options{
		Component: ota.AgentComponent,
		Target:    bundle.Target{OS: "linux", Arch: "arm64"},
		Seed:      &Seed{Path: seed, Version: "1.0.0"},
		Free:      func() (int64, error) { return 1 << 40, nil },
		Build:     today.AddDate(0, -1, 0),
		Poll:      time.Nanosecond,
		Log:       zerolog.Nop(),
	}
	must(t, r.watchdog().Boot())
	r.device.start()
	return r
}

// fork returns a device that is as this one is now. Files that are never
// written in place are shared.
func (r *rig) fork() *rig {
	r.t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(r.dir), "watchdog-*")
	must(r.t, err)
	r.t.Cleanup(func() { os.RemoveAll(dir); os.RemoveAll(dir + graves) })
	must(r.t, copyTree(r.dir, dir))
	fsys, err := disk.Open(dir)
	must(r.t, err)
	r.t.Cleanup(func() { fsys.Close() })
	twin, d := *r, *r.device
	twin.dir, twin.real, twin.disk, twin.device = dir, fsys, fsys, &d
	d.dir, d.starts = dir, slices.Clone(d.starts)
	return &twin
}

// remove gives up what fork made, before the test ends.
func (r *rig) remove() {
	r.real.Close()
	os.RemoveAll(r.dir)
	os.RemoveAll(r.dir + graves)
}

func copyTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		old, now := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir():
			info, err := e.Info()
			if err != nil {
				return err
			}
			if err := errors.Join(os.Mkdir(now, info.Mode().Perm()), copyTree(old, now)); err != nil {
				return err
			}
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(old)
			if err := errors.Join(err, os.Symlink(target, now)); err != nil {
				return err
			}
		case now == filepath.Join(to, filepath.Base(historyFile)):
			data, err := os.ReadFile(old)
			if err := errors.Join(err, os.WriteFile(now, data, 0o644)); err != nil {
				return err
			}
		default:
			if err := os.Link(old, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// damage truncates the program in a slot.
func (r *rig) damage(slot string) {
	r.t.Helper()
	program := filepath.Join(r.dir, slot, "pyvorin-edge")
	must(r.t, os.Remove(program)) // a fork may have it too
	must(r.t, os.WriteFile(program, []byte("pro"), 0o755))
}

// sound checks that active names a release that may run.
func (r *rig) sound() {
	r.t.Helper()
	target, err := os.Readlink(filepath.Join(r.dir, "active"))
	must(r.t, err)
	w := r.watchdog()
	must(r.t, w.load())
	if _, err := w.inspect(strings.TrimPrefix(target, "slot-")); err != nil {
		r.t.Fatalf("active names a slot that must not run: %v", err)
	}
}

// tempDir returns a folder in memory where there is such a thing: these tests
// sync often, and what they prove does not depend on the disk.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "watchdog-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watchdog returns a fresh one, as each start has.
func (r *rig) watchdog() *Watchdog {
	r.t.Helper()
	o := r.options
	o.Layout = ota.Layout{Base: r.dir}
	o.Service, o.Probe, o.Clock = r.device, r.device, r.device
	o.Uptime = func() time.Duration { r.device.uptime += time.Second; return r.device.uptime }
	if o.Disk == nil {
		o.Disk, o.Home = r.disk, r.disk
	}
	o.BootID = fmt.Sprint("boot ", r.device.boots)
	w, err := New(o)
	must(r.t, err)
	return w
}

// bundle writes a signed bundle into the inbox and returns its name.
func (r *rig) bundle(version string, counter uint64, change func(*pack.Options)) string {
	r.t.Helper()
	name := version + ".bundle"
	path := filepath.Join(r.dir, "inbox", name)
	if made, ok := plainBundles.Load(fmt.Sprint(version, " ", counter)); ok && change == nil {
		must(r.t, os.WriteFile(path, made.([]byte), 0o600))
		return name
	}
	from := tempDir(r.t)
	must(r.t, os.WriteFile(filepath.Join(from, "pyvorin-edge"), []byte("program "+version), 0o755))
	must(r.t, os.Mkdir(filepath.Join(from, "lib"), 0o755))
	must(r.t, os.WriteFile(filepath.Join(from, "lib", "notes.txt"), []byte("notes of "+version), 0o644))
	must(r.t, os.WriteFile(filepath.Join(from, "lib", "model"), model, 0o644))
	o := pack.Options{
		From: from, Name: ota.AgentComponent, Version: version, Counter: counter, Arch: "arm64",
		CreatedAt: today.AddDate(0, 0, -1), ExpiresAt: today.AddDate(0, 0, 30),
		Health: bundle.Health{MinHealthySeconds: 10, DeadlineSeconds: 100, Required: []string{"sensors", "queue"}},
		Keys:   []ed25519.PrivateKey{r.release},
	}
	if change != nil {
		change(&o)
	}
	var made bytes.Buffer
	_, err := pack.Create(r.t.Context(), &made, o)
	must(r.t, err)
	must(r.t, os.WriteFile(path, made.Bytes(), 0o600))
	if change == nil {
		plainBundles.Store(fmt.Sprint(version, " ", counter), made.Bytes())
	}
	return name
}

// model is in each release, so that a delta is smaller.
var model = func() []byte {
	b := make([]byte, 8<<10)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// plainBundles are those without changes, by version and counter: the same each
// time.
var plainBundles sync.Map

// ask writes a request.
func (r *rig) ask(req ota.Request) string {
	r.t.Helper()
	if req.ID == "" {
		req.ID = newID()
	}
	if req.At.IsZero() {
		req.At = r.device.wall
	}
	must(r.t, ota.WriteRequest(ota.Layout{Base: r.dir}, req))
	return req.ID
}

// order returns a signed command.
func (r *rig) order(c wire.Command, keys ...ed25519.PrivateKey) json.RawMessage {
	r.t.Helper()
	if c.Nonce == "" {
		c.Nonce = newID()
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = today.Add(-time.Minute)
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = today.Add(time.Hour)
	}
	if !c.Target.All && c.Target.Devices == nil && c.Target.Groups == nil {
		c.Target.All = true
	}
	if keys == nil {
		keys = []ed25519.PrivateKey{r.command}
	}
	payload, err := json.Marshal(c)
	must(r.t, err)
	envelope, err := trust.Sign(trust.CommandType, payload, keys...)
	must(r.t, err)
	return envelope
}

// run runs the watchdog until it has nothing more to do, and returns the state.
func (r *rig) run() *ota.State {
	r.t.Helper()
	w := r.watchdog()
	must(r.t, w.Run(r.t.Context()))
	return r.check(w)
}

// runUntil runs the watchdog and kills it before its look number n.
func (r *rig) runUntil(n int) {
	r.t.Helper()
	ctx, kill := context.WithCancel(r.t.Context())
	defer kill()
	r.device.onLook = func() {
		if n--; n < 0 {
			kill()
		}
	}
	defer func() { r.device.onLook = nil }()
	if err := r.watchdog().Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		r.t.Fatal(err)
	}
}

// state reads the state as it is on the disk.
func (r *rig) state() *ota.State {
	r.t.Helper()
	s, err := ota.ReadState(ota.Layout{Base: r.dir})
	must(r.t, err)
	return s
}

// outcome returns what the history says of a request.
func (r *rig) outcome(id string) ota.Outcome {
	r.t.Helper()
	history, err := ota.ReadHistory(ota.Layout{Base: r.dir})
	must(r.t, err)
	for _, o := range history {
		if o.ID == id {
			return o
		}
	}
	return ota.Outcome{}
}

// install brings a version onto the device that is expected to stay.
func (r *rig) install(version string, counter uint64) {
	r.t.Helper()
	r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle(version, counter, nil)})
	if s := r.run(); s.Active.Version != version || s.Phase != ota.Committed {
		r.t.Fatalf("install %s: %s, active %s, %v", version, s.Phase, s.Active.Version, s.Last)
	}
}

// check returns the state at rest after checking what must be true then.
func (r *rig) check(w *Watchdog) *ota.State {
	r.t.Helper()
	s, err := ota.ReadState(ota.Layout{Base: r.dir})
	must(r.t, err)
	if !s.Phase.AtRest() || s.Attempt != nil {
		r.t.Fatalf("not at rest: %s", s.Phase)
	}
	target, err := os.Readlink(filepath.Join(r.dir, "active"))
	must(r.t, err)
	if target != ota.SlotName(s.Active.Slot) {
		r.t.Fatalf("active names %s, the state slot %s", target, s.Active.Slot)
	}
	found, err := w.inspect(s.Active.Slot)
	if err != nil {
		r.t.Fatalf("active names a slot that must not run: %v", err)
	}
	if found.Digest != s.Active.Digest || found.Version != s.Active.Version {
		r.t.Fatalf("slot %s holds %s, the state says %s", found.Slot, found.Version, s.Active.Version)
	}
	if s.Previous != nil {
		if found, err := w.inspect(s.Previous.Slot); err != nil || found.Digest != s.Previous.Digest {
			r.t.Fatalf("the retained release is not in slot %s: %v", s.Previous.Slot, err)
		}
	}
	entries, err := os.ReadDir(r.dir)
	must(r.t, err)
	for _, e := range entries {
		if info, err := e.Info(); err != nil || !w.mine(ownerOf(info)) {
			continue // nobody's business
		}
		if strings.HasSuffix(e.Name(), ".new") || strings.HasSuffix(e.Name(), ".old") {
			r.t.Fatalf("%s is left", e.Name())
		}
	}
	for _, gone := range []string{busyFile, workDir, requestFile} {
		if _, err := os.Lstat(filepath.Join(r.dir, gone)); !errors.Is(err, os.ErrNotExist) {
			r.t.Fatalf("%s is left", gone)
		}
	}
	history, err := ota.ReadHistory(ota.Layout{Base: r.dir})
	must(r.t, err)
	seen := map[string]bool{}
	for _, o := range history {
		if seen[o.ID] {
			r.t.Fatalf("the outcome of %s is in the history twice", o.ID)
		}
		seen[o.ID] = true
	}
	if s.Last != nil && (len(history) == 0 || history[len(history)-1].ID != s.Last.ID) {
		r.t.Fatalf("the last outcome is not in the history")
	}
	return s
}

// reboot cuts the power: nothing runs any more, and then what active names does.
func (r *rig) reboot() {
	r.t.Helper()
	r.device.boots++
	r.device.uptime = 10 * time.Second
	r.device.running = ""
	must(r.t, r.watchdog().Boot())
	r.device.start()
}
