package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a device as packaging/first-boot.sh finds it.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t, t.TempDir()}
	m.write("proc/device-tree/serial-number", "9b4c1f2e7d3a5860\x00")
	m.write("boot/firmware/config.txt", "")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.root, name) }

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	data, err := os.ReadFile(m.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return string(data)
}

// boot runs the script as a boot does, wants an exit code, and returns what it
// said.
func (m *machine) boot(code int) string {
	m.t.Helper()
	cmd := exec.Command("sh", "../../packaging/first-boot.sh")
	cmd.Env = append(os.Environ(), "PYVORIN_ROOT="+m.root, "PYVORIN_EDGE=pyvorin-edge", "PYVORIN_BASE_DIR="+m.path("opt/pyvorin-edge"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		m.t.Fatalf("exit code %d, %v, want %d:\n%s", got, err, code, said.String())
	}
	return said.String()
}

// want wants text in the file, and none of it when it is "".
func (m *machine) want(name, text string) {
	m.t.Helper()
	if got := m.read(name); !strings.Contains(got, text) || text == "" && got != "" {
		m.t.Errorf("%s is %q, want %q", name, got, text)
	}
}

const (
	bootEnv      = "boot/firmware/pyvorin-edge.env"
	bootDrop     = "boot/firmware/pyvorin-edge.toml"
	bootError    = "boot/firmware/pyvorin-edge.error.txt"
	bootTemplate = "[cloud]\nenabled = true\nendpoint = \"https://api.example.com\"\napi_key = \"${API_KEY}\"\n"
	bootVars     = "\ufeffFLEET_PREFIX = \"PLANT\"\r\n# the plant\r\nTEMPLATE='fleet template.toml'\r\nTRUST_ANCHOR=anchor.json\r\nAPI_KEY=s3cret $(touch ran)\r\n"
	bootAnchor   = `{"public_key": "b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1"}`
)

func TestFirstBoot(t *testing.T) {
	m := newMachine(t)
	if said := m.boot(0); !strings.Contains(said, "nothing to provision with") {
		t.Errorf("with nothing on the boot partition it says\n%s", said)
	}
	if m.read("opt/pyvorin-edge/device_id") != "" {
		t.Error("it was provisioned all the same")
	}

	m.write(bootEnv, bootVars)
	m.write("boot/firmware/fleet template.toml", bootTemplate)
	m.write("boot/firmware/anchor.json", bootAnchor)
	said := m.boot(0)
	if !strings.Contains(said, "PLANT-3a4c73a54aba is provisioned\n") || strings.Contains(said, "s3cret") {
		t.Errorf("it says\n%s", said)
	}
	m.want("opt/pyvorin-edge/device_id", "PLANT-3a4c73a54aba\n")
	m.want("opt/pyvorin-edge/trust_anchor.json", "b1b1")
	m.want("opt/pyvorin-edge/config.toml", `api_key = "s3cret $$(touch ran)"`)
	m.want(bootEnv, "")
	m.want("boot/firmware/anchor.json", bootAnchor)

	// Every boot after that has nothing to do, whatever came in the meantime.
	m.write("opt/pyvorin-edge/config.toml", "# pushed\n")
	for range 2 {
		if said := m.boot(0); !strings.Contains(said, "nothing to do") {
			t.Errorf("it says\n%s", said)
		}
	}
	m.want("opt/pyvorin-edge/config.toml", "# pushed\n")

	// The same card in another board is told.
	m.write("proc/device-tree/serial-number", "000000003d1d1c36\x00")
	if said := m.boot(1); !strings.Contains(said, "the card was copied") {
		t.Errorf("it says\n%s", said)
	}
	m.want("opt/pyvorin-edge/device_id", "PLANT-3a4c73a54aba\n")

	// And whoever copied it says so, once.
	m.write(bootEnv, bootVars+"FORCE=identity,config\r\n")
	m.boot(0)
	m.want("opt/pyvorin-edge/device_id", "PLANT-a23e0ab3af31\n")
	m.want(bootEnv, "")
}

func TestFirstBootWithAConfigOnly(t *testing.T) {
	m := newMachine(t)
	m.write(bootDrop, "[cloud]\napi_key = \"t0ken\"\nendpont = \"https://api.example.com\"\n")
	said := m.boot(78)
	if !strings.Contains(said, "failed with exit code 78") || strings.Contains(said, "t0ken") {
		t.Errorf("it says\n%s", said)
	}
	m.want(bootError, "cloud.endpont: unknown key")
	m.write(bootDrop, "[cloud]\nenabled = true\napi_key = \"t0ken\"\nendpoint = \"https://api.example.com\"\n")
	m.boot(0)
	m.want("opt/pyvorin-edge/device_id", "FLEET-3a4c73a54aba\n")
	m.want("opt/pyvorin-edge/config.toml", "t0ken")
	m.want(bootDrop, "")
	m.want(bootError, "")
	m.boot(0)
}

func TestFirstBootWithCloudInit(t *testing.T) {
	m := newMachine(t)
	m.write("etc/pyvorin-edge/provision.env", "TEMPLATE=fleet.toml\nTRUST_ANCHOR="+strings.Repeat("b1", 32)+"\nAPI_KEY=s3cret\n")
	m.boot(1) // cloud-init has not written the template yet
	m.write("etc/pyvorin-edge/fleet.toml", bootTemplate)
	m.boot(0)
	m.want("opt/pyvorin-edge/config.toml", `api_key = "s3cret"`)
	m.want("etc/pyvorin-edge/provision.env", "s3cret")
	m.write("etc/pyvorin-edge/fleet.toml", "[nonsense]\n")
	m.boot(0) // it is provisioned, and this is no longer looked at
}

// The template of docs/operations.md can be filled in, and is a config.
func TestOperationsDoc(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```toml\n")
	text, _, closed := strings.Cut(text, "```")
	if !found || !closed {
		t.Fatal("docs/operations.md shows no template")
	}
	m := newMachine(t)
	m.write(bootEnv, "TEMPLATE=fleet.toml\nAPI_KEY=s3cret\n")
	m.write("boot/firmware/fleet.toml", text)
	m.boot(0)
	m.want("opt/pyvorin-edge/config.toml", `labels = { id = "FLEET-3a4c73a54aba", site = "${SITE:-hall}" }`)
}
