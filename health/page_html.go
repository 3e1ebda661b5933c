package health

import (
	"strconv"

	"github.com/pyvorin/pyvorin-edge/internal/markup"
)

// writePage writes the page from top to bottom.
func writePage(w *markup.Writer, v pageView) {
	w.Put(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>{}: {}</title>
`, v.Device, string(v.Status))
	w.PutStyle(pageStyle)
	w.Put(`
</head>
<body>
<header>
<h1>{}</h1>
<p>group {} · Pyvorin Edge {}</p>
</header>
<main>
`, v.Device, v.Group, v.Version)
	writeVerdict(w, v)
	writeMachine(w, v)
	writeSensors(w, v)
	w.Put(`<div class="grid">
`)
	writeChecks(w, v)
	w.Put(`<section aria-labelledby="queue"><h2 id="queue">Queue and delivery</h2>`)
	writeFacts(w, v.Queue)
	w.Put(`<section aria-labelledby="privacy"><h2 id="privacy">Privacy</h2>`)
	writeFacts(w, v.Privacy)
	w.Put(`<section aria-labelledby="about"><h2 id="about">Agent</h2>`)
	writeFacts(w, v.About)
	w.Put(`</div>
</main>
<footer><p>As of {}, again every 5 s. For programs: <a href="/health">/health</a>, <a href="/metrics">/metrics</a>, <a href="/api/readings">/api/readings</a>.</p></footer>
</body>
</html>
`, v.Now)
}

func writeVerdict(w *markup.Writer, v pageView) {
	w.Put(`<section class="verdict {}" aria-label="Verdict">
<strong>{}</strong>{}`, string(v.Status), string(v.Status), v.Verdict)
	if len(v.Warnings) > 0 {
		w.Put("\n<ul>")
		for _, warning := range v.Warnings {
			w.Put("\n<li>{}</li>", warning)
		}
		w.Put("\n</ul>")
	}
	w.Put("\n</section>\n")
}

func writeMachine(w *markup.Writer, v pageView) {
	w.Put(`<section aria-labelledby="machine">
<h2 id="machine">Machine</h2>
<dl class="meters">
`)
	for _, m := range v.Machine {
		w.Put(`<div><dt>{}</dt><dd>{}`, m.Name, m.Value)
		if m.Percent != nil {
			w.Put(`<meter min="0" max="100" value="{}" aria-hidden="true"></meter>`, strconv.FormatFloat(*m.Percent, 'f', -1, 64))
		}
		w.Put("</dd></div>\n")
	}
	w.Put("</dl>\n</section>\n")
}

func writeSensors(w *markup.Writer, v pageView) {
	w.Put(`<section aria-labelledby="sensors">
<h2 id="sensors">Sensors, {}</h2>
`, v.SensorsSum)
	if len(v.Sensors) == 0 {
		w.Put("<p>No readings yet.</p>\n</section>\n")
		return
	}
	w.Put(`<div class="scroll">
<table>
<thead><tr><th scope="col">Sensor</th><th scope="col" class="num">Value, age</th><th scope="col">Quality</th><th scope="col">Trend</th></tr></thead>
<tbody>
`)
	for _, s := range v.Sensors {
		w.Put(`<tr><th scope="row">{}<small>{}</small>`, s.Name, s.Type)
		if s.Reason != "" {
			w.Put(`<small>{}</small>`, s.Reason)
		}
		w.Put(`</th><td class="num">{}<small>{}</small></td><td><span class="tag {}">{}</span></td>`, s.Value, s.Age, string(s.Quality), string(s.Quality))
		w.Put(`<td><svg viewBox="0 0 240 48" preserveAspectRatio="none" role="img" aria-label="{}"><path d="{}"/></svg></td></tr>
`, s.Trend.Text, s.Trend.Path)
	}
	w.Put("</tbody>\n</table>\n</div>\n")
	if v.More > 0 {
		w.Put(`<p>{} more in <a href="/api/readings">/api/readings</a>.</p>
`, strconv.Itoa(v.More))
	}
	w.Put("</section>\n")
}

func writeChecks(w *markup.Writer, v pageView) {
	w.Put(`<section aria-labelledby="checks">
<h2 id="checks">Checks</h2>
<table class="checks">
<thead><tr><th scope="col">Check</th><th scope="col">State</th></tr></thead>
<tbody>
`)
	for _, c := range v.Checks {
		w.Put(`<tr><th scope="row">{}</th><td><span class="tag {}">{}</span></td></tr>
`, c.Name, string(c.State), string(c.State))
	}
	w.Put("</tbody>\n</table>\n</section>\n")
}

// writeFacts writes a table with two columns and ends its section.
func writeFacts(w *markup.Writer, facts []fact) {
	w.Put(`<dl class="facts">
`)
	for _, f := range facts {
		w.Put(`<dt>{}</dt><dd>{}</dd>`, f.Name, f.Value)
	}
	w.Put("\n</dl></section>\n")
}
