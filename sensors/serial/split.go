package serial

import "bytes"

// splitter finds the lines in what comes over a port. A line ends with \n, \r
// or both; one that is empty is left out. It holds at most limit bytes, and
// drops and counts a line that is longer.
//
// A port is opened at any moment, also in the midst of a line, and the rest of
// "12.5" may read 2.5. So the first line is dropped, unless the device was found
// silent before it.
type splitter struct {
	limit int

	line    []byte
	skip    bool // to the next end of a line
	begun   bool // something came, or the device was silent
	tooLong int  // lines dropped
}

// silent notes that nothing came for a while.
func (s *splitter) silent() { s.begun = true }

// feed takes the next bytes and calls each for every line that ends in them.
// The line is valid during the call only.
func (s *splitter) feed(p []byte, each func(line []byte)) {
	if !s.begun {
		s.begun, s.skip = true, true
	}
	for len(p) > 0 {
		end := bytes.IndexAny(p, "\r\n")
		part := p
		if end >= 0 {
			part = p[:end]
		}
		switch {
		case s.skip:
		case len(s.line)+len(part) > s.limit:
			s.skip = true
			s.tooLong++
			s.line = s.line[:0]
		default:
			s.line = append(s.line, part...)
		}
		if end < 0 {
			return
		}
		if len(s.line) > 0 {
			each(s.line)
		}
		s.line, s.skip = s.line[:0], false
		p = p[end+1:]
	}
}
