package main

import (
	"io"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// column of a table. A narrow terminal first takes room from the columns that
// may shrink, then drops whole columns, those with the highest drop first; one
// with drop 0 always stays.
type column struct {
	title string
	right bool // aligned to the right
	min   int  // may shrink to this width; 0 keeps its full width
	drop  int
	// empty columns have nothing to tell, and are left out at any width.
	empty bool
	// style is that of a cell; nil is none.
	style func(cell string) style
}

// columnGap is the space between two columns: two, so that a cell may hold
// single spaces.
const columnGap = 2

type table struct {
	columns []column
	rows    [][]string
}

// add appends a row; its cells are made safe and put on one line.
func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = oneLine(cell)
	}
	t.rows = append(t.rows, cells)
}

// write prints the table at most room columns wide; room 0 means as wide as it
// needs.
func (t *table) write(w io.Writer, room int) error {
	// Before the cells are cut: half of a secret is hard to tell.
	if o, ok := w.(*output); ok {
		for _, row := range t.rows {
			for i, cell := range row {
				row[i] = o.redacted(cell)
			}
		}
	}
	shown, widths := t.layout(room)
	var out []span
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	for r, row := range append([][]string{titles}, t.rows...) {
		gap := 0
		for _, i := range shown {
			cell := cutWidth(row[i], widths[i])
			pad := widths[i] - textWidth(cell)
			if t.columns[i].right {
				gap, pad = gap+pad, 0
			}
			// The gap comes with the next text: no line ends with spaces.
			if cell != "" {
				out = append(out, span{text: strings.Repeat(" ", gap)}, span{cell, t.columns[i].styleOf(r, row[i])})
				gap = 0
			}
			gap += pad + columnGap
		}
		out = append(out, span{text: "\n"})
	}
	return writeSpans(w, out)
}

// styleOf is the style of a cell in a line, the first of which has the titles.
func (c column) styleOf(line int, cell string) style {
	switch {
	case line == 0:
		return bold
	case c.style == nil:
		return ""
	default:
		return c.style(cell)
	}
}

// writeSpans prints spans in their styles where w can show them.
func writeSpans(w io.Writer, spans []span) error {
	if o, ok := w.(*output); ok {
		return o.spans(spans...)
	}
	var b strings.Builder
	for _, s := range spans {
		b.WriteString(s.text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// layout says which columns are shown, and how wide each is.
func (t *table) layout(room int) (shown, widths []int) {
	full := make([]int, len(t.columns))
	for i, c := range t.columns {
		full[i] = textWidth(c.title)
		for _, row := range t.rows {
			full[i] = max(full[i], textWidth(row[i]))
		}
		if !c.empty {
			shown = append(shown, i)
		}
	}
	for {
		widths = slices.Clone(full)
		if room <= 0 || t.shrink(shown, widths, room) {
			return shown, widths
		}
		drop := -1
		for n, i := range shown {
			if d := t.columns[i].drop; d > 0 && (drop < 0 || d > t.columns[shown[drop]].drop) {
				drop = n
			}
		}
		if drop < 0 {
			return shown, widths
		}
		shown = slices.Delete(shown, drop, drop+1)
	}
}

// shrink lowers the widths of the shown columns, the widest first, until they
// fit room; it reports whether they do.
func (t *table) shrink(shown, widths []int, room int) bool {
	total := columnGap * (len(shown) - 1)
	for _, i := range shown {
		total += widths[i]
	}
	for total > room {
		widest := -1
		for _, i := range shown {
			least := t.columns[i].min
			if least > 0 && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
		total--
	}
	return true
}

// textWidth is how many columns of a terminal s takes.
func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// cutWidth cuts s to at most limit columns, with an ellipsis where something
// is missing.
func cutWidth(s string, limit int) string {
	if textWidth(s) <= limit {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > limit-1 {
			return s[:i] + "…"
		}
	}
	return s
}
