package syncqueue

// Encoding is how a frame is compressed, at rest and on the wire. Frames of one
// encoding may be concatenated (RFC 8878 section 3.1, RFC 1952 section 2.2).
type Encoding uint8

// The encodings, as stored; never renumber.
const (
	Plain Encoding = 0
	Gzip  Encoding = 1
	Zstd  Encoding = 2
)

// Batch is what one Lease yields: whole frames with one unbroken range of
// sequence numbers, so that First and Last name its content for ever.
type Batch struct {
	First, Last uint64   // sequence numbers, inclusive
	Count       int      // readings: Last-First+1
	Encoding    Encoding // of every frame
	Frames      [][]byte // NDJSON lines, each ended by \n, compressed; in order of seq
	Backlog     bool     // older than the current connection: live readings go first
}
