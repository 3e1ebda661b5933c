package syncqueue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const powerCuts = 20

// Power cuts at random instants, on a real file system: the queue works on an
// ext4 image, and what its block device holds while the process stands still is
// what a cut at that instant would leave. All that was acknowledged is in it.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	disk := newDisk(t)
	said := filepath.Join(t.TempDir(), "said") // outside the image: what the world heard
	child := start(t, "enqueue", disk.dir, said)
	heard := func() string {
		data, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	proved := 0
	for range powerCuts {
		enough := len(heard()) + rand.IntN(4000)
		eventually(t, "more readings acknowledged", func() bool { return len(heard()) > enough })
		if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		cut := disk.snapshot(t)
		world := heard()

		acked, bySeq, byID := map[int64]bool{}, map[uint64]int64{}, map[int64]uint64{}
		deliver := func(id int64, seq uint64) {
			if other, ok := bySeq[seq]; ok && other != id {
				t.Errorf("seq %d is both reading %d and %d", seq, other, id)
			}
			bySeq[seq], byID[id] = id, seq
		}
		for line := range strings.Lines(world) {
			var id int64
			var seq uint64
			if n, _ := fmt.Sscanf(line, "a %d\n", &id); n == 1 {
				acked[id] = true
			} else if n, _ := fmt.Sscanf(line, "d %d %d\n", &id, &seq); n == 2 {
				deliver(id, seq)
			}
		}
		delivered := len(byID)
		o := options(mount(t, cut))
		o.BatchSize = 20
		q := open(t, o)
		for _, r := range drain(t, q) {
			v, _ := r.Value.Float()
			deliver(int64(v), r.Seq)
		}
		for id := range acked {
			if _, ok := byID[id]; !ok {
				t.Errorf("acknowledged reading %d is lost", id)
			}
		}
		if s := q.Stats(); s.Salvaged+s.LostRows > 0 {
			t.Errorf("a power cut is not damage: %+v", s)
		}
		proved += len(byID) - delivered
		shut(t, q)
		unmount(t, o.Path)
		if err := child.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if proved < 100 {
		t.Errorf("only %d readings came back from the disk: that proves little", proved)
	}
}

// disk is a small ext4 file system of its own.
type disk struct{ image, dir string }

func newDisk(t *testing.T) disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a disk whose power is cut")
	}
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("no ext4 to cut the power of: %v %s", err, out)
	}
	return disk{image, mount(t, image)}
}

// mount mounts an image for the duration of the test.
func mount(t *testing.T, image string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("no loop device to cut the power of: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() }) // unless unmount did it
	return dir
}

func unmount(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("umount", filepath.Dir(path)).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v %s", err, out)
	}
}

// snapshot copies what the device holds, which is less than what its file system
// shows: not what no fsync has asked for. The kernel may go on writing for a
// moment; a copy that equals the next one is of one instant.
func (d disk) snapshot(t *testing.T) (image string) {
	t.Helper()
	var content []byte
	eventually(t, "the disk to stand still", func() bool {
		before := content
		var err error
		if content, err = os.ReadFile(d.image); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(before, content)
	})
	image = filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

// start runs this binary as one of its children, with its output in a file,
// until the test ends.
func start(t *testing.T, name, dir, output string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SYNCQUEUE_TEST_CHILD="+name, "SYNCQUEUE_TEST_DIR="+dir)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return cmd
}
