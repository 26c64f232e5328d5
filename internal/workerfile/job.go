package workerfile

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"soniq/engine"
	"soniq/internal/handler"
)

// A Job says how the jobs of one name are run.
type Job struct {
	// Name is the job's name.
	Name string
	// Line is where it stands in the file, from 1. 0 is a flag.
	Line int
	// Run is the command or the endpoint.
	Run handler.Spec
	// Queue is the queue of its producers. Default none, which is 'default'.
	Queue string
	// Timeout bounds one attempt. 0 is no bound. Default the worker's.
	Timeout *time.Duration
	// MaxAttempts is how often a job is tried. Default what the job says.
	MaxAttempts *int
	// Retry has the delays between attempts. Default [engine.Exponential]'s.
	Retry engine.RetryPolicy
	// Concurrency is how many of these jobs run at once. Default the worker's.
	Concurrency *int
}

// Options are for [engine.HandleRaw].
func (j *Job) Options() (options []engine.HandleOption) {
	if j.Queue != "" {
		options = append(options, engine.Queue(j.Queue))
	}
	if j.Timeout != nil {
		d := *j.Timeout
		if d == 0 {
			d = -1 // the engine's way to say none
		}
		options = append(options, engine.Timeout(d))
	}
	if j.MaxAttempts != nil {
		options = append(options, engine.AttemptLimit(*j.MaxAttempts))
	}
	if j.Retry != nil {
		options = append(options, engine.Retry(j.Retry))
	}
	if j.Concurrency != nil {
		options = append(options, engine.Concurrency(*j.Concurrency))
	}
	return options
}

// AddHandle adds the job of a flag: NAME=exec:COMMAND or NAME=https://...
//
// Errors: what is wrong with the flag, for the user. It never shows the URL, which
// may hold a password.
func (f *File) AddHandle(text string) error {
	job, err := parseHandle(text)
	if err != nil {
		return err
	}
	same := slices.IndexFunc(f.Jobs, func(other Job) bool { return other.Name == job.Name })
	switch {
	case same < 0:
		job.Run.Exec.Withheld = f.Secrets
		f.Jobs = append(f.Jobs, job)
		return nil
	case f.Jobs[same].Line == 0:
		return fmt.Errorf("--handle names %q twice", job.Name)
	default:
		return fmt.Errorf("--handle names %q, which %s has in line %d already", job.Name, f.Path, f.Jobs[same].Line)
	}
}

// Withhold keeps variables of the environment from commands. A command that needs
// one names it in its own env.
func (f *File) Withhold(names []string) {
	for i := range f.Jobs {
		run := &f.Jobs[i].Run.Exec
		run.Withheld = append(slices.Clip(run.Withheld), names...)
	}
}

func parseHandle(text string) (Job, error) {
	const form = "--handle must be NAME=exec:COMMAND or NAME=https://..."
	name, runs, ok := strings.Cut(text, "=")
	name = strings.TrimSpace(name)
	switch {
	case strings.Contains(name, "://"):
		return Job{}, errors.New(form + ": there is a URL in place of the name")
	case !ok:
		return Job{}, fmt.Errorf("%s: %q has no '='", form, text)
	case name == "":
		return Job{}, errors.New(form + ": it has no name before '='")
	case strings.ContainsRune(text, 0):
		return Job{}, errors.New("--handle must not contain a NUL byte")
	}
	job := Job{Name: name}
	scheme, rest, _ := strings.Cut(runs, ":")
	switch strings.ToLower(scheme) {
	case "exec":
		if strings.TrimSpace(rest) == "" {
			return Job{}, fmt.Errorf("%s: %q has no command", form, name)
		}
		job.Run.Exec.Command = rest
	case "http", "https":
		job.Run.HTTP.URL = runs
		if err := job.Run.HTTP.Check(); err != nil {
			return Job{}, fmt.Errorf("--handle %s: %w", name, err)
		}
	default:
		return Job{}, fmt.Errorf("%s: %q is followed by %q, not by exec:, http:// or https://", form, name+"=", scheme)
	}
	return job, nil
}

// jobs reads the section of that name.
func (r *reader) jobs(jobs *yaml.Node, file *File) {
	for _, entry := range r.entries(jobs, "jobs") {
		if entry.key == "" {
			r.wrong(entry.keyNode, "a job's name must not be empty")
			continue
		}
		file.Jobs = append(file.Jobs, r.job(entry))
	}
}

// A jobReader reads one entry of 'jobs'.
type jobReader struct {
	*reader
	entry
	job Job
	// execOnly and httpOnly are where the keys stand that only one kind of handler
	// has.
	execOnly, httpOnly map[string]*yaml.Node
	isExec, isHTTP     bool
}

// job reads one entry of 'jobs'.
func (r *reader) job(e entry) Job {
	j := &jobReader{
		reader: r, entry: e, job: Job{Name: e.key, Line: e.keyNode.Line},
		execOnly: map[string]*yaml.Node{}, httpOnly: map[string]*yaml.Node{},
	}
	if resolve(e.value).Kind != yaml.MappingNode {
		r.wrong(e.keyNode, "%s: must be a mapping with exec: COMMAND or http: URL, not %s", e.key, kind(e.value))
		return j.job
	}
	before := len(r.mistakes)
	keys := j.commonKeys()
	j.execKeys(keys)
	j.httpKeys(keys)
	j.checkKind(r.fields(e.value, e.key+": ", keys))
	if j.isHTTP && len(r.mistakes) == before {
		// What is wrong only together, such as two kinds of authorization.
		if err := j.job.Run.HTTP.Check(); err != nil {
			r.wrong(e.keyNode, "%s: %s", e.key, err)
		}
	}
	return j.job
}

// at is where a key stands, in words.
func (j *jobReader) at(key string) string { return j.key + ": " + key }

// commonKeys are the keys of both kinds of handlers.
func (j *jobReader) commonKeys() map[string]func(*yaml.Node) {
	job := &j.job
	return map[string]func(*yaml.Node){
		"queue": func(n *yaml.Node) {
			job.Queue = j.text(n, j.at("queue"))
			if job.Queue != "" && j.queues != nil && !j.queues[job.Queue] {
				j.wrong(n, "%s %q is not among the queues of line %d: its jobs would never run", j.at("queue"), job.Queue, j.queuesLine)
			}
		},
		"timeout":      func(n *yaml.Node) { job.Timeout = j.duration(n, j.at("timeout")) },
		"max_attempts": func(n *yaml.Node) { job.MaxAttempts = j.count(n, j.at("max_attempts"), math.MaxInt32) },
		"concurrency":  func(n *yaml.Node) { job.Concurrency = j.count(n, j.at("concurrency"), MaxConcurrency) },
		"retry":        func(n *yaml.Node) { job.Retry = j.retry(n, j.at("retry")) },
	}
}

// execKeys adds the keys of commands.
func (j *jobReader) execKeys(keys map[string]func(*yaml.Node)) {
	run := &j.job.Run.Exec
	keys["exec"] = func(n *yaml.Node) { j.isExec, run.Command = true, j.text(n, j.at("exec")) }
	j.only(keys, j.execOnly, map[string]func(*yaml.Node, string){
		"permanent_exit_codes": func(n *yaml.Node, at string) { run.PermanentCodes = j.exitCodes(n, at) },
		"env":                  func(n *yaml.Node, at string) { run.Env = j.environment(n, at) },
		"dir":                  func(n *yaml.Node, at string) { run.Dir = j.folder(n, at) },
	})
}

// httpKeys adds the keys of endpoints.
func (j *jobReader) httpKeys(keys map[string]func(*yaml.Node)) {
	run := &j.job.Run.HTTP
	keys["http"] = func(n *yaml.Node) {
		j.isHTTP = true
		j.url(n, j.at("http"), run)
	}
	j.only(keys, j.httpOnly, map[string]func(*yaml.Node, string){
		"headers": func(n *yaml.Node, at string) { run.Headers = j.headers(n, at) },
		"secret":  func(n *yaml.Node, at string) { run.Secret = j.secret(n, at) },
	})
}

// only adds keys of one kind of handler, and notes in lines where they stand.
func (j *jobReader) only(keys map[string]func(*yaml.Node), lines map[string]*yaml.Node, of map[string]func(*yaml.Node, string)) {
	for key, read := range of {
		keys[key] = func(n *yaml.Node) {
			lines[key] = n
			read(n, j.at(key))
		}
	}
}

// checkKind checks that the job has one kind of handler, and no key of the other
// kind. meant are keys that were probably misspelt.
func (j *jobReader) checkKind(meant []string) {
	switch {
	case j.isExec && j.isHTTP:
		j.wrong(j.keyNode, "%s: has both exec and http; remove one of them", j.key)
	case j.isExec:
		for key, n := range j.httpOnly {
			j.wrong(n, "%s is for http, not for exec", j.at(key))
		}
	case j.isHTTP:
		for key, n := range j.execOnly {
			j.wrong(n, "%s is for exec, not for http", j.at(key))
		}
	case slices.Contains(meant, "exec") || slices.Contains(meant, "http"):
		// Misspelt, which has been noted.
	default:
		j.wrong(j.keyNode, "%s: has no handler: give it exec: COMMAND or http: URL", j.key)
	}
}

// sends notes the variable that a value for an endpoint refers to, if it does:
// commands don't get it.
func (r *reader) sends(n *yaml.Node) {
	if name, ok := strings.CutPrefix(resolve(n).Value, referencePrefix); ok {
		r.secrets = append(r.secrets, name)
	}
}

// url reads an endpoint, or a reference to one.
func (r *reader) url(n *yaml.Node, where string, run *handler.HTTP) {
	r.sends(n)
	value := r.reference(n, where)
	if value == "" {
		return
	}
	run.URL = value
	if text := resolve(n).Value; strings.HasPrefix(text, referencePrefix) {
		run.Reference = text
	}
	if err := (handler.HTTP{URL: value}).Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
}

// anyURL stands in where only another part of an endpoint is checked, so that a
// mistake is noted at its own line.
const anyURL = "http://localhost/"

// secret reads what requests are signed with.
func (r *reader) secret(n *yaml.Node, where string) string {
	r.sends(n)
	value := r.reference(n, where)
	if value == "" {
		return ""
	}
	if err := (handler.HTTP{URL: anyURL, Secret: value}).Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
	return value
}

// headers reads the headers of requests.
func (r *reader) headers(n *yaml.Node, where string) map[string]string {
	headers := map[string]string{}
	for e := range r.headerEntries(n, where) {
		if r.scalar(e.value, where+": "+e.key) == "" {
			continue
		}
		r.sends(e.value)
		value := r.resolveReference(e.value, where+": "+e.key)
		if err := (handler.HTTP{URL: anyURL, Headers: map[string]string{e.key: value}}).Check(); err != nil {
			r.wrong(e.value, "%s: %s", where, err)
		}
		headers[e.key] = value
	}
	return headers
}

// headerEntries are the entries of a mapping of headers, each name once: upper and
// lower case are the same.
func (r *reader) headerEntries(n *yaml.Node, where string) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		lines := map[string]int{}
		for _, e := range r.entries(n, where) {
			name := http.CanonicalHeaderKey(e.key)
			if line, ok := lines[name]; ok {
				r.wrong(e.keyNode, "%s: %q is in line %d already", where, e.key, line)
				continue
			}
			lines[name] = e.keyNode.Line
			if !yield(e) {
				return
			}
		}
	}
}

// exitCodes reads exit codes that no retry can mend.
func (r *reader) exitCodes(n *yaml.Node, where string) (codes []int) {
	for _, item := range r.items(n, where) {
		code, ok := r.integer(item, where)
		switch {
		case !ok:
		case code == 0:
			r.wrong(item, "%s: 0 means that the job is done", where)
		case code < 0 || code > 255:
			r.wrong(item, "%s: %d is no exit code: they are from 1 to 255", where, code)
		case code == handler.StatusInvalidArguments:
			r.wrong(item, "%s: %d means invalid arguments already", where, code)
		case code == handler.StatusNotFound || code == handler.StatusNotExecutable:
			r.wrong(item, "%s: %d is the shell's code for a command that it can't run: those jobs are tried again, so that a broken deployment kills none", where, code)
		case slices.Contains(codes, code):
			r.wrong(item, "%s: %d is there twice", where, code)
		default:
			codes = append(codes, code)
		}
	}
	return codes
}

// environment reads the variables of a command, as NAME=value.
func (r *reader) environment(n *yaml.Node, where string) (env []string) {
	for _, e := range r.entries(n, where) {
		at := where + ": " + e.key
		if e.key == "" || strings.ContainsAny(e.key, "=\x00") {
			r.wrong(e.keyNode, "%s: %q can't be the name of a variable", where, e.key)
			continue
		}
		if slices.Contains(handler.JobVariables(), e.key) {
			r.wrong(e.keyNode, "%s is set by the worker", at)
			continue
		}
		value, ok := r.anyScalar(e.value, at)
		if ok && strings.HasPrefix(value, referencePrefix) {
			value = r.resolveReference(e.value, at)
		}
		if strings.ContainsRune(value, 0) {
			r.wrong(e.value, "%s must not contain a NUL byte", at)
			continue
		}
		env = append(env, e.key+"="+value)
	}
	return env
}

// folder reads the working folder of a command. A relative one counts from the
// file's own folder, so that a file works from wherever the worker is started.
func (r *reader) folder(n *yaml.Node, where string) string {
	dir := r.text(n, where)
	if dir == "" {
		return ""
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(filepath.Dir(r.path), dir)
	}
	if info, err := os.Stat(dir); err != nil {
		r.wrong(n, "%s: %s", where, pathProblem(dir, err))
	} else if !info.IsDir() {
		r.wrong(n, "%s: %s is not a folder", where, dir)
	}
	return dir
}

// retry reads the delays between attempts: a list, or how they grow.
func (r *reader) retry(n *yaml.Node, where string) engine.RetryPolicy {
	switch n := resolve(n); n.Kind {
	case yaml.SequenceNode:
		var delays engine.Delays
		for _, item := range r.items(n, where) {
			if d := r.duration(item, where); d != nil {
				delays = append(delays, *d)
			}
		}
		return delays
	case yaml.MappingNode:
		return r.growing(n, where)
	default:
		r.wrong(n, "%s must be a list such as [1s, 10s, 1m], or {base: 1s, max: 1h, jitter: true}", where)
		return nil
	}
}

// growing reads {base, max, jitter}.
func (r *reader) growing(n *yaml.Node, where string) engine.RetryPolicy {
	var e engine.Exponential
	var base, longest *time.Duration
	r.fields(n, where+": ", map[string]func(*yaml.Node){
		"base": func(n *yaml.Node) { base = r.positive(n, where+": base") },
		"max":  func(n *yaml.Node) { longest = r.positive(n, where+": max") },
		"jitter": func(n *yaml.Node) {
			if jitter, ok := r.boolean(n, where+": jitter"); ok {
				e.NoJitter = !jitter
			}
		},
	})
	if base != nil {
		e.Base = *base
	}
	if longest != nil {
		e.Max = *longest
		if shown := cmp.Or(e.Base, time.Second); e.Max < shown { // the engine's default
			r.wrong(n, "%s: max is %s, below base, which is %s", where, e.Max, shown)
		}
	}
	return e
}
