package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// Component is an application on the device that is updated as the agent is:
// from signed bundles, in two slots below its own root, on trial, and back.
type Component struct {
	Name string `json:"name"` // as in its bundles' manifests
	Root string `json:"root"` // its base dir: active, slot-a, slot-b, ota/

	// Unit is the systemd unit that runs it; else Command is, with its program
	// looked up in the active slot, as a child of `pyvorin-edge supervise`.
	Unit    string   `json:"unit,omitempty"`
	Command []string `json:"command,omitempty"`

	User     string   `json:"user,omitempty"`      // whom it, and its selftest, runs as
	ProbeURL string   `json:"probe_url,omitempty"` // answers 2xx when it is well
	ProbeTCP string   `json:"probe_tcp,omitempty"` // or accepts connections
	Selftest []string `json:"selftest,omitempty"`  // program in the slot, and arguments; passes before a switch
}

// MaxComponents bounds how many there are.
const MaxComponents = 16

// Components returns the file that says which components the watchdog manages.
// Root writes it: what it names is run and restarted with root's power.
func (l Layout) Components() string { return filepath.Join(l.Dir(), "components.json") }

const maxComponentsBytes = 256 << 10

// ReadComponents reads the components of the device. None when there is no file.
func ReadComponents(l Layout) ([]Component, error) {
	data, err := readTrusted(l.Components(), maxComponentsBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read components: %w", err)
	}
	var list []Component
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read components: %w", err)
	}
	if err := CheckComponents(list); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.Components(), err)
	}
	return list, nil
}

// WriteComponents replaces the components of the device.
func WriteComponents(l Layout, list []Component) error {
	if err := CheckComponents(list); err != nil {
		return err
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(l.Components(), append(data, '\n'), 0o644)
}

var unitPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.@\\-]{0,200}\.service$`)

// CheckComponents returns an error that says which component cannot be managed,
// and why.
func CheckComponents(list []Component) error {
	if len(list) > MaxComponents {
		return fmt.Errorf("%d components, more than %d", len(list), MaxComponents)
	}
	for i, c := range list {
		why := ""
		switch {
		case !namePattern.MatchString(c.Name):
			why = "its name is not made of lower case letters, digits and dashes"
		case c.Name == AgentComponent:
			why = "the agent itself is always managed"
		case slices.ContainsFunc(list[:i], func(o Component) bool { return o.Name == c.Name || o.Root == c.Root }):
			why = "another component has its name or root"
		case !filepath.IsAbs(c.Root) || filepath.Clean(c.Root) != c.Root || c.Root == "/":
			why = "its root is not a clean absolute folder"
		case (c.Unit == "") == (len(c.Command) == 0):
			why = "it needs either a unit or a command"
		case c.Unit != "" && !unitPattern.MatchString(c.Unit):
			why = "its unit is no service"
		case len(c.Command) > 0 && !filepath.IsLocal(c.Command[0]) || len(c.Selftest) > 0 && !filepath.IsLocal(c.Selftest[0]):
			why = "command and selftest name a program in the slot, such as bin/app"
		case c.ProbeURL != "" && c.ProbeTCP != "":
			why = "it has two probes"
		}
		if why != "" {
			return fmt.Errorf("component %q: %s", c.Name, why)
		}
	}
	return nil
}
