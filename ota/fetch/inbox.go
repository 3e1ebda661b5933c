package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

func (d *download) openFiles() (err error) {
	path := filepath.Join(d.f.o.Dir, d.j.Name)
	if d.file, err = openFile(path + PartSuffix); err != nil {
		return err
	}
	if err = unix.Flock(int(d.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another program is fetching %s", d.j.Name)
		}
		return err
	}
	if d.piece, err = openFile(path + PieceSuffix); err != nil {
		d.closeFiles()
	}
	return err
}

// openFile opens a file for reading and writing, which is made when it is absent.
// The inbox may belong to a less trusted user than we are: whatever else lies
// there, such as a link to another file, is removed and not written to.
func openFile(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o600)
	if err == nil && isPlain(f) {
		return f, nil
	}
	if err == nil {
		f.Close()
	} else if !errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open a file in the inbox: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("open a file in the inbox: %w", err)
	}
	if f, err = os.OpenFile(path, flags|os.O_EXCL, 0o600); err != nil {
		return nil, fmt.Errorf("open a file in the inbox: %w", err)
	}
	return f, nil
}

// isPlain reports whether f is a regular file without another name.
func isPlain(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1
}

// closeFiles removes those that hold nothing.
func (d *download) closeFiles() {
	for _, f := range []*os.File{d.file, d.piece} {
		if f == nil {
			continue
		}
		if info, err := f.Stat(); err == nil && info.Size() == 0 {
			os.Remove(f.Name())
		}
		f.Close()
	}
}

// resume finds out what the files hold. Whatever is not a good beginning is
// dropped.
func (d *download) resume(ctx context.Context) error {
	d.v, d.have, d.bad, d.done = bundle.Verified{}, nil, nil, 0
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	envelope, err := bundle.ReadEnvelope(d.file)
	var v bundle.Verified
	if err == nil {
		v, err = bundle.Verify(envelope, d.j.Anchor, d.j.Now)
	}
	if err == nil {
		d.use(v)
		return d.scan(ctx)
	}
	if info, statErr := d.file.Stat(); statErr != nil {
		return statErr
	} else if info.Size() > 0 {
		d.f.log.Warn().Err(err).Msg("what was fetched is no good, begun anew")
		return d.discard()
	}
	return nil
}

// use takes v as what is fetched.
func (d *download) use(v bundle.Verified) {
	d.v, d.have, d.bad = v, make([]bool, v.Parts()), make([]int, v.Parts())
	d.buf = make([]byte, v.Manifest().Payload.PartSize)
	d.done = int64(len(v.Head()))
}

// scan hashes the parts that the file has.
func (d *download) scan(ctx context.Context) error {
	d.done = int64(len(d.v.Head()))
	for i := range d.have {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		offset, length := d.v.Part(i)
		part := d.buf[:length]
		_, err := d.file.ReadAt(part, offset)
		// A part that cannot be read is written anew.
		if d.have[i] = err == nil && d.v.CheckPart(i, part) == nil; d.have[i] {
			d.done += length
		}
	}
	d.progress(0)
	return nil
}

// discard drops all that the files hold.
func (d *download) discard() error {
	d.v = bundle.Verified{}
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	return d.piece.Truncate(0)
}

// begin writes the head, unless the file has it.
func (d *download) begin() error {
	head := d.v.Head()
	there := make([]byte, len(head))
	if _, err := d.file.ReadAt(there, 0); err == nil && string(there) == string(head) {
		return nil
	}
	if err := d.write(head, 0); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(d.f.o.Dir); err != nil {
		return err
	}
	return d.piece.Truncate(0) // it held the head
}

func (d *download) write(p []byte, offset int64) error {
	if _, err := d.file.WriteAt(p, offset); err != nil {
		return err
	}
	d.unsynced += int64(len(p))
	return nil
}

func (d *download) sync() error {
	d.unsynced = 0
	return d.file.Sync()
}

func (d *download) pieceSize() (int64, error) {
	info, err := d.piece.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// loadPiece reads what came of the part in an earlier try and returns its length.
func (d *download) loadPiece(part []byte) (int64, error) {
	size, err := d.pieceSize()
	if err != nil {
		return 0, err
	}
	if size > int64(len(part)) { // of another part
		return 0, d.piece.Truncate(0)
	}
	if _, err := d.piece.ReadAt(part[:size], 0); err != nil {
		return 0, d.piece.Truncate(0)
	}
	return size, nil
}

// finish completes the file and reads it back before it gets its name.
func (d *download) finish(ctx context.Context) error {
	size := d.v.Size()
	tail := d.v.Tail()
	if err := d.write(tail, size-int64(len(tail))); err != nil {
		return err
	}
	if err := d.file.Truncate(size); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := d.check(ctx, d.file); err != nil {
		return err
	}
	path := filepath.Join(d.f.o.Dir, d.j.Name)
	if err := os.Rename(path+PartSuffix, path); err != nil {
		return err
	}
	if err := os.Remove(path + PieceSuffix); err != nil {
		return err
	}
	d.done = size
	d.progress(0)
	return atomicfile.SyncDir(d.f.o.Dir)
}

// check reads a complete bundle and compares it with what was signed and asked
// for.
func (d *download) check(ctx context.Context, file io.Reader) (bundle.Verified, error) {
	sum := sha256.New()
	r, err := bundle.Open(io.TeeReader(file, sum), d.j.Anchor, d.j.Now)
	if err != nil {
		return bundle.Verified{}, err
	}
	if err := r.Check(ctx); err != nil {
		return bundle.Verified{}, err
	}
	if d.j.SHA256 != "" && hex.EncodeToString(sum.Sum(nil)) != d.j.SHA256 {
		return bundle.Verified{}, ErrOther
	}
	return r.Verified(), nil
}

// checkSpace returns an error that wraps syscall.ENOSPC when too little is free.
// Before the payload is begun, there must be room for all of it and for what
// follows.
func (d *download) checkSpace(all bool) error {
	free, err := d.f.o.Free()
	if err != nil {
		return ours(fmt.Errorf("ask for free space: %w", err))
	}
	need := d.f.o.Reserve
	if all {
		// Of a part both files may hold a copy.
		need += d.v.Size() - d.done + d.v.Manifest().Payload.PartSize
		if d.j.Room != nil {
			need += d.j.Room(d.v)
		}
	}
	if free < need {
		return fmt.Errorf("%w: it takes %s, %s of them as a reserve, and %s are free", syscall.ENOSPC,
			human.Bytes(need), human.Bytes(d.f.o.Reserve), human.Bytes(free))
	}
	return nil
}
