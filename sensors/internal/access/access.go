// Package access says what lets the agent's user open the file of a device.
package access

import (
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Advice is for somebody who was denied to read and write the file at path;
// ownerOnly is what to do where its group may not either.
func Advice(path, ownerOnly string) string {
	const restart = " and restart the agent"
	info, err := os.Stat(path)
	if err != nil {
		return "let the agent's user into the folders above it" + restart
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&0o060 != 0o060 {
		return "only its owner may use it: " + ownerOnly + restart
	}
	group := strconv.FormatUint(uint64(owner.Gid), 10)
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return "add the agent's user to the group " + group + " (usermod -aG " + group + " USER)" + restart
}
