package modbus

import (
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// The schemes of a url, which are the library's names for its transports.
const (
	schemeTCP        = "tcp"
	schemeRTU        = "rtu"
	schemeRTUOverTCP = "rtuovertcp"
)

const defaultPort = "502"

// address is a url taken apart, in the one form that all spellings of it have.
type address struct {
	scheme string
	target string // path of the port, or host:port
}

func (a address) String() string { return a.scheme + "://" + a.target }

// onSerialLine reports whether the units are on a serial line, where frames
// have no number and characters take time.
func (a address) onSerialLine() bool { return a.scheme != schemeTCP }

// parseAddress reads a url. The error does not repeat it.
func parseAddress(url string) (address, error) {
	scheme, target, ok := strings.Cut(url, "://")
	scheme = strings.ToLower(scheme)
	switch {
	case !ok:
		return address{}, errors.New("must be an address such as tcp://192.168.0.20:502 or rtu:///dev/serial/by-id/NAME")
	case scheme == schemeRTU:
		if !filepath.IsAbs(target) || strings.HasSuffix(target, "/") {
			return address{}, errors.New("must name a serial port by its absolute path, such as rtu:///dev/serial/by-id/NAME with three slashes")
		}
		return address{scheme, filepath.Clean(target)}, nil
	case scheme != schemeTCP && scheme != schemeRTUOverTCP:
		return address{}, errors.New("must begin with tcp://, rtu:// or rtuovertcp://")
	}
	target = strings.ToLower(strings.TrimSuffix(target, "/"))
	host, port, err := net.SplitHostPort(target)
	if err != nil && scheme == schemeTCP {
		host, port, err = net.SplitHostPort(target + ":" + defaultPort)
	}
	number, notNumber := strconv.ParseUint(port, 10, 16)
	if err != nil || notNumber != nil || number == 0 || host == "" || strings.ContainsAny(host, "/@?# ") {
		return address{}, errors.New("must name a host and a port, such as " + scheme + "://192.168.0.20:502")
	}
	return address{scheme, net.JoinHostPort(host, strconv.FormatUint(number, 10))}, nil
}
