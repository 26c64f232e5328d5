package chart

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// SVG is the picture alone. It is the whole of an XML document without its declaration.
func (c Chart) SVG() string {
	var b strings.Builder
	id := c.ID
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="chart-svg" viewBox="0 0 %d %d" role="img" aria-labelledby=%s>`, width, height, attr(id+"-title "+id+"-desc"))
	fmt.Fprintf(&b, `<title id=%s>%s</title><desc id=%s>%s</desc>`, attr(id+"-title"), text(c.Title), attr(id+"-desc"), text(c.description()))
	if len(c.Times) > 0 {
		p := c.plot()
		p.grid(&b)
		if c.Kind == Bars {
			p.bars(&b)
		} else {
			p.lines(&b)
		}
		p.times(&b)
		p.hits(&b)
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// description is what the picture shows, in words.
func (c Chart) description() string {
	if len(c.Times) == 0 || c.IsEmpty() {
		return "There is no value."
	}
	text := c.Summary
	if text == "" {
		text = fmt.Sprintf("The greatest value is %s.", c.Unit.exact(c.most()))
	}
	const layout = "2006-01-02 15:04 MST"
	return fmt.Sprintf("%s From %s to %s. The table below has all values.", text, c.at(0).Format(layout), c.at(len(c.Times)-1).Format(layout))
}

// plot is where the values are drawn.
type plot struct {
	Chart

	ticks []float64
	most  float64 // the value at the top
	left  float64
	slot  float64 // the width of a point
}

func (c Chart) plot() *plot {
	p := &plot{Chart: c}
	p.ticks = c.Unit.ticks(c.most())
	p.most = p.ticks[len(p.ticks)-1]
	widest := 0.0
	for _, tick := range p.ticks {
		widest = math.Max(widest, textWidth(c.Unit.short(tick)))
	}
	p.left = math.Ceil(widest + gap)
	p.slot = (width - right - p.left) / float64(len(c.Times))
	return p
}

// x is the left side of a point, and y the height of a value.
func (p *plot) x(i int) float64      { return p.left + float64(i)*p.slot }
func (p *plot) middle(i int) float64 { return p.left + (float64(i)+0.5)*p.slot }
func (p *plot) y(v float64) float64  { return height - bottom - v/p.most*(height-bottom-top) }
func (p *plot) isLate(i int) bool    { return p.Late && i == len(p.Times)-1 }

func (p *plot) grid(b *strings.Builder) {
	for i, tick := range p.ticks {
		y := p.y(tick)
		line := "chart-grid"
		if i == 0 {
			line = "chart-axis"
		}
		fmt.Fprintf(b, `<path class="%s" fill="none" d="M%s %sH%d"/>`, line, num(p.left), num(y), width-right)
		fmt.Fprintf(b, `<text class="chart-text" x="%s" y="%s" font-size="%d" text-anchor="end">%s</text>`,
			num(p.left-gap/2), num(y+fontSize*0.35), fontSize, text(p.Unit.short(tick)))
	}
}

// bars draws each series as one path; the last point, if it is not over, as another.
func (p *plot) bars(b *strings.Builder) {
	base := make([]float64, len(p.Times))
	wide := math.Max(p.slot*0.8, 0.5)
	for n, s := range p.Series {
		var d, late strings.Builder
		for i := range p.Times {
			v := s.value(i)
			if math.IsNaN(v) || v == 0 {
				continue
			}
			from := base[i]
			base[i] = math.Min(from+v, math.MaxFloat64)
			// What is there must be seen, however small.
			y0, y1 := p.y(from), p.y(base[i])
			y1 = math.Max(math.Min(y1, y0-0.75), 0)
			to := &d
			if p.isLate(i) {
				to = &late
			}
			fmt.Fprintf(to, "M%s %sH%sV%sH%sZ", num(p.x(i)+(p.slot-wide)/2), num(y0), num(p.x(i)+(p.slot+wide)/2), num(y1), num(p.x(i)+(p.slot-wide)/2))
		}
		write(b, "chart-bar "+class(n), d.String())
		write(b, "chart-bar chart-late "+class(n), late.String())
	}
}

func write(b *strings.Builder, class, d string) {
	if d != "" {
		fmt.Fprintf(b, `<path class="%s" d="%s"/>`, class, d)
	}
}

// lines draws each series as one path. A value between two gaps is a dot.
func (p *plot) lines(b *strings.Builder) {
	for n, s := range p.Series {
		var d, dots strings.Builder
		drawing := false
		for i := range p.Times {
			v := s.value(i)
			if math.IsNaN(v) {
				drawing = false
				continue
			}
			alone := !drawing && (i+1 >= len(p.Times) || math.IsNaN(s.value(i+1)))
			switch {
			case alone:
				fmt.Fprintf(&dots, "M%s %sh3v3h-3Z", num(p.middle(i)-1.5), num(math.Max(p.y(v)-1.5, 0)))
			case drawing:
				fmt.Fprintf(&d, "L%s %s", num(p.middle(i)), num(p.y(v)))
			default:
				fmt.Fprintf(&d, "M%s %s", num(p.middle(i)), num(p.y(v)))
			}
			drawing = true
		}
		if d.Len() > 0 {
			fmt.Fprintf(b, `<path class="chart-line %s" fill="none" d="%s"/>`, class(n), d.String())
		}
		write(b, "chart-bar "+class(n), dots.String())
	}
}

// hits are what the pointer meets: a column for each point, with its values.
func (p *plot) hits(b *strings.Builder) {
	for i := range p.Times {
		fmt.Fprintf(b, `<g class="chart-hit"><title>%s</title><rect x="%s" y="%d" width="%s" height="%d" fill="none" pointer-events="all"/></g>`,
			text(p.hint(i)), num(p.x(i)), top, num(p.slot), height-top-bottom)
	}
}

// hint is what a point says.
func (p *plot) hint(i int) string {
	var b strings.Builder
	b.WriteString(p.at(i).Format("Mon 2 Jan 15:04 MST"))
	if p.isLate(i) {
		b.WriteString(", not over yet")
	}
	some := false
	for _, s := range p.Series {
		// Of many stacked series those that have something are told.
		v := s.value(i)
		if math.IsNaN(v) || v == 0 && p.Kind == Bars {
			continue
		}
		some = true
		fmt.Fprintf(&b, "\n%s: %s", s.Name, p.Unit.exact(v))
	}
	if !some {
		b.WriteString("\nnothing")
	}
	return b.String()
}

// intervals are how far apart labels of times may be, from the nearest on.
var intervals = []time.Duration{
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	day, 2 * day, 5 * day, 7 * day, 14 * day, 28 * day, 91 * day, 365 * day,
}

const day = 24 * time.Hour

// label is a label of a time, from and to where.
type label struct {
	text     string
	from, to float64
}

func (p *plot) times(b *strings.Builder) {
	for _, l := range p.labels() {
		fmt.Fprintf(b, `<text class="chart-text" x="%s" y="%d" font-size="%d" text-anchor="middle">%s</text>`,
			num((l.from+l.to)/2), height-gap, fontSize, text(l.text))
	}
}

// labels are those of the shortest interval whose labels all have room; of the longest, those that have.
func (p *plot) labels() []label {
	for n, interval := range intervals {
		if interval < p.Step {
			continue
		}
		labels, all := p.labelsAt(interval)
		if (all || n == len(intervals)-1) && len(labels) > 0 {
			return labels
		}
		if all {
			break // longer intervals have none either
		}
	}
	first := p.labelOf(0, day)
	return []label{first}
}

// labelsAt are the labels of the points that begin an interval in the chart's zone. all is false if some had no room.
func (p *plot) labelsAt(interval time.Duration) (labels []label, all bool) {
	all = true
	end := math.Inf(-1)
	for i := range p.Times {
		if i == 0 && p.local(0) != p.begin(0, interval) || i > 0 && p.begin(i, interval) == p.begin(i-1, interval) {
			continue
		}
		l := p.labelOf(i, interval)
		if l.from < end+gap {
			all = false
			continue
		}
		end = l.to
		labels = append(labels, l)
	}
	return labels, all
}

// local is the local time of a point in seconds, and begin the begin of its interval.
func (p *plot) local(i int) int64 {
	t := p.at(i)
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

func (p *plot) begin(i int, interval time.Duration) int64 {
	seconds := int64(interval / time.Second)
	local := p.local(i)
	return local - (local%seconds+seconds)%seconds
}

// labelOf is the label of a point, within the picture.
func (p *plot) labelOf(i int, interval time.Duration) label {
	t := p.at(i)
	layout := "15:04"
	switch {
	case interval >= 91*day:
		layout = "Jan 2006"
	case interval >= 2*day:
		layout = "2 Jan"
	case interval >= day:
		layout = "Mon 2"
	case t.Hour() == 0 && t.Minute() == 0:
		layout = "Mon 2"
	}
	written := t.Format(layout)
	half := textWidth(written) / 2
	x := math.Min(math.Max(p.middle(i), half), width-half)
	return label{written, x - half, x + half}
}

// textWidth is how wide a text is at the most, in most fonts without serifs.
func textWidth(s string) float64 {
	w := 0.0
	for _, r := range s {
		if w += 0.65; r >= 0x80 {
			w += 0.35
		}
	}
	return w * fontSize
}

// num is a coordinate with a tenth.
func num(v float64) string {
	if math.IsNaN(v) {
		v = 0
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", math.Min(math.Max(v, 0), math.Max(width, height))), ".0")
}
