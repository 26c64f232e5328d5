package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter"
	"soniq/internal/pg"
	"soniq/internal/safetext"
	"soniq/internal/unit"
)

// A visit is a request of somebody who may make it.
type visit struct {
	d    *Dashboard
	w    http.ResponseWriter
	r    *http.Request
	user User
	// written is set once an answer has begun.
	written bool
}

// Context ends when the visitor has gone.
func (v *visit) Context() context.Context { return v.r.Context() }

// queue is the dead-letter queue, whose history names the visitor.
func (v *visit) queue(comment string) *deadletter.Queue { return v.d.queue.As(v.user.Name, comment) }

// A view is what a page shows.
type view struct {
	// Title is the heading, and the title of the tab.
	Title string
	// Nav is the path of the entry in the navigation that is current.
	Nav string
	// Data is what the template shows.
	Data any
	// Status is that of the answer. Default 200.
	Status int
}

// A frame is the dot of a template: a view, and what each page shows around it.
type frame struct {
	view
	Site       string
	User       User
	May        Rights
	SignedIn   bool // by the key, so that they can sign out
	Navigation []navEntry
	Now        time.Time
	Path       string // of this page, with its query, within the dashboard
	Notice     string // what was just done
}

// show answers with a page.
func (v *visit) show(template string, data view) error {
	f := frame{
		view: data, Site: v.d.cfg.Title, User: v.user, May: v.user.Rights, SignedIn: v.d.cfg.Key != "" && v.user.See,
		Navigation: navigation, Now: time.Now(), Path: v.r.URL.RequestURI(), Notice: notice(v.r.URL.Query()),
	}
	var html bytes.Buffer
	if err := v.d.templates.execute(&html, template, f); err != nil {
		return fmt.Errorf("template %s: %w", template, err)
	}
	v.written = true
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(max(data.Status, http.StatusOK))
	// Somebody who has gone is told nothing.
	_, _ = safetext.NewWriter(v.w).Write(html.Bytes())
	return nil
}

// redirect sends the visitor to another page of the dashboard, which they get.
func (v *visit) redirect(path string) error {
	v.written = true
	http.Redirect(v.w, v.r, v.d.base+path, http.StatusSeeOther)
	return nil
}

// Errors that are answered with a page of their own.
var (
	errNoPage   = errors.New("there is no such page")
	errNoLetter = errors.New("there is no such dead letter: it was deleted, or the link is not whole")
	errNoJob    = errors.New("there is no such job: it ended a while ago, was deleted, or the link is not whole")
)

// An inputError is a mistake in what the visitor sent.
type inputError struct{ text string }

func (e *inputError) Error() string { return e.text }

func badInput(format string, args ...any) error { return &inputError{fmt.Sprintf(format, args...)} }

// A problem is what the page of an error shows.
type problem struct {
	Status int    `json:"-"`
	Title  string `json:"error"`
	Text   string `json:"detail,omitempty"`
	// Retry: the same may work soon.
	Retry bool `json:"retry,omitempty"`
}

// problemOf is what somebody is told about an error.
func problemOf(err error) problem {
	var input *inputError
	var tooLarge *http.MaxBytesError
	var denied *pg.DeniedError
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, errNoPage), errors.Is(err, errNoLetter), errors.Is(err, errNoJob):
		return problem{Status: http.StatusNotFound, Title: "Not found", Text: err.Error()}
	case errors.Is(err, deadletter.ErrNotFound):
		return problem{Status: http.StatusNotFound, Title: "Not found", Text: errNoLetter.Error()}
	case errors.Is(err, deadletter.ErrNoOperation):
		return problem{Status: http.StatusNotFound, Title: "Not found", Text: "there is no such operation"}
	case errors.As(err, &input):
		return problem{Status: http.StatusBadRequest, Title: "That can't be done", Text: input.text}
	case errors.Is(err, errTooManyAttempts):
		return problem{Status: http.StatusTooManyRequests, Title: "Too many wrong keys", Text: "wait a minute, then try again"}
	case errors.As(err, &tooLarge):
		return problem{Status: http.StatusRequestEntityTooLarge, Title: "Too large", Text: fmt.Sprintf("at most %d bytes are read", tooLarge.Limit)}
	case errors.As(err, &denied):
		return problem{Status: http.StatusServiceUnavailable, Title: "The dashboard's database role lacks a right", Text: deadletter.RedactText(denied.Error())}
	case errors.Is(err, context.DeadlineExceeded), pg.IsCode(err, pg.QueryCanceled):
		return problem{Status: http.StatusServiceUnavailable, Title: "The database took too long", Text: "narrow the filter, or look at less time", Retry: true}
	case errors.As(err, &connect), pg.IsLostStatement(err), pg.Momentary(err):
		return problem{Status: http.StatusServiceUnavailable, Title: "The database does not answer", Text: "nothing was changed that this page doesn't show; it is tried again when you reload", Retry: true}
	}
	return problem{Status: http.StatusInternalServerError, Title: "Something went wrong", Text: deadletter.RedactText(err.Error())}
}

// fail answers with the page of an error.
func (v *visit) fail(err error) {
	if v.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody waits for an answer
	}
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError {
		v.d.log.WarnContext(v.Context(), "a page of the dashboard failed", "path", v.r.URL.Path, "error", err)
	}
	if v.written {
		return
	}
	v.refuse(p)
}

// refuse answers with a problem: to a program as JSON.
func (v *visit) refuse(p problem) {
	if isAPI(v.r) {
		writeJSON(v.w, p.Status, p)
		return
	}
	if err := v.show("problem", view{Title: p.Title, Data: p, Status: p.Status}); err != nil {
		http.Error(v.w, p.Title, p.Status)
	}
}

// isAPI reports whether the request is one of a program.
func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, apiPrefix) }

// apiPrefix is the path of the JSON API, within the dashboard.
const apiPrefix = "/api/v1/"

// notices are what pages say after a change, by a word in the URL: a link can't put
// words of its own on a page.
var notices = map[string]func(n int64) string{
	"replayed":   func(n int64) string { return "Queued " + unit.Plural(n, "dead letter") + " again." },
	"paused":     func(int64) string { return "Paused: no Go worker starts a job of it until it is resumed." },
	"resumed":    func(int64) string { return "Resumed: its jobs are started again." },
	"cancelled":  func(int64) string { return "Cancelled. The row is kept for a day; until then it can be queued again." },
	"cancelling": func(int64) string { return "Its worker was asked to stop it." },
	"retried":    func(int64) string { return "Queued to run now." },
	"enabled":    func(int64) string { return "Enabled. What waits is sent." },
	"disabled":   func(int64) string { return "Disabled. What waits is kept; what happens meanwhile is not." },
	"resent":     func(n int64) string { return "Made due now: " + unit.Thousands(n) + "." },
}

// notice is what was just done, by the words done and n of a URL.
func notice(query url.Values) string {
	say := notices[query.Get("done")]
	if say == nil {
		return ""
	}
	var n int64
	if text := query.Get("n"); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil || n < 0 {
			return ""
		}
	}
	return say(n)
}
