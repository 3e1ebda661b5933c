// Package apikey checks the API keys that devices and people present.
//
// The keys live in one file, one a line, each with an optional name before a
// colon (`line-3:KEY`); empty lines and lines that begin with # are ignored.
// Memory holds only SHA-256 digests, so neither a log nor a core dump of the
// store shows a key. A change of the file is noticed within a second of the
// next check. A file that cannot be read leaves the keys as they were; a file
// without keys means that nobody is let in.
package apikey

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

const (
	maxFileBytes  = 1 << 20
	weakKeyBytes  = 16 // shorter keys are accepted with a warning
	checkInterval = time.Second
)

// Keys are the keys of one file. It is safe for concurrent use.
type Keys struct {
	path string
	log  zerolog.Logger

	mu      sync.Mutex
	entries []entry
	seen    fs.FileInfo // the file behind entries, or the broken one last reported
	checked time.Time
}

type entry struct {
	name   string
	digest [sha256.Size]byte
}

// Open reads the keys of path. An absent file is created (mode 0600) with one
// random key alone on its line, so that the same file can serve as a device's
// key file; created says so.
func Open(path string, log zerolog.Logger) (keys *Keys, created bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		var random [32]byte
		rand.Read(random[:]) // never fails
		line := base64.RawURLEncoding.EncodeToString(random[:]) + "\n"
		if err := atomicfile.Write(path, []byte(line), 0o600); err != nil {
			return nil, false, fmt.Errorf("create the API key file: %w", err)
		}
		created = true
	}
	k := &Keys{path: path, log: log}
	if err := k.Reload(); err != nil {
		return nil, false, err
	}
	return k, created, nil
}

// Reload reads the file now. On an error the keys stay as they were.
func (k *Keys) Reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.load()
}

// load replaces the entries; k.mu is held.
func (k *Keys) load() error {
	f, err := os.Open(k.path)
	if err != nil {
		return fmt.Errorf("read the API keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read the API keys: %w", err)
	}
	k.seen, k.checked = info, time.Now()
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return fmt.Errorf("read the API keys: %s is not a regular file of at most %d bytes", k.path, maxFileBytes)
	}
	var entries []entry
	lines, number := bufio.NewScanner(f), 0
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, key, named := strings.Cut(line, ":")
		if !named {
			name, key = fmt.Sprintf("line %d", number), line
		}
		if key = strings.TrimSpace(key); key == "" {
			return fmt.Errorf("read the API keys: line %d of %s has a name and no key", number, k.path)
		}
		if len(key) < weakKeyBytes {
			k.log.Warn().Str("key", name).Int("bytes", weakKeyBytes).Msg("API key is short enough to be guessed")
		}
		entries = append(entries, entry{strings.TrimSpace(name), sha256.Sum256([]byte(key))})
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the API keys of %s: %w", k.path, err)
	}
	k.entries = entries
	if info.Mode().Perm()&0o077 != 0 {
		k.log.Warn().Str("file", k.path).Stringer("mode", info.Mode().Perm()).Msg("API key file is open to others: chmod 600")
	}
	k.log.Info().Str("file", k.path).Int("keys", len(entries)).Msg("API keys read")
	return nil
}

// Check returns the name of the key that was presented. All keys are compared,
// each in constant time.
func (k *Keys) Check(presented string) (name string, ok bool) {
	digest := sha256.Sum256([]byte(presented))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	for i := range k.entries {
		if subtle.ConstantTimeCompare(digest[:], k.entries[i].digest[:]) == 1 {
			name, ok = k.entries[i].name, true
		}
	}
	return name, ok
}

// refresh reads the file again when it changed; k.mu is held.
func (k *Keys) refresh() {
	now := time.Now()
	if now.Sub(k.checked) < checkInterval {
		return
	}
	k.checked = now
	info, err := os.Stat(k.path)
	if err == nil && os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size() {
		return
	}
	if err == nil {
		err = k.load()
	}
	if err != nil {
		k.log.Error().Err(err).Msg("API keys not read again, the old ones stay in force")
	}
}
