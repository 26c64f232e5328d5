package dashboard_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/dashboard"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// A site is a dashboard on a server, and its visitor.
type site struct {
	t    testing.TB
	pool *pgxpool.Pool
	d    *dashboard.Dashboard
	url  string // with the base path
	// user sends the requests; an error is nobody.
	user    dashboard.User
	unknown error
	client  *http.Client
	header  http.Header
}

var (
	all      = dashboard.Rights{See: true, Act: true, Reveal: true}
	errWho   = errors.New("who?")
	onlySee  = dashboard.Rights{See: true}
	seeAndDo = dashboard.Rights{See: true, Act: true}
)

// open serves a dashboard under /admin/soniq, whose visitor ada has these rights.
func open(t testing.TB, rights dashboard.Rights) *site {
	t.Helper()
	s := &site{t: t, pool: testdb.New(t), user: dashboard.User{Name: "ada", Rights: rights}}
	s.serve(dashboard.Config{BasePath: "/admin/soniq", Authenticate: func(*http.Request) (dashboard.User, error) { return s.user, s.unknown }})
	return s
}

func (s *site) serve(cfg dashboard.Config) {
	s.t.Helper()
	var err error
	if s.d, err = dashboard.New(s.pool, cfg); err != nil {
		s.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(cfg.BasePath+"/", s.d.Handler())
	server := httptest.NewServer(mux)
	s.t.Cleanup(server.Close)
	s.url, s.client, s.header = server.URL+cfg.BasePath, server.Client(), http.Header{}
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// An answer is what the server sent.
type answer struct {
	*http.Response
	text string
}

func (s *site) send(r *http.Request) answer {
	s.t.Helper()
	for name, values := range s.header {
		r.Header[name] = values
	}
	if host := s.header.Get("Host"); host != "" {
		r.Host = host
	}
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{response, string(body)}
}

func (s *site) request(method, path string, form url.Values) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return s.send(r)
}

func (s *site) get(path string) answer { s.t.Helper(); return s.request(http.MethodGet, path, nil) }

func (s *site) post(path string, form url.Values) answer {
	s.t.Helper()
	return s.request(http.MethodPost, path, form)
}

// page is the text of a page that must be there.
func (s *site) page(path string) string {
	s.t.Helper()
	a := s.get(path)
	if a.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s\n%s", path, a.Status, a.text)
	}
	return a.text
}

// wantStatus fails the test where an answer has another status.
func (a answer) wantStatus(t testing.TB, what string, status int) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: %d, want %d\n%s", what, a.StatusCode, status, a.text)
	}
}

// wantIn fails the test where one of parts is missing.
func wantIn(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s has no %q:\n%s", what, part, text)
		}
	}
}

// wantNotIn fails the test where one of parts is there.
func wantNotIn(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(text, part) {
			t.Errorf("%s has %q:\n%s", what, part, text)
		}
	}
}
