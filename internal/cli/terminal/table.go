package terminal

import (
	"io"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// Column is a column of a table. On a narrow terminal the columns with a Min shrink
// first. Then whole columns are left out, those with the highest Drop first; a
// column with Drop 0 is never left out.
type Column struct {
	Title string
	Right bool // aligned to the right
	Min   int  // may shrink to this width; 0 keeps its full width
	Drop  int
	// Empty columns are left out at any width.
	Empty bool
	// Style returns the style of a cell. Nil: no style.
	Style func(cell string) Style
}

// columnGap is the space between two columns: two, so that a cell may hold
// single spaces.
const columnGap = 2

// Table is rows of cells under titles. It fits the width of a terminal.
type Table struct {
	Columns []Column
	rows    [][]string
}

// Add appends a row. Its cells are made safe, each on one line.
func (t *Table) Add(cells ...string) {
	for i, cell := range cells {
		cells[i] = OneLine(cell)
	}
	t.rows = append(t.rows, cells)
}

// Write prints the table, at most room columns wide. Room 0 is no limit.
func (t *Table) Write(w io.Writer, room int) error {
	// Before the cells are cut: half of a secret is hard to find.
	if o, ok := w.(*Output); ok {
		for _, row := range t.rows {
			for i, cell := range row {
				row[i] = o.Redacted(cell)
			}
		}
	}
	shown, widths := t.layout(room)
	var out []Span
	titles := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		titles[i] = c.Title
	}
	for r, row := range append([][]string{titles}, t.rows...) {
		gap := 0
		for _, i := range shown {
			cell := CutWidth(row[i], widths[i])
			pad := widths[i] - TextWidth(cell)
			if t.Columns[i].Right {
				gap, pad = gap+pad, 0
			}
			// The gap comes with the next text: no line ends with spaces.
			if cell != "" {
				out = append(out, Span{Text: strings.Repeat(" ", gap)}, Span{cell, t.Columns[i].styleOf(r, row[i])})
				gap = 0
			}
			gap += pad + columnGap
		}
		out = append(out, Span{Text: "\n"})
	}
	return writeSpans(w, out)
}

// styleOf is the style of a cell in a line, the first of which has the titles.
func (c Column) styleOf(line int, cell string) Style {
	switch {
	case line == 0:
		return bold
	case c.Style == nil:
		return ""
	default:
		return c.Style(cell)
	}
}

// writeSpans prints spans in their styles where w can show them.
func writeSpans(w io.Writer, spans []Span) error {
	if o, ok := w.(*Output); ok {
		return o.Spans(spans...)
	}
	var b strings.Builder
	for _, s := range spans {
		b.WriteString(s.Text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// layout says which columns are shown, and how wide each is.
func (t *Table) layout(room int) (shown, widths []int) {
	full := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		full[i] = TextWidth(c.Title)
		for _, row := range t.rows {
			full[i] = max(full[i], TextWidth(row[i]))
		}
		if !c.Empty {
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
			if d := t.Columns[i].Drop; d > 0 && (drop < 0 || d > t.Columns[shown[drop]].Drop) {
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
func (t *Table) shrink(shown, widths []int, room int) bool {
	total := columnGap * (len(shown) - 1)
	for _, i := range shown {
		total += widths[i]
	}
	for total > room {
		widest := -1
		for _, i := range shown {
			least := t.Columns[i].Min
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

// TextWidth is how many columns of a terminal s takes.
func TextWidth(s string) int {
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

// CutWidth cuts s to at most limit columns, with an ellipsis where something
// is missing.
func CutWidth(s string, limit int) string {
	if TextWidth(s) <= limit {
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
