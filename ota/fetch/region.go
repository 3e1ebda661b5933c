package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

// fetchHead fetches and verifies the manifest, from where the piece ends.
func (d *download) fetchHead(ctx context.Context) error {
	had, err := d.pieceSize()
	if err != nil {
		return ours(err)
	}
	r := &regionReader{d: d, ctx: ctx, end: headBytes}
	envelope, err := bundle.ReadEnvelope(r)
	switch {
	case errors.Is(r.err, errDoubt):
		err = fmt.Errorf("%w: the file there ends within the manifest", bundle.ErrDamaged)
	case r.err != nil:
		return r.err
	case err == nil:
		var v bundle.Verified
		if v, err = bundle.Verify(envelope, d.j.Anchor, d.j.Now); err == nil {
			d.use(v)
			return nil
		}
	}
	if err := d.piece.Truncate(0); err != nil {
		return ours(err)
	}
	if had > 0 { // perhaps of what the server had before
		return fmt.Errorf("the manifest did not fit together: %v", err)
	}
	return ours(err)
}

// regionReader reads the beginning of the bundle: first what the piece holds, and
// then from the source, adding it to the piece.
type regionReader struct {
	d   *download
	ctx context.Context
	at  int64
	end int64 // that is asked for
	err error // of reading, other than the end
}

func (r *regionReader) Read(p []byte) (n int, err error) {
	n, err = r.d.piece.ReadAt(p, r.at)
	if n == 0 && errors.Is(err, io.EOF) {
		n, err = r.d.feed.read(r.ctx, p, r.at, max(r.end, r.at+int64(len(p))))
		if n > 0 {
			r.d.received += int64(n)
			if _, writeErr := r.d.piece.WriteAt(p[:n], r.at); writeErr != nil {
				err = ours(writeErr)
			}
		}
		if err != nil {
			r.err = err
		}
	} else if n > 0 {
		err = nil
	} else if err != nil {
		r.err = ours(err)
	}
	r.at += int64(n)
	return n, err
}

// fetchPart fetches part i, from where the piece ends.
func (d *download) fetchPart(ctx context.Context, i int) error {
	if err := d.checkSpace(false); err != nil {
		return err
	}
	offset, length := d.v.Part(i)
	part := d.buf[:length]
	got, err := d.loadPiece(part)
	if err != nil {
		return ours(err)
	}
	end := d.runEnd(i)
	for got < length {
		n, err := d.feed.read(ctx, part[got:], offset+got, end)
		if n > 0 {
			if _, err := d.piece.WriteAt(part[got:got+int64(n)], got); err != nil {
				return ours(fmt.Errorf("keep what was fetched: %w", err))
			}
			got += int64(n)
			d.received += int64(n)
			d.progress(got)
		}
		if err != nil {
			return err
		}
		if cur := d.feed.cur; cur != nil && cur.size >= 0 && cur.size != d.v.Size() {
			return doubtful(fmt.Errorf("%w: the file there has %d bytes, and what was signed %d", bundle.ErrDamaged, cur.size, d.v.Size()))
		}
	}
	if err := d.v.CheckPart(i, part); err != nil {
		d.feed.close()
		if err := d.piece.Truncate(0); err != nil {
			return ours(err)
		}
		if d.bad[i]++; d.bad[i] >= maxBad {
			return doubtful(fmt.Errorf("%d times: %w", maxBad, err))
		}
		d.f.log.Warn().Err(err).Msg("part fetched again")
		return d.fetchPart(ctx, i)
	}
	if err := d.write(part, offset); err != nil {
		return ours(fmt.Errorf("keep what was fetched: %w", err))
	}
	d.have[i] = true
	d.done += length
	if d.unsynced >= syncBytes {
		if err := d.sync(); err != nil {
			return ours(err)
		}
	}
	return ours(d.piece.Truncate(0))
}

// runEnd returns where the parts end that are missing from part i on: they are
// asked for in one go.
func (d *download) runEnd(i int) int64 {
	for i+1 < len(d.have) && !d.have[i+1] {
		i++
	}
	offset, length := d.v.Part(i)
	return offset + length
}
