package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// bootLimit is how long a machine may take until systemd has started all.
	bootLimit = 5 * time.Minute

	// stopLimit is how long a clean power-off may take.
	stopLimit = 3 * time.Minute
)

// Options are what tests choose about a machine.
type Options struct {
	Arch      string   // amd64 or arm64
	MemoryMiB int      // 512 when 0
	Kernel    string   // more for the kernel's command line
	QEMU      []string // more for qemu's
}

// Machine is one machine with a disk of its own. Its methods fail the test
// unless they return an error.
type Machine struct {
	t     testing.TB
	o     Options
	image string
	dir   string

	done  chan struct{} // closed when qemu ended; nil before the first Boot
	pid   int
	mu    sync.Mutex
	agent *client // nil while there is no connection to the guest agent
}

// New returns a machine that was never booted, with a new disk. It is taken
// away when the test ends.
func New(t testing.TB, o Options) *Machine {
	t.Helper()
	m := &Machine{t: t, o: o, image: image(t, o.Arch), dir: t.TempDir()}
	if err := os.Mkdir(m.path("shared"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2",
		"-F", "qcow2", "-b", filepath.Join(m.image, "base.qcow2"), m.path("disk.qcow2")).CombinedOutput()
	if err != nil {
		t.Fatalf("make a disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			console, _ := os.ReadFile(m.path("console"))
			t.Logf("console of the %s machine:\n%s", o.Arch, last(console, 4000))
		}
	})
	return m
}

// Start returns a machine that was just booted for the first time.
func Start(t testing.TB, o Options) *Machine {
	t.Helper()
	m := New(t, o)
	m.Boot()
	return m
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

// Boot switches the machine on and waits until all services have started.
func (m *Machine) Boot() {
	m.t.Helper()
	began := time.Now()
	if err := m.launch(); err != nil {
		m.t.Fatalf("start qemu: %v", err)
	}
	m.waitUp()
	m.t.Logf("the %s machine was up after %v", m.o.Arch, time.Since(began).Round(100*time.Millisecond))
}

// waitUp waits until all services have started.
func (m *Machine) waitUp() {
	m.t.Helper()
	var state Result
	deadline := time.Now().Add(bootLimit)
	for {
		var err error
		if state, err = m.Try(time.Until(deadline), "systemctl is-system-running --wait"); err == nil {
			break
		}
		if !m.running() {
			m.t.Fatalf("wait for the machine: it is off")
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("wait for the machine: %v", err)
		}
	}
	if text := strings.TrimSpace(state.Out); text != "running" {
		failed, _ := m.Try(time.Minute, "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager | tail -20")
		m.t.Fatalf("the machine is %s, not running:\n%s", text, failed.Out)
	}
}

func (m *Machine) launch() error {
	if m.running() {
		return errors.New("it is on already")
	}
	memory := m.o.MemoryMiB
	if memory == 0 {
		memory = 512
	}
	var args []string
	console := "ttyS0"
	program := "qemu-system-x86_64"
	switch m.o.Arch {
	case "amd64":
		args = []string{"-M", "q35", "-cpu", "Nehalem"}
	case "arm64":
		program, console = "qemu-system-aarch64", "ttyAMA0"
		args = []string{"-M", "virt", "-cpu", "cortex-a53"}
	default:
		return fmt.Errorf("there are no machines of %q", m.o.Arch)
	}
	// noauto_da_alloc takes back ext4's leniency with programs that rename a
	// file over another without a sync: after a cut such a file is empty.
	commandLine := "console=" + console + " root=/dev/vda rw rootflags=noauto_da_alloc net.ifnames=0 mitigations=off quiet panic=-1 " + m.o.Kernel
	args = append(args,
		"-accel", "tcg,thread=multi", "-smp", "1", "-m", fmt.Sprint(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none",
		"-kernel", filepath.Join(m.image, "kernel"), "-initrd", filepath.Join(m.image, "initrd"), "-append", commandLine,
		"-blockdev", "driver=file,filename="+m.path("disk.qcow2")+",node-name=file",
		"-blockdev", "driver=qcow2,file=file,node-name=disk",
		"-device", "virtio-blk-pci,drive=disk",
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
		"-chardev", "file,id=console,append=on,path="+m.path("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path="+m.path("agent"),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-virtfs", "local,path="+m.path("shared")+",mount_tag=shared,security_model=none,multidevs=remap",
		"-qmp", "unix:"+m.path("monitor")+",server=on,wait=off",
	)
	cmd := exec.Command(program, append(args, m.o.QEMU...)...)
	log, err := os.OpenFile(m.path("console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, done := make(chan error), make(chan struct{})
	go func() {
		// qemu dies with the thread that started it, so that thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	m.pid, m.done = cmd.Process.Pid, done
	return nil
}

func (m *Machine) running() bool {
	if m.done == nil {
		return false
	}
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// kill ends qemu at once.
func (m *Machine) kill() {
	if m.running() {
		syscall.Kill(m.pid, syscall.SIGKILL)
		<-m.done
	}
	m.disconnect()
}

// Cut pulls the power cord.
func (m *Machine) Cut() {
	m.t.Helper()
	if !m.running() {
		m.t.Fatal("cut the power: the machine is off")
	}
	m.kill()
}

// Stop shuts the machine down as its owner would.
func (m *Machine) Stop() {
	m.t.Helper()
	if !m.running() {
		m.t.Fatal("stop: the machine is off")
	}
	m.Try(time.Minute, "systemctl --no-block poweroff")
	select {
	case <-m.done:
	case <-time.After(stopLimit):
		m.t.Fatalf("the machine is still on %v after it was told to power off", stopLimit)
	}
	m.disconnect()
}

// Monitor gives qemu's monitor a command without arguments, such as
// system_powerdown.
func (m *Machine) Monitor(command string) {
	m.t.Helper()
	c, err := dialMonitor(m.path("monitor"), time.Minute)
	if err == nil {
		err = c.call(time.Minute, command, nil, nil)
		c.conn.Close()
	}
	if err != nil {
		m.t.Fatalf("monitor: %v", err)
	}
}
