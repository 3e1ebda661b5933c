package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts in testdata/script run this program as a command.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pyvorin-edge": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PYVORIN_BASE_DIR", env.Getenv("WORK"))
			return os.WriteFile(env.Getenv("WORK")+"/device_id", []byte("FLEET-0123456789ab\n"), 0o644)
		},
	})
}
