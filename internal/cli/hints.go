package cli

import (
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"soniq/internal/suggest"
)

// topVerbs are verbs that people try without a noun, and what they may have meant.
var topVerbs = map[string]string{
	"retry":   "'soniq dead-letter replay ID' queues a dead letter again, 'soniq job retry ID' runs a scheduled or cancelled job now",
	"replay":  "try 'soniq dead-letter replay ID'",
	"requeue": "try 'soniq dead-letter replay ID'",
	"list":    "try 'soniq dead-letter list' or 'soniq job list'",
	"ls":      "try 'soniq dead-letter list' or 'soniq job list'",
	"show":    "try 'soniq dead-letter show ID' or 'soniq job ID'",
	"get":     "try 'soniq dead-letter show ID' or 'soniq job ID'",
	"inspect": "try 'soniq dead-letter show ID' or 'soniq job ID'",
	"delete":  "try 'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"rm":      "try 'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"remove":  "try 'soniq dead-letter delete ID' or 'soniq job delete ID'",
	"purge":   "'soniq dead-letter cleanup' deletes old dead letters, 'soniq dead-letter delete --all' all of them",
	"cleanup": "try 'soniq dead-letter cleanup'",
	"count":   "try 'soniq dead-letter stats' or 'soniq status'",
	"stats":   "try 'soniq dead-letter stats' or 'soniq status'",
	"cancel":  "try 'soniq job cancel ID'",
	"bury":    "try 'soniq job bury ID'",
	"run":     "try 'soniq worker'",
	"start":   "try 'soniq worker'",
	"pause":   "try 'soniq queue pause QUEUE'",
	"resume":  "try 'soniq queue resume QUEUE'",
	"init":    "try 'soniq setup'",
	"ps":      "try 'soniq status' or 'soniq worker list'",
	"top":     "try 'soniq status' or 'soniq worker list'",
	"add":     "try 'soniq enqueue NAME'",
	"push":    "try 'soniq enqueue NAME'",
	"logs":    "'soniq worker' logs to standard error, 'soniq dead-letter watch' prints new dead letters",
	"tail":    "try 'soniq dead-letter watch'",
	"export":  "try 'soniq dead-letter export'",
	"import":  "try 'soniq dead-letter import FILE'",
	"check":   "try 'soniq dead-letter check', 'soniq migrate check' or 'soniq worker --check-config'",
	"history": "try 'soniq dead-letter history'",
}

// nounVerbs are those that people try on a noun, where no command has the same meaning
// under another name.
var nounVerbs = map[string]map[string]string{
	"dead-letter": {
		"retry":   "try 'soniq dead-letter replay'",
		"requeue": "try 'soniq dead-letter replay'",
		"purge":   "'soniq dead-letter cleanup' deletes old ones, 'soniq dead-letter delete --all' all of them",
		"count":   "try 'soniq dead-letter stats'",
		"bury":    "'soniq job bury ID' makes a dead letter of a queued job",
	},
	"job": {
		"replay":  "'soniq dead-letter replay ID' queues a dead letter again, 'soniq job retry ID' runs a scheduled or cancelled job now",
		"requeue": "'soniq dead-letter replay ID' queues a dead letter again, 'soniq job retry ID' runs a scheduled or cancelled job now",
		"kill":    "try 'soniq job cancel'",
		"stop":    "try 'soniq job cancel'",
		"purge":   "'soniq job delete ID' deletes one; done jobs expire by themselves",
		"count":   "try 'soniq status' or 'soniq queue list'",
		"stats":   "try 'soniq status' or 'soniq queue list'",
		"add":     "try 'soniq enqueue NAME'",
		"create":  "try 'soniq enqueue NAME'",
		"run":     "try 'soniq enqueue NAME'",
	},
	"queue": {
		"show":    "try 'soniq queue list', or 'soniq job list --queue QUEUE'",
		"count":   "try 'soniq queue list'",
		"stats":   "try 'soniq queue list'",
		"stop":    "try 'soniq queue pause'",
		"start":   "try 'soniq queue resume'",
		"unpause": "try 'soniq queue resume'",
		"create":  "a queue exists as soon as a job is enqueued to it",
		"delete":  "a queue exists while it has jobs: see 'soniq job list --queue QUEUE' and 'soniq job delete ID'",
		"purge":   "a queue exists while it has jobs: see 'soniq job list --queue QUEUE' and 'soniq job delete ID'",
	},
	"worker": {
		"start":  "try 'soniq worker'",
		"stop":   "a worker stops at Ctrl-C or SIGTERM",
		"kill":   "a worker stops at Ctrl-C or SIGTERM",
		"show":   "try 'soniq worker list'",
		"status": "try 'soniq worker list' or 'soniq status'",
	},
	"hooks": {
		"status": "try 'soniq hooks list' or 'soniq hooks deliveries'",
		"log":    "try 'soniq hooks deliveries'",
		"logs":   "try 'soniq hooks deliveries'",
		"replay": "try 'soniq hooks retry'",
		"pause":  "try 'soniq hooks disable'",
		"resume": "try 'soniq hooks enable'",
		"edit":   "'soniq hooks add --replace' changes a hook",
		"update": "'soniq hooks add --replace' changes a hook",
		"send":   "try 'soniq hooks test'",
	},
	"migrate": {
		"status":   "try 'soniq migrate list' or 'soniq migrate check'",
		"run":      "try 'soniq migrate up' or 'soniq setup'",
		"apply":    "try 'soniq migrate up' or 'soniq setup'",
		"rollback": "try 'soniq migrate down'",
		"undo":     "try 'soniq migrate down'",
	},
	"dev": {
		"start":  "try 'soniq dev up'",
		"delete": "try 'soniq dev reset'",
		"shell":  "try 'soniq dev psql'",
	},
}

// synonyms are other words for the commands of most nouns.
var synonyms = map[string][]string{
	"ls": {"list"},
	"rm": {"delete", "remove"}, "del": {"delete", "remove"}, "remove": {"delete"}, "delete": {"remove"},
	"get": {"show"}, "inspect": {"show"}, "view": {"show"}, "describe": {"show"}, "info": {"show"}, "cat": {"show"},
	"new": {"add"}, "create": {"add"},
}

// hint is what to type in place of a command line that could not be parsed, or that names
// a verb which the noun hasn't got; or empty.
func hint(model *kong.Application, args []string) string {
	first := slices.IndexFunc(args, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
	if first < 0 {
		return ""
	}
	noun, rest := child(model.Node, args[first]), args[first+1:]
	switch {
	case noun == nil:
		return topVerbs[args[first]]
	case len(rest) == 0:
		return ""
	case noun.Name == "enqueue":
		if slices.ContainsFunc(rest, func(w string) bool { return strings.HasPrefix(w, "{") }) {
			return "try 'soniq enqueue NAME --args JSON'"
		}
		return ""
	case len(noun.Children) == 0 || child(noun, rest[0]) != nil:
		return ""
	}
	verb := rest[0] // what comes later may be the value of a flag
	for _, meant := range append([]string{verb}, synonyms[verb]...) {
		if h := nounVerbs[noun.Name][meant]; h != "" {
			return h
		}
		if child(noun, meant) != nil {
			return "try 'soniq " + noun.Name + " " + meant + "'"
		}
	}
	return ""
}

// child is the command of that name or alias, or nil.
func child(of *kong.Node, name string) *kong.Node {
	for _, c := range of.Children {
		if c.Name == name || slices.Contains(c.Aliases, name) {
			return c
		}
	}
	return nil
}

var unknownFlag = regexp.MustCompile(`^unknown flag --([\pL\pN_-]+)`)

// flagHint replaces kong's list of flags that are like the one that is unknown, by the
// one of which it is the beginning, or which is the nearest.
func flagHint(cmd *kong.Context, text string) string {
	typed := unknownFlag.FindStringSubmatch(text)
	if typed == nil || cmd == nil {
		return text
	}
	var all, longer []string
	flags := cmd.Flags()
	for _, part := range cmd.Path {
		if node := part.Node(); node != nil && node.DefaultCmd != nil {
			flags = append(flags, node.DefaultCmd.Flags...)
		}
	}
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		all = append(all, f.Name)
		if strings.HasPrefix(f.Name, typed[1]) {
			longer = append(longer, f.Name)
		}
	}
	meant := suggest.Closest(typed[1], all)
	if len(longer) == 1 {
		meant = longer[0]
	}
	if meant == "" {
		return text
	}
	return typed[0] + `, did you mean "--` + meant + `"?`
}
