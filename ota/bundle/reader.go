package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/pyvorin/pyvorin-edge/trust"
)

// Reader reads a bundle whose manifest was verified, once, from front to back.
type Reader struct {
	verified Verified
	r        io.Reader // what follows the manifest
}

// Open reads the manifest of a bundle from r and verifies it.
func Open(r io.Reader, anchor *trust.Anchor, now time.Time) (*Reader, error) {
	envelope, err := ReadEnvelope(r)
	if err != nil {
		return nil, err
	}
	v, err := Verify(envelope, anchor, now)
	if err != nil {
		return nil, err
	}
	return &Reader{verified: v, r: r}, nil
}

// Verified returns what was verified.
func (r *Reader) Verified() Verified { return r.verified }

// Check reads the rest of the bundle and compares it with what was signed,
// without unpacking it.
func (r *Reader) Check(ctx context.Context) error {
	if r.verified.IsZero() {
		return errors.New("internal error: no verified bundle")
	}
	parts, err := openPayload(ctx, r.r, r.verified.manifest.Payload)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, parts); err != nil {
		return err
	}
	return parts.finish()
}

// Unverified is a bundle of which nothing was verified, for showing it and for
// making others of it.
type Unverified struct {
	Manifest Manifest
	KeyIDs   []string // that the signatures claim to be of
	Envelope []byte

	r io.Reader
}

// Inspect reads the manifest of a bundle without verifying it.
func Inspect(r io.Reader) (*Unverified, error) {
	envelope, err := ReadEnvelope(r)
	if err != nil {
		return nil, err
	}
	u, err := trust.Inspect(envelope)
	if err != nil {
		return nil, err
	}
	if u.Type != trust.ManifestType {
		return nil, fmt.Errorf("%w: it begins with %q", ErrMalformed, u.Type)
	}
	m, err := ParseManifest(u.Payload)
	if err != nil {
		return nil, err
	}
	return &Unverified{Manifest: m, KeyIDs: u.KeyIDs, Envelope: envelope, r: r}, nil
}

// Files calls do with each file of a full bundle, in order, and compares all
// hashes. Do must read all of the content.
func (u *Unverified) Files(ctx context.Context, do func(f File, content io.Reader) error) error {
	if u.Manifest.Payload.Kind != Full {
		return errors.New("a delta has no files of its own; name the full bundle")
	}
	return walk(ctx, u.r, u.Manifest, func(i int, _ EntryKind, content io.Reader) error {
		f, sum := u.Manifest.Files[i], sha256.New()
		if err := do(f, io.TeeReader(content, sum)); err != nil {
			return err
		}
		if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
			return errWrongContent
		}
		return nil
	})
}

// parts reads a payload part by part: a part that is not what the manifest says
// is never returned.
type parts struct {
	ctx    context.Context
	r      io.Reader
	p      Payload
	next   int    // part to read
	buf    []byte // of one part
	rest   []byte // of buf, not yet returned
	whole  hash.Hash
	failed error
}

// openPayload reads the header of the payload from r.
func openPayload(ctx context.Context, r io.Reader, p Payload) (*parts, error) {
	header := make([]byte, HeaderBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, readError("the second header", err)
	}
	if !bytes.Equal(header, entryHeader(payloadEntry, p.Size)) {
		return nil, fmt.Errorf("%w: no %s of %d bytes follows the manifest", ErrDamaged, payloadEntry, p.Size)
	}
	return &parts{ctx: ctx, r: r, p: p, buf: make([]byte, min(p.PartSize, p.Size)), whole: sha256.New()}, nil
}

func (s *parts) Read(b []byte) (int, error) {
	if len(s.rest) == 0 && s.failed == nil {
		s.failed = s.fill()
	}
	if s.failed != nil {
		return 0, s.failed
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *parts) fill() error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	if s.next == len(s.p.Parts) {
		if hex.EncodeToString(s.whole.Sum(nil)) != s.p.SHA256 {
			return fmt.Errorf("%w: the payload is not what was signed, though its parts are", ErrMalformed)
		}
		return io.EOF
	}
	part := s.buf[:min(s.p.PartSize, s.p.Size-int64(s.next)*s.p.PartSize)]
	if _, err := io.ReadFull(s.r, part); err != nil {
		return readError(fmt.Sprintf("part %d of %d", s.next+1, len(s.p.Parts)), err)
	}
	if err := s.p.checkPart(s.next, part); err != nil {
		return err
	}
	s.whole.Write(part)
	s.next++
	s.rest = part
	return nil
}

// finish reads what follows the payload, which says nothing.
func (s *parts) finish() error {
	if n, err := s.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("%w: its payload goes on behind its end", ErrMalformed)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	if err := readZeros(s.r, padded(s.p.Size)-s.p.Size+endBytes, "at the end"); err != nil {
		return err
	}
	if n, err := io.ReadFull(s.r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("%w: something follows its end", ErrMalformed)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
