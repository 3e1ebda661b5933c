// Package port keeps two sensors off one serial port. The kernel lets any
// number of openers read from a terminal, and each gets some of the bytes: a
// misconfigured device would look like a noisy cable. So whoever opens a port
// claims it first, under whatever name it was given, and the second one fails
// with the first one's name.
package port

import (
	"fmt"
	"path/filepath"
	"sync"
)

var (
	mu     sync.Mutex
	owners = map[string]string{} // real path of a port → who has it
)

// Claim takes the port at path for owner, a sensor's name, until release is
// called, any number of times. The port must exist: its symbolic links are
// followed. The error is that of following them, or names the present owner.
func Claim(path, owner string) (release func(), err error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	if other, taken := owners[real]; taken {
		return nil, fmt.Errorf("%s is in use by the sensor %s; give each sensor a port of its own", path, other)
	}
	owners[real] = owner
	var once sync.Once
	return func() {
		once.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			delete(owners, real)
		})
	}, nil
}
