package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/testkit"
)

// A listener is a page that is fed.
type listener struct {
	t      *testing.T
	lines  *bufio.Scanner
	status int
	close  func()
}

// told is one message.
type told struct {
	id, event string
	New       int
	Maybe     bool
	Missed    bool
}

func (s *site) listen(t *testing.T, path, last string) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Deadline)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	closed := func() { cancel(); response.Body.Close() }
	t.Cleanup(closed)
	return &listener{t, bufio.NewScanner(response.Body), response.StatusCode, closed}
}

// next is the next message that is no heartbeat.
func (l *listener) next() (m told) {
	l.t.Helper()
	for l.lines.Scan() {
		name, value, _ := strings.Cut(l.lines.Text(), ": ")
		switch {
		case name == "id":
			m.id = value
		case name == "event":
			m.event = value
		case name == "data":
			if err := json.Unmarshal([]byte(value), &m); err != nil {
				l.t.Fatal(err)
			}
		case name == "" && m.event != "" && m.event != "beat":
			return m
		}
	}
	l.t.Fatalf("the stream has ended: %v", l.lines.Err())
	return m
}

// count adds up what is new until there are n.
func (l *listener) count(n int) (last string) {
	l.t.Helper()
	for got := 0; got < n; {
		m := l.next()
		if got += m.New; got > n || m.Missed {
			l.t.Fatalf("%d new, want %d: %+v", got, n, m)
		}
		last = m.id
	}
	return last
}

// running starts what feeds the pages.
func (s *site) running(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestLive_eachPageHearsOfEachDeath_once(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	if l := s.listen(t, "/live", ""); l.status != http.StatusNoContent {
		t.Errorf("without Run: %d", l.status)
	}
	s.running(t)
	var everything, mail, tagged *listener
	for everything == nil {
		if l := s.listen(t, "/live", ""); l.status == http.StatusOK {
			everything = l
		}
	}
	mail, tagged = s.listen(t, "/live?job=mail&reason=timeout", ""), s.listen(t, "/live?tag=a%3Db", "")
	resolved := s.listen(t, "/live?state=resolved", "")
	for _, l := range []*listener{everything, mail, tagged, resolved} {
		if m := l.next(); m.event != "hello" || m.New != 0 || m.Missed {
			t.Fatalf("first %+v", m)
		}
	}
	die := func(n int, job string) {
		for range n {
			clitest.Seed(t, s.pool, clitest.Letter{Job: job, Reason: "timeout"})
		}
	}
	die(3, "mail")
	die(2, "report")
	last := everything.count(5)
	mail.count(3)
	if m := tagged.next(); !m.Maybe {
		t.Errorf("a tag: %+v", m)
	}
	// A page that connects again hears what it has missed, and nothing twice.
	everything.close()
	die(4, "mail")
	again := s.listen(t, "/live", last)
	if m := again.next(); m.event != "hello" || m.Missed {
		t.Errorf("again: %+v", m)
	}
	again.count(4)
	die(1, "mail")
	again.count(1)
	mail.count(5)
	// One of another process is told to read its rows anew.
	for _, id := range []string{"0000-1", "x", "-5"} {
		if m := s.listen(t, "/live", id).next(); !m.Missed {
			t.Errorf("%s: %+v", id, m)
		}
	}
	if n := testkit.Count(t, s.pool, `select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'`); n != 1 {
		t.Errorf("%d connections listen", n)
	}
}

func TestLive_theEnd_endsTheStreams(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.d.Run(ctx) }()
	var l *listener
	for l == nil {
		if at := s.listen(t, "/live", ""); at.status == http.StatusOK {
			l = at
		}
	}
	l.next()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for l.lines.Scan() {
	}
	if err := l.lines.Err(); err != nil {
		t.Errorf("the stream: %v", err)
	}
}
