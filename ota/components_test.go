package ota

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestComponents(t *testing.T) {
	l := Layout{Base: t.TempDir()}
	if list, err := ReadComponents(l); list != nil || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if err := os.Mkdir(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	want := []Component{
		{Name: "camera", Root: "/opt/camera", Unit: "camera@1.service", ProbeURL: "http://127.0.0.1:1/", Selftest: []string{"bin/test"}},
		{Name: "inference", Root: "/opt/inference", Command: []string{"bin/serve", "--port", "2"}, User: "nobody", ProbeTCP: "127.0.0.1:2"},
	}
	if err := WriteComponents(l, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadComponents(l)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if os.Geteuid() == 0 {
		// Its commands would be root's.
		if err := os.Lchown(l.Components(), 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if list, err := ReadComponents(l); err == nil {
			t.Errorf("components of another user: %v", list)
		}
	}
	if err := os.Remove(l.Components()); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", `[{"name":"camera"}]`} {
		if err := os.WriteFile(l.Components(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if list, err := ReadComponents(l); err == nil {
			t.Errorf("%q: %v", text, list)
		}
	}
}

func TestCheckComponents(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Component)
		want   string
	}{
		{"good", func(*Component) {}, ""},
		{"a name with a path", func(c *Component) { c.Name = "../x" }, "its name"},
		{"the agent", func(c *Component) { c.Name = AgentComponent }, "always managed"},
		{"a relative root", func(c *Component) { c.Root = "opt" }, "its root"},
		{"all of the disk", func(c *Component) { c.Root = "/" }, "its root"},
		{"a root with dots", func(c *Component) { c.Root = "/opt/../etc" }, "its root"},
		{"nothing to run", func(c *Component) { c.Unit = "" }, "either a unit or a command"},
		{"two things to run", func(c *Component) { c.Command = []string{"x"} }, "either a unit or a command"},
		{"no service", func(c *Component) { c.Unit = "reboot.target" }, "no service"},
		{"a program elsewhere", func(c *Component) { c.Unit, c.Command = "", []string{"/bin/sh"} }, "in the slot"},
		{"a selftest elsewhere", func(c *Component) { c.Selftest = []string{"../../bin/sh"} }, "in the slot"},
		{"two probes", func(c *Component) { c.ProbeTCP, c.ProbeURL = "x", "y" }, "two probes"},
	}
	for _, tt := range tests {
		c := Component{Name: "camera", Root: "/opt/camera", Unit: "camera.service"}
		tt.change(&c)
		if err := CheckComponents([]Component{c}); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	c := Component{Name: "camera", Root: "/opt/camera", Unit: "camera.service"}
	if CheckComponents([]Component{c, {Name: "other", Root: c.Root, Unit: "x.service"}}) == nil {
		t.Error("one root twice")
	}
	var many []Component
	for i := range MaxComponents + 1 {
		many = append(many, Component{Name: fmt.Sprint("c", i), Root: fmt.Sprint("/opt/", i), Unit: "x.service"})
	}
	if CheckComponents(many) == nil || CheckComponents(many[1:]) != nil {
		t.Error("the bound does not hold")
	}
}
