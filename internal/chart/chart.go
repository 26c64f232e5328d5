// Package chart draws series over time as SVG, on the server, for pages that need no script.
//
// A picture has a title and a description for screen readers, the values of each point to hover over, and a table
// beside it with the same values. It has classes and presentation attributes, and no style of its own: a strict
// content security policy lets it through, and the page's style sheet decides about its colours, dark or light.
// The classes are chart-bar, chart-line, chart-grid, chart-axis, chart-text, chart-hit, chart-late, and chart-1 to
// chart-8 for the series.
//
// No label overlaps another or leaves the picture: widths are estimated, generously, and labels that have no room
// are left out.
package chart

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
	"unicode"
)

// Kind is how the series are drawn.
type Kind int

const (
	// Bars stacks the series of a point on each other.
	Bars Kind = iota
	// Lines draws a line for each series, which ends where a value is missing.
	Lines
)

// Unit is what values are.
type Unit int

const (
	// Count is a number of things.
	Count Unit = iota
	// Seconds is a duration.
	Seconds
)

// MaxSeries is how many series have a colour of their own. Those after them have the last one.
const MaxSeries = 8

// A Series is a value for each time.
type Series struct {
	Name string
	// Values are NaN where there is none. A value below 0 or an infinite one counts as missing.
	Values []float64
}

// A Chart is a picture of series over time. All fields but Title, Times and Series may be zero.
type Chart struct {
	// ID begins the ids within the picture. It must be unique in the page, and a name in HTML.
	ID string
	// Title says what is shown, and Summary what a person would see in it, in a sentence.
	Title, Summary string
	Kind           Kind
	Unit           Unit
	// Times are when the points begin, Step apart, in order.
	Times []time.Time
	Step  time.Duration
	// Series have a value for each time. A shorter one has none for the last times.
	Series []Series
	// Location is the time zone of labels. Default UTC.
	Location *time.Location
	// Late marks the last point as one that is not over.
	Late bool
	// Empty is what is shown in the place of a picture without a value. Default "Nothing yet."
	Empty string
}

// The picture in its own units: the page scales it.
const (
	width, height = 640, 220
	fontSize      = 12
	// top leaves room for the upper half of a label, and bottom for the labels of times.
	top, bottom, right = 12, 26, 8
	// gap is between labels.
	gap = 8
)

// value is the value of a series at a point, and NaN if there is none.
func (s Series) value(i int) float64 {
	if i >= len(s.Values) || s.Values[i] < 0 || math.IsInf(s.Values[i], 0) {
		return math.NaN()
	}
	return s.Values[i]
}

// IsEmpty reports whether there is no value to draw: none at all, or only zeros.
func (c Chart) IsEmpty() bool {
	for _, s := range c.Series {
		for i := range c.Times {
			if v := s.value(i); v > 0 {
				return false
			}
		}
	}
	return true
}

// most is the greatest value that is drawn.
func (c Chart) most() float64 {
	most := 0.0
	for i := range c.Times {
		sum := 0.0
		for _, s := range c.Series {
			v := s.value(i)
			switch {
			case math.IsNaN(v):
			case c.Kind == Bars:
				sum = math.Min(sum+v, math.MaxFloat64)
			default:
				sum = math.Max(sum, v)
			}
		}
		most = math.Max(most, sum)
	}
	return most
}

// at is a time in the chart's zone.
func (c Chart) at(i int) time.Time {
	if c.Location == nil {
		return c.Times[i].UTC()
	}
	return c.Times[i].In(c.Location)
}

// Figure is the picture with its title, the names of the series and the table of values, as HTML.
func (c Chart) Figure() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<figure class="chart" id=%s><figcaption>%s</figcaption>`, attr(c.ID), text(c.Title))
	if c.IsEmpty() {
		empty := c.Empty
		if empty == "" {
			empty = "Nothing yet."
		}
		fmt.Fprintf(&b, `<p class="chart-empty">%s</p></figure>`, text(empty))
		return template.HTML(b.String())
	}
	if len(c.Series) > 1 {
		b.WriteString(`<ul class="chart-legend">`)
		for i, s := range c.Series {
			fmt.Fprintf(&b, `<li><svg class="chart-key" viewBox="0 0 10 10" width="10" height="10" aria-hidden="true"><rect class="chart-bar %s" width="10" height="10" rx="2"/></svg>%s</li>`, class(i), text(s.Name))
		}
		b.WriteString(`</ul>`)
	}
	fmt.Fprintf(&b, `<div class="chart-box">%s</div>`, c.SVG())
	c.table(&b)
	b.WriteString(`</figure>`)
	return template.HTML(b.String())
}

// table has the values of the picture, for those who don't see it.
func (c Chart) table(b *strings.Builder) {
	fmt.Fprintf(b, `<details class="chart-values"><summary>Values</summary><div class="chart-scroll"><table><caption>%s</caption><thead><tr><th scope="col">From</th>`, text(c.Title))
	for _, s := range c.Series {
		fmt.Fprintf(b, `<th scope="col">%s</th>`, text(s.Name))
	}
	b.WriteString(`</tr></thead><tbody>`)
	for i := range c.Times {
		at := c.at(i)
		fmt.Fprintf(b, `<tr><th scope="row"><time datetime=%s>%s</time></th>`, attr(at.UTC().Format(time.RFC3339)), text(at.Format("2006-01-02 15:04 MST")))
		for _, s := range c.Series {
			fmt.Fprintf(b, `<td>%s</td>`, text(c.Unit.exact(s.value(i))))
		}
		b.WriteString(`</tr>`)
	}
	b.WriteString(`</tbody></table></div></details>`)
}

func class(i int) string { return fmt.Sprintf("chart-%d", min(i, MaxSeries-1)+1) }

// text is a text in HTML and XML. Characters that XML has no way to write are replaced.
func text(s string) string {
	return template.HTMLEscapeString(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || r == 0xFFFE || r == 0xFFFF {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD")))
}

func attr(s string) string { return `"` + text(s) + `"` }
