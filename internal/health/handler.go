package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
)

// The paths of probes.
const (
	LivePath  = "/livez"
	ReadyPath = "/readyz"
)

// Handler answers [LivePath] and [ReadyPath] with 200 or 503. With ?verbose the answer lists
// all checks; it is JSON for whoever accepts that alone.
func Handler(report func() Report) http.Handler {
	mux := http.NewServeMux()
	for path, holds := range map[string]func(Report) bool{
		LivePath:  func(r Report) bool { return r.Live },
		ReadyPath: func(r Report) bool { return r.Ready },
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, request *http.Request) {
			r := report()
			status := http.StatusOK
			if !holds(r) {
				status = http.StatusServiceUnavailable
			}
			w.Header().Set("Cache-Control", "no-store")
			if request.Header.Get("Accept") == "application/json" {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				// Who has gone away is told nothing.
				_ = json.NewEncoder(w).Encode(r)
				return
			}
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, text(r, path, holds(r), request.URL.Query().Has("verbose")))
		})
	}
	return mux
}

// text is the answer for people: one line, below those of the checks if they are asked for.
func text(r Report, path string, holds, verbose bool) string {
	var b strings.Builder
	if verbose {
		for _, c := range r.Checks {
			mark := map[Verdict]string{OK: "+", Warn: "!", Fail: "-"}[c.Verdict]
			fmt.Fprintf(&b, "[%s] %s %s", mark, c.Name, c.Verdict)
			if c.Detail != "" {
				b.WriteString(": " + c.Detail)
			}
			b.WriteByte('\n')
		}
	}
	word := map[string]string{LivePath: "live", ReadyPath: "ready"}[path]
	switch failed := r.failed(); {
	case holds:
		b.WriteString(word)
	case len(failed) == 0:
		b.WriteString("not " + word)
	default:
		b.WriteString("not " + word + ": " + strings.Join(failed, ", "))
	}
	return b.String() + "\n"
}

// Switch is a handler for a worker or dispatcher that does not exist yet: until [Switch.Set]
// it answers as one that has not started.
type Switch struct {
	// Dispatcher says that it is one.
	Dispatcher bool

	handler atomic.Pointer[http.Handler]
}

// Set makes h answer from now on.
func (s *Switch) Set(h http.Handler) { s.handler.Store(&h) }

// ServeHTTP implements [http.Handler].
func (s *Switch) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	Handler((&State{Dispatcher: s.Dispatcher}).Report).ServeHTTP(w, r)
}
