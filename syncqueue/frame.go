package syncqueue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxFrameBytes is where a frame of uncompressed lines is cut, unless one
	// line alone is longer.
	maxFrameBytes = 512 << 10

	// maxFrameReadings bounds what a row may claim to hold.
	maxFrameReadings = 100_000

	// maxDecodedBytes bounds what decoding one frame may yield: more than the
	// longest line that Enqueue accepts, with every byte escaped.
	maxDecodedBytes = 32 << 20
)

// String returns the encoding's name in config and in Content-Encoding; Plain
// is "none".
func (e Encoding) String() string {
	switch e {
	case Plain:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	}
	return "Encoding(" + strconv.Itoa(int(e)) + ")"
}

// One small encoder and one decoder serve the process: memory matters more on
// a device than compressing two frames at once.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxDecodedBytes))
	})
	gzipWriters = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // only for a level that does not exist
		}
		return w
	}}
)

// Encode appends lines, each ended by \n, to dst as one frame.
func Encode(dst []byte, e Encoding, lines [][]byte) ([]byte, error) {
	var raw []byte
	for _, line := range lines {
		raw = append(append(raw, line...), '\n')
	}
	return compress(dst, e, raw)
}

// compress appends raw to dst as one frame.
func compress(dst []byte, e Encoding, raw []byte) ([]byte, error) {
	switch e {
	case Plain:
		return append(dst, raw...), nil
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		buf := bytes.NewBuffer(dst)
		w.Reset(buf)
		if _, err := w.Write(raw); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return buf.Bytes(), nil
	case Zstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, err
		}
		return enc.EncodeAll(raw, dst), nil
	}
	return nil, fmt.Errorf("no such encoding: %v", e)
}

// decompress returns the lines in frame as one text.
func decompress(e Encoding, frame []byte) ([]byte, error) {
	switch e {
	case Plain:
		return frame, nil
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(frame))
		if err != nil {
			return nil, err
		}
		raw, err := io.ReadAll(io.LimitReader(r, maxDecodedBytes+1))
		if err == nil && len(raw) > maxDecodedBytes {
			err = fmt.Errorf("more than %d bytes", maxDecodedBytes)
		}
		return raw, err
	case Zstd:
		dec, err := zstdDecoder()
		if err != nil {
			return nil, err
		}
		return dec.DecodeAll(frame, nil)
	}
	return nil, fmt.Errorf("no such encoding: %v", e)
}

// frameLines returns the lines in frame, without their \n.
func frameLines(e Encoding, frame []byte) ([][]byte, error) {
	raw, err := decompress(e, frame)
	if err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	if len(raw) == 0 || raw[len(raw)-1] != '\n' {
		return nil, fmt.Errorf("decode frame: the last line has no end")
	}
	return bytes.Split(raw[:len(raw)-1], []byte{'\n'}), nil
}

// Lines returns b's readings as lines of JSON, in order of seq and without
// their \n. What it decodes is bounded; an error means that a frame is damaged.
func Lines(b Batch) ([][]byte, error) {
	lines := make([][]byte, 0, b.Count)
	for _, frame := range b.Frames {
		more, err := frameLines(b.Encoding, frame)
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	if len(lines) != b.Count {
		return nil, fmt.Errorf("batch %d-%d has %d lines, not %d", b.First, b.Last, len(lines), b.Count)
	}
	return lines, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSum is the checksum of a row. Flipped bits in a payload pass
// quick_check; they must not reach a receiver.
func frameSum(first uint64, n uint32, e Encoding, payload []byte) uint32 {
	var head [13]byte
	binary.LittleEndian.PutUint64(head[:], first)
	binary.LittleEndian.PutUint32(head[8:], n)
	head[12] = byte(e)
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, payload)
}
