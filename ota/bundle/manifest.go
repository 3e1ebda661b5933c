package bundle

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/pyvorin/pyvorin-edge/internal/strictjson"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// Bounds of a manifest.
const (
	Format            = 1
	MaxFiles          = 2048
	MaxPathBytes      = 240
	MaxPathDepth      = 16
	MaxPayloadBytes   = int64(2 << 30)
	MaxInstalledBytes = int64(4 << 30)
	MinPartBytes      = 64 << 10
	MaxPartBytes      = 4 << 20
	DefaultPartBytes  = 1 << 20
	MaxCounter        = uint64(1<<53 - 1) // beyond it not every JSON parser is exact
	MaxTrialSeconds   = 24 * 60 * 60
	maxListed         = 32 // hardware, required checks
)

// Manifest describes a release and the payload that brings it.
type Manifest struct {
	Format        int       `json:"format"`
	Name          string    `json:"name"`    // of the component, such as pyvorin-edge
	Version       string    `json:"version"` // semantic version
	Counter       uint64    `json:"counter"` // grows with every release; orders them for downgrade protection
	OS            string    `json:"os"`
	Arch          string    `json:"arch"`     // as in Target
	Hardware      []string  `json:"hardware"` // patterns of models; "*" is any
	CreatedAt     time.Time `json:"created_at"`
	ExpiresAt     time.Time `json:"expires_at"` // no installation begins from then on
	Payload       Payload   `json:"payload"`
	Files         []File    `json:"files"` // sorted by path
	InstalledSize int64     `json:"installed_size"`
	Health        Health    `json:"health"`
}

// Kind is the kind of a payload.
type Kind string

// The kinds.
const (
	Full  Kind = "full"  // all files
	Delta Kind = "delta" // what makes them out of the release with the digest BaseSHA256
)

// Payload describes the second entry of the bundle.
type Payload struct {
	Kind       Kind     `json:"kind"`
	BaseSHA256 string   `json:"base_sha256,omitempty"` // Digest of the base; only of a delta
	SHA256     string   `json:"sha256"`
	Size       int64    `json:"size"`
	PartSize   int64    `json:"part_size"`
	Parts      []string `json:"parts"` // SHA-256 of each part; the last may be shorter
}

// File is one file of a release.
type File struct {
	Path   string `json:"path"` // relative to the slot, with slashes
	Mode   Mode   `json:"mode"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Mode is a file's permissions, as in the shell.
type Mode string

// The modes that there are.
const (
	Plain      Mode = "0644"
	Executable Mode = "0755"
)

// Perm returns the permissions.
func (m Mode) Perm() fs.FileMode {
	if m == Executable {
		return 0o755
	}
	return 0o644
}

// Health says when a trial of the release has passed. What is zero is left to
// the device.
type Health struct {
	MinHealthySeconds int      `json:"min_healthy_seconds,omitempty"` // how long without a break
	DeadlineSeconds   int      `json:"deadline_seconds,omitempty"`    // by when
	Required          []string `json:"required,omitempty"`            // checks that must be ok
}

// ParseManifest reads a manifest and checks everything in it that can be
// checked without the payload. It verifies no signature.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := strictjson.Unmarshal(data, trust.MaxEnvelopeBytes, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrMalformed, err)
	}
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrMalformed, err)
	}
	return m, nil
}

// ReadInstalled returns the manifest of a filled slot. Its signature was
// checked when the slot was filled, perhaps with keys that are trusted no
// longer; now the slot is trusted because only root can change it. A slot
// without a manifest was not completed: fs.ErrNotExist.
func ReadInstalled(slot disk.FS) (Manifest, error) {
	data, err := disk.ReadFile(slot, ManifestName, trust.MaxEnvelopeBytes)
	if err != nil {
		return Manifest{}, err
	}
	u, err := trust.Inspect(data)
	if err != nil {
		return Manifest{}, err
	}
	if u.Type != trust.ManifestType {
		return Manifest{}, fmt.Errorf("%w: %s holds %q", ErrMalformed, ManifestName, u.Type)
	}
	return ParseManifest(u.Payload)
}

// JSON returns the manifest as it is signed.
func (m Manifest) JSON() ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	_, err = ParseManifest(data) // what we refuse to read we do not write
	return data, err
}

// Digest names the content of the release, the same whether it comes in full or
// as a delta: SHA-256 over a line "MODE SHA256 SIZE PATH\n" for each file.
func (m Manifest) Digest() string {
	h := sha256.New()
	for _, f := range m.Files {
		fmt.Fprintf(h, "%s %s %d %s\n", f.Mode, f.SHA256, f.Size, f.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// CheckExpiry returns an error that wraps trust.ErrExpired from ExpiresAt on.
func (m Manifest) CheckExpiry(now time.Time) error {
	if now.Before(m.ExpiresAt) {
		return nil
	}
	return fmt.Errorf("bundle %s %s: %w on %s", m.Name, m.Version, trust.ErrExpired, m.ExpiresAt.UTC().Format(time.RFC3339))
}

func (m Manifest) clone() Manifest {
	m.Hardware = slices.Clone(m.Hardware)
	m.Payload.Parts = slices.Clone(m.Payload.Parts)
	m.Files = slices.Clone(m.Files)
	m.Health.Required = slices.Clone(m.Health.Required)
	return m
}

var (
	namePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	platformPattern = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	hardwarePattern = regexp.MustCompile(`^[A-Za-z0-9.,_+*-]{1,64}$`)
	checkPattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9_.:-]{0,63}$`)
	pathPattern     = regexp.MustCompile(`^[A-Za-z0-9._+@,=/-]+$`)
	hashPattern     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (m Manifest) check() error {
	if m.Format != Format {
		return fmt.Errorf("format %d; this program knows %d", m.Format, Format)
	}
	if !namePattern.MatchString(m.Name) {
		return errors.New("name is not a component's name")
	}
	if len(m.Version) > 64 {
		return errors.New("version is longer than 64 characters")
	}
	if _, err := semver.StrictNewVersion(m.Version); err != nil {
		return errors.New("version is not a semantic version such as 2.3.1")
	}
	if m.Counter < 1 || m.Counter > MaxCounter {
		return fmt.Errorf("counter is not from 1 to %d", MaxCounter)
	}
	if !platformPattern.MatchString(m.OS) || !platformPattern.MatchString(m.Arch) {
		return errors.New("os or arch is not a platform's name")
	}
	if err := checkList("hardware", m.Hardware, hardwarePattern); err != nil {
		return err
	}
	if len(m.Hardware) == 0 {
		return errors.New("hardware is empty; * is any")
	}
	if m.CreatedAt.IsZero() || !m.CreatedAt.Before(m.ExpiresAt) {
		return errors.New("expires_at is not after created_at")
	}
	return cmp.Or(m.Payload.check(), m.checkFiles(), m.Health.check())
}

func checkList(what string, list []string, pattern *regexp.Regexp) error {
	if len(list) > maxListed {
		return fmt.Errorf("%s has more than %d entries", what, maxListed)
	}
	for _, s := range list {
		if !pattern.MatchString(s) {
			return fmt.Errorf("%s has an entry that is too long or has characters that are not allowed", what)
		}
	}
	return nil
}

func (p Payload) check() error {
	switch {
	case p.Kind != Full && p.Kind != Delta:
		return errors.New("payload.kind is neither full nor delta")
	case p.Kind == Full && p.BaseSHA256 != "" || p.Kind == Delta && !hashPattern.MatchString(p.BaseSHA256):
		return errors.New("payload.base_sha256 does not fit payload.kind")
	case p.Size < 1 || p.Size > MaxPayloadBytes:
		return fmt.Errorf("payload.size is not from 1 to %d", MaxPayloadBytes)
	case p.PartSize < MinPartBytes || p.PartSize > MaxPartBytes:
		return fmt.Errorf("payload.part_size is not from %d to %d", MinPartBytes, MaxPartBytes)
	case int64(len(p.Parts)) != (p.Size+p.PartSize-1)/p.PartSize:
		return fmt.Errorf("payload has %d parts of %d bytes for %d bytes", len(p.Parts), p.PartSize, p.Size)
	}
	for _, h := range append([]string{p.SHA256}, p.Parts...) {
		if !hashPattern.MatchString(h) {
			return errors.New("payload has a hash that is not 64 lower case hex digits")
		}
	}
	return nil
}

func (m Manifest) checkFiles() error {
	if len(m.Files) == 0 || len(m.Files) > MaxFiles {
		return fmt.Errorf("%d files, not 1 to %d", len(m.Files), MaxFiles)
	}
	var total int64
	isFile := map[string]bool{}
	for i, f := range m.Files {
		if err := f.check(); err != nil {
			return fmt.Errorf("file %d (%.64q): %w", i+1, f.Path, err)
		}
		if i > 0 && m.Files[i-1].Path >= f.Path {
			return fmt.Errorf("file %d: files are not sorted by path, each once", i+1)
		}
		isFile[f.Path] = true
		// Each size is bounded, so the sum cannot overflow.
		total += f.Size
	}
	for _, f := range m.Files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if isFile[dir] {
				return fmt.Errorf("%s is a file and a folder", dir)
			}
		}
	}
	if total > MaxInstalledBytes {
		return fmt.Errorf("the files are larger than %d bytes together", MaxInstalledBytes)
	}
	if m.InstalledSize != total {
		return fmt.Errorf("installed_size is %d, and the files have %d bytes together", m.InstalledSize, total)
	}
	return nil
}

func (f File) check() error {
	switch {
	case len(f.Path) > MaxPathBytes || !fs.ValidPath(f.Path) || f.Path == "." || !pathPattern.MatchString(f.Path):
		return errors.New("path is too long, leads out of the slot or has characters that are not allowed")
	case strings.Count(f.Path, "/") >= MaxPathDepth:
		return errors.New("path is too deep")
	case f.Path == ManifestName:
		return fmt.Errorf("%s is the device's own", ManifestName)
	case f.Mode != Plain && f.Mode != Executable:
		return fmt.Errorf("mode is neither %s nor %s", Plain, Executable)
	case f.Size < 0 || f.Size > MaxInstalledBytes:
		return errors.New("size is out of bounds")
	case !hashPattern.MatchString(f.SHA256):
		return errors.New("sha256 is not 64 lower case hex digits")
	}
	return nil
}

func (h Health) check() error {
	if h.MinHealthySeconds < 0 || h.DeadlineSeconds < 0 || h.MinHealthySeconds > MaxTrialSeconds || h.DeadlineSeconds > MaxTrialSeconds {
		return fmt.Errorf("health has a time that is not from 0 to %d seconds", MaxTrialSeconds)
	}
	if h.DeadlineSeconds > 0 && h.DeadlineSeconds < h.MinHealthySeconds {
		return errors.New("health.deadline_seconds is before health.min_healthy_seconds have passed")
	}
	return checkList("health.required", h.Required, checkPattern)
}
