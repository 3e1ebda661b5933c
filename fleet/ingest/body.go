package ingest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow bounds what a frame can make the decoder allocate; encoders
// use 8 MiB at most unless told otherwise.
const maxZstdWindow = 8 << 20

// readBody returns the body as it travelled. The client has BodyTime for it.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	// A ResponseWriter without deadlines (a test's) leaves only the server's own.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(h.limits.BodyTime))
	var body []byte
	var err error
	if r.ContentLength <= h.limits.BodyBytes {
		body, err = io.ReadAll(io.LimitReader(r.Body, h.limits.BodyBytes+1))
	}
	if r.ContentLength > h.limits.BodyBytes || int64(len(body)) > h.limits.BodyBytes {
		// Who is answered while still sending may find the connection broken
		// instead of the answer, so as much again is read and dropped.
		_, _ = io.CopyN(io.Discard, r.Body, h.limits.BodyBytes)
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is too large: send fewer readings at once")
	}
	if err == nil {
		// Left standing it would cancel the request while it waits for the disk.
		_ = control.SetReadDeadline(time.Time{})
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, "the body took too long")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body ended early")
	}
	return body, nil
}

// decode undoes a Content-Encoding. Frames and members may be concatenated. It
// stops at limit bytes, whatever the body claims or would become.
func decode(encoding string, body []byte, limit int64) ([]byte, *refusal) {
	var decoded []byte
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity", "none":
		decoded = body
	case "zstd":
		decoded, err = decodeZstd(body, limit)
	case "gzip", "x-gzip":
		decoded, err = decodeGzip(body, limit)
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, "the Content-Encoding must be zstd, gzip or none")
	}
	switch {
	case int64(len(decoded)) > limit, errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is too large once decompressed: send fewer readings at once")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body does not decompress: "+err.Error())
	}
	return decoded, nil
}

var zstdDecoders = sync.Pool{New: func() any {
	// One goroutine, the caller's, so that the pool may drop a decoder.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}}

func decodeZstd(body []byte, limit int64) ([]byte, error) {
	d := zstdDecoders.Get().(*zstd.Decoder)
	defer zstdDecoders.Put(d)
	defer d.Reset(nil) // lets go of the body
	if err := d.Reset(bytes.NewReader(body)); err != nil {
		return nil, err
	}
	return readUpTo(d, len(body), limit)
}

var gzipReaders sync.Pool

func decodeGzip(body []byte, limit int64) ([]byte, error) {
	z, _ := gzipReaders.Get().(*gzip.Reader)
	if z == nil {
		z = new(gzip.Reader)
	}
	defer gzipReaders.Put(z)
	if err := z.Reset(bytes.NewReader(body)); err != nil {
		return nil, err
	}
	return readUpTo(z, len(body), limit)
}

// readUpTo reads at most one byte more than limit, which tells the caller that
// there was more.
func readUpTo(r io.Reader, compressed int, limit int64) ([]byte, error) {
	decoded := bytes.NewBuffer(make([]byte, 0, min(int64(compressed)*8+bytes.MinRead, limit+bytes.MinRead)))
	_, err := decoded.ReadFrom(io.LimitReader(r, limit+1))
	return decoded.Bytes(), err
}
