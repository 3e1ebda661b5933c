package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/fleet/ingest"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	pageDevices = 200
	pageSensors = 50 // of each device
)

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	pageStyle string

	pageTemplate = template.Must(template.New("page").Parse(pageText))

	// pagePolicy lets the browser load nothing and run nothing, but for the one
	// style sheet in the page.
	pagePolicy = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

type pageDevice struct {
	ingest.Device
	Age    string
	Latest []pageReading
}

type pageReading struct {
	wire.Reading
	Quantity string // the value with its unit
	Age      string
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	devices, err := s.pageDevices(ctx)
	if err != nil {
		s.failQuery(w, err)
		return
	}
	refused := int64(0)
	for _, n := range s.ingest.Refused() {
		refused += n
	}
	var page bytes.Buffer
	err = pageTemplate.Execute(&page, map[string]any{
		"Style":   template.CSS(pageStyle),
		"Devices": devices,
		"More":    len(devices) == pageDevices,
		"Refused": refused,
		"Failure": s.store.Failure(),
		"Version": buildinfo.Version,
		"Now":     s.now().UTC().Format(time.RFC3339),
	})
	if err != nil {
		s.failQuery(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(page.Bytes())
}

func (s *Server) pageDevices(ctx context.Context) ([]pageDevice, error) {
	known, err := s.store.Devices(ctx, pageDevices)
	if err != nil {
		return nil, err
	}
	now := s.now()
	devices := make([]pageDevice, 0, len(known))
	for _, d := range known {
		latest, err := s.store.Latest(ctx, d.DeviceID, pageSensors)
		if err != nil {
			return nil, err
		}
		device := pageDevice{Device: d, Age: human.Ago(d.LastSeen, now)}
		for _, r := range latest {
			device.Latest = append(device.Latest, pageReading{r, quantity(r), human.Ago(r.Timestamp, now)})
		}
		devices = append(devices, device)
	}
	return devices, nil
}

// quantity is the value with its unit, as people read it.
func quantity(r wire.Reading) string {
	switch f, ok := r.Value.Float(); {
	case ok:
		return human.Quantity(f, r.Unit)
	case r.Value.Kind() == wire.None:
		return "–"
	}
	return strings.TrimSpace(r.Value.String() + " " + r.Unit)
}
