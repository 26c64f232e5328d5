package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/input"
)

// defaultConfig is the file that a worker reads where no flag names one.
const defaultConfig = "soniq.yaml"

const (
	// maxConfig is the longest configuration file, in bytes. A thousand handlers
	// take a fifth of it; what is longer is some other file.
	maxConfig = 1 << 20
	// maxConfigValues and maxConfigText are how many values a file may have, and
	// how many bytes of text, once each *alias is written out as what it stands
	// for; a thousand handlers have ten thousand. A few lines of aliases can be
	// more than any memory holds.
	maxConfigValues = 100_000
	maxConfigText   = 4 << 20
	// maxConfigDepth is how deep its values may be nested; none that has a meaning
	// is nested deeper than ten.
	maxConfigDepth = 64
	// maxConfigKey is the longest key, in bytes: what a job's name may have.
	maxConfigKey = 2000
	// maxMistakes is how many mistakes are kept, and maxMistakesShown how many of
	// these are shown.
	maxMistakes      = 1000
	maxMistakesShown = 100
)

// maxWarnDead is the highest limit of the dead letters that makes sense: the
// count goes up to it each minute.
const maxWarnDead = 1_000_000

// workerFile is what a configuration file says.
type workerFile struct {
	path            string
	queues          []string
	concurrency     *int
	perQueue        map[string]int
	timeout         *time.Duration
	resultTTL       *time.Duration
	shutdownTimeout *time.Duration
	unknownGrace    *time.Duration
	maxArgsSize     *int64
	maxArgsMemory   *int64
	maxAttempts     *int
	warnDead        *int
	warnDeadAge     *time.Duration
	retention       []deadletter.Retention
	jobs            []handlerSpec
	hooks           []hookSpec
	// requestSecrets are the variables that the file names for what is sent to
	// endpoints and hooks.
	requestSecrets []string
}

// origin is where a handler was named.
func (f *workerFile) origin(spec *handlerSpec) string {
	if spec.line == 0 {
		return "--handle"
	}
	return fmt.Sprintf("%s:%d", f.path, spec.line)
}

// mistake is one thing that is wrong in a configuration file.
type mistake struct {
	line int
	text string
}

// configError is all that is wrong in a configuration file.
type configError struct {
	path     string
	mistakes []mistake
	// more are those that were counted only.
	more int
}

func (e *configError) Error() string {
	n := len(e.mistakes) + e.more
	if n == 1 {
		return e.path + " has a mistake"
	}
	return fmt.Sprintf("%s has %d mistakes", e.path, n)
}

// list is the mistakes from top to bottom, each with its place.
func (e *configError) list() (lines []string) {
	slices.SortStableFunc(e.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	shown := e.mistakes[:min(len(e.mistakes), maxMistakesShown)]
	for _, m := range shown {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", e.path, m.line, m.text))
	}
	if rest := e.mistakes[len(shown):]; len(rest) > 0 {
		lines = append(lines, fmt.Sprintf("%s:%d: and %d more from here on", e.path, rest[0].line, len(rest)+e.more))
	}
	return lines
}

// configUse is what a configuration file is read for: the jobs are not looked
// at where they don't run, and the environment may lack what hooks refer to
// where none is sent. found says that nobody has named the file: it lay where the
// program was started.
type configUse struct{ jobs, hooks, found bool }

// readConfig reads and checks a whole configuration file. A *configError has
// every mistake in it; another error says why it can't be read, or that ctx has
// ended. Values that refer to the environment are looked up by getenv.
func readConfig(ctx context.Context, path string, use configUse, getenv func(string) string) (*workerFile, error) {
	read := input.ReadFile
	if use.found {
		read = input.ReadFound
	}
	data, err := read(ctx, path, maxConfig)
	var long *input.TooLongError
	switch {
	case errors.As(err, &long):
		return nil, fmt.Errorf("%s is longer than %d bytes: it can't be a configuration file", path, long.Most)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, pathProblem(path, err)
	}
	// The parser knows no context.
	return input.Await(ctx, func() (*workerFile, error) { return parseConfig(path, data, use, getenv) })
}

// parseConfig checks the content of a configuration file.
func parseConfig(path string, data []byte, use configUse, getenv func(string) string) (*workerFile, error) {
	r := &configReader{path: path, getenv: getenv, runsJobs: use.jobs, sendsHooks: use.hooks}
	file := &workerFile{path: path}
	if root := r.document(data); root != nil && r.expands(root) {
		r.worker(root, file)
	}
	if len(r.mistakes) > 0 {
		return nil, &configError{path, r.mistakes, r.more}
	}
	file.requestSecrets = r.requestSecrets
	for _, spec := range file.hooks {
		for _, value := range append(slices.Collect(maps.Values(spec.Headers)), spec.URL, spec.Secrets) {
			if name, ok := strings.CutPrefix(value, referencePrefix); ok {
				file.requestSecrets = append(file.requestSecrets, name)
			}
		}
	}
	return file, nil
}

// pathProblem names the path once, without the system call.
func pathProblem(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// worker reads the top of the file.
func (r *configReader) worker(root *yaml.Node, file *workerFile) {
	var jobs, hooks, perQueue *yaml.Node
	r.fields(root, "", map[string]func(*yaml.Node){
		"queues": func(n *yaml.Node) {
			file.queues = r.names(n, "queues")
			r.queuesLine = n.Line
			r.queues = map[string]bool{}
			for _, name := range file.queues {
				r.queues[name] = true
			}
		},
		"concurrency":       func(n *yaml.Node) { file.concurrency = r.count(n, "concurrency", maxConcurrency) },
		"queue_concurrency": func(n *yaml.Node) { perQueue = n },
		"timeout":           func(n *yaml.Node) { file.timeout = r.duration(n, "timeout") },
		"result_ttl":        func(n *yaml.Node) { file.resultTTL = r.duration(n, "result_ttl") },
		"shutdown_timeout":  func(n *yaml.Node) { file.shutdownTimeout = r.duration(n, "shutdown_timeout") },
		"unknown_grace":     func(n *yaml.Node) { file.unknownGrace = r.duration(n, "unknown_grace") },
		"max_args_size":     func(n *yaml.Node) { file.maxArgsSize = r.size(n, "max_args_size") },
		"max_args_memory":   func(n *yaml.Node) { file.maxArgsMemory = r.size(n, "max_args_memory") },
		"max_attempts_limit": func(n *yaml.Node) {
			file.maxAttempts = r.upTo(n, "max_attempts_limit", math.MaxInt32)
		},
		"warn_dead":     func(n *yaml.Node) { file.warnDead = r.upTo(n, "warn_dead", maxWarnDead) },
		"warn_dead_age": func(n *yaml.Node) { file.warnDeadAge = r.age(n, "warn_dead_age") },
		"retention":     func(n *yaml.Node) { r.retention(n, file) },
		"jobs":          func(n *yaml.Node) { jobs = n },
		"hooks":         func(n *yaml.Node) { hooks = n },
	})
	if jobs != nil && r.runsJobs {
		r.jobs(jobs, file)
	} // else handlers may come from flags
	if hooks != nil {
		r.hooks(hooks, file)
	}
	if perQueue != nil {
		r.perQueue(perQueue, file)
	}
}

// forever is how a rule says that it keeps what it picks.
const forever = "forever"

// retention reads the rules about how long dead letters are kept. Each must say
// so, so that a rule that was left half-written deletes nothing.
func (r *configReader) retention(n *yaml.Node, file *workerFile) {
	for i, item := range r.items(n, "retention") {
		where := fmt.Sprintf("retention: rule %d: ", i+1)
		before := len(r.mistakes)
		var rule deadletter.Retention
		keeps := false
		r.fields(item, where, map[string]func(*yaml.Node){
			"keep": func(n *yaml.Node) {
				keeps = true
				if resolve(n).Value == forever {
					return
				}
				if d := r.age(n, where+"keep"); d != nil && *d == 0 {
					r.wrong(n, "%skeep must be longer than 0, or %s", where, forever)
				} else if d != nil {
					rule.Keep = *d
				}
			},
			"jobs":   func(n *yaml.Node) { rule.Filter.JobNames = r.names(n, where+"jobs") },
			"queues": func(n *yaml.Node) { rule.Filter.Queues = r.names(n, where+"queues") },
			"reasons": func(n *yaml.Node) {
				for _, name := range r.names(n, where+"reasons") {
					reason, err := classify.ParseReason(name)
					if err != nil {
						r.wrong(n, "%sreasons: %s", where, err)
					}
					rule.Filter.Reasons = append(rule.Filter.Reasons, reason)
				}
			},
			"state": func(n *yaml.Node) {
				switch rule.Filter.State = deadletter.State(r.text(n, where+"state")); rule.Filter.State {
				case "", deadletter.StateDead, deadletter.StateResolved:
				default:
					r.wrong(n, "%sstate must be dead or resolved, not %q: what is being replayed is kept", where, rule.Filter.State)
				}
			},
		})
		if !keeps && len(r.mistakes) == before {
			r.wrong(item, "%skeep is missing: an age such as 30d, or %s", where, forever)
		}
		file.retention = append(file.retention, rule)
		if len(r.mistakes) > before {
			continue
		}
		if err := deadletter.ValidateRetention([]deadletter.Retention{rule, {Keep: 1}}); err != nil && i < len(resolve(n).Content)-1 {
			r.wrong(item, "%sit picks every dead letter, so the rules after it decide nothing", where)
		}
	}
}

func (r *configReader) jobs(jobs *yaml.Node, file *workerFile) {
	for _, entry := range r.entries(jobs, "jobs") {
		if entry.key == "" {
			r.wrong(entry.keyNode, "a job's name must not be empty")
			continue
		}
		file.jobs = append(file.jobs, r.job(entry))
	}
}

// perQueue reads the concurrency of each queue. Whether a queue is served can
// be told here only where the file says which are.
func (r *configReader) perQueue(n *yaml.Node, file *workerFile) {
	file.perQueue = map[string]int{}
	for _, entry := range r.entries(n, "queue_concurrency") {
		switch count := r.count(entry.value, "queue_concurrency: "+entry.key, maxConcurrency); {
		case entry.key == "":
			r.wrong(entry.keyNode, "queue_concurrency: a queue's name must not be empty")
		case r.queues != nil && !r.queues[entry.key]:
			r.wrong(entry.keyNode, "queue_concurrency: queue %q is not among the queues of line %d", entry.key, r.queuesLine)
		case count != nil:
			file.perQueue[entry.key] = *count
		}
	}
}
