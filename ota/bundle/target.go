package bundle

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// Target is the machine that a bundle has to suit.
type Target struct {
	OS string
	// Arch is what the running program was built for: amd64, arm64, armv7,
	// armv6, or another GOARCH.
	Arch string
	// Hardware are the names of the model, such as raspberrypi,5-model-b.
	Hardware []string
}

// deviceTree has the names of a board's model, ended by a NUL each, the most
// precise first.
const deviceTree = "/proc/device-tree/compatible"

// HostTarget returns this machine.
func HostTarget() Target {
	t := Target{OS: runtime.GOOS, Arch: runtime.GOARCH}
	if t.Arch == "arm" {
		t.Arch = "armv" + goarm()
	}
	if names, err := os.ReadFile(deviceTree); err == nil {
		t.Hardware = strings.FieldsFunc(string(names), func(r rune) bool { return r == 0 })
	}
	return t
}

// goarm returns the version of the instruction set that this was built for.
func goarm() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "6"
	}
	for _, s := range info.Settings {
		if s.Key == "GOARM" {
			version, _, _ := strings.Cut(s.Value, ",")
			return version
		}
	}
	return "6"
}

// CheckTarget returns an error that wraps ErrWrongTarget when the bundle is not
// for t. The arch "any" is for programs that are not compiled.
func (m Manifest) CheckTarget(t Target) error {
	if m.OS != t.OS {
		return fmt.Errorf("%w: it is for %s, this is %s", ErrWrongTarget, m.OS, t.OS)
	}
	// A machine that runs a program for armv7 runs those for armv6 as well.
	if m.Arch != t.Arch && m.Arch != "any" && (m.Arch != "armv6" || t.Arch != "armv7") {
		return fmt.Errorf("%w: it is for %s, this is %s", ErrWrongTarget, m.Arch, t.Arch)
	}
	for _, pattern := range m.Hardware {
		if pattern == "*" || slices.ContainsFunc(t.Hardware, func(name string) bool { return matches(pattern, name) }) {
			return nil
		}
	}
	return fmt.Errorf("%w: it is for %s, this is %s", ErrWrongTarget, strings.Join(m.Hardware, ", "), orUnknown(t.Hardware))
}

func orUnknown(names []string) string {
	if len(names) == 0 {
		return "unknown hardware"
	}
	return strings.Join(names, ", ")
}

// matches reports whether name is what pattern says, where each * stands for
// any characters.
func matches(pattern, name string) bool {
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == name
	}
	first, last := pieces[0], pieces[len(pieces)-1]
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for _, piece := range pieces[1 : len(pieces)-1] {
		i := strings.Index(name, piece)
		if i < 0 {
			return false
		}
		name = name[i+len(piece):]
	}
	return strings.HasSuffix(name, last)
}
