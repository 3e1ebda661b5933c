package syncqueue_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also is the child process of the tests that kill one, or that need
// a file system of their own.
func TestMain(m *testing.M) {
	if child, ok := children[os.Getenv("SYNCQUEUE_TEST_CHILD")]; ok {
		os.Exit(child(os.Getenv("SYNCQUEUE_TEST_DIR")))
	}
	goleak.VerifyTestMain(m)
}

// children are the programs this binary can be, by name.
var children = map[string]func(dir string) int{
	"enqueue": enqueueUntilKilled,
	"full":    fillSmallDisk,
}
