package explain

import (
	"strings"

	"soniq/deadletter"
	"soniq/internal/unit"
)

// LeftOut says what a filter picks and a replay doesn't take, in the words of a sentence; empty
// if there is nothing of the kind. tooOften and longQueue are what may follow those that a
// setting decides on.
func LeftOut(p deadletter.ReplayPlan, tooOften, longQueue string) string {
	var parts []string
	for _, part := range []struct {
		n    int64
		what string
	}{
		{p.Duplicates, "equal to a queued job"},
		{p.Replaying, "being replayed"},
		{p.Resolved, "resolved"},
		{p.Superseded, "with a younger dead letter of their replay"},
		{p.OutcomeUnknown, "replayed elsewhere with an unknown outcome"},
		{p.Exhausted, "replayed too often" + tooOften},
		{p.LongQueue, "of a queue whose name is too long" + longQueue},
	} {
		if part.n > 0 {
			parts = append(parts, unit.Thousands(part.n)+" "+part.what)
		}
	}
	return strings.Join(parts, ", ")
}
