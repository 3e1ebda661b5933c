package ingest

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childDatabase); path != "" {
		serveAsChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}
