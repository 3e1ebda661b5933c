// Package keyfile keeps private keys in files, on the operator's machines and
// never on a device.
//
// A key NAME is two files: NAME.pub, 64 hex digits to share, and NAME.key, mode
// 0600, to guard: PKCS #8 in PEM, as openssl reads it, or the same encrypted
// with a passphrase (scrypt, then ChaCha20-Poly1305). Neither is ever
// overwritten: a lost release key cannot be made again.
package keyfile

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// The PEM types.
const (
	plainType     = "PRIVATE KEY"
	encryptedType = "PYVORIN ENCRYPTED PRIVATE KEY"
)

const (
	maxFileBytes = 16 << 10
	saltBytes    = 16

	// What a file may ask of scrypt, as the logarithm of N: 20 takes 1 GiB.
	minLogN = 10
	maxLogN = 20
)

// logN is what new files ask: 128 MiB and about half a second. Tests ask less.
var logN = 17

var (
	// ErrPassphrase says that the passphrase is wrong, or the file was changed.
	ErrPassphrase = errors.New("wrong passphrase, or the file is damaged")

	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Paths returns the names of a key's files.
func Paths(dir, name string) (private, public string) {
	return filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pub")
}

// Create makes a key and its two files in dir. An empty passphrase leaves the
// private one unencrypted.
func Create(dir, name string, passphrase []byte) (ed25519.PublicKey, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("create key: %q is no name for a file; use letters, digits, '.', '_' and '-'", name)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	data, err := Marshal(private, passphrase)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	keyPath, pubPath := Paths(dir, name)
	if _, err := os.Lstat(pubPath); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create key: %s is there already; keys are not overwritten", pubPath)
	}
	if err := writeNew(keyPath, data, 0o600); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	if err := writeNew(pubPath, []byte(trust.FormatPublicKey(public)+"\n"), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("create key: %w", err), os.Remove(keyPath))
	}
	return public, nil
}

// writeNew writes a file that is not there yet, whole and durably.
func writeNew(path string, data []byte, perm fs.FileMode) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Close(), os.Remove(temp.Name())) }()
	if err := temp.Chmod(perm); err != nil {
		return err
	}
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	// Unlike a rename, a link does not replace what is there.
	if err := os.Link(temp.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; keys are not overwritten", path)
	} else if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// Load reads a private key. Of an encrypted one it calls passphrase. It refuses
// a file that others than its owner can read.
func Load(path string, passphrase func() ([]byte, error)) (ed25519.PrivateKey, error) {
	key, err := load(path, passphrase)
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", path, err)
	}
	return key, nil
}

func load(path string, passphrase func() ([]byte, error)) (ed25519.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read it (mode %v); run: chmod 600 %s", info.Mode(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	return Parse(data, passphrase)
}

// Marshal returns the content of a private key's file.
func Marshal(key ed25519.PrivateKey, passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if len(passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: der}), nil
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	headers := map[string]string{"KDF": "scrypt", "LogN": strconv.Itoa(logN), "Salt": hex.EncodeToString(salt)}
	aead, err := newAEAD(passphrase, salt, logN)
	if err != nil {
		return nil, err
	}
	// Every salt makes another key, so the nonce may be fixed.
	sealed := aead.Seal(nil, make([]byte, aead.NonceSize()), der, nil)
	return pem.EncodeToMemory(&pem.Block{Type: encryptedType, Headers: headers, Bytes: sealed}), nil
}

// Parse reads the content of a private key's file.
func Parse(data []byte, passphrase func() ([]byte, error)) (ed25519.PrivateKey, error) {
	if len(data) > maxFileBytes {
		return nil, errors.New("too large for a private key")
	}
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		return nil, errors.New("not a private key in PEM")
	}
	der := block.Bytes
	switch block.Type {
	case plainType:
	case encryptedType:
		var err error
		if der, err = decrypt(block, passphrase); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("it holds a %q, not a %q", block.Type, plainType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("not a private key that can be read")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	return key, nil
}

func decrypt(block *pem.Block, passphrase func() ([]byte, error)) ([]byte, error) {
	salt, err := hex.DecodeString(block.Headers["Salt"])
	n, err2 := strconv.Atoi(block.Headers["LogN"])
	if err != nil || err2 != nil || len(salt) != saltBytes || n < minLogN || n > maxLogN || block.Headers["KDF"] != "scrypt" {
		return nil, errors.New("encrypted in a way that this program does not know")
	}
	if passphrase == nil {
		return nil, errors.New("it is encrypted, and there is no passphrase")
	}
	secret, err := passphrase()
	if err != nil {
		return nil, err
	}
	aead, err := newAEAD(secret, salt, n)
	if err != nil {
		return nil, err
	}
	der, err := aead.Open(nil, make([]byte, aead.NonceSize()), block.Bytes, nil)
	if err != nil {
		return nil, ErrPassphrase
	}
	return der, nil
}

func newAEAD(passphrase, salt []byte, n int) (cipher.AEAD, error) {
	key, err := scrypt.Key(passphrase, salt, 1<<n, 8, 1, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.New(key)
}
