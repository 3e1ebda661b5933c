package uplink

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	maxRetryAfter    = time.Hour
	maxReasonBytes   = 200
	maxLocationBytes = 200
)

// verdict is what an answer means for the readings that were sent.
type verdict int

// The verdicts. The zero one is that of a request without an answer.
const (
	failed   verdict = iota // send again later
	accepted                // the receiver has them
	paused                  // not the readings' fault, and not passing by itself
	refused                 // at least one of them will never be taken
)

// answer is the outcome of one request.
type answer struct {
	verdict    verdict
	status     int           // 0 when none came
	reason     string        // the receiver's own words, shortened
	retryAfter time.Duration // 0 when it asked for none
	err        error         // nil when accepted
}

// keyRefused reports whether another API key might help.
func (a answer) keyRefused() bool {
	return a.status == http.StatusUnauthorized || a.status == http.StatusForbidden
}

// judge turns a response into an answer. reason is the excerpt of its body.
func judge(resp *http.Response, reason string) answer {
	a := answer{status: resp.StatusCode, reason: reason}
	switch s := resp.StatusCode; {
	case s >= 200 && s <= 299:
		a.verdict = accepted
		return a
	case s == http.StatusRequestTimeout || s == http.StatusTooEarly || s == http.StatusTooManyRequests || s >= 500:
		a.verdict = failed
	case advice(s) != "":
		a.verdict = paused
	default:
		a.verdict = refused
	}

	text := fmt.Sprintf("the server answered %d", a.status)
	if name := http.StatusText(a.status); name != "" {
		text += " " + name
	}
	if reason != "" {
		text += ": " + reason
	}
	if to := resp.Header.Get("Location"); to != "" && a.verdict == paused {
		text += " (to " + clean(to, maxLocationBytes) + ")"
	}
	if a.verdict == paused {
		text += "; " + advice(a.status) + "; nothing is lost meanwhile"
	}
	a.err = errors.New(text)
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		a.retryAfter = retryAfter(resp.Header, time.Now())
	}
	return a
}

// advice is what a person should do about a status that speaks of the address,
// the key or the form of a request, and not of the readings in it; "" for every
// other status. Dead-lettering on these would lose readings to a typo.
func advice(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "check cloud.api_key or cloud.api_key_file"
	case http.StatusProxyAuthRequired:
		return "check the proxy and its login in HTTPS_PROXY"
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusMisdirectedRequest:
		return "check cloud.endpoint"
	case http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return "check cloud.format and cloud.compression"
	}
	if status < 400 {
		return "set cloud.endpoint to an address that takes readings itself; redirects are not followed"
	}
	return ""
}

// retryAfter reads the header of that name: seconds, or a date, which is
// compared with the server's own clock where it tells it. 0 when there is none
// to honour.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}

// excerpt makes an answer's body fit for a log line and a status page. A server
// that echoes the key does not get it into either.
func excerpt(body []byte, key string) string {
	text := string(body)
	if key != "" {
		text = strings.ReplaceAll(text, key, "[key]")
	}
	return clean(text, maxReasonBytes)
}

// clean returns at most limit bytes of s on one line, in valid UTF-8.
func clean(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "")
}
