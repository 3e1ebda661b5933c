package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Memory that unpacking takes, whatever a bundle says.
const (
	// MaxWindowBytes is the largest zstd window that is accepted.
	MaxWindowBytes = 8 << 20
	copyBytes      = 64 << 10
)

// EntryKind says how an entry of the payload makes a file.
type EntryKind int

const (
	ContentEntry EntryKind = iota // it is the file
	CopyEntry                     // it is empty; the base's file of this name is the file
	PatchEntry                    // it is a patch for the base's file of this name
)

// folders of the entries in a delta.
var folders = map[EntryKind]string{ContentEntry: "full/", CopyEntry: "copy/", PatchEntry: "patch/"}

// EntryName returns what the entry for a file is called in a payload.
func EntryName(kind Kind, entry EntryKind, path string) string {
	if kind == Full {
		return path
	}
	return folders[entry] + path
}

// MaxPatchBytes returns how long the patch for a file of size bytes may be. A
// patch that is longer is worse than the file.
func MaxPatchBytes(size int64) int64 { return size + size/2 + 4096 }

// walk reads a payload from r and calls do for each file of the manifest, in
// their order, with the content of its entry. Do must read all of it. Whatever
// else the payload holds, or does not, is an error.
func walk(ctx context.Context, r io.Reader, m Manifest, do func(i int, kind EntryKind, content io.Reader) error) error {
	signed, err := openPayload(ctx, r, m.Payload)
	if err != nil {
		return err
	}
	plain, err := zstd.NewReader(signed,
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxWindowBytes), zstd.WithDecoderMaxMemory(MaxWindowBytes))
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(&bounded{plain, maxTarBytes(m)})
	for i := range m.Files {
		header, err := archive.Next()
		if err != nil {
			return payloadError(fmt.Sprintf("entry %d of %d", i+1, len(m.Files)), err)
		}
		kind, err := checkEntry(header, m, i)
		if err != nil {
			return fmt.Errorf("%w: entry %d of %d: %w", ErrMalformed, i+1, len(m.Files), err)
		}
		content := &entry{r: archive}
		if err := do(i, kind, content); err != nil {
			if content.err != nil {
				return payloadError(m.Files[i].Path, content.err)
			}
			return fmt.Errorf("unpack %s: %w", m.Files[i].Path, err)
		}
	}
	if header, err := archive.Next(); err == nil {
		return fmt.Errorf("%w: its payload has %q, which is not listed", ErrMalformed, header.Name)
	} else if !errors.Is(err, io.EOF) {
		return payloadError("the end", err)
	}
	if n, err := io.ReadFull(plain, make([]byte, 1)); n > 0 {
		return payloadError("the end", errTooLong)
	} else if !errors.Is(err, io.EOF) {
		return payloadError("the end", err)
	}
	return signed.finish()
}

// payloadError tells what is wrong with the file, and with reading it, from what
// was signed like this. Parts are verified, so the latter is the packer's fault.
func payloadError(where string, err error) error {
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrMalformed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: its payload, %s: %w", ErrMalformed, where, err)
}

// checkEntry compares the header of entry i with the manifest, and returns what
// kind of entry it is.
func checkEntry(h *tar.Header, m Manifest, i int) (EntryKind, error) {
	f := m.Files[i]
	if h.Typeflag != tar.TypeReg || h.Linkname != "" {
		return 0, errors.New("it is a link, a folder or a special file")
	}
	for key := range h.PAXRecords {
		if key != "path" {
			return 0, fmt.Errorf("it has the attribute %.32q", key)
		}
	}
	if h.FileInfo().Mode() != f.Mode.Perm() || h.Uid != 0 || h.Gid != 0 {
		return 0, errors.New("its mode or owner is not what is listed")
	}
	kind, size := ContentEntry, f.Size
	if m.Payload.Kind == Delta {
		folder, _, _ := strings.Cut(h.Name, "/")
		switch folder + "/" {
		case folders[CopyEntry]:
			kind, size = CopyEntry, 0
		case folders[PatchEntry]:
			kind, size = PatchEntry, min(h.Size, MaxPatchBytes(f.Size))
		}
	}
	if want := EntryName(m.Payload.Kind, kind, f.Path); h.Name != want {
		return 0, fmt.Errorf("it is %.64q, and %q is listed", h.Name, want)
	}
	if h.Size != size {
		return 0, fmt.Errorf("it has %d bytes instead of %d", h.Size, size)
	}
	return kind, nil
}

// maxTarBytes bounds the decompressed payload: what the files of the manifest
// can need, with a header, a longer name and padding each.
func maxTarBytes(m Manifest) int64 {
	n := int64(20 * HeaderBytes) // the end, which some tars pad
	for _, f := range m.Files {
		n += MaxPatchBytes(f.Size) + 8*HeaderBytes
	}
	return n
}

// errWrongContent is the packer's fault: all of the payload is what was signed.
var errWrongContent = fmt.Errorf("%w: its content is not what is listed", ErrMalformed)

var errTooLong = errors.New("it decompresses to more than the listed files can need")

// bounded fails once more than n bytes were read.
type bounded struct {
	r io.Reader
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > b.n+1 {
		p = p[:b.n+1]
	}
	n, err := b.r.Read(p)
	if b.n -= int64(n); b.n < 0 {
		return 0, errTooLong
	}
	return n, err
}

// entry keeps the error of reading apart from those of writing.
type entry struct {
	r   io.Reader
	err error
}

func (e *entry) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}
