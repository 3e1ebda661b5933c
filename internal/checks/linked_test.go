package checks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoMethodsByName proves that nothing in the agent looks for a method whose
// name is not a constant of the source, as text/template does for what a
// template says: for that the linker keeps every exported method of every type,
// which is 2.5 MB more on a device.
func TestNoMethodsByName(t *testing.T) {
	cmd := exec.Command("go", "build", "-ldflags=-dumpdep", "-o", filepath.Join(t.TempDir(), "edge"), "../../cmd/pyvorin-edge")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("build the agent: %v\n%.2000s", err, out)
	}
	// The linker said what each function that it kept refers to. One that finds
	// methods by name makes it keep others that do.
	lines, finders := 0, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		lines++
		from, _, _ := strings.Cut(line, " -> ")
		if name, found := strings.CutSuffix(from, " <ReflectMethod>"); found && !finders[name] {
			finders[name] = true
			t.Errorf("%s finds methods by name: do without it, or without what calls it (go build -ldflags=-dumpdep lists the callers)", name)
		}
	}
	if lines < 10_000 {
		t.Errorf("the linker said %d lines only", lines)
	}
}
