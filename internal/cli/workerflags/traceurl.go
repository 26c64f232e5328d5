package workerflags

import (
	"errors"
	"io/fs"

	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/tracecontext"
	"soniq/internal/workerfile"
)

// traceURLVariable stands for the flag.
const traceURLVariable = "SONIQ_TRACE_URL"

// TraceFlag says where a tracing UI shows a trace.
type TraceFlag struct {
	TraceURL *string `name:"trace-url" placeholder:"URL" help:"Where a trace is shown, with {trace_id} in it: https://traces.example.com/trace/{trace_id}. Default $$SONIQ_TRACE_URL, then trace_url of soniq.yaml."`
	pattern  tracecontext.URLPattern
}

// CheckTrace reads the flag, or the variable.
//
// Errors: a usage error.
func (f *TraceFlag) CheckTrace(a *app.App) (err error) {
	text, source := a.Getenv(traceURLVariable), traceURLVariable
	if f.TraceURL != nil {
		text, source = *f.TraceURL, "--trace-url"
	}
	if text == "" && f.TraceURL == nil {
		return nil
	}
	if f.pattern, err = tracecontext.ParseURLPattern(text); err != nil {
		return app.Usagef("%s %w", source, err)
	}
	return nil
}

// Trace is what is shown of a trace, for JSON. It is empty for none.
type Trace struct {
	TraceID  string `json:"trace_id,omitempty"`
	TraceURL string `json:"trace_url,omitempty"`
}

// Trace is what is shown of a job's trace.
func (f *TraceFlag) Trace(a *app.App, c tracecontext.Context) Trace {
	if c.IsZero() {
		return Trace{}
	}
	if f.pattern == "" {
		f.pattern = fromFile(a)
	}
	return Trace{c.TraceID(), f.pattern.URL(c)}
}

// fromFile is the pattern of soniq.yaml, if there is one. A file that can't be read is a
// matter of the worker's, and no reason to show nothing.
func fromFile(a *app.App) tracecontext.URLPattern {
	file, err := workerfile.Read(a.Ctx, workerfile.DefaultPath, workerfile.Options{Found: true, Getenv: a.Getenv})
	switch {
	case err == nil:
		return file.TraceURL
	case errors.Is(err, fs.ErrNotExist), a.Ctx.Err() != nil:
	default:
		a.Note("no link to the trace: %s can't be read; 'soniq worker --check-config' says why", workerfile.DefaultPath)
	}
	return ""
}

// Line is the trace on one line, for a person.
func (t Trace) Line() string {
	if t.TraceURL == "" {
		return t.TraceID
	}
	return terminal.OneLine(t.TraceID + ", " + t.TraceURL)
}
