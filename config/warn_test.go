package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnings(t *testing.T) {
	const (
		open     = "privacy.enabled: false lets every reading leave this device as it was read"
		plain    = "cloud.endpoint: http shows the api key and the readings to the network on the way; use https"
		password = "sensors.devices[0].url: holds a user or password; give them in headers, which are never shown"
	)
	for text, want := range map[string]string{
		"": "",
		"[privacy]\nenabled = false\n[cloud]\nendpoint = 'http://10.0.0.2/v1'\napi_key = 's3cret'\n" + sensor + "url = 'http://u:s3cret@h/'": open + "\n" + plain + "\n" + password,
		"[cloud]\nendpoint = 'http://10.0.0.2/v1'":                                              "",
		"[cloud]\nendpoint = 'https://10.0.0.2/v1'\napi_key = 'k'":                              "",
		"[cloud]\nendpoint = 'http://127.0.0.1:8090/v1'\napi_key = 'k'":                         "",
		"[cloud]\nendpoint = 'http://[::1]:8090/v1'\napi_key = 'k'":                             "",
		"[cloud]\nendpoint = 'http://localhost/v1'\napi_key = 'k'":                              "",
		"[cloud]\nendpoint = 'http://localhost.example.com/v1'\napi_key = 'k'":                  plain,
		sensor + "url = 'http://h/?user=u'\n[[sensors.devices]]\nname='b'\ningest_type='sysfs'": "",
	} {
		c := mustParse(t, "c.toml", text, testOptions())
		if diff := cmp.Diff(want, strings.Join(c.Source.Warnings, "\n")); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
