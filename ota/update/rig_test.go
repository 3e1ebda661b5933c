package update

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/ota/watchdog"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// today is when the tests with the watchdog play.
var today = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const deviceID = "FLEET-000000000001"

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

var releaseKey, commandKey = testKey(1), testKey(2)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func installAnchor(t testing.TB, dir string, command ed25519.PrivateKey) {
	t.Helper()
	public := func(k ed25519.PrivateKey) []ed25519.PublicKey {
		return []ed25519.PublicKey{k.Public().(ed25519.PublicKey)}
	}
	anchor, err := trust.NewAnchor(trust.AnchorSpec{Version: 2, Keys: map[trust.Role][]ed25519.PublicKey{
		trust.RootRole: public(testKey(3)), trust.ReleaseRole: public(releaseKey), trust.CommandRole: public(command),
	}})
	must(t, err)
	must(t, trust.InstallAnchor(filepath.Join(dir, "trust_anchor.json"), anchor))
}

// sign returns the envelope of a command. What c leaves out is filled in.
func sign(t testing.TB, now time.Time, c wire.Command, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	if c.Command == "" {
		c.Command = wire.CommandUpdate
	}
	if c.Command == wire.CommandUpdate && c.URL == "" {
		c.URL = "http://bundles.test/" + c.Version
	}
	if c.Command == wire.CommandUpdate && c.SHA256 == "" {
		c.SHA256 = hashOf([]byte(c.Version))
	}
	if c.Nonce == "" {
		c.Nonce = "nonce-" + cmp.Or(c.Version, "rollback"+c.TargetVersion)
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = now.Add(-time.Minute)
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = now.Add(24 * time.Hour)
	}
	if !c.Target.All && c.Target.Devices == nil && c.Target.Groups == nil {
		c.Target.Devices = []string{deviceID}
	}
	if keys == nil {
		keys = []ed25519.PrivateKey{commandKey}
	}
	payload, err := json.Marshal(c)
	must(t, err)
	envelope, err := trust.Sign(trust.CommandType, payload, keys...)
	must(t, err)
	return envelope
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// testClock is a clock of its own, or time's.
type testClock struct {
	mu    sync.Mutex
	wall  time.Time // zero: that of package time
	unset bool
	boot  time.Time // by package time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wall.IsZero() {
		return time.Now()
	}
	return c.wall
}

func (c *testClock) State() clock.State {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return clock.State{Set: !c.unset, Synchronized: !c.unset, Offset: time.Duration(now.UnixNano()) - time.Since(c.boot)}
}

// reports are the outcomes that were told.
type reports struct {
	mu   sync.Mutex
	list []ota.Outcome
	fail error
}

func (r *reports) take(_ context.Context, o ota.Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.list = append(r.list, o)
	return nil
}

func (r *reports) all() []ota.Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// lines are the outcomes in short.
func (r *reports) lines() (lines []string) {
	for _, o := range r.all() {
		lines = append(lines, fmt.Sprintf("%s %s %s", o.Action, o.Result, o.To))
	}
	return lines
}

// start runs an Updater until stop is called or the test ends.
func start(t testing.TB, o Options) (u *Updater, stop func()) {
	t.Helper()
	u, err := New(o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return u, stop
}

// eventually waits for what another goroutine brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// give hands over a command as soon as the Updater runs.
func give(t testing.TB, u *Updater, envelope []byte) {
	t.Helper()
	var err error
	eventually(t, "the updater runs", func() bool {
		err = u.Want(t.Context(), envelope)
		return !errors.Is(err, ErrNotRunning)
	})
	must(t, err)
}

// rig is a device with a real watchdog, whose component is well unless its
// version is told to be otherwise, and a web server with bundles.
type rig struct {
	t       *testing.T
	dir     string
	clock   *testClock
	reports *reports
	options Options

	disk   disk.FS
	seed   string
	uptime time.Duration
	runs   string // version
	starts int
	bad    map[string]bool // versions that do not answer

	server *httptest.Server
	mu     sync.Mutex
	files  map[string][]byte // of the server, by name
	asked  []string          // names
	slow   chan struct{}     // closed when payloads may go on; nil when they need not wait
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), clock: &testClock{wall: today}, reports: &reports{},
		uptime: time.Minute, bad: map[string]bool{}, files: map[string][]byte{},
	}
	dir, err := disk.Open(r.dir)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	r.disk = dir
	installAnchor(t, r.dir, commandKey)
	must(t, os.WriteFile(filepath.Join(r.dir, "device_id"), []byte(deviceID+"\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(r.dir, "inbox"), 0o700))
	r.seed = filepath.Join(t.TempDir(), "seed")
	must(t, os.WriteFile(r.seed, []byte("program 1.0.0\n"), 0o755))
	must(t, r.watchdog().Boot())
	must(t, r.Restart(t.Context()))
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.server.Close)
	fetcher, err := fetch.New(fetch.Options{Dir: filepath.Join(r.dir, "inbox"), Free: plenty, Wait: time.Millisecond, Log: zerolog.Nop()})
	must(t, err)
	r.options = Options{
		Layout: ota.Layout{Base: r.dir}, Fetch: fetcher, Free: func(string) (int64, error) { return plenty() },
		DeviceID: deviceID, Group: "default", Target: bundle.Target{OS: "linux", Arch: "arm64"}, Version: "1.0.0",
		Delta: true, Report: r.reports.take, Clock: r.clock, Build: today.AddDate(0, -1, 0),
		Poll: 5 * time.Millisecond, Log: zerolog.Nop(),
	}
	return r
}

func plenty() (int64, error) { return 1 << 50, nil }

// pack makes the bundle of a release and serves it, with a delta from base if that
// is given.
func (r *rig) pack(version string, counter uint64, base string) wire.Command {
	r.t.Helper()
	from := r.t.TempDir()
	program := make([]byte, 300<<10)
	random := rand.NewChaCha8([32]byte{1}) // the same in each, so that deltas are small
	random.Read(program)
	program = append([]byte("program "+version+"\n"), program...)
	must(r.t, os.WriteFile(filepath.Join(from, "pyvorin-edge"), program, 0o755))
	o := pack.Options{
		From: from, Name: ota.AgentComponent, Version: version, Counter: counter, Arch: "arm64",
		CreatedAt: today.AddDate(0, 0, -1), ExpiresAt: today.AddDate(0, 0, 30), PartSize: 64 << 10,
		Health: bundle.Health{MinHealthySeconds: 10, DeadlineSeconds: 100}, Keys: []ed25519.PrivateKey{releaseKey},
	}
	var made bytes.Buffer
	_, err := pack.Create(r.t.Context(), &made, o)
	must(r.t, err)
	name := "/" + version + ".bundle"
	r.put(name, made.Bytes())
	if base != "" {
		old := r.files["/"+base+".bundle"]
		u, err := bundle.Inspect(bytes.NewReader(old))
		must(r.t, err)
		var delta bytes.Buffer
		_, err = pack.Delta(r.t.Context(), &delta, bytes.NewReader(old), bytes.NewReader(made.Bytes()), o.Keys)
		must(r.t, err)
		r.put(bundle.DeltaName(name, u.Manifest.Digest()), delta.Bytes())
	}
	return wire.Command{URL: r.server.URL + name, SHA256: hashOf(made.Bytes()), Version: version, Counter: counter}
}

func (r *rig) put(name string, content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[name] = content
}

func (r *rig) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	content, ok := r.files[req.URL.Path]
	r.asked = append(r.asked, req.URL.Path)
	slow := r.slow
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	if slow != nil && req.Header.Get("Range") != "bytes=0-16383" {
		select {
		case <-slow:
		case <-req.Context().Done():
			return
		}
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
}

// requests returns which files were asked for, each once.
func (r *rig) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Compact(slices.Clone(r.asked))
}

func (r *rig) watchdog() *watchdog.Watchdog {
	r.t.Helper()
	w, err := watchdog.New(watchdog.Options{
		Component: ota.AgentComponent, Layout: ota.Layout{Base: r.dir}, Disk: r.disk, Home: r.disk,
		Service: r, Probe: r, Target: bundle.Target{OS: "linux", Arch: "arm64"},
		Seed: &watchdog.Seed{Path: r.seed, Version: "1.0.0"}, Free: plenty, Clock: r.clock,
		Uptime: func() time.Duration { r.uptime += time.Second; return r.uptime },
		BootID: "boot", Build: today.AddDate(0, -1, 0), Poll: time.Nanosecond, Log: zerolog.Nop(),
	})
	must(r.t, err)
	return w
}

// obey has the watchdog do what is asked of it.
func (r *rig) obey() *ota.State {
	r.t.Helper()
	w := r.watchdog()
	must(r.t, w.Run(r.t.Context()))
	return w.State()
}

// install brings a release onto the device that was asked for by hand.
func (r *rig) install(version string, counter uint64, base string) {
	r.t.Helper()
	r.pack(version, counter, base)
	must(r.t, os.WriteFile(filepath.Join(r.dir, "inbox", "by-hand"), r.files["/"+version+".bundle"], 0o600))
	must(r.t, ota.WriteRequest(ota.Layout{Base: r.dir}, ota.Request{ID: newID(), At: today, Action: ota.Install, Bundle: "by-hand"}))
	if s := r.obey(); s.Active.Version != version {
		r.t.Fatalf("%s runs: %v", s.Active.Version, s.Last)
	}
	must(r.t, os.Remove(filepath.Join(r.dir, "inbox", "by-hand")))
}

// asks waits until the updater has asked the watchdog.
func (r *rig) asks() {
	r.t.Helper()
	eventually(r.t, "the watchdog is asked", func() bool {
		_, err := os.Lstat(filepath.Join(r.dir, "inbox", ota.RequestFile))
		return err == nil
	})
}

// told waits until so many outcomes were told, and returns them in short.
func (r *rig) told(n int) string {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d outcomes are told", n), func() bool { return len(r.reports.all()) >= n })
	return strings.Join(r.reports.lines(), ", ")
}

func (r *rig) Restart(context.Context) error {
	data, err := os.ReadFile(filepath.Join(r.dir, "active", "pyvorin-edge"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	_, r.runs, _ = strings.Cut(line, " ")
	r.starts++
	return nil
}

func (r *rig) Status(context.Context) (watchdog.Status, error) {
	return watchdog.Status{Running: true, PID: 100 + r.starts}, nil
}

func (r *rig) Look(context.Context, int) (watchdog.Report, error) {
	if r.bad[r.runs] {
		return watchdog.Report{}, errors.New("no answer")
	}
	return watchdog.Report{Version: r.runs, Checks: map[string]wire.CheckState{"sensors": wire.CheckOK}}, nil
}
