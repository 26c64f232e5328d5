package health_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"soniq/internal/health"
)

// states are a worker's life, and what probes are told.
var states = map[string]struct {
	notes       func(s *health.State, pass func(time.Duration))
	live, ready bool
	// failed and warned are checks, with what they say.
	failed, warned map[string]string
}{
	"not started": {
		notes:  func(*health.State, func(time.Duration)) {},
		live:   true,
		failed: map[string]string{"worker": "not started"},
	},
	"started": {
		notes: func(s *health.State, _ func(time.Duration)) { s.Beat(); s.Listening(true) },
		live:  true, ready: true,
	},
	"busy, between two heartbeats": {
		notes: func(s *health.State, pass func(time.Duration)) { s.Beat(); s.Listening(true); pass(14 * time.Second) },
		live:  true, ready: true,
	},
	"no heartbeat for 15 s": {
		notes:  func(s *health.State, pass func(time.Duration)) { s.Beat(); s.Listening(true); pass(15 * time.Second) },
		live:   true,
		failed: map[string]string{"database": "no heartbeat could be written for 15s"},
	},
	"the database is back": {
		notes: func(s *health.State, pass func(time.Duration)) {
			s.Beat()
			s.Listening(true)
			s.Claimed(errors.New("away"))
			pass(time.Hour)
			s.Beat()
			s.Claimed(nil)
		},
		live: true, ready: true,
	},
	"a claim failed for a moment": {
		notes: func(s *health.State, pass func(time.Duration)) {
			s.Beat()
			s.Listening(true)
			s.Claimed(errors.New("x"))
			pass(4 * time.Second)
			s.Claimed(errors.New("x"))
		},
		live: true, ready: true,
	},
	"claims fail": {
		notes: func(s *health.State, pass func(time.Duration)) {
			s.Beat()
			s.Listening(true)
			s.Claimed(errors.New("x"))
			pass(4 * time.Second)
			s.Claimed(errors.New("x"))
			pass(2 * time.Second)
		},
		live:   true,
		failed: map[string]string{"claims": "jobs can't be claimed since 6s"},
	},
	"no notifications": {
		notes: func(s *health.State, _ func(time.Duration)) { s.Beat(); s.Listening(true); s.Listening(false) },
		live:  true, ready: true,
		warned: map[string]string{"listener": "every second"},
	},
	"no tables": {
		notes: func(s *health.State, _ func(time.Duration)) {
			s.Beat()
			s.Listening(true)
			s.Missing = func() string { return "schema x lacks y" }
		},
		live:   true,
		failed: map[string]string{"schema": "schema x lacks y"},
	},
	"draining for an hour, without a database": {
		notes: func(s *health.State, pass func(time.Duration)) {
			s.Beat()
			s.Listening(true)
			s.Stopping()
			pass(time.Hour)
			s.Beat()
		},
		live:   true,
		failed: map[string]string{"draining": "told to stop"},
	},
	"ended as told": {
		notes:  func(s *health.State, _ func(time.Duration)) { s.Beat(); s.Stopping(); s.Ended(nil) },
		live:   true,
		failed: map[string]string{"worker": "it has ended"},
	},
	"ended with an error": {
		notes:  func(s *health.State, _ func(time.Duration)) { s.Ended(errors.New("lacks rights")) },
		failed: map[string]string{"worker": "ended with an error"},
	},
}

func probe(t *testing.T, h http.Handler, path, accept string) (code int, body string) {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	request.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request)
	text, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(text)
}

func code(holds bool) int {
	if holds {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func TestHandler_eachState_answersBothProbes(t *testing.T) {
	t.Parallel()
	for name, c := range states {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			s := &health.State{Schema: "0198_x"}
			s.SetClock(func() time.Time { return now })
			c.notes(s, func(d time.Duration) { now = now.Add(d) })
			h := health.Handler(s.Report)
			if got, body := probe(t, h, "/livez", ""); got != code(c.live) || !strings.Contains(body, "live") {
				t.Errorf("/livez: %d %q", got, body)
			}
			got, body := probe(t, h, "/readyz", "")
			if got != code(c.ready) || strings.Count(body, "\n") != 1 {
				t.Errorf("/readyz: %d %q", got, body)
			}
			_, verbose := probe(t, h, "/readyz?verbose", "")
			if !strings.HasSuffix(verbose, body) {
				t.Errorf("verbose ends otherwise than %q: %q", body, verbose)
			}
			_, document := probe(t, h, "/readyz", "application/json")
			var r health.Report
			if err := json.Unmarshal([]byte(document), &r); err != nil || r.Live != c.live || r.Ready != c.ready {
				t.Fatalf("JSON: %s, %v", document, err)
			}
			for _, check := range r.Checks {
				want, mark, verdict := "", "[+]", health.OK
				if text, ok := c.failed[check.Name]; ok {
					want, mark, verdict = text, "[-]", health.Fail
				} else if text, ok := c.warned[check.Name]; ok {
					want, mark, verdict = text, "[!]", health.Warn
				}
				if check.Verdict != verdict || !strings.Contains(check.Detail, want) {
					t.Errorf("%+v, want %s with %q", check, verdict, want)
				}
				if !strings.Contains(verbose, mark+" "+check.Name+" ") {
					t.Errorf("verbose lacks %s %s: %q", mark, check.Name, verbose)
				}
				if verdict == health.Fail && !strings.Contains(body, check.Name) {
					t.Errorf("the answer %q doesn't name %s", body, check.Name)
				}
			}
			names := []string{"worker", "draining", "database", "claims", "listener", "schema"}
			if !slices.EqualFunc(r.Checks, names, func(c health.Check, name string) bool { return c.Name == name }) {
				t.Errorf("checks are %+v", r.Checks)
			}
		})
	}
}

// Before there is a worker, its probes are answered.
func TestSwitch_answersBeforeTheWorker(t *testing.T) {
	t.Parallel()
	var s health.Switch
	if got, body := probe(t, &s, "/readyz", ""); got != 503 || !strings.Contains(body, "worker") {
		t.Errorf("%d %q", got, body)
	}
	if got, _ := probe(t, &s, "/livez", ""); got != 200 {
		t.Errorf("%d", got)
	}
	started := &health.State{}
	started.Beat()
	s.Set(health.Handler(started.Report))
	if got, body := probe(t, &s, "/readyz", ""); got != 200 {
		t.Errorf("%d %q", got, body)
	}
	if got, _ := probe(t, &s, "/elsewhere", ""); got != 404 {
		t.Errorf("%d", got)
	}
}

// The heart beats as long as heartbeats are tried, also while none can be written. That it
// stands still for half a minute means that the process hangs.
func TestState_beating(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &health.State{}
	s.SetClock(func() time.Time { return now })
	beating := func(want bool, when string) {
		t.Helper()
		r, err := health.Ask(health.Handler(s.Report))
		if err != nil || r.Beating != want {
			t.Errorf("%s: beating %t, %v", when, r.Beating, err)
		}
	}
	beating(false, "before the start")
	s.Tried()
	beating(false, "before the first heartbeat was written")
	s.Beat()
	beating(true, "after the start")
	for range 100 {
		now = now.Add(20 * time.Second)
		s.Tried()
		beating(true, "while the database is away")
	}
	s.Stopping()
	beating(true, "while it drains")
	now = now.Add(31 * time.Second)
	beating(false, "after half a minute without a try")
	s.Tried()
	beating(true, "when it goes on")
	s.Ended(nil)
	beating(false, "after its end")
}

// A dispatcher's probes speak of its outbox. It reads it once a minute where nothing wakes it.
func TestHandler_dispatcher_speaksOfItsOutbox(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		notes       func(s *health.State, pass func(time.Duration))
		live, ready bool
		says        string
	}{
		"not started": {func(*health.State, func(time.Duration)) {}, true, false, "[-] dispatcher failed: it has not started yet"},
		"at rest":     {func(s *health.State, pass func(time.Duration)) { s.Beat(); pass(74 * time.Second) }, true, true, "[+] database ok: the outbox was last read 1m14s ago"},
		"cut off":     {func(s *health.State, pass func(time.Duration)) { s.Beat(); pass(75 * time.Second) }, true, false, "[-] database failed: the outbox could not be read for 1m15s"},
		"refused": {func(s *health.State, pass func(time.Duration)) {
			s.Beat()
			s.Claimed(errors.New("x"))
			pass(5 * time.Second)
		}, true, false, "[-] outbox failed: the outbox can't be read since 5s"},
		"no notification": {func(s *health.State, _ func(time.Duration)) { s.Beat() }, true, true, "[!] listener warning: notifications don't arrive; the dispatcher looks at the outbox every 2 s"},
		"draining":        {func(s *health.State, _ func(time.Duration)) { s.Beat(); s.Stopping() }, true, false, "[-] draining failed: it was told to stop; what is being sent"},
		"ended":           {func(s *health.State, _ func(time.Duration)) { s.Ended(errors.New("lacks rights")) }, false, false, "[-] dispatcher failed: it has ended with an error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			s := &health.State{Dispatcher: true}
			s.SetClock(func() time.Time { return now })
			c.notes(s, func(d time.Duration) { now = now.Add(d) })
			h := health.Handler(s.Report)
			if got, body := probe(t, h, "/livez", ""); got != code(c.live) {
				t.Errorf("/livez: %d %q", got, body)
			}
			got, body := probe(t, h, "/readyz?verbose", "")
			if got != code(c.ready) || !strings.Contains(body, c.says) || strings.Contains(body, "worker") {
				t.Errorf("/readyz: %d %q", got, body)
			}
		})
	}
	if _, body := probe(t, &health.Switch{Dispatcher: true}, "/readyz", ""); !strings.Contains(body, "not ready: dispatcher") {
		t.Errorf("before it is made: %q", body)
	}
}
