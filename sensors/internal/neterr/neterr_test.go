package neterr

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
)

func TestSteady(t *testing.T) {
	local := func(port int) *net.TCPAddr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: port} }
	read := func(port int) error {
		return &net.OpError{Op: "read", Net: "tcp", Source: local(port), Addr: local(80), Err: syscall.ECONNRESET}
	}
	lookup := func(port int) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "box", Err: fmt.Sprintf("read udp 10.0.0.1:%d->10.0.0.2:53: refused", port)}}
	}
	for _, tt := range []struct {
		err  func(port int) error
		want string
	}{
		{read, "read tcp 10.0.0.1:80: connection reset by peer"},
		{func(port int) error { return fmt.Errorf("network: %w", read(port)) }, "read tcp 10.0.0.1:80: connection reset by peer"},
		{lookup, "lookup box: the name server cannot be asked"},
		{func(int) error { return &net.DNSError{Name: "box", IsNotFound: true} }, "lookup box: no such host"},
		{func(int) error { return errors.New("EOF") }, "EOF"},
	} {
		for _, port := range []int{40001, 40002} {
			if got := Steady(tt.err(port)).Error(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		}
	}
}
