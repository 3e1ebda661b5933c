package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// maxPEMBytes bounds a file of certificates: all authorities of a system are
// some 250 KB.
const maxPEMBytes = 4 << 20

// pemFiles checks the files that the keys of one table with a pem tag name:
// what could not be used would fail at every connection.
func (d *decoder) pemFiles(n *node, path string, fields []field) {
	named := make(map[string]field)
	for _, f := range fields {
		if use := f.tag.Get("pem"); use != "" && n.table[f.name] != nil && f.value.String() != "" {
			named[use] = f
		}
	}
	bad := func(f field, err error) { d.d.fail(n.table[f.name].at, join(path, f.name), "%v", err) }
	if f, ok := named["authorities"]; ok {
		if _, err := readCertificates(f.value.String()); err != nil {
			bad(f, err)
		}
	}
	certificate, hasCertificate := named["certificate"]
	key, hasKey := named["key"]
	if !hasCertificate || !hasKey {
		return // check says which is missing
	}
	certificates, err := readCertificates(certificate.value.String())
	if err != nil {
		bad(certificate, err)
	}
	secret, keyErr := readPEM(key.value.String())
	if keyErr != nil {
		bad(key, keyErr)
	}
	if err != nil || keyErr != nil {
		return
	}
	if _, err := tls.X509KeyPair(certificates, secret); err != nil {
		bad(key, fmt.Errorf("%s is not the key of %s: %s", key.value, certificate.name, strings.TrimPrefix(err.Error(), "tls: ")))
	}
}

func readCertificates(file string) ([]byte, error) {
	data, err := readPEM(file)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		err = fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return data, err
}

func readPEM(file string) ([]byte, error) {
	data, err := readBounded(file, maxPEMBytes)
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEMBytes {
		return nil, errors.New(file + " is too large for certificates")
	}
	return data, nil
}
