package workerfile

import (
	"fmt"
	"math"

	"go.yaml.in/yaml/v3"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/opsserver"
	"soniq/internal/pg"
	"soniq/internal/suggest"
	"soniq/internal/tracecontext"
)

// worker reads the top of the file.
func (r *reader) worker(root *yaml.Node, file *File) {
	var jobs, hooks, perQueue *yaml.Node
	r.fields(root, "", map[string]func(*yaml.Node){
		"schema": func(n *yaml.Node) { file.Schema, file.SchemaLine = r.schema(n, "schema"), n.Line },
		"queues": func(n *yaml.Node) {
			file.Queues = r.names(n, "queues")
			r.queuesLine = n.Line
			r.queues = map[string]bool{}
			for _, name := range file.Queues {
				r.queues[name] = true
			}
		},
		"concurrency":       func(n *yaml.Node) { file.Concurrency = r.count(n, "concurrency", MaxConcurrency) },
		"queue_concurrency": func(n *yaml.Node) { perQueue = n },
		"timeout":           func(n *yaml.Node) { file.Timeout = r.duration(n, "timeout") },
		"result_ttl":        func(n *yaml.Node) { file.ResultTTL = r.duration(n, "result_ttl") },
		"shutdown_timeout":  func(n *yaml.Node) { file.ShutdownTimeout = r.duration(n, "shutdown_timeout") },
		"unknown_grace":     func(n *yaml.Node) { file.UnknownGrace = r.duration(n, "unknown_grace") },
		"max_args_size":     func(n *yaml.Node) { file.MaxArgsSize = r.size(n, "max_args_size") },
		"max_args_memory":   func(n *yaml.Node) { file.MaxArgsMemory = r.size(n, "max_args_memory") },
		"max_attempts_limit": func(n *yaml.Node) {
			file.MaxAttempts = r.upTo(n, "max_attempts_limit", math.MaxInt32)
		},
		"warn_dead":      func(n *yaml.Node) { file.WarnDead = r.upTo(n, "warn_dead", MaxWarnDead) },
		"warn_dead_age":  func(n *yaml.Node) { file.WarnDeadAge = r.duration(n, "warn_dead_age") },
		"health_listen":  func(n *yaml.Node) { file.HealthListen = r.address(n, "health_listen") },
		"metrics_listen": func(n *yaml.Node) { file.MetricsListen = r.address(n, "metrics_listen") },
		"trace_url":      func(n *yaml.Node) { file.TraceURL = r.traceURL(n, "trace_url") },
		"trace_link_only": func(n *yaml.Node) {
			if only, ok := r.boolean(n, "trace_link_only"); ok {
				file.TraceLinkOnly = &only
			}
		},
		"retention": func(n *yaml.Node) { r.retention(n, file) },
		"jobs":      func(n *yaml.Node) { jobs = n },
		"hooks":     func(n *yaml.Node) { hooks = n },
	})
	if jobs != nil && r.options.Jobs {
		r.jobs(jobs, file)
	}
	if hooks != nil {
		r.hooks(hooks, file)
	}
	if perQueue != nil {
		r.perQueue(perQueue, file)
	}
}

// schema reads the name of a schema.
func (r *reader) schema(n *yaml.Node, where string) string {
	name := r.text(n, where)
	if name == "" {
		return ""
	}
	if _, err := pg.NewSchema(name); err != nil {
		r.wrong(n, "%s: %s", where, err)
		return ""
	}
	return name
}

// traceURL reads where a trace is shown.
func (r *reader) traceURL(n *yaml.Node, where string) tracecontext.URLPattern {
	text := r.text(n, where)
	if text == "" {
		return ""
	}
	pattern, err := tracecontext.ParseURLPattern(text)
	if err != nil {
		r.wrong(n, "%s %s", where, err)
	}
	return pattern
}

// address reads where to listen. A port alone is a number.
func (r *reader) address(n *yaml.Node, where string) string {
	value := resolve(n)
	if value.Kind != yaml.ScalarNode || isNull(value) {
		r.wrong(n, "%s must be PORT, HOST:PORT or unix:PATH, not %s", where, kind(value))
		return ""
	}
	if _, err := opsserver.ParseAddress(value.Value); err != nil {
		r.wrong(n, "%s %s", where, err)
		return ""
	}
	return value.Value
}

// forever is the age of a rule that keeps what it matches.
const forever = "forever"

// retention reads the rules about how long dead letters are kept. Each must have an
// age, so that a rule that is only half written deletes nothing.
func (r *reader) retention(n *yaml.Node, file *File) {
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
				if d := r.duration(n, where+"keep"); d != nil && *d == 0 {
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
						r.wrong(n, "%sreasons: %s%s", where, err, suggest.Question(classify.Reason(name), classify.Reasons()))
					}
					rule.Filter.Reasons = append(rule.Filter.Reasons, reason)
				}
			},
			"state": func(n *yaml.Node) {
				switch rule.Filter.State = deadletter.State(r.text(n, where+"state")); rule.Filter.State {
				case "", deadletter.StateDead, deadletter.StateResolved:
				default:
					r.wrong(n, "%sstate must be dead or resolved, not %q: replaying dead letters are always kept", where, rule.Filter.State)
				}
			},
		})
		if !keeps && len(r.mistakes) == before {
			r.wrong(item, "%skeep is missing: give an age such as 30d, or %s", where, forever)
		}
		file.Retention = append(file.Retention, rule)
		if len(r.mistakes) > before {
			continue
		}
		if err := deadletter.ValidateRetention([]deadletter.Retention{rule, {Keep: 1}}); err != nil && i < len(resolve(n).Content)-1 {
			r.wrong(item, "%sit matches every dead letter, so the rules after it have no effect", where)
		}
	}
}

// perQueue reads the concurrency of each queue. Whether a queue is served is known
// here only where the file lists the queues.
func (r *reader) perQueue(n *yaml.Node, file *File) {
	file.QueueConcurrency = map[string]int{}
	for _, entry := range r.entries(n, "queue_concurrency") {
		switch count := r.count(entry.value, "queue_concurrency: "+entry.key, MaxConcurrency); {
		case entry.key == "":
			r.wrong(entry.keyNode, "queue_concurrency: a queue's name must not be empty")
		case r.queues != nil && !r.queues[entry.key]:
			r.wrong(entry.keyNode, "queue_concurrency: queue %q is not among the queues of line %d", entry.key, r.queuesLine)
		case count != nil:
			file.QueueConcurrency[entry.key] = *count
		}
	}
}
