package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// component is a valid one to which a test adds lines.
const component = "[[ota.components]]\nname = 'camera'\nroot = '/opt/camera'\n"

func TestOTAProblems(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"bandwidth", "[ota]\nmax_bandwidth_bytes_per_second = 1023", "2:1: ota.max_bandwidth_bytes_per_second: must be 0 for no cap, or at least 1024"},
		{"reserve", "[ota]\nreserve_bytes = 1000", "2:1: ota.reserve_bytes: 1000 is too small; the least is 33554432"},
		{"deadline", "[ota]\ndeadline_seconds = 30", "2:1: ota.deadline_seconds: min_healthy_seconds (60) is above deadline_seconds (30), so that no update could pass"},
		{"certificate alone", "[ota]\ncert_file = 'x'", "2:1: ota.cert_file: needs key_file, the certificate's key"},
		{"authorities", "[ota]\nca_file = 'x'", "2:1: ota.ca_file: stat x: no such file or directory"},
		{"no name", "[[ota.components]]\nroot = '/opt/x'\nunit = 'x.service'", "1:7: ota.components[0].name: is missing; it is required here"},
		{"name", "[[ota.components]]\nname = 'Camera'\nroot = '/opt/x'\nunit = 'x.service'", "2:1: ota.components[0].name: must be 1 to 63 lower case letters, digits and dashes, and begin with none of the latter"},
		{"name of the agent", "[[ota.components]]\nname = 'pyvorin-edge'\nroot = '/opt/x'\nunit = 'x.service'", "2:1: ota.components[0].name: is the agent itself, which needs no entry; choose another"},
		{"name twice", component + "unit = 'x.service'\n" + strings.Replace(component, "/opt/camera", "/opt/other", 1) + "unit = 'y.service'", "6:1: ota.components[1].name: ota.components[0] has this name already; names must be unique"},
		{"root within another", component + "unit = 'x.service'\n[[ota.components]]\nname = 'lens'\nroot = '/opt/camera/lens'\nunit = 'y.service'", "7:1: ota.components[1].root: is within that of ota.components[0], or the reverse; each component needs a folder of its own"},
		{"root", "[[ota.components]]\nname = 'camera'\nroot = 'camera'\nunit = 'x.service'", "3:1: ota.components[0].root: must be the absolute path of a folder, such as /opt/camera"},
		{"root that is not clean", "[[ota.components]]\nname = 'camera'\nroot = '/opt/../etc'\nunit = 'x.service'", "3:1: ota.components[0].root: must be the absolute path of a folder, such as /opt/camera"},
		{"nothing runs it", component, "1:7: ota.components[0]: needs unit, the systemd unit that runs it, or command"},
		{"two things run it", component + "unit = 'x.service'\ncommand = [ 'x' ]", "5:1: ota.components[0].command: is given, and unit too; keep one of them"},
		{"unit", component + "unit = 'x'", "4:1: ota.components[0].unit: must be the name of a systemd unit such as camera.service"},
		{"command", component + "command = [ '../x' ]", "4:1: ota.components[0].command: must begin with a program: an absolute path, or one that does not lead out of the slot"},
		{"selftest", component + "unit = 'x.service'\nselftest = [ '' ]", "5:1: ota.components[0].selftest: must begin with a program: an absolute path, or one that does not lead out of the slot"},
		{"user", component + "unit = 'x.service'\nuser = 'a b'", "5:1: ota.components[0].user: must be the name of a user"},
		{"probe", component + "unit = 'x.service'\nprobe = 'localhost'", "5:1: ota.components[0].probe: must be a URL such as http://localhost:9000/health, or host:port"},
	} {
		_, err := Parse("c.toml", []byte(test.text), testOptions())
		var bad *Error
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff("c.toml:"+test.want, err.Error()); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestOTASection(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "a.crt", "a.key")
	text := "[ota]\nenabled = false\ndownload_window = '* 2-4 * * *'\ntime_zone = 'Europe/Berlin'\nca_file = 'a.crt'\n" +
		component + "unit = 'camera@1.service'\nuser = 'camera'\nprobe = '127.0.0.1:9000'\nselftest = [ 'bin/camera', '--check' ]\n" +
		"[[ota.components]]\nname = 'engine'\nroot = '/opt/camera-engine'\ncommand = [ 'engine' ]\nprobe = 'http://127.0.0.1:9001/healthz'\n"
	path := filepath.Join(dir, "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse(path, []byte(text), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	want := OTA{
		DownloadWindow: "* 2-4 * * *", TimeZone: "Europe/Berlin", Delta: true, ReserveBytes: 64 << 20,
		MinHealthySeconds: 60, DeadlineSeconds: 300, CAFile: filepath.Join(dir, "a.crt"),
		Components: []Component{
			{Name: "camera", Root: "/opt/camera", Unit: "camera@1.service", User: "camera", Probe: "127.0.0.1:9000", Selftest: []string{"bin/camera", "--check"}},
			{Name: "engine", Root: "/opt/camera-engine", Command: []string{"engine"}, Probe: "http://127.0.0.1:9001/healthz"},
		},
	}
	if diff := cmp.Diff(want, c.OTA); diff != "" {
		t.Error(diff)
	}
}
