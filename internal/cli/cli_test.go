package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
)

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	group := &cobra.Command{Use: "group"}
	group.AddCommand(&cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error { return errors.New("broken") }})
	root := &cobra.Command{Use: "prog"}
	root.AddCommand(NewVersion("prog"), group)
	Prepare(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"", ExitUsage, "a verb is missing"},
		{"group", ExitUsage, "prog group --help"},
		{"nonsense", ExitUsage, `unknown command "nonsense" (see 'prog --help')`},
		{"vresion", ExitUsage, `unknown command "vresion"; did you mean version?`},
		{"group fial", ExitUsage, `unknown command "fial"; did you mean fail?`},
		{"version extra", ExitUsage, "extra"},
		{"version --nope", ExitUsage, "--nope"},
		{"group fail", ExitFailure, "broken"},
	} {
		out, err := execute(t, strings.Fields(tt.args)...)
		if err == nil {
			t.Errorf("%q: no error", tt.args)
			continue
		}
		if got := ExitCode(err); got != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: exit code %d, error %q; want %d and %q in it", tt.args, got, err, tt.code, tt.want)
		}
		if out != "" {
			t.Errorf("%q: printed %q; main prints errors", tt.args, out)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"status", "stats", "queue", "sensors"}
	for given, want := range map[string]string{
		"statsu": "status or stats", "Queue": "queue", "sens": "sensors", "nonsense": "", "": "", strings.Repeat("status", 1000): "",
	} {
		if got := Nearest(given, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := execute(t, "version")
	if err != nil || !strings.HasPrefix(out, "prog "+buildinfo.Version+" (") {
		t.Errorf("version: %q, %v", out, err)
	}
	out, err = execute(t, "version", "--json")
	var info buildinfo.Info
	if err != nil || json.Unmarshal([]byte(out), &info) != nil || info != buildinfo.Get() {
		t.Errorf("version --json: %q, %v", out, err)
	}
}
