package provision

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Where a device's id comes from.
const (
	SourceDeviceTree = "device-tree" // Raspberry Pi, Jetson and most other ARM boards
	SourceCPUInfo    = "cpuinfo"
	SourceDMI        = "dmi"    // PCs
	SourceRandom     = "random" // no serial could be read when the id was made
	SourceKept       = "kept"   // the id was there before, and no serial to compare it with
)

// Serial is a serial number of the board.
type Serial struct {
	Source string // SourceDeviceTree, SourceCPUInfo or SourceDMI
	Value  string
}

const (
	maxSerialFileBytes = 1 << 20 // /proc/cpuinfo has a paragraph for each of many processors
	maxSerialBytes     = 256
)

// cpuSerial is the line of /proc/cpuinfo with the serial number.
var cpuSerial = regexp.MustCompile(`(?m)^Serial\s*:\s*(\S+)\s*$`)

// serialFiles are where a serial number may be, the best place first.
var serialFiles = []struct {
	source string
	path   string
	line   *regexp.Regexp // nil: it is all of the file
}{
	{SourceDeviceTree, "proc/device-tree/serial-number", nil},
	// The same where only a part of /proc is to be seen, as in a service.
	{SourceDeviceTree, "sys/firmware/devicetree/base/serial-number", nil},
	{SourceCPUInfo, "proc/cpuinfo", cpuSerial},
	{SourceDMI, "sys/class/dmi/id/product_serial", nil},
	{SourceDMI, "sys/class/dmi/id/board_serial", nil},
	{SourceDMI, "sys/class/dmi/id/product_uuid", nil},
}

// Serials returns the serial numbers of the board whose /proc and /sys are
// below root, the best one first. Notes say why others that are there do not
// count; a board without any has none.
func Serials(root string) (found []Serial, notes []string) {
	for _, f := range serialFiles {
		text, err := readSome(filepath.Join(root, f.path))
		switch {
		case errors.Is(err, fs.ErrPermission):
			notes = append(notes, fmt.Sprintf("only root may read /%s", f.path))
			continue
		case err != nil:
			continue // this kernel or board has none there
		}
		value := string(text)
		if f.line != nil {
			m := f.line.FindStringSubmatch(value)
			if m == nil {
				continue
			}
			value = m[1]
		}
		// The strings of a device tree end with a NUL.
		value = strings.TrimSpace(strings.TrimRight(value, "\x00"))
		switch {
		case value == "":
		case isPlaceholder(value):
			notes = append(notes, fmt.Sprintf("/%s holds no serial number but what its maker left there", f.path))
		default:
			found = append(found, Serial{f.source, value})
		}
	}
	return found, notes
}

// readSome returns the beginning of a file of the kernel's.
func readSome(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSerialFileBytes))
}

// placeholders are what boards say that were never given a serial number, in
// lower case and without what is neither letter nor digit.
var placeholders = map[string]bool{
	"tobefilledbyoem": true, "tobefilledbyoemo": true, "defaultstring": true, "default": true, "none": true, "null": true,
	"na": true, "notapplicable": true, "notavailable": true, "notspecified": true, "notset": true, "notprovided": true,
	"unknown": true, "undefined": true, "invalid": true, "empty": true, "oem": true, "test": true, "serial": true,
	"serialnumber": true, "systemserialnumber": true, "boardserialnumber": true, "baseboardserialnumber": true,
	"chassisserialnumber": true, "productserialnumber": true, "standard": true,
	// UUIDs that makers of firmware ship.
	"03000200040005000006000700080009": true,
	"00020003000400050006000700080009": true,
	"12345678123456789012345678901234": true,
	"123456781234567890abcddeefaabbcc": true,
	"fefefefefefefefefefefefefefefefe": true,
}

// isPlaceholder reports whether many boards have this serial number, or none.
// Two devices with one id would be one device to everybody.
func isPlaceholder(serial string) bool {
	if len(serial) > maxSerialBytes || !utf8.ValidString(serial) || strings.ContainsFunc(serial, unicode.IsControl) {
		return true
	}
	plain := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, serial)
	if len(plain) < 4 || placeholders[plain] {
		return true
	}
	for _, counting := range []string{"0123456789abcdef", "1234567890abcdef", "123456789abcdef0"} {
		if strings.HasPrefix(counting, plain) {
			return true
		}
	}
	// All zeros, all F; and XXXX, which some write for what is to be filled in.
	first, _ := utf8.DecodeRuneInString(plain)
	return strings.Trim(plain, string(first)) == ""
}
