package cli

import (
	"slices"
	"strings"
)

// topVerbs are verbs that people try without a noun, and what they may have meant.
var topVerbs = map[string]string{
	"retry":   "'soniq dead-letter replay ID' queues a dead letter again, 'soniq job retry ID' runs a scheduled or cancelled job now",
	"replay":  "'soniq dead-letter replay ID'",
	"requeue": "'soniq dead-letter replay ID'",
	"list":    "'soniq dead-letter list' or 'soniq job list'",
	"ls":      "'soniq dead-letter list' or 'soniq job list'",
	"show":    "'soniq dead-letter show ID' or 'soniq job ID'",
	"get":     "'soniq dead-letter show ID' or 'soniq job ID'",
	"inspect": "'soniq dead-letter show ID' or 'soniq job ID'",
	"delete":  "'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"rm":      "'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"remove":  "'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"purge":   "'soniq dead-letter cleanup' deletes old dead letters, 'soniq dead-letter delete --all' all of them",
	"cleanup": "'soniq dead-letter cleanup'",
	"count":   "'soniq dead-letter stats' or 'soniq status'",
	"stats":   "'soniq dead-letter stats' or 'soniq status'",
	"cancel":  "'soniq job cancel ID'",
	"bury":    "'soniq job bury ID'",
	"run":     "'soniq worker'",
	"start":   "'soniq worker'",
	"pause":   "'soniq queue pause QUEUE'",
	"resume":  "'soniq queue resume QUEUE'",
}

// letterVerbs are those that people try on dead letters.
var letterVerbs = map[string]string{
	"retry":   "'soniq dead-letter replay'",
	"requeue": "'soniq dead-letter replay'",
	"ls":      "'soniq dead-letter list'",
	"get":     "'soniq dead-letter show'",
	"inspect": "'soniq dead-letter show'",
	"rm":      "'soniq dead-letter delete'",
	"remove":  "'soniq dead-letter delete'",
	"purge":   "'soniq dead-letter cleanup' deletes old ones, 'soniq dead-letter delete --all' all of them",
	"count":   "'soniq dead-letter stats'",
}

// hint is what to type in place of a command line that could not be parsed, or empty.
func hint(args []string) string {
	words := slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return strings.HasPrefix(arg, "-") })
	if len(words) == 0 {
		return ""
	}
	if h := topVerbs[words[0]]; h != "" {
		return h
	}
	if len(words) > 1 && (words[0] == "dlq" || words[0] == "dead-letter") {
		return letterVerbs[words[1]]
	}
	if words[0] == "enqueue" && slices.ContainsFunc(words[1:], func(w string) bool { return strings.HasPrefix(w, "{") }) {
		return "'soniq enqueue NAME --args JSON'"
	}
	return ""
}
