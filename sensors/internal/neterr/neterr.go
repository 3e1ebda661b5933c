// Package neterr words network errors for the reasons of readings: the same
// fault must read the same each time, or every poll of an outage would be news
// and go to the flash and the cloud.
package neterr

import (
	"errors"
	"fmt"
	"net"
)

// Steady returns err without what differs between two tries, which is the
// local port, also where a lookup of a name tells it.
func Steady(err error) error {
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		if lookup.IsNotFound {
			return fmt.Errorf("lookup %s: no such host", lookup.Name)
		}
		return fmt.Errorf("lookup %s: the name server cannot be asked", lookup.Name)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		remote := *op
		remote.Source = nil
		return &remote
	}
	return err
}
