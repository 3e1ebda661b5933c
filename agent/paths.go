package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// DefaultBaseDir is where an installed agent keeps its files.
const DefaultBaseDir = "/opt/pyvorin-edge"

// Paths are the agent's files; see docs/formats.md.
type Paths struct {
	Base       string
	Config     string
	DeviceID   string
	Queue      string
	PrivacyKey string
	Runtime    string // what need not outlive a boot
	Socket     string
}

// NewPaths returns the files of an agent with this base dir; config may be
// empty for the one in the base dir. An installed agent keeps its runtime files
// under /run, any other below its base dir.
func NewPaths(base, config string) Paths {
	base = filepath.Clean(base)
	runtime := filepath.Join(base, "run")
	if base == DefaultBaseDir {
		runtime = "/run/pyvorin-edge"
	}
	if config == "" {
		config = filepath.Join(base, "config.toml")
		if alt := filepath.Join(base, "config.json"); !exists(config) && exists(alt) {
			config = alt
		}
	}
	return Paths{
		Base:       base,
		Config:     config,
		DeviceID:   filepath.Join(base, "device_id"),
		Queue:      filepath.Join(base, "sync_queue.db"),
		PrivacyKey: filepath.Join(base, "secrets", "privacy.key"),
		Runtime:    runtime,
		Socket:     filepath.Join(runtime, "health.sock"),
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// LastGoodConfig is where the config that ran before the present one is kept.
func (p Paths) LastGoodConfig() string {
	ext := filepath.Ext(p.Config)
	return strings.TrimSuffix(p.Config, ext) + ".last-good" + ext
}

// HintLastGood adds to the error of a start where a config is that did run, when
// err is of the config and there is one.
func (p Paths) HintLastGood(err error) error {
	var bad *config.Error
	if !errors.As(err, &bad) || !exists(p.LastGoodConfig()) {
		return err
	}
	return fmt.Errorf("%w\na config that ran before is kept as %s", err, p.LastGoodConfig())
}

// lock takes the base dir for this process until release is called. The lock is
// on the folder itself, and gone with the process. Where folders cannot be
// locked the queue's lock remains, which is taken later.
func (p Paths) lock() (release func(), err error) {
	dir, err := os.Open(p.Base)
	if err != nil {
		return nil, fmt.Errorf("open base dir: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		dir.Close()
		return nil, fmt.Errorf("another agent runs with the files of %s: stop that one first, or choose another folder with --base-dir", p.Base)
	}
	return func() { dir.Close() }, nil
}

// slot returns "a" or "b" when this process runs from a slot of the base dir,
// else "".
func (p Paths) slot() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return ""
	}
	base, err := filepath.EvalSymlinks(p.Base)
	if err != nil {
		return ""
	}
	switch filepath.Dir(exe) {
	case filepath.Join(base, "slot-a"):
		return "a"
	case filepath.Join(base, "slot-b"):
		return "b"
	}
	return ""
}

// ReadDeviceID returns the device's id. The error is fs.ErrNotExist before the
// first start of a device that was not provisioned.
func (p Paths) ReadDeviceID() (string, error) {
	data, err := os.ReadFile(p.DeviceID)
	if err != nil {
		return "", fmt.Errorf("read device id: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if !wire.ValidDeviceID(id) {
		return "", fmt.Errorf("%s holds no device id: want %s", p.DeviceID, wire.DeviceIDForm)
	}
	return id, nil
}

// ensureDeviceID returns the device's id. A device that was not provisioned
// gets a random one, which is kept: its readings are told apart by it for ever.
func (p Paths) ensureDeviceID() (string, error) {
	if err := os.MkdirAll(p.Base, 0o755); err != nil {
		return "", fmt.Errorf("make base dir: %w (choose another with --base-dir)", err)
	}
	id, err := p.ReadDeviceID()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	id = "FLEET-" + hex.EncodeToString(b[:])
	if err := atomicfile.Write(p.DeviceID, []byte(id+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("keep device id: %w (is the base dir writable? choose another with --base-dir)", err)
	}
	return id, nil
}
