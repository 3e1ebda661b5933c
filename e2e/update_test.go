package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// updatable is a device under `pyvorin-edge supervise`, and the operator whose
// releases it takes.
type updatable struct {
	*edge
	key ed25519.PrivateKey
}

const updatableConfig = `
[sensors]
poll_interval_seconds = 0.5
devices = [ { name = "temp-01", ingest_type = "simulator", sensor_type = "temperature", unit = "C" } ]
[health]
address = "127.0.0.1"
port = @PORT@
[health.thresholds]
disk_critical_percent = 100
memory_critical_percent = 100
`

func newUpdatable(t testing.TB) *updatable {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u := &updatable{edge: newEdge(t, updatableConfig), key: key}
	anchor, err := trust.SingleKey(key.Public().(ed25519.PublicKey))
	if err == nil {
		err = trust.InstallAnchor(filepath.Join(u.dir, "trust_anchor.json"), anchor)
	}
	if err != nil {
		t.Fatal(err)
	}
	u.supervise()
	u.waitHealth(patience, sound)
	return u
}

func (u *updatable) supervise() {
	u.t.Helper()
	u.process = startProcess(u.t, filepath.Join(u.dir, "log"), nil, "pyvorin-edge",
		"supervise", "--base-dir", u.dir, "--ping-timeout", "2s")
}

func (u *updatable) layout() ota.Layout { return ota.Layout{Base: u.dir} }

var buildRelease = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binDir, "releases")
	builds := [][]string{
		{"-ldflags", "-X github.com/pyvorin/pyvorin-edge/internal/buildinfo.Version=1.1.0", "-o", filepath.Join(dir, "1.1.0"), "../cmd/pyvorin-edge"},
		{"-o", filepath.Join(dir, "bad"), "./testdata/bad"},
	}
	for _, args := range builds {
		build := exec.Command("go", append([]string{"build"}, args...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build: %w\n%s", err, out)
		}
	}
	return dir, nil
})

// release puts a signed bundle into the inbox: of the real agent, or of a bad
// one in this mode.
func (u *updatable) release(version string, counter uint64, mode string) string {
	u.t.Helper()
	dir, err := buildRelease()
	if err != nil {
		u.t.Fatal(err)
	}
	from := u.t.TempDir()
	program := filepath.Join(dir, version)
	if mode != "" {
		program = filepath.Join(dir, "bad")
		for name, content := range map[string]string{"mode": mode, "version": version} {
			if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o644); err != nil {
				u.t.Fatal(err)
			}
		}
	}
	copyFile(u.t, program, filepath.Join(from, "pyvorin-edge"))
	name := version + ".bundle"
	f, err := os.Create(filepath.Join(u.layout().Inbox(), name))
	if err != nil {
		u.t.Fatal(err)
	}
	defer f.Close()
	_, err = pack.Create(u.t.Context(), f, pack.Options{
		From: from, Name: ota.AgentComponent, Version: version, Counter: counter, Arch: bundle.HostTarget().Arch,
		CreatedAt: time.Now().Add(-time.Minute), ExpiresAt: time.Now().Add(time.Hour),
		Health: bundle.Health{MinHealthySeconds: 3, DeadlineSeconds: 20, Required: []string{"sensors", "queue"}},
		Keys:   []ed25519.PrivateKey{u.key},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return name
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// ask asks for the bundle and returns the name of the attempt.
func (u *updatable) ask(name string) string {
	u.t.Helper()
	var id [16]byte
	rand.Read(id[:])
	r := ota.Request{ID: hex.EncodeToString(id[:]), At: time.Now(), Action: ota.Install, Bundle: name}
	if err := ota.WriteRequest(u.layout(), r); err != nil {
		u.t.Fatal(err)
	}
	return r.ID
}

// outcome waits for the outcome of an attempt, and for its version to serve.
func (u *updatable) outcome(id, serves string) ota.Outcome {
	u.t.Helper()
	var last ota.Outcome
	eventually(u.t, 3*patience, func() error {
		s, err := ota.ReadState(u.layout())
		if err != nil {
			return err
		}
		if s.Last == nil || s.Last.ID != id || !s.Phase.AtRest() {
			return fmt.Errorf("%s", s.Phase)
		}
		last = *s.Last
		return nil
	})
	u.waitHealth(patience, func(h wire.Health) error {
		if h.Version != serves {
			return fmt.Errorf("version %s serves, not %s", h.Version, serves)
		}
		return sound(h)
	})
	return last
}

// gaps watches /health on the socket until stop is called, which returns the
// longest time for which it did not answer.
func (u *updatable) gaps() (stop func() time.Duration) {
	done, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		longest, good := time.Duration(0), time.Now()
		for stopped := false; ; {
			_, err := u.health()
			if err == nil {
				longest = max(longest, time.Since(good))
				good = time.Now()
			}
			if stopped && (err == nil || time.Since(good) > patience) {
				result <- longest
				return
			}
			select {
			case <-done:
				stopped = true // and the gap that is open, if one is, is waited out
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() time.Duration { close(done); return <-result }
}

// TestAGoodUpdateAndACrashingOne is the story of a device that gets a good
// release and then one that crashes.
func TestAGoodUpdateAndACrashingOne(t *testing.T) {
	u := newUpdatable(t)
	first, err := u.health()
	if err != nil {
		t.Fatal(err)
	}

	name := u.release("1.1.0", 11, "")
	gap := u.gaps()
	if last := u.outcome(u.ask(name), "1.1.0"); last.Result != ota.Installed {
		t.Fatalf("1.1.0: %v", last)
	}
	t.Logf("a good update: /health did not answer for at most %v", gap().Round(time.Millisecond))
	u.waitHealth(patience, func(h wire.Health) error {
		if h.OTA.State != "committed" || h.OTA.Active != "1.1.0" || h.OTA.Previous != first.Version || h.Agent.Slot != "b" {
			return fmt.Errorf("/health says %+v, slot %s", h.OTA, h.Agent.Slot)
		}
		return nil
	})

	gap = u.gaps()
	id := u.ask(u.release("1.2.0", 12, "exits"))
	last := u.outcome(id, "1.1.0")
	t.Logf("a release that crashes at once: from its first crash to the old version serving at most %v", gap().Round(time.Millisecond))
	if last.Result != ota.TakenBack || last.To != "1.2.0" || !strings.Contains(last.Reason, "ended 3 times") {
		t.Fatalf("1.2.0: %v", last)
	}
	h := u.waitHealth(patience, func(h wire.Health) error {
		if h.OTA.State != "rolled_back" || h.OTA.LastOutcome == nil || !strings.Contains(*h.OTA.LastOutcome, "1.2.0") {
			return fmt.Errorf("/health says %+v", h.OTA)
		}
		return nil
	})
	history, err := ota.ReadHistory(u.layout())
	if err != nil || len(history) != 2 || history[1].ID != id {
		t.Errorf("history %v, %v", history, err)
	}
	if last := u.outcome(u.ask("1.2.0.bundle"), "1.1.0"); last.Result != ota.Refused || !strings.Contains(last.Reason, "failed on") {
		t.Errorf("1.2.0 once more: %v", last)
	}
	if depth := h.Cloud.QueueDepth; depth == 0 {
		t.Error("no reading is queued after two updates")
	}
	if code := u.stop(); code != 0 {
		t.Errorf("supervise ended with %d:\n%s", code, tail(u.log))
	}
}

// TestBadReleasesAreTakenBack has a row for each way in which a release is bad.
func TestBadReleasesAreTakenBack(t *testing.T) {
	tests := []struct{ mode, want string }{
		{"refuses-config", "configuration"},
		{"killed", "ended 3 times"},
		{"crashes", "ended 3 times"},
		{"hangs", "no sign of life"},
		{"lies", "9.9.9"},
		{"turns-critical", `"queue" is critical`},
		{"breaks-queue", "ended 3 times"},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			t.Parallel()
			u := newUpdatable(t)
			was, err := u.health()
			if err != nil {
				t.Fatal(err)
			}
			last := u.outcome(u.ask(u.release("2.0.0", 20, tt.mode)), was.Version)
			if last.Result != ota.TakenBack || !strings.Contains(last.Reason, tt.want) {
				t.Errorf("%v, want a reason with %q", last, tt.want)
			}
			u.stop()
		})
	}
}

// TestAWatchdogThatIsKilledGoesOn kills the supervisor at random moments of a
// good and a bad update. It and the agent are started again, and the update
// ends as it would have.
func TestAWatchdogThatIsKilledGoesOn(t *testing.T) {
	for _, tt := range []struct {
		version, mode, serves string
		want                  ota.Result
	}{
		{"1.1.0", "", "1.1.0", ota.Installed},
		{"2.0.0", "turns-critical", "", ota.TakenBack},
	} {
		t.Run(tt.version, func(t *testing.T) {
			t.Parallel()
			u := newUpdatable(t)
			serves := tt.serves
			if serves == "" {
				h, err := u.health()
				if err != nil {
					t.Fatal(err)
				}
				serves = h.Version
			}
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := mrand.New(mrand.NewPCG(seed, 0))
			id := u.ask(u.release(tt.version, 11, tt.mode))
			for range 5 {
				time.Sleep(time.Duration(random.IntN(1200)) * time.Millisecond)
				u.kill()
				u.supervise()
			}
			last := u.outcome(id, serves)
			refused := last.Result == ota.Refused && strings.Contains(last.Reason, "interrupted")
			if last.Result != tt.want && !refused {
				t.Errorf("%v, want %s", last, tt.want)
			}
			u.stop()
		})
	}
}
