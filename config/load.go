package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// Options are what Parse needs to know of its surroundings.
type Options struct {
	// SensorTypes maps each ingest_type to a function returning a pointer to
	// the struct of its own keys, holding their defaults. A type that is not
	// in it is an error; see Hash for what works without the types.
	SensorTypes map[string]func() any

	// Check finds what only the parts themselves can see: settings that do not
	// go together. The problems that it returns (see Join) need a key and no
	// place. It may be handed a config that has problems already. Nil finds
	// nothing.
	Check func(*Config) error

	// LookupEnv replaces os.LookupEnv in tests.
	LookupEnv func(string) (string, bool)

	// DigestKey keys the digests that stand for secrets in EffectiveHash, so
	// that the hash is no oracle for them. Nil uses a fixed, documented key.
	DigestKey []byte
}

// defaultDigestKey is no secret: it only makes the digests of all who have no
// key of their own comparable.
const defaultDigestKey = "pyvorin-edge config digest"

// ReadFile returns the content of a config file, for Parse and Hash. It stops
// reading just beyond the size that those refuse.
func ReadFile(path string) ([]byte, error) {
	data, err := readBounded(path, maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return data, nil
}

// Parse checks and decodes data, the content of the file at path: JSON when it
// ends in .json, TOML otherwise. Every error of the content is an *Error.
func Parse(path string, data []byte, o Options) (*Config, error) {
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	if o.DigestKey == nil {
		o.DigestKey = []byte(defaultDigestKey)
	}
	d := parse(path, data)
	written, err := hashTree(d.root, nil)
	if err != nil {
		return nil, err
	}
	e := expander{d: d, lookup: o.LookupEnv}
	e.tree(d.root, "")

	c := Default()
	dec := decoder{d: d, dir: filepath.Dir(path), types: o.SensorTypes}
	dec.table(d.root, "", fieldsOf(reflect.ValueOf(&c).Elem()), false)
	check(d, &c)
	if o.Check != nil {
		checkParts(d, o.Check(&c))
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	effective, err := hashTree(d.root, o.DigestKey)
	if err != nil {
		return nil, err
	}
	c.content = data
	c.Source = Source{Path: path, Hash: written, EffectiveHash: effective, Overrides: e.overrides}
	c.Source.Warnings = append(dec.warnings, c.warnings()...)
	return &c, nil
}

// resolve returns the path that a *_file key means.
func (d *decoder) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

// maxSecretBytes bounds a file that holds a secret.
const maxSecretBytes = 64 << 10

// secretFile fills the secret key f from the file that its *_file sibling
// names, when that is how the secret is given. In the tree the content stands
// beside the path, so that EffectiveHash covers it.
func (d *decoder) secretFile(n *node, path string, f, sibling field) {
	named := n.table[sibling.name]
	if named == nil || named.kind != stringKind || named.text == "" || f.value.Kind() != reflect.String {
		return
	}
	key := join(path, sibling.name)
	if f.value.String() != "" {
		d.d.fail(named.at, key, "%s is given too; keep one of the two", f.name)
		return
	}
	file := d.resolve(named.text)
	secret, err := d.readSecret(file, key)
	if err != nil {
		d.d.fail(named.at, key, "%v", err)
		return
	}
	f.value.SetString(secret)
	n.table[f.name] = &node{kind: stringKind, at: named.at, text: secret, secret: true}
}

// readSecret reads a secret without the newline that editors end files with.
func (d *decoder) readSecret(file, key string) (string, error) {
	data, err := readBounded(file, maxSecretBytes)
	if err != nil {
		return "", err
	}
	if len(data) > maxSecretBytes {
		return "", fmt.Errorf("%s is larger than %d bytes", file, maxSecretBytes)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if secret == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o004 != 0 {
		d.warnings = append(d.warnings, fmt.Sprintf("%s: every user can read %s; chmod 600 keeps it secret", key, file))
	}
	return secret, nil
}

// readBounded reads at most limit+1 bytes of a regular file: a pipe or a device
// could block the start for ever.
func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
