// Package workerfile reads soniq.yaml, the configuration file of 'soniq worker'.
// docs/worker.md is its reference.
//
//	bytes --document--> YAML nodes --worker, job, hook--> File
//	                        |
//	                        +--> Error: every mistake, each with its line
//
// The file is walked node by node, not decoded into a struct: decoding would stop
// at the first mistake, and would not know its line.
package workerfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"soniq/deadletter"
	"soniq/internal/input"
	"soniq/internal/tracecontext"
)

// DefaultPath is the file that a worker reads where no flag names one.
const DefaultPath = "soniq.yaml"

const (
	// MaxConcurrency is the engine's bound.
	MaxConcurrency = 10_000
	// MaxWarnDead is the highest useful limit of the number of dead letters: they
	// are counted up to it every minute.
	MaxWarnDead = 1_000_000
)

const (
	// maxBytes is the longest file. A thousand handlers take a fifth of it.
	maxBytes = 1 << 20
	// maxMistakes is how many mistakes are kept, and maxMistakesShown how many of
	// these are shown.
	maxMistakes      = 1000
	maxMistakesShown = 100
)

// A File is what a configuration file says, and what flags and the environment add
// to it. A nil pointer means that it says nothing.
type File struct {
	// Path is the file's name. It is empty where there is no file.
	Path string
	// Schema is the schema of Soniq's tables. Default what flags and the environment
	// say. SchemaLine is where it stands.
	Schema     string
	SchemaLine int
	// Queues are the queues to serve. Default 'default' and those of Jobs.
	Queues []string
	// Concurrency is how many jobs run at once, QueueConcurrency how many of a
	// queue.
	Concurrency      *int
	QueueConcurrency map[string]int
	// Timeout bounds one attempt. 0 is no bound.
	Timeout *time.Duration
	// ResultTTL is how long done jobs are kept. 0 deletes them at once.
	ResultTTL *time.Duration
	// ShutdownTimeout is how long running jobs may go on when the worker is stopped.
	ShutdownTimeout *time.Duration
	// UnknownGrace is when a job without a handler becomes a dead letter. 0 is never.
	UnknownGrace *time.Duration
	// MaxArgsSize and MaxArgsMemory bound the arguments of one and of all running
	// jobs, in bytes.
	MaxArgsSize, MaxArgsMemory *int64
	// MaxAttempts bounds the attempts of any job. 0 is no bound.
	MaxAttempts *int
	// WarnDead and WarnDeadAge are from how many dead letters on, and from which age
	// of the oldest on, the worker logs a warning. 0 is never.
	WarnDead    *int
	WarnDeadAge *time.Duration
	// TraceURL is where a tracing UI shows a trace. Default nowhere.
	TraceURL tracecontext.URLPattern
	// TraceLinkOnly begins a new trace with each attempt. Nil if the file doesn't say.
	TraceLinkOnly *bool
	// HealthListen and MetricsListen are the addresses where the program answers probes and
	// serves metrics. Default none.
	HealthListen, MetricsListen string
	// Retention is how long dead letters are kept.
	Retention []deadletter.Retention
	// Jobs are the handlers, Hooks the hooks, in the order of the file.
	Jobs  []Job
	Hooks []Hook
	// Secrets names the variables of the environment that the file uses for what is
	// sent to endpoints and hooks.
	Secrets []string
}

// Options say what a file is read for.
type Options struct {
	// Jobs reads the section 'jobs'. Without it the section may hold anything.
	Jobs bool
	// Hooks looks up the variables that hooks refer to. Without it they may be
	// missing, since nothing is sent.
	Hooks bool
	// Found says that nobody has named the file: it was found in the working
	// folder. A file that another user may have put there is then refused.
	Found bool
	// Getenv looks up variables of the environment. Required.
	Getenv func(name string) string
}

// A mistake is one thing that is wrong in a file.
type mistake struct {
	line int
	text string
}

// Error is all that is wrong in a file. It shows no secret.
type Error struct {
	path     string
	mistakes []mistake
	// more are those that were counted only.
	more int
}

// Error says how many mistakes there are.
func (e *Error) Error() string {
	if n := len(e.mistakes) + e.more; n != 1 {
		return fmt.Sprintf("%s has %d mistakes", e.path, n)
	}
	return e.path + " has a mistake"
}

// Lines returns the mistakes from top to bottom as 'path:line: text', at most a
// hundred, and a last line that counts the others.
func (e *Error) Lines() (lines []string) {
	slices.SortStableFunc(e.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	shown := e.mistakes[:min(len(e.mistakes), maxMistakesShown)]
	for _, m := range shown {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", e.path, m.line, m.text))
	}
	if rest := e.mistakes[len(shown):]; len(rest) > 0 {
		lines = append(lines, fmt.Sprintf("%s:%d: %d more mistakes from here on", e.path, rest[0].line, len(rest)+e.more))
	}
	return lines
}

// Read reads and checks a whole file.
//
// Errors: an [*Error] for mistakes in the file; one that is [fs.ErrNotExist], or
// another error of the file system, where it can't be read; ctx.Err().
func Read(ctx context.Context, path string, options Options) (*File, error) {
	read := input.ReadFile
	if options.Found {
		read = input.ReadFound
	}
	data, err := read(ctx, path, maxBytes)
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
	return input.Await(ctx, func() (*File, error) { return parse(path, data, options) })
}

// parse checks the content of a file.
func parse(path string, data []byte, options Options) (*File, error) {
	r := &reader{path: path, options: options}
	file := &File{Path: path}
	if root := r.document(data); root != nil && r.expands(root) {
		r.worker(root, file)
	}
	if len(r.mistakes) > 0 {
		return nil, &Error{path, r.mistakes, r.more}
	}
	file.Secrets = r.secrets
	for _, hook := range file.Hooks {
		for _, value := range append(slices.Collect(maps.Values(hook.Headers)), hook.URL, hook.Secrets) {
			if name, ok := strings.CutPrefix(value, referencePrefix); ok {
				file.Secrets = append(file.Secrets, name)
			}
		}
	}
	for i := range file.Jobs {
		file.Jobs[i].Run.Exec.Withheld = file.Secrets
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

// origin is 'path:line', or other for what is not in the file.
func (f *File) origin(line int, other string) string {
	if line == 0 {
		return other
	}
	return fmt.Sprintf("%s:%d", f.Path, line)
}

// JobOrigin is where a job was named: 'path:line', or --handle.
func (f *File) JobOrigin(job *Job) string { return f.origin(job.Line, "--handle") }

// HookOrigin is where a hook was declared: 'path:line', or the environment.
func (f *File) HookOrigin(hook *Hook) string { return f.origin(hook.Line, "the environment") }
