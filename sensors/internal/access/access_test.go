package access

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAdvice(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		mode os.FileMode
		want string
	}{
		{0o660, "add the agent's user to the group "},
		{0o060, "add the agent's user to the group "},
		{0o640, "only its owner may use it: do this and restart the agent"},
		{0o600, "only its owner may use it: do this and restart the agent"},
	} {
		path := filepath.Join(dir, tt.mode.String())
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		if got := Advice(path, "do this"); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: %s", tt.mode, got)
		}
	}
	if got := Advice(filepath.Join(dir, "gone"), ""); !strings.Contains(got, "folders above it") {
		t.Errorf("what cannot be looked at: %s", got)
	}
}
