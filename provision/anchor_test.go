package provision

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestReadAnchor(t *testing.T) {
	hex := strings.Repeat("b1", 32)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"seed.json": "{\n  \"public_key\": \"" + hex + "\"\n}", // json.dumps(…, indent=2)
		"root.pub":  hex + "\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	for _, good := range []string{hex, strings.ToUpper(hex), filepath.Join(dir, "seed.json"), filepath.Join(dir, "root.pub")} {
		a, err := ReadAnchor(good)
		if err != nil || a.String() != "version 1: root 1 of 1, release 1 of 1, command 1 of 1" {
			t.Errorf("%s: %v, %v", good, a, err)
		}
	}
	for name, text := range map[string]string{
		"weak.pub": strings.Repeat("00", 32), "short.pub": "abcd", "bad.json": "{\"public_key\":\"x\"}", "twice.json": `{"public_key":"` + hex + `","public_key":"` + hex + `"}`,
		"empty": "", "large": strings.Repeat(" ", 1<<17),
	} {
		write(t, filepath.Join(dir, name), text)
		if a, err := ReadAnchor(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s gives %v", name, a)
		}
	}
	for _, bad := range []string{"abcd", "no-such-file.json", dir, strings.Repeat("00", 32), ""} {
		if a, err := ReadAnchor(bad); err == nil {
			t.Errorf("%q gives %v", bad, a)
		}
	}
}
