package main

import (
	"cmp"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
)

// TestMain lets the scripts in testdata/script run this program as a command,
// and as the version that TEST_VERSION says.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pyvorin-edge": func() {
		buildinfo.Version = cmp.Or(os.Getenv("TEST_VERSION"), buildinfo.Version)
		main()
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"release": scriptRelease},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PYVORIN_BASE_DIR", env.Getenv("WORK"))
			return os.WriteFile(env.Getenv("WORK")+"/device_id", []byte("FLEET-0123456789ab\n"), 0o644)
		},
	})
}
