package workers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/engine"

	"soniq/deadletter/classify"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/workerfile"
)

// The engine's defaults, where they must be shown or passed on.
const (
	defaultConcurrency = 10
	defaultTimeout     = 5 * time.Minute
	defaultMaxArgsSize = 16 << 20
	// maxArgsSize is more than PostgreSQL makes of a jsonb.
	maxArgsSize = 1 << 30
)

// checkedConfig is what --check-config --json prints: what would be served,
// with the names of secrets and never their values.
type checkedConfig struct {
	Config      string   `json:"config,omitempty"`
	Queues      []string `json:"queues"`
	Concurrency int      `json:"concurrency"`
	// PerQueue is the concurrency of queues that have one of their own.
	PerQueue map[string]int `json:"queue_concurrency,omitempty"`
	// Traces is where traces are sent to.
	Traces string        `json:"traces,omitempty"`
	Jobs   []checkedJob  `json:"jobs"`
	Hooks  []checkedHook `json:"hooks,omitempty"`
}

type checkedHook struct {
	Name    string            `json:"name"`
	Kind    hooks.Kind        `json:"kind"`
	Target  string            `json:"target"`
	Secret  string            `json:"secret,omitempty"`
	Headers []string          `json:"headers,omitempty"`
	Events  []hooks.EventType `json:"events,omitempty"`
	Jobs    []string          `json:"jobs,omitempty"`
	Queues  []string          `json:"queues,omitempty"`
	Reasons []classify.Reason `json:"reasons,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

type checkedJob struct {
	Name               string   `json:"name"`
	Exec               string   `json:"exec,omitempty"`
	HTTP               string   `json:"http,omitempty"`
	Signed             bool     `json:"signed,omitempty"`
	Headers            []string `json:"headers,omitempty"`
	Env                []string `json:"env,omitempty"`
	Dir                string   `json:"dir,omitempty"`
	PermanentExitCodes []int    `json:"permanent_exit_codes,omitempty"`
	Queue              string   `json:"queue,omitempty"`
	Timeout            string   `json:"timeout"`
	MaxAttempts        int      `json:"max_attempts,omitempty"`
	Retry              string   `json:"retry"`
	Concurrency        int      `json:"concurrency,omitempty"`
}

func (s *served) check(a *app.App) error {
	if a.JSON {
		return a.Out.Document(s.describe())
	}
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "JOB", Min: 12},
		{Title: "HANDLER", Min: 16},
		{Title: "QUEUE", Min: 8, Drop: 2},
		{Title: "TIMEOUT", Drop: 1},
		{Title: "ATTEMPTS", Right: true, Drop: 4},
		{Title: "RETRY", Min: 12, Drop: 5},
		{Title: "AT ONCE", Right: true, Drop: 3},
	}}
	for i := range s.file.Jobs {
		job := s.job(&s.file.Jobs[i])
		t.Add(job.Name, fmt.Sprint(s.file.Jobs[i].Run), cmp.Or(job.Queue, "-"), job.Timeout,
			number(job.MaxAttempts), job.Retry, number(job.Concurrency))
	}
	if err := t.Write(a.Out, a.TableWidth()); err != nil {
		return err
	}
	if len(s.file.Hooks) > 0 {
		a.Out.Printf("")
		if err := checkedHooks(a, s.file.Hooks); err != nil {
			return err
		}
	}
	what := "the handlers are valid"
	if s.file.Path != "" {
		what = s.file.Path + " is valid"
	}
	queues := s.queues()
	for i, queue := range queues {
		if n, ok := s.config.QueueConcurrency[queue]; ok {
			queues[i] = fmt.Sprintf("%s (at most %d)", queue, n)
		}
	}
	a.Note("%s; queues %s; %d jobs at once", what, strings.Join(queues, ", "), s.concurrency())
	if s.traces != nil {
		a.Note("traces go to %s", s.traces.Target)
	}
	if slices.ContainsFunc(s.file.Jobs, func(j workerfile.Job) bool { return j.MaxAttempts == nil }) {
		a.Note("attempts '-': as many as each job says, 4 unless its producer set it")
	}
	return nil
}

func (s *served) describe() checkedConfig {
	c := checkedConfig{Config: s.file.Path, Queues: s.queues(), Concurrency: s.concurrency(), PerQueue: s.config.QueueConcurrency}
	if s.traces != nil {
		c.Traces = s.traces.Target
	}
	for i := range s.file.Jobs {
		c.Jobs = append(c.Jobs, s.job(&s.file.Jobs[i]))
	}
	for i := range s.file.Hooks {
		c.Hooks = append(c.Hooks, describeHook(&s.file.Hooks[i]))
	}
	return c
}

func (s *served) job(spec *workerfile.Job) checkedJob {
	job := checkedJob{
		Name: spec.Name, Exec: spec.Run.Exec.Command, Signed: spec.Run.HTTP.Secret != "",
		Dir: spec.Run.Exec.Dir, PermanentExitCodes: spec.Run.Exec.PermanentCodes, Queue: spec.Queue,
		Timeout: s.timeout(spec), Retry: retryText(spec.Retry),
	}
	if job.Exec == "" {
		job.HTTP = spec.Run.HTTP.Target()
	}
	for name := range spec.Run.HTTP.Headers {
		job.Headers = append(job.Headers, name)
	}
	slices.Sort(job.Headers)
	for _, variable := range spec.Run.Exec.Env {
		name, _, _ := strings.Cut(variable, "=")
		job.Env = append(job.Env, name)
	}
	if spec.MaxAttempts != nil {
		job.MaxAttempts = *spec.MaxAttempts
	}
	if spec.Concurrency != nil {
		job.Concurrency = *spec.Concurrency
	}
	return job
}

// queues are those that the worker will serve: the engine's rule.
func (s *served) queues() []string {
	if s.config.Queues != nil {
		return slices.Clone(s.config.Queues)
	}
	queues := []string{"default"}
	for _, spec := range s.file.Jobs {
		if spec.Queue != "" && !slices.Contains(queues, spec.Queue) {
			queues = append(queues, spec.Queue)
		}
	}
	slices.Sort(queues)
	return queues
}

func (s *served) concurrency() int {
	if s.config.Concurrency == 0 {
		return defaultConcurrency
	}
	return s.config.Concurrency
}

// timeout of a handler: its own, the worker's, or the engine's default.
func (s *served) timeout(spec *workerfile.Job) string {
	d := s.config.JobTimeout
	switch {
	case spec.Timeout != nil:
		d = *spec.Timeout
	case d == 0:
		d = defaultTimeout
	}
	if d <= 0 {
		return "none"
	}
	return terminal.ShortDuration(d)
}

// number is n, or a dash where n says nothing.
func number(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// checkedHooks prints a table of the hooks and the events that they receive.
func checkedHooks(a *app.App, specs []workerfile.Hook) error {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "HOOK", Min: 12},
		{Title: "KIND"},
		{Title: "TARGET", Min: 16},
		{Title: "EVENTS", Min: 16, Drop: 1},
	}}
	for i := range specs {
		t.Add(specs[i].Name, string(specs[i].Kind), cmp.Or(specs[i].Target(), "-"), specs[i].FilterText())
	}
	return t.Write(a.Out, a.TableWidth())
}

func describeHook(spec *workerfile.Hook) checkedHook {
	return checkedHook{
		Name: spec.Name, Kind: spec.Kind, Target: spec.Target(), Secret: spec.Secrets, Headers: slices.Sorted(maps.Keys(spec.Headers)),
		Events: spec.Events, Jobs: spec.Jobs, Queues: spec.Queues, Reasons: spec.Reasons, Tags: spec.Tags,
	}
}

// retryText is a retry policy in words.
func retryText(policy engine.RetryPolicy) string {
	switch p := policy.(type) {
	case engine.Delays:
		delays := make([]string, len(p))
		for i, d := range p {
			delays[i] = terminal.ShortDuration(d)
		}
		return strings.Join(delays, ", ")
	case engine.Exponential:
		base, longest := p.Base, p.Max
		if base == 0 {
			base = time.Second
		}
		if longest == 0 {
			longest = time.Hour
		}
		text := fmt.Sprintf("%s, doubled up to %s", terminal.ShortDuration(base), terminal.ShortDuration(longest))
		if p.NoJitter {
			text += ", exact"
		}
		return text
	default:
		return retryText(engine.Exponential{})
	}
}
