package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// A program with the race detector waits a second before it ends,
			// which adds up.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
	})
}
