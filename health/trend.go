package health

import (
	"strconv"
	"strings"
)

// The drawing area of a trend, in units of its own; a margin of one line width
// keeps the extremes visible.
const (
	trendWidth  = 240
	trendHeight = 48
	trendMargin = 4
	trendPoints = 60 // latest values that are drawn
)

// trend is a small line chart of a sensor's latest values.
type trend struct {
	Path string // SVG path data; "" when there is nothing to draw
	Text string // the same in words, for those who do not see it
}

// trendOf draws values, oldest first. A missing one is a gap in the line: what
// was not measured must not look as if it had been.
func trendOf(values []*float64) trend {
	values = values[max(len(values)-trendPoints, 0):]
	var low, high, last float64
	drawn := 0
	for _, v := range values {
		if v == nil {
			continue
		}
		if drawn == 0 {
			low, high = *v, *v
		}
		low, high, last = min(low, *v), max(high, *v), *v
		drawn++
	}
	if drawn == 0 {
		return trend{Text: "no values"}
	}
	var path strings.Builder
	pen := "M"
	for i, v := range values {
		if v == nil {
			pen = "M"
			continue
		}
		x := trendWidth - trendMargin
		if len(values) > 1 {
			x = trendMargin + i*(trendWidth-2*trendMargin)/(len(values)-1)
		}
		y := trendHeight / 2
		if high/2 > low/2 { // halves, because the difference of two floats can overflow
			share := (*v/2 - low/2) / (high/2 - low/2)
			y = trendHeight - trendMargin - int(share*(trendHeight-2*trendMargin)+0.5)
		}
		path.WriteString(pen + strconv.Itoa(x) + " " + strconv.Itoa(y))
		if pen == "M" {
			path.WriteString("h0") // with round caps a lone value is a dot
		}
		pen = "L"
	}
	n := func(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }
	return trend{Path: path.String(), Text: "last " + n(last) + ", from " + n(low) + " to " + n(high)}
}
