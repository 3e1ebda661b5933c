package manpages

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// What is shipped has no verb man, so no page may name it.
func TestPagesLeaveTheVerbOut(t *testing.T) {
	root := &cobra.Command{Use: "prog"}
	root.AddCommand(&cobra.Command{Use: "work", Run: func(*cobra.Command, []string) {}})
	root.AddCommand(NewVerb(root))
	dir := t.TempDir()
	root.SetArgs([]string{"man", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "prog.1"))
	if err != nil || !bytes.Contains(page, []byte("prog-work")) || bytes.Contains(page, []byte("prog-man")) {
		t.Errorf("%v in\n%s", err, page)
	}
	if _, err := os.Stat(filepath.Join(dir, "prog-man.1")); err == nil {
		t.Error("the verb has a page")
	}
}
