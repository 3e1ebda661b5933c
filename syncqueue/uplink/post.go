package uplink

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// maxAnswerWait and maxAnswerBytes bound what is read of an answer's body once
// its status is known: an answer that never ends costs no more.
const (
	maxAnswerWait  = time.Second
	maxAnswerBytes = 4 << 10
)

// contentEncodings are the values of Content-Encoding. A plain body carries no
// such header: RFC 9110 section 8.4.1 keeps "identity" out of it, and "none" is
// no registered coding.
var contentEncodings = map[syncqueue.Encoding]string{syncqueue.Gzip: "gzip", syncqueue.Zstd: "zstd"}

// post sends a part of d and waits for the answer. The loop goes on beating
// meanwhile, but not for longer than a request may take.
func (l *loop) post(ctx context.Context, d *delivery, s span) answer {
	body, err := l.body(d, s)
	if err != nil {
		return answer{err: err}
	}
	size := int64(0)
	for _, part := range body {
		size += int64(len(part))
	}
	start := time.Now()
	l.pacer.spend(start, size)
	l.update(func(st *Stats) { st.Requests++; st.BytesSent += size })

	answers := make(chan answer, 1)
	go func() { answers <- l.send(ctx, body, size, d.batch.Encoding, l.idempotencyKey(d, s)) }()
	for {
		select {
		case a := <-answers:
			l.o.Observe(time.Since(start), a.err)
			return a
		case <-l.tick.C:
			if time.Since(start) < l.o.RequestTimeout+l.beat {
				l.o.Beat()
			}
		}
	}
}

// idempotencyKey names the readings of a part for ever.
func (l *loop) idempotencyKey(d *delivery, s span) string {
	first := d.batch.First
	return fmt.Sprintf("%s:%d-%d", l.o.DeviceID, first+uint64(s.from), first+uint64(s.to)-1)
}

// body returns the request body for a part, in pieces. The whole of a batch
// travels as it is stored.
func (l *loop) body(d *delivery, s span) ([][]byte, error) {
	if l.o.Format == formatNDJSON && s.len() == d.batch.Count {
		return d.batch.Frames, nil
	}
	if err := d.decode(); err != nil {
		return nil, err
	}
	lines := d.lines[s.from:s.to]
	switch l.o.Format {
	case formatJSON:
		lines = [][]byte{jsonDocument(l.o.DeviceID, l.idempotencyKey(d, s), lines)}
	case formatSenML:
		doc, err := senmlPack(l.o.DeviceID, lines)
		if err != nil {
			return nil, err
		}
		lines = [][]byte{doc}
	}
	frame, err := syncqueue.Encode(nil, d.batch.Encoding, lines)
	if err != nil {
		return nil, fmt.Errorf("encode a part of readings %d-%d: %w", d.batch.First, d.batch.Last, err)
	}
	return [][]byte{frame}, nil
}

// send does one POST, within RequestTimeout.
func (l *loop) send(ctx context.Context, body [][]byte, size int64, encoding syncqueue.Encoding, idempotencyKey string) answer {
	ctx, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.o.Endpoint, nil)
	if err != nil {
		return answer{err: err}
	}
	req.ContentLength = size
	req.GetBody = func() (io.ReadCloser, error) {
		pieces := net.Buffers(slices.Clone(body)) // reading consumes the outer slice only
		return io.NopCloser(&pieces), nil
	}
	req.Body, _ = req.GetBody()
	if l.key != "" {
		req.Header.Set("Authorization", "Bearer "+l.key)
	}
	req.Header.Set("Content-Type", contentTypes[l.o.Format])
	if coding := contentEncodings[encoding]; coding != "" {
		req.Header.Set("Content-Encoding", coding)
	}
	req.Header.Set("Idempotency-Key", idempotencyKey)
	req.Header.Set("User-Agent", l.o.UserAgent)

	resp, err := l.client.Do(req)
	if err != nil {
		return answer{err: explain(err, l.o.RequestTimeout)}
	}
	defer resp.Body.Close()
	defer time.AfterFunc(maxAnswerWait, cancel).Stop()
	// An answer read to its end leaves the connection usable. What cannot be
	// read changes nothing: the status has come.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	return judge(resp, excerpt(text, l.key))
}
