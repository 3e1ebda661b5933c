package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pyvorin/pyvorin-edge/trust"
)

// HeaderBytes is how long the header of an entry is, and what content is padded
// to; as much twice ends the file.
const (
	HeaderBytes = 512
	endBytes    = 2 * HeaderBytes
)

// The names of the two entries.
const (
	envelopeEntry = ManifestName
	payloadEntry  = "payload"
)

// entryHeader returns the one header that an entry of a bundle can have.
func entryHeader(name string, size int64) []byte {
	var buf bytes.Buffer
	// It cannot fail: the name is short, and the size was bounded.
	_ = tar.NewWriter(&buf).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	return buf.Bytes()
}

// padded returns size with the padding that follows it in a tar.
func padded(size int64) int64 { return (size + HeaderBytes - 1) / HeaderBytes * HeaderBytes }

// ReadEnvelope reads the first entry of a bundle, with its padding, and nothing
// behind it. Nothing is verified yet.
func ReadEnvelope(r io.Reader) ([]byte, error) {
	header := make([]byte, HeaderBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, readError("the first header", err)
	}
	// The size is eleven octal digits and a NUL. All else in the header follows
	// from it.
	size, err := strconv.ParseUint(string(header[124:135]), 8, 40)
	if err != nil || size == 0 || size > trust.MaxEnvelopeBytes || !bytes.Equal(header, entryHeader(envelopeEntry, int64(size))) {
		return nil, fmt.Errorf("%w: it does not begin with a %s of 1 to %d bytes", ErrMalformed, envelopeEntry, trust.MaxEnvelopeBytes)
	}
	envelope := make([]byte, size)
	if _, err := io.ReadFull(r, envelope); err != nil {
		return nil, readError("the manifest", err)
	}
	return envelope, readZeros(r, padded(int64(size))-int64(size), "after the manifest")
}

// readZeros reads n bytes that have to be zero.
func readZeros(r io.Reader, n int64, where string) error {
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		return readError("the padding "+where, err)
	}
	if len(bytes.Trim(buf, "\x00")) > 0 {
		return fmt.Errorf("%w: something is hidden in the padding %s", ErrMalformed, where)
	}
	return nil
}

// readError tells a file that ends too early from one that cannot be read.
func readError(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends within %s", ErrDamaged, what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// Head returns all of a bundle up to its payload.
func Head(envelope []byte, payloadSize int64) []byte {
	size := int64(len(envelope))
	head := append(entryHeader(envelopeEntry, size), envelope...)
	head = append(head, make([]byte, padded(size)-size)...)
	return append(head, entryHeader(payloadEntry, payloadSize)...)
}

// Tail returns all of a bundle behind its payload.
func Tail(payloadSize int64) []byte {
	return make([]byte, padded(payloadSize)-payloadSize+endBytes)
}

// Head returns all of the bundle up to its payload.
func (v Verified) Head() []byte {
	if v.IsZero() {
		return nil
	}
	return Head(v.envelope, v.manifest.Payload.Size)
}

// Tail returns all of the bundle behind its payload.
func (v Verified) Tail() []byte {
	if v.IsZero() {
		return nil
	}
	return Tail(v.manifest.Payload.Size)
}

// Size returns how long the bundle is.
func (v Verified) Size() int64 {
	if v.IsZero() {
		return 0
	}
	return v.payloadOffset() + v.manifest.Payload.Size + int64(len(v.Tail()))
}

func (v Verified) payloadOffset() int64 {
	return HeaderBytes + padded(int64(len(v.envelope))) + HeaderBytes
}

// Parts returns how many parts the payload has.
func (v Verified) Parts() int {
	if v.IsZero() {
		return 0
	}
	return len(v.manifest.Payload.Parts)
}

// Part returns where in the bundle part i lies. The first one is 0. What does
// not exist has no length.
func (v Verified) Part(i int) (offset, length int64) {
	if i < 0 || i >= v.Parts() {
		return 0, 0
	}
	p := v.manifest.Payload
	begin := int64(i) * p.PartSize
	return v.payloadOffset() + begin, min(p.PartSize, p.Size-begin)
}

// CheckPart returns an error that wraps ErrDamaged unless data is part i.
func (v Verified) CheckPart(i int, data []byte) error {
	if v.IsZero() {
		return errors.New("internal error: no verified bundle")
	}
	return v.manifest.Payload.checkPart(i, data)
}

func (p Payload) checkPart(i int, data []byte) error {
	sum := sha256.Sum256(data)
	if i < 0 || i >= len(p.Parts) || hex.EncodeToString(sum[:]) != p.Parts[i] {
		return fmt.Errorf("%w: part %d of %d is not what was signed", ErrDamaged, i+1, len(p.Parts))
	}
	return nil
}
