package dashboard

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/internal/jsontree"
	"soniq/internal/safetext"
	"soniq/internal/unit"
)

// functions are what templates call.
func (d *Dashboard) functions() template.FuncMap {
	return template.FuncMap{
		"link":   d.link,
		"asset":  func(name string) string { return d.base + "/assets/" + assetVersion() + "/" + name },
		"text":   func(s any) string { return safetext.OneLine(plain(s)) },
		"lines":  visibleLines,
		"line":   safetext.ErrorLine,
		"when":   when,
		"count":  func(n any) string { return unit.Thousands(toInt64(n)) },
		"upTo":   upTo,
		"plural": func(n any, noun string) string { return unit.Plural(toInt64(n), noun) },
		"json":   visibleJSON,
		"tree":   jsontree.Of,
		"spark":  sparkline,
		"words":  func(s any) string { return strings.ReplaceAll(plain(s), "_", " ") },
		"short":  func(s any) string { return cut(plain(s), 8) },
		"cut":    func(n int, s any) string { return cut(safetext.OneLine(plain(s)), n) },
		"token":  uuid.NewString,
		"list":   func(values ...any) []any { return values },
	}
}

// link is the URL of a path within the dashboard, followed by names and values of a query.
// Empty values are left out.
func (d *Dashboard) link(path string, query ...any) (string, error) {
	if len(query)%2 != 0 {
		return "", fmt.Errorf("link %s: a name without a value", path)
	}
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		if value := fmt.Sprint(query[i+1]); value != "" {
			values.Add(fmt.Sprint(query[i]), value)
		}
	}
	if len(values) == 0 {
		return d.base + path, nil
	}
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return d.base + path + separator + values.Encode(), nil
}

// plain is a value as text. What a pointer leads to is meant, and not its address.
func plain(value any) string {
	if text, ok := value.(*string); ok && text != nil {
		return *text
	}
	return fmt.Sprint(value)
}

// visibleLines makes a text of several lines safe, and keeps its lines and tabs.
func visibleLines(s string) string {
	var b strings.Builder
	_, _ = safetext.NewWriter(&b).Write([]byte(strings.ToValidUTF8(strings.ReplaceAll(s, "\r\n", "\n"), "\ufffd")))
	return b.String()
}

// visibleJSON is a document whose unsafe characters are escapes of JSON: it means the same.
func visibleJSON(doc json.RawMessage) string {
	var b strings.Builder
	_, _ = safetext.NewJSONWriter(&b).Write(doc)
	return b.String()
}

// cut is the beginning of a text, of at most n characters.
func cut(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n])
	}
	return s
}

// A moment is a time as a page shows it.
type moment struct {
	ISO, Exact, Age string
}

// when is how long ago t was, with the exact time to hover over. A nil time is a dash.
func when(now time.Time, value any) moment {
	var t time.Time
	switch v := value.(type) {
	case time.Time:
		t = v
	case *time.Time:
		if v == nil {
			return moment{}
		}
		t = *v
	}
	if t.IsZero() {
		return moment{}
	}
	return moment{t.UTC().Format(time.RFC3339Nano), unit.FormatTime(t), age(now.Sub(t))}
}

// age is a duration in its largest unit, as people say it.
func age(d time.Duration) string {
	text, suffix := "", " ago"
	if d < 0 {
		d, suffix = -d, " from now"
	}
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		text = strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		text = strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		text = strconv.Itoa(int(d.Hours())) + " h"
	default:
		text = strconv.Itoa(int(d.Hours())/24) + " days"
	}
	return text + suffix
}

func toInt64(n any) int64 {
	switch v := n.(type) {
	case int:
		return int64(v)
	case int64:
		return v
	case int32:
		return int64(v)
	default:
		return 0
	}
}

// upTo is a number that was counted to a bound, such as 10,000+.
func upTo(n, bound int64) string {
	if n > bound {
		return unit.Thousands(bound) + "+"
	}
	return unit.Thousands(n)
}

// sparkline is the path of a small chart of counts, 100 wide and 20 high.
func sparkline(counts []int64) string {
	most := int64(1)
	for _, n := range counts {
		most = max(most, n)
	}
	var b strings.Builder
	width := 100 / float64(max(len(counts), 1))
	for i, n := range counts {
		if n == 0 {
			continue
		}
		height := max(20*float64(n)/float64(most), 1)
		fmt.Fprintf(&b, "M%.1f 20v-%.1fh%.1fv%.1fz", float64(i)*width, height, width*0.8, height)
	}
	return b.String()
}
