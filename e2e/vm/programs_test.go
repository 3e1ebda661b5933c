//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs are those of ours that run in machines, a folder an architecture.
var programs struct {
	dir   string
	build map[string]func() error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vm-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	programs.build = map[string]func() error{}
	for _, arch := range []string{"amd64", "arm64"} {
		programs.build[arch] = sync.OnceValue(func() error {
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w",
				"-o", filepath.Join(dir, arch)+"/", "../../cmd/pyvorin-edge", "./cp2112")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build for %s: %w\n%s", arch, err, out)
			}
			return nil
		})
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// install puts one of our programs into the machine.
func install(t *testing.T, m *Machine, name string) {
	t.Helper()
	if err := programs.build[m.o.Arch](); err != nil {
		t.Fatal(err)
	}
	m.Put(filepath.Join(programs.dir, m.o.Arch, name), "/usr/local/bin/"+name)
}
