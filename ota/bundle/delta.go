package bundle

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A delta's payload has one entry for each file of the release, in their order:
// copy/PATH, empty, for a file that the base has too; full/PATH with the
// content; or patch/PATH with a patch for the base's file of that path.
//
// A patch is what bsdiff makes, as one stream instead of three, so that it can
// be applied with little memory: records, one after the other until the file is
// complete, of
//
//	uvarint D   how many bytes are the base's plus a difference
//	uvarint E   how many bytes are new
//	varint  S   how far to move in the base afterwards
//	D bytes     the differences, added modulo 256
//	E bytes     the new ones
//
// The position in the base begins at 0 and moves by D and then by S. Most
// differences are zero, which zstd makes small.

// errPatch: the patch leads out of the base, so it was made for another one.
var errPatch = fmt.Errorf("%w: the patch does not fit", ErrWrongBase)

// Record is one step of a patch.
type Record struct {
	Diff, Extra int64
	Seek        int64
}

// Append appends the record to a patch. Its bytes have to follow.
func (r Record) Append(patch []byte) []byte {
	patch = binary.AppendUvarint(patch, uint64(r.Diff))
	patch = binary.AppendUvarint(patch, uint64(r.Extra))
	return binary.AppendVarint(patch, r.Seek)
}

// applyPatch writes the size bytes to w that patch makes out of base.
func applyPatch(w io.Writer, size int64, base *baseFile, patch io.Reader) error {
	in := bufio.NewReaderSize(patch, copyBytes)
	old, diff := make([]byte, copyBytes), make([]byte, copyBytes)
	var written, pos int64
	for written < size {
		rec, err := readRecord(in)
		if err != nil {
			return patchError(err)
		}
		if rec.Diff > size-written || rec.Extra > size-written-rec.Diff || rec.Diff > base.size-pos {
			return errPatch
		}
		written += rec.Diff + rec.Extra
		for rec.Diff > 0 {
			n := min(rec.Diff, copyBytes)
			if _, err := io.ReadFull(in, diff[:n]); err != nil {
				return patchError(err)
			}
			if _, err := base.ReadAt(old[:n], pos); err != nil {
				return err
			}
			for i, b := range old[:n] {
				diff[i] += b
			}
			if _, err := w.Write(diff[:n]); err != nil {
				return err
			}
			rec.Diff, pos = rec.Diff-n, pos+n
		}
		if _, err := io.CopyN(w, in, rec.Extra); errors.Is(err, io.EOF) {
			return patchError(err)
		} else if err != nil {
			return err
		}
		if rec.Seek < -pos || rec.Seek > base.size-pos {
			return errPatch
		}
		pos += rec.Seek
	}
	if _, err := in.ReadByte(); err == nil {
		return fmt.Errorf("%w: a patch goes on behind its end", ErrMalformed)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func readRecord(in *bufio.Reader) (Record, error) {
	diff, err := binary.ReadUvarint(in)
	if err != nil {
		return Record{}, err
	}
	extra, err := binary.ReadUvarint(in)
	if err != nil {
		return Record{}, err
	}
	seek, err := binary.ReadVarint(in)
	if err != nil {
		return Record{}, err
	}
	// No file is larger, so that sums cannot overflow.
	if diff > uint64(MaxInstalledBytes) || extra > uint64(MaxInstalledBytes) {
		return Record{}, errPatch
	}
	return Record{Diff: int64(diff), Extra: int64(extra), Seek: seek}, nil
}

// patchError says that it is the packer's fault. That the payload cannot be read
// is found elsewhere, in entry.
func patchError(err error) error {
	if errors.Is(err, ErrWrongBase) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: its patch: %w", ErrMalformed, err)
}
