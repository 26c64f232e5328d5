package main

import (
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

// job reads one entry of 'jobs'.
func (r *configReader) job(entry configEntry) handlerSpec {
	spec := handlerSpec{name: entry.key, line: entry.keyNode.Line}
	if resolve(entry.value).Kind != yaml.MappingNode {
		r.wrong(entry.keyNode, "%s: must be a mapping with exec: COMMAND or http: URL, not %s", entry.key, kind(entry.value))
		return spec
	}
	before := len(r.mistakes)
	at := func(key string) string { return entry.key + ": " + key }
	// Where the keys stand that only one kind of handler has.
	execOnly, httpOnly := map[string]*yaml.Node{}, map[string]*yaml.Node{}
	var isExec, isHTTP bool
	meant := r.fields(entry.value, entry.key+": ", map[string]func(*yaml.Node){
		"exec": func(n *yaml.Node) {
			isExec = true
			spec.Exec.Command = r.text(n, at("exec"))
		},
		"http": func(n *yaml.Node) {
			isHTTP = true
			r.url(n, at("http"), &spec)
		},
		"headers": func(n *yaml.Node) {
			httpOnly["headers"] = n
			spec.HTTP.Headers = r.headers(n, at("headers"))
		},
		"secret": func(n *yaml.Node) {
			httpOnly["secret"] = n
			spec.HTTP.Secret = r.secret(n, at("secret"))
		},
		"permanent_exit_codes": func(n *yaml.Node) {
			execOnly["permanent_exit_codes"] = n
			spec.Exec.PermanentCodes = r.exitCodes(n, at("permanent_exit_codes"))
		},
		"env": func(n *yaml.Node) {
			execOnly["env"] = n
			spec.Exec.Env = r.environment(n, at("env"))
		},
		"dir": func(n *yaml.Node) {
			execOnly["dir"] = n
			spec.Exec.Dir = r.folder(n, at("dir"))
		},
		"queue": func(n *yaml.Node) {
			spec.queue = r.text(n, at("queue"))
			if spec.queue != "" && r.queues != nil && !r.queues[spec.queue] {
				r.wrong(n, "%s %q is not among the queues of line %d: its jobs would never be fetched", at("queue"), spec.queue, r.queuesLine)
			}
		},
		"timeout":      func(n *yaml.Node) { spec.timeout = r.duration(n, at("timeout")) },
		"max_attempts": func(n *yaml.Node) { spec.maxAttempts = r.count(n, at("max_attempts"), math.MaxInt32) },
		"concurrency":  func(n *yaml.Node) { spec.concurrency = r.count(n, at("concurrency"), maxConcurrency) },
		"retry":        func(n *yaml.Node) { spec.retry = r.retry(n, at("retry")) },
	})
	switch {
	case isExec && isHTTP:
		r.wrong(entry.keyNode, "%s: has both exec and http; a job has one handler", entry.key)
	case isExec:
		for key, n := range httpOnly {
			r.wrong(n, "%s is for http, not for exec", at(key))
		}
	case isHTTP:
		for key, n := range execOnly {
			r.wrong(n, "%s is for exec, not for http", at(key))
		}
	case slices.Contains(meant, "exec") || slices.Contains(meant, "http"):
		// Misspelt; that has been said.
	default:
		r.wrong(entry.keyNode, "%s: has no handler: give it exec: COMMAND or http: URL", entry.key)
	}
	if isHTTP && len(r.mistakes) == before {
		// What is only wrong together, such as two kinds of authorization.
		if err := spec.HTTP.Check(); err != nil {
			r.wrong(entry.keyNode, "%s: %s", entry.key, err)
		}
	}
	return spec
}

// sends notes the variable that a value for an endpoint names, if it names one:
// it is not a command's.
func (r *configReader) sends(n *yaml.Node) {
	if name, ok := strings.CutPrefix(resolve(n).Value, referencePrefix); ok {
		r.requestSecrets = append(r.requestSecrets, name)
	}
}

// url reads an endpoint, or a reference to one.
func (r *configReader) url(n *yaml.Node, where string, spec *handlerSpec) {
	r.sends(n)
	value := r.reference(n, where)
	if value == "" {
		return
	}
	spec.HTTP.URL = value
	if text := resolve(n).Value; strings.HasPrefix(text, referencePrefix) {
		spec.HTTP.Reference = text
	}
	if err := (handler.HTTP{URL: value}).Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
}

func (r *configReader) secret(n *yaml.Node, where string) string {
	r.sends(n)
	value := r.reference(n, where)
	if value == "" {
		return ""
	}
	if err := (handler.HTTP{URL: someURL, Secret: value}).Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
	return value
}

func (r *configReader) headers(n *yaml.Node, where string) map[string]string {
	headers, lines := map[string]string{}, map[string]int{}
	for _, entry := range r.entries(n, where) {
		name := http.CanonicalHeaderKey(entry.key)
		if line, ok := lines[name]; ok {
			r.wrong(entry.keyNode, "%s: %q stands in line %d already", where, entry.key, line)
			continue
		}
		lines[name] = entry.keyNode.Line
		if r.scalar(entry.value, where+": "+entry.key) == "" {
			continue
		}
		r.sends(entry.value)
		value := r.resolveReference(entry.value, where+": "+entry.key)
		if err := (handler.HTTP{URL: someURL, Headers: map[string]string{entry.key: value}}).Check(); err != nil {
			r.wrong(entry.value, "%s: %s", where, err)
		}
		headers[entry.key] = value
	}
	return headers
}

// someURL stands in where only another part of an endpoint is checked, so that
// a mistake gets the line it stands in.
const someURL = "http://localhost/"

// exitCodes reads the exit codes that no retry can mend.
func (r *configReader) exitCodes(n *yaml.Node, where string) (codes []int) {
	for _, item := range r.items(n, where) {
		code, ok := r.integer(item, where)
		switch {
		case !ok:
		case code == 0:
			r.wrong(item, "%s: 0 means done", where)
		case code < 0 || code > 255:
			r.wrong(item, "%s: %d is no exit code: they are from 1 to 255", where, code)
		case code == handler.StatusInvalidArguments:
			r.wrong(item, "%s: %d means invalid arguments already", where, code)
		case code == handler.StatusNotFound || code == handler.StatusNotExecutable:
			r.wrong(item, "%s: %d is the shell's own for a command that it can't run: a broken deployment must not bury jobs", where, code)
		case slices.Contains(codes, code):
			r.wrong(item, "%s: %d stands there twice", where, code)
		default:
			codes = append(codes, code)
		}
	}
	return codes
}

// environment reads the variables of a command, as NAME=value.
func (r *configReader) environment(n *yaml.Node, where string) (env []string) {
	for _, entry := range r.entries(n, where) {
		at := where + ": " + entry.key
		if entry.key == "" || strings.ContainsAny(entry.key, "=\x00") {
			r.wrong(entry.keyNode, "%s: %q can't be the name of a variable", where, entry.key)
			continue
		}
		if slices.Contains(handler.JobVariables(), entry.key) {
			r.wrong(entry.keyNode, "%s is set by the worker", at)
			continue
		}
		value, ok := r.anyScalar(entry.value, at)
		if ok && strings.HasPrefix(value, referencePrefix) {
			value = r.resolveReference(entry.value, at)
		}
		if strings.ContainsRune(value, 0) {
			r.wrong(entry.value, "%s must not contain a NUL byte", at)
			continue
		}
		env = append(env, entry.key+"="+value)
	}
	return env
}

// folder reads the working folder of a command. It counts from the file's own
// folder, so that a file works from wherever the worker is started.
func (r *configReader) folder(n *yaml.Node, where string) string {
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
func (r *configReader) retry(n *yaml.Node, where string) engine.RetryPolicy {
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
		e.Base, e.Max = orZero(base), orZero(longest)
		shown := e.Base
		if shown == 0 {
			shown = time.Second
		}
		if longest != nil && *longest < shown {
			r.wrong(n, "%s: max is %s, below base, which is %s", where, e.Max, shown)
		}
		return e
	default:
		r.wrong(n, "%s must be a list such as [1s, 10s, 1m], or {base: 1s, max: 1h, jitter: true}", where)
		return nil
	}
}

func orZero(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}
