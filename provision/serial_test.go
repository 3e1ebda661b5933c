package provision

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the Python of the article, run on the same files, makes of them.
func TestDeviceIDAsTheArticleComputesIt(t *testing.T) {
	for cpuinfo, want := range map[string]string{
		boardA:                               idA,
		boardB:                               idB,
		"Serial\t\t: 1423621045871\n":        "FLEET-7ce3d1452b11",
		"Serial\t\t: 100000008d9b2c41\r\n":   "FLEET-ade6023bc332",
		"Serial : 10000000a1b2c3d4":          "FLEET-a438f8ac132a",
		"model : x\nSerial:100000008d9b2c41": "FLEET-ade6023bc332",
	} {
		root := t.TempDir()
		write(t, filepath.Join(root, "proc/cpuinfo"), cpuinfo)
		found, _ := Serials(root)
		if len(found) != 1 || found[0].Source != SourceCPUInfo || DeviceID("FLEET", found[0].Value) != want {
			t.Errorf("%q gives %+v; want the serial number of %s", cpuinfo, found, want)
		}
	}
}

func TestSerials(t *testing.T) {
	const (
		tree  = "proc/device-tree/serial-number"
		base  = "sys/firmware/devicetree/base/serial-number"
		cpu   = "proc/cpuinfo"
		dmi   = "sys/class/dmi/id/product_serial"
		board = "sys/class/dmi/id/board_serial"
		uuid  = "sys/class/dmi/id/product_uuid"
	)
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string // SOURCE VALUE
		notes int
	}{
		"nothing": {nil, nil, 0},
		"a Raspberry Pi": {map[string]string{tree: "100000008d9b2c41\x00", cpu: "Serial\t\t: 100000008d9b2c41\n"},
			[]string{"device-tree 100000008d9b2c41", "cpuinfo 100000008d9b2c41"}, 0},
		"a Jetson":        {map[string]string{tree: "1423621045871\x00", cpu: "processor\t: 0\n"}, []string{"device-tree 1423621045871"}, 0},
		"within a unit":   {map[string]string{base: "1423621045871\x00"}, []string{"device-tree 1423621045871"}, 0},
		"upper case":      {map[string]string{cpu: "Serial : 00000000ABCDEF12\n"}, []string{"cpuinfo 00000000ABCDEF12"}, 0},
		"a PC":            {map[string]string{dmi: "PF2XK9A1\n", uuid: "4c4c4544-0043-3510-8052-b4c04f4d3132\n"}, []string{"dmi PF2XK9A1", "dmi 4c4c4544-0043-3510-8052-b4c04f4d3132"}, 0},
		"a cheap PC":      {map[string]string{dmi: "To be filled by O.E.M.\n", board: "Default string\n", uuid: "4c4c4544-0043-3510-8052-b4c04f4d3132\n"}, []string{"dmi 4c4c4544-0043-3510-8052-b4c04f4d3132"}, 2},
		"a cheaper PC":    {map[string]string{dmi: "System Serial Number", board: "None", uuid: "03000200-0400-0500-0006-000700080009"}, nil, 3},
		"zeros":           {map[string]string{tree: "0000000000000000\x00", cpu: "Serial : 0000000000000000\n"}, nil, 2},
		"all F":           {map[string]string{uuid: "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}, nil, 1},
		"counting":        {map[string]string{dmi: "0123456789", board: "123456789", tree: "0123456789ABCDEF\x00"}, nil, 3},
		"empty":           {map[string]string{dmi: "\n", tree: "\x00"}, nil, 0},
		"too short":       {map[string]string{dmi: "007"}, nil, 1},
		"not text":        {map[string]string{tree: "ab\x01cdef\x00", dmi: "\xff\xfe\xfd\xfc1234"}, nil, 2},
		"endless":         {map[string]string{dmi: strings.Repeat("x1", 1<<20)}, nil, 1},
		"XXXX":            {map[string]string{dmi: "XXXXXXXX"}, nil, 1},
		"an unknown text": {map[string]string{dmi: "not specified"}, nil, 1},
	} {
		root := t.TempDir()
		for path, text := range tt.files {
			write(t, filepath.Join(root, path), text)
		}
		found, notes := Serials(root)
		var got []string
		for _, s := range found {
			got = append(got, s.Source+" "+s.Value)
		}
		if !slices.Equal(got, tt.want) || len(notes) != tt.notes {
			t.Errorf("%s: %q, notes %q; want %q and %d notes", name, got, notes, tt.want, tt.notes)
		}
	}
}

func TestPrefixOf(t *testing.T) {
	for id, want := range map[string]string{
		idA: "FLEET", "PLANT-7-3a4c73a54aba": "PLANT-7", "-3a4c73a54aba": "", "3a4c73a54aba": "", "pi-kitchen": "", "A-3A4C73A54ABA": "", "": "",
	} {
		if got := prefixOf(id); got != want {
			t.Errorf("the prefix of %q is %q, want %q", id, got, want)
		}
	}
}
