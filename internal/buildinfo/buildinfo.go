// Package buildinfo says which build this is. The three variables are set by
// the linker (see the Makefile); a plain `go build` leaves the defaults.
package buildinfo

import (
	"runtime"
	"time"
)

// Set with -ldflags -X.
var (
	Version = "0.0.0-dev"
	Commit  = "unknown"
	Date    = "" // RFC 3339, UTC
)

// Info is what `version --json` prints.
type Info struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// Get returns this build's Info.
func Get() Info {
	return Info{Version: Version, Commit: Commit, Date: Date, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
}

// Time returns when this was built. No true clock can be before it.
func Time() time.Time {
	if t, err := time.Parse(time.RFC3339, Date); err == nil {
		return t
	}
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
}
