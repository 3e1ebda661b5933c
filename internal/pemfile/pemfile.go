// Package pemfile reads certificates from PEM files.
package pemfile

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Authorities returns the certificates in file as the authorities to trust, or
// nil, which stands for the system's, when file is "".
func Authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}
