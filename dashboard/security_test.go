package dashboard_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/dashboard"
	"soniq/internal/testdb"
)

const theKey = "0123456789abcdef-key"

func TestNew_badConfig_namesTheField(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for name, test := range map[string]struct {
		cfg  dashboard.Config
		want string
	}{
		"nobody may see it":  {dashboard.Config{}, "one of Authenticate, Key and Open"},
		"two ways to see it": {dashboard.Config{Open: true, Key: theKey}, "exclude each other"},
		"a short key":        {dashboard.Config{Key: "secret"}, "Key: 6 bytes are too short"},
		"a path":             {dashboard.Config{Open: true, BasePath: "admin"}, "BasePath"},
		"a path with a mark": {dashboard.Config{Open: true, BasePath: "/a?b"}, "BasePath"},
		"a host with a port": {dashboard.Config{Open: true, Hosts: []string{"a:80"}}, "Hosts"},
		"a schema":           {dashboard.Config{Open: true, Schema: strings.Repeat("x", 100)}, "Schema"},
	} {
		if _, err := dashboard.New(pool, test.cfg); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// address is a path of a page, with an id in it.
func address(p dashboard.Page) string {
	path := p.Path
	for strings.Contains(path, "{") {
		from, to := strings.Index(path, "{"), strings.Index(path, "}")
		path = path[:from] + uuid.NewString() + path[to+1:]
	}
	return path
}

// A page that is added is in here by itself.
func TestPages_eachNeedsItsRight(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	for _, p := range s.d.Pages() {
		form := url.Values{}
		for _, visitor := range []struct {
			name   string
			who    error
			rights dashboard.Rights
			may    string
			status int
		}{
			{"nobody", errWho, dashboard.Rights{}, "", http.StatusUnauthorized},
			{"a stranger", nil, dashboard.Rights{Act: true, Reveal: true}, "", http.StatusForbidden},
			{"a viewer", nil, onlySee, "see", http.StatusForbidden},
			{"an operator", nil, seeAndDo, "see act", http.StatusForbidden},
			{"who may all", nil, all, "see act reveal", 0},
		} {
			s.unknown, s.user.Rights = visitor.who, visitor.rights
			a := s.request(p.Method, address(p), form)
			switch allowed := p.Needs == "" || strings.Contains(visitor.may, p.Needs); {
			case allowed && (a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden) && p.Needs != "":
				t.Errorf("%s %s: %s gets %d", p.Method, p.Path, visitor.name, a.StatusCode)
			case !allowed && a.StatusCode != visitor.status:
				t.Errorf("%s %s: %s gets %d, want %d", p.Method, p.Path, visitor.name, a.StatusCode, visitor.status)
			}
		}
	}
}

func TestHeaders_areOnEveryAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	for _, path := range []string{"/groups", "/dead-letters", "/nowhere", "/dead-letters/x", "/assets/1/soniq.css", "/assets/1/none", "/", "/groups?since=never"} {
		h := s.get(path).Header
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if !strings.HasPrefix(h.Get(name), want) {
				t.Errorf("%s: %s: %q", path, name, h.Get(name))
			}
		}
		policy := h.Get("Content-Security-Policy")
		wantIn(t, path, policy, "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'")
		wantNotIn(t, path, policy, "unsafe", "http:", "https:", "*", "data:")
	}
	// What the policy would block must not be there.
	for _, path := range []string{"/groups", "/dead-letters", "/overview", "/jobs", "/queues", "/workers", "/hooks", "/history"} {
		wantNotIn(t, path, s.page(path), " style=", " onclick=", "<style", "javascript:", "http://", "https://")
	}
}

func TestHost_others_areRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	who := func(*http.Request) (dashboard.User, error) { return dashboard.User{Rights: onlySee}, nil }
	for name, test := range map[string]struct {
		cfg       dashboard.Config
		yes, nope []string
	}{
		"open":          {dashboard.Config{Open: true}, []string{"localhost", "127.0.0.1:6161", "[::1]:6161", "10.0.0.7", "a.localhost"}, []string{"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""}},
		"with a name":   {dashboard.Config{Open: true, Hosts: []string{"ops.example"}}, []string{"ops.example", "OPS.example.:80"}, []string{"x.ops.example"}},
		"users":         {dashboard.Config{Authenticate: who}, []string{"anything.example"}, nil},
		"users, a name": {dashboard.Config{Authenticate: who, Hosts: []string{"ops.example"}}, []string{"ops.example"}, []string{"evil.example"}},
	} {
		d, err := dashboard.New(pool, test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for want, hosts := range map[int][]string{http.StatusOK: test.yes, http.StatusMisdirectedRequest: test.nope} {
			for _, host := range hosts {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/groups", nil)
				r.Host = host
				w := httptest.NewRecorder()
				d.Handler().ServeHTTP(w, r)
				if w.Code != want {
					t.Errorf("%s: host %q: %d", name, host, w.Code)
				}
			}
		}
	}
}

func TestOtherSites_changeNothing(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	for _, p := range s.d.Pages() {
		if p.Method == http.MethodGet {
			continue
		}
		for _, header := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}}, {"Origin": {"null"}}} {
			s.header = header
			s.request(p.Method, address(p), url.Values{}).wantStatus(t, p.Method+" "+p.Path, http.StatusForbidden)
		}
		s.header = http.Header{"Sec-Fetch-Site": {"same-origin"}}
		if a := s.request(p.Method, address(p), url.Values{}); a.StatusCode == http.StatusForbidden {
			t.Errorf("%s %s: a form of its own is refused", p.Method, p.Path)
		}
	}
}

func TestBasePath_linksStayWithin(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	for _, path := range []string{"/groups", "/dead-letters", "/nowhere", "/overview", "/jobs", "/queues", "/workers", "/hooks", "/history"} {
		text := s.get(path).text
		for part := range strings.SplitSeq(text, ` href="`) {
			link, _, _ := strings.Cut(part, `"`)
			if strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "/admin/soniq/") {
				t.Errorf("%s links to %s", path, link)
			}
		}
	}
	if a := s.get(""); a.Header.Get("Location") != "/admin/soniq/" {
		t.Errorf("without a slash: %s to %q", a.Status, a.Header.Get("Location"))
	}
	// Whoever mounts it may have taken the prefix away.
	stripped := httptest.NewServer(http.StripPrefix("/admin/soniq", s.d.Handler()))
	t.Cleanup(stripped.Close)
	s.url = stripped.URL + "/admin/soniq"
	wantIn(t, "stripped", s.page("/groups"), `href="/admin/soniq/dead-letters`)
}

// keyed is a dashboard that people sign in to.
func keyed(t *testing.T, rights dashboard.Rights) *site {
	t.Helper()
	s := &site{t: t, pool: testdb.New(t)}
	s.serve(dashboard.Config{Key: theKey, KeyRights: rights})
	return s
}

func TestSignIn_theKeyAlone(t *testing.T) {
	t.Parallel()
	s := keyed(t, seeAndDo)
	a := s.get("/dead-letters?reason=timeout")
	if to := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || to != "/sign-in?next=%2Fdead-letters%3Freason%3Dtimeout" {
		t.Fatalf("not signed in: %s to %s", a.Status, to)
	}
	wantIn(t, "the form", s.page("/sign-in?next=/dead-letters"), `value="/dead-letters"`, `type="password"`)
	form := url.Values{"name": {"ada"}, "key": {"wrong"}, "next": {"/dead-letters"}}
	wrong := s.post("/sign-in", form)
	wrong.wantStatus(t, "a wrong key", http.StatusUnauthorized)
	wantNotIn(t, "the page of a wrong key", wrong.text, theKey, `value="wrong"`)
	form.Set("key", theKey)
	form.Del("name")
	s.post("/sign-in", form).wantStatus(t, "without a name", http.StatusBadRequest)
	form.Set("name", "ada")
	a = s.post("/sign-in", form)
	cookies := a.Cookies()
	if a.Header.Get("Location") != "/dead-letters" || len(cookies) != 1 {
		t.Fatalf("signed in: %s to %q, %v", a.Status, a.Header.Get("Location"), cookies)
	}
	if c := cookies[0]; !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || strings.Contains(c.Value, theKey) {
		t.Errorf("the cookie: %s", c)
	}
	s.header = http.Header{"Cookie": {cookies[0].Name + "=" + cookies[0].Value}}
	wantIn(t, "signed in", s.page("/groups"), "ada", "Sign out")
	s.d.SetClock(func() time.Time { return time.Now().Add(13 * time.Hour) })
	s.get("/groups").wantStatus(t, "half a day later", http.StatusSeeOther)
}

func TestSession_aForgedCookie_isWorthNothing(t *testing.T) {
	t.Parallel()
	s := keyed(t, seeAndDo)
	sign := func(s *site, key string) string {
		return s.post("/sign-in", url.Values{"name": {"ada"}, "key": {key}}).Cookies()[0].Value
	}
	good := sign(s, theKey)
	other := &site{t: t, pool: s.pool}
	other.serve(dashboard.Config{Key: theKey + "2"})
	head, tail, _ := strings.Cut(good, ".")
	forged := map[string]string{
		"another key":  sign(other, theKey+"2"),
		"nothing":      "",
		"no signature": head,
		"not base64":   "%%%." + tail,
		"a dot":        ".",
		"another name": base64.RawURLEncoding.EncodeToString([]byte(`{"n":"eve","e":99999999999}`)) + "." + tail,
	}
	raw := []byte(good)
	for i := range raw {
		changed := append([]byte(nil), raw...)
		if changed[i] = 'A'; raw[i] == 'A' {
			changed[i] = 'B'
		}
		// The last character of each part has bits that mean nothing.
		if i != len(head)-1 && i != len(raw)-1 {
			forged["byte "+string(rune('0'+i%10))+head[:i%5]+strings.Repeat("x", i)] = string(changed)
		}
	}
	for name, value := range forged {
		s.header = http.Header{"Cookie": {"soniq_session=" + value}}
		if a := s.get("/groups"); a.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: %s", name, a.Status)
		}
	}
	s.header = http.Header{"Cookie": {"soniq_session=" + good}}
	s.page("/groups")
}

func TestBearer_scriptsAreKnown(t *testing.T) {
	t.Parallel()
	s := keyed(t, seeAndDo)
	s.header = http.Header{"Authorization": {"Bearer " + theKey}, "Soniq-As": {"cron"}}
	wantIn(t, "a script", s.page("/groups"), "cron")
	s.header.Set("Authorization", "Bearer wrong")
	s.get("/api/v1/nothing").wantStatus(t, "a wrong key", http.StatusUnauthorized)
}

func TestAttempts_wrongKeys_areLimited(t *testing.T) {
	t.Parallel()
	s := keyed(t, seeAndDo)
	good := s.post("/sign-in", url.Values{"name": {"ada"}, "key": {theKey}}).Cookies()[0]
	now := time.Now()
	s.d.SetClock(func() time.Time { return now })
	for i := range 10 {
		s.post("/sign-in", url.Values{"name": {"eve"}, "key": {strings.Repeat("x", 16+i)}}).wantStatus(t, "a guess", http.StatusUnauthorized)
	}
	// Beyond the limit the right key is no better than a wrong one.
	s.post("/sign-in", url.Values{"name": {"eve"}, "key": {theKey}}).wantStatus(t, "after ten guesses", http.StatusTooManyRequests)
	s.header = http.Header{"Authorization": {"Bearer " + theKey}}
	if a := s.get("/groups"); a.StatusCode == http.StatusOK {
		t.Errorf("a script after ten guesses: %s", a.Status)
	}
	// Who has signed in goes on.
	s.header = http.Header{"Cookie": {good.Name + "=" + good.Value}}
	s.page("/groups")
	now = now.Add(11 * time.Second)
	s.header = http.Header{}
	s.post("/sign-in", url.Values{"name": {"ada"}, "key": {theKey}}).wantStatus(t, "a while later", http.StatusSeeOther)
}

func TestNext_staysHere(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"/dead-letters?x=1": "/dead-letters?x=1", "": "/", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "/\t/evil.example": "/", "groups": "/",
	} {
		if got := dashboard.NextPath(given); got != want {
			t.Errorf("%q leads to %q", given, got)
		}
	}
}
