package bundle_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

func TestCheckTarget(t *testing.T) {
	pi5 := []string{"raspberrypi,5-model-b", "brcm,bcm2712"}
	for _, tt := range []struct {
		arch     string
		patterns string // of the bundle
		host     string
		names    []string // of the host
		want     bool
	}{
		{"arm64", "*", "arm64", pi5, true},
		{"arm64", "*", "arm64", nil, true},
		{"any", "*", "riscv64", nil, true},
		{"amd64", "*", "arm64", pi5, false},
		{"armv6", "*", "armv7", pi5, true}, // what runs there
		{"armv7", "*", "armv6", pi5, false},
		{"armv6", "*", "arm64", pi5, false},
		{"arm64", "raspberrypi,5-model-b", "arm64", pi5, true},
		{"arm64", "brcm,bcm2712", "arm64", pi5, true},
		{"arm64", "nvidia,*|raspberrypi,*", "arm64", pi5, true},
		{"arm64", "*,5-model-*", "arm64", pi5, true},
		{"arm64", "*model*b", "arm64", pi5, true},
		{"arm64", "raspberrypi,5-model-b*", "arm64", pi5, true},
		{"arm64", "raspberrypi,5", "arm64", pi5, false},
		{"arm64", "raspberrypi,4-*", "arm64", pi5, false},
		{"arm64", "*b*b*b*b*b", "arm64", pi5, false},
		{"arm64", "brcm,bcm2712*bcm2712", "arm64", pi5, false},
		{"arm64", "raspberrypi,*", "arm64", nil, false},
	} {
		m := bundle.Manifest{OS: "linux", Arch: tt.arch, Hardware: strings.Split(tt.patterns, "|")}
		err := m.CheckTarget(bundle.Target{OS: "linux", Arch: tt.host, Hardware: tt.names})
		if (err == nil) != tt.want || err != nil && !errors.Is(err, bundle.ErrWrongTarget) {
			t.Errorf("%s %s on %s %v: %v", tt.arch, tt.patterns, tt.host, tt.names, err)
		}
	}
}

func TestHostTarget(t *testing.T) {
	host := bundle.HostTarget()
	if host.OS != runtime.GOOS || !strings.HasPrefix(host.Arch, runtime.GOARCH) || host.Arch == "arm" {
		t.Errorf("%+v", host)
	}
	m := bundle.Manifest{OS: host.OS, Arch: host.Arch, Hardware: []string{"*"}}
	if err := m.CheckTarget(host); err != nil {
		t.Error(err)
	}
}
