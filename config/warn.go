package config

import (
	"net/netip"
	"net/url"
	"reflect"
)

// warnings names what is allowed and yet unwise.
func (c *Config) warnings() []string {
	var list []string
	if !c.Privacy.Enabled {
		list = append(list, "privacy.enabled: false lets every reading leave this device as it was read")
	}
	if u, err := url.Parse(c.Cloud.Endpoint); err == nil && u.Scheme == "http" && c.Cloud.APIKey != "" && !isLoopback(u.Hostname()) {
		list = append(list, "cloud.endpoint: http shows the api key and the readings to the network on the way; use https")
	}
	for i, s := range c.Sensors.Devices {
		if s.Options == nil {
			continue
		}
		for _, f := range fieldsOf(reflect.ValueOf(s.Options).Elem()) {
			if f.name == "url" && f.value.Kind() == reflect.String && hasUser(f.value.String()) {
				list = append(list, join(index("sensors.devices", i), f.name)+": holds a user or password; give them in headers, which are never shown")
			}
		}
	}
	return list
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
