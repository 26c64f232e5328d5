package deadletters

import (
	"errors"
	"strings"
	"testing"
	"time"

	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

// FuzzSelection: whatever stands behind the filters' flags, it is a filter that
// is valid and narrow, or a usage error of one line.
func FuzzSelection(f *testing.F) {
	for _, s := range []string{
		"", "24h", "7d", "2w", "-1h", "999999999999w", "1e3h", "2026-01-02", "2026-01-02T03:04:05Z", "2026-02-30", "9999-12-31", "0001-01-01T00:00:00Z", "a=b", "=", "a=", "a,b", ",",
		"timeout", "timeout,manual_move", "dead", "\x00", "\x1b[2J", "*", `\`, "9223372036854775807ns",
	} {
		f.Add(s, s, s, s)
		f.Add("1h", "timeout", s, "dead")
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.FixedZone("", 3600))
	f.Fuzz(func(t *testing.T, since, reason, tag, state string) {
		s := selection{Since: &since, Until: &since, State: &state, traits: traits{Reason: []string{reason}, Tag: []string{tag}, Filter: &tag}}
		for _, s := range []selection{s, {Since: &since}, {Until: &since}, {traits: traits{Reason: []string{reason}}}, {traits: traits{Group: []string{reason}}}, {traits: traits{Tag: []string{tag}}}, {State: &state}, {traits: traits{Error: &tag}}} {
			if !s.given() {
				t.Fatalf("%+v is taken for none", s)
			}
			filter, err := s.filter(now)
			if err != nil {
				var usage *app.ExitError
				if !errors.As(err, &usage) || usage.Code != app.ExitUsage || strings.ContainsAny(terminal.OneLine(err.Error()), "\r\n\x1b") {
					t.Fatalf("%+v: %v", s, err)
				}
				continue
			}
			if err := filter.Validate(); err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			filter.Limit, filter.All = 0, false
			if filter.From.IsZero() && filter.To.IsZero() && filter.Reasons == nil && filter.Groups == nil && filter.Tags == nil &&
				filter.State == "" && filter.ErrorLike == "" && filter.NameLike == "" {
				t.Fatalf("%+v picks everything", s)
			}
		}
	})
}
