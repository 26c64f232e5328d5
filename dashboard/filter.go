package dashboard

import (
	"errors"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/unit"
)

// filterNames are the names of a filter in a URL. They are those of the flags of
// 'soniq dead-letter list'.
var filterNames = []string{"filter", "job", "queue", "reason", "group", "error", "text", "tag", "state", "replayed", "since", "until"}

func isFilterName(name string) bool { return slices.Contains(filterNames, name) }

// A selection is what a URL picks.
type selection struct {
	deadletter.Filter
	// Query is the part of the URL that picks, in the order of filterNames. What is empty is
	// left out: an empty field of a form means any.
	Query url.Values
}

// Encode is the selection as a part of a URL.
func (s selection) Encode() template.URL { return queryURL(s.Query) }

// queryURL tells the templates that a text is a query already.
func queryURL(query url.Values) template.URL { return template.URL(query.Encode()) }

// With is the selection, as a part of a URL, with other values for a name. No value removes it.
func (s selection) With(name string, values ...string) template.URL {
	query := url.Values{}
	for k, v := range s.Query {
		query[k] = v
	}
	query.Del(name)
	for _, v := range values {
		if v != "" {
			query.Add(name, v)
		}
	}
	return queryURL(query)
}

// Get is the first value of a name.
func (s selection) Get(name string) string { return s.Query.Get(name) }

// Has reports whether a name has a value.
func (s selection) Has(name, value string) bool { return slices.Contains(s.Query[name], value) }

// Narrow reports whether anything is picked.
func (s selection) Narrow() bool { return len(s.Query) > 0 }

// ByText reports whether it looks for a text: whoever may not see secrets must not find them
// that way.
func (s selection) ByText() bool { return s.Text != "" || s.ErrorLike != "" }

// Chips are the conditions one by one, each with the URL without it.
func (s selection) Chips() (chips []chip) {
	for _, name := range filterNames {
		for _, value := range s.Query[name] {
			rest := slices.DeleteFunc(slices.Clone(s.Query[name]), func(v string) bool { return v == value })
			chips = append(chips, chip{name, value, s.With(name, rest...)})
		}
	}
	return chips
}

type chip struct {
	Name, Value string
	Without     template.URL
}

// readSelection reads the filter of a URL. now is by the database's clock.
//
// Errors: an inputError.
func readSelection(query url.Values, now time.Time) (s selection, err error) {
	s.Query = url.Values{}
	for _, name := range filterNames {
		for _, value := range query[name] {
			if value != "" {
				s.Query.Add(name, value)
			}
		}
	}
	get := s.Query.Get
	s.Filter = deadletter.Filter{
		NameLike: get("filter"), ErrorLike: get("error"), Text: get("text"), State: deadletter.State(get("state")),
		JobNames: s.Query["job"], Queues: s.Query["queue"], Groups: s.Query["group"],
	}
	for _, text := range s.Query["reason"] {
		reason, err := classify.ParseReason(text)
		if err != nil {
			return s, badInput("reason: %s", err)
		}
		s.Reasons = append(s.Reasons, reason)
	}
	for _, text := range s.Query["tag"] {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return s, badInput("tag: write KEY=VALUE, not %q", text)
		}
		if s.Tags == nil {
			s.Tags = map[string]string{}
		}
		s.Tags[key] = value
	}
	switch replayed := get("replayed"); replayed {
	case "":
	case "yes", "no":
		s.Replayed = new(replayed == "yes")
	default:
		return s, badInput("replayed: yes or no, not %q", replayed)
	}
	if s.From, err = readTime("since", get("since"), now, false); err != nil {
		return s, err
	}
	if s.To, err = readTime("until", get("until"), now, true); err != nil {
		return s, err
	}
	if err := s.Validate(); err != nil {
		return s, badInput("%s", strings.TrimPrefix(err.Error(), "filter: "))
	}
	return s, nil
}

// readTime reads an age, such as 24h, or a time. The end of a window has all of the second
// that it names.
func readTime(name, text string, now time.Time, end bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := unit.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	m, err := unit.ParseTime(text)
	var clock *unit.ClockError
	switch {
	case errors.As(err, &clock):
		return m.Time, badInput("%s: %s", name, clock)
	case err != nil:
		return m.Time, badInput("%s: write an age such as 24h or 7d, or a time such as 2006-01-02 15:04 UTC, not %q", name, text)
	case end && m.Second:
		return m.Add(time.Second - time.Microsecond), nil
	}
	return m.Time, nil
}
