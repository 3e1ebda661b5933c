package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// smallChange is a source file more for the agent: a function, some texts, and
// enough code to move what is linked behind it.
const smallChange = `package agent

import (
	"fmt"
	"os"
)

func init() {
	if n := len(os.Args); n > 1000 {
		for i, arg := range os.Args {
			fmt.Fprintf(os.Stderr, "argument %d of %d is %q, which is one of many\n", i, n, arg)
		}
	}
}
`

// A release of the real agent with a small change costs a twentieth of it, and
// little memory.
func TestDeltaOfTheAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent twice")
	}
	dir := t.TempDir()
	changed, err := filepath.Abs("../../agent/small_change.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{changed: filepath.Join(dir, "small_change.go")}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "small_change.go"), smallChange)
	writeFile(t, filepath.Join(dir, "overlay.json"), string(overlay))
	goBuild(t, "-o", dir+"/pyvorin-fleet", ".")
	goBuild(t, "-ldflags", linkedAs("2.3.0"), "-o", dir+"/old/pyvorin-edge", "../pyvorin-edge")
	goBuild(t, "-ldflags", linkedAs("2.3.1"), "-overlay", dir+"/overlay.json", "-o", dir+"/new/pyvorin-edge", "../pyvorin-edge")

	// Not in this process: the race detector would make it take a minute.
	fleet := func(args ...string) {
		t.Helper()
		cmd := exec.Command("./pyvorin-fleet", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pyvorin-fleet %v: %v\n%s", args, err, out)
		}
	}
	fleet("keygen", "--out", ".", "--name", "key")
	fleet("bundle", "create", "--version", "2.3.0", "--counter", "230", "--arch", runtime.GOARCH, "--key", "key.key", "--from", "old", "--out", "old.bundle")
	start := time.Now()
	fleet("bundle", "create", "--version", "2.3.1", "--counter", "231", "--arch", runtime.GOARCH, "--key", "key.key", "--from", "new", "--out", "new.bundle", "--delta-from", "old.bundle")
	made := time.Since(start)

	key, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := trust.ParseAnchor([]byte(`{"public_key":"` + string(key[:64]) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	base := newFolder(t, filepath.Join(dir, "slot-a"))
	unpackFile(t, filepath.Join(dir, "old.bundle"), anchor, base, bundle.UnpackOptions{})
	before, err := bundle.ReadInstalled(base)
	if err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "new.bundle")
	delta := bundle.DeltaName(full, before.Digest())

	slot := newFolder(t, filepath.Join(dir, "slot-b"))
	runtime.GC()
	idle, peak := heapBytes(), uint64(0)
	start = time.Now()
	unpackFile(t, delta, anchor, slot, bundle.UnpackOptions{Base: base, Progress: func(int64) { peak = max(peak, heapBytes()) }})
	applied := time.Since(start)
	m, err := bundle.ReadInstalled(slot)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.VerifyInstalled(t.Context(), slot, m); err != nil {
		t.Fatal(err)
	}

	fullSize, deltaSize := sizeOf(t, full), sizeOf(t, delta)
	percent := float64(deltaSize) / float64(fullSize) * 100
	used := float64(peak-idle) / (1 << 20)
	t.Logf("agent %d bytes; full bundle %d bytes; delta %d bytes, %.2f %%; both made in %.1f s; delta applied in %.1f s with %.1f MiB of heap",
		m.InstalledSize, fullSize, deltaSize, percent, made.Seconds(), applied.Seconds(), used)
	if percent > 5 {
		t.Errorf("the delta is %.2f %% of the bundle", percent)
	}
	if used > 32 {
		t.Errorf("applying it took %.1f MiB of heap", used)
	}
}

func linkedAs(version string) string {
	return "-s -w -X github.com/pyvorin/pyvorin-edge/internal/buildinfo.Version=" + version
}

func goBuild(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build", "-trimpath"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", args, err, out)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newFolder(t *testing.T, path string) *disk.OS {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func unpackFile(t *testing.T, path string, anchor *trust.Anchor, slot disk.FS, o bundle.UnpackOptions) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := bundle.Open(f, anchor, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Unpack(t.Context(), slot, o); err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	n, err := fileSize(path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
