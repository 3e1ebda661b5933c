package provision

import (
	"fmt"
	"slices"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// Board is what the board says of the identity that is in the base dir.
type Board struct {
	DeviceID string // as provisioned; "" when it was not
	Own      string // what the board's own serial number gives, where that is another
}

// CheckBoard compares the identity in a base dir with the board whose /proc and
// /sys are below root. They differ on a device that runs from the copy of
// another one's card. Nothing is said of a random id, nor where the serial
// number that the id was made of cannot be read, as by the agent on a PC.
func CheckBoard(baseDir, root string) (Board, error) {
	dir, err := disk.Open(baseDir)
	if err != nil {
		return Board{}, fmt.Errorf("open base dir: %w", err)
	}
	defer dir.Close()
	was, err := readState(&folder{baseDir, dir})
	if err != nil {
		return Board{}, err
	}
	b := Board{DeviceID: was.DeviceID}
	serials, _ := Serials(root)
	prefix := prefixOf(was.DeviceID)
	same := slices.ContainsFunc(serials, func(s Serial) bool { return DeviceID(prefix, s.Value) == was.DeviceID })
	i := slices.IndexFunc(serials, func(s Serial) bool { return s.Source == was.Source })
	if prefix != "" && !same && i >= 0 {
		b.Own = DeviceID(prefix, serials[i].Value)
	}
	return b, nil
}

// Warning says in a line what is wrong, or "" when nothing is.
func (b Board) Warning() string {
	if b.Own == "" {
		return ""
	}
	return fmt.Sprintf("this device is provisioned as %s, but its board is %s: was the card copied? pyvorin-edge provision --force=identity renames it", b.DeviceID, b.Own)
}
