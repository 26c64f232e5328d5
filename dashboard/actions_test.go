package dashboard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

// field is the value of a hidden field of a form.
func field(t *testing.T, page, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, `name="`+name+`" value="`)
	if !ok {
		t.Fatalf("no field %s:\n%s", name, page)
	}
	value, _, _ := strings.Cut(rest, `"`)
	return html.UnescapeString(value)
}

// prepared is the form that a selection leads to, as it would be sent.
func (s *site) prepared(t *testing.T, verb string, selection url.Values) (page string, form url.Values) {
	t.Helper()
	selection.Set("do", verb)
	a := s.post("/dead-letters/prepare", selection)
	a.wantStatus(t, "prepare "+verb, http.StatusOK)
	if !strings.Contains(a.text, `name="token"`) {
		return a.text, nil
	}
	return a.text, url.Values{"token": {field(t, a.text, "token")}, "selection": {field(t, a.text, "selection")}, "comment": {"ticket 7"}}
}

// follow posts a form and returns the page that it leads to.
func (s *site) follow(t *testing.T, path string, form url.Values) (to string) {
	t.Helper()
	a := s.post(path, form)
	a.wantStatus(t, path, http.StatusSeeOther)
	return strings.TrimPrefix(a.Header.Get("Location"), "/admin/soniq")
}

// ends waits until the page of some work has one of these words.
func (s *site) ends(t *testing.T, path string, words ...string) (text string) {
	t.Helper()
	eventually.True(t, "the end of "+path, func() bool {
		text = s.page(path)
		for _, word := range words {
			if !strings.Contains(text, word) {
				return false
			}
		}
		return true
	})
	return text
}

func TestReplay_selectedRows_eachOnce(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	one, two, other := clitest.Seed(t, s.pool, clitest.Letter{}), clitest.Seed(t, s.pool, clitest.Letter{}), clitest.Seed(t, s.pool, clitest.Letter{State: "replaying"})
	page, form := s.prepared(t, "replay", url.Values{"id": {one.String(), two.String(), other.String(), one.String()}})
	wantIn(t, "the preview", page, "Replay 3 dead letters")
	// Whoever sends a form twice, or at the same time, does nothing twice.
	var sending sync.WaitGroup
	paths := make([]string, 5)
	for i := range paths {
		sending.Go(func() { paths[i] = s.post("/dead-letters/replay", form).Header.Get("Location") })
	}
	sending.Wait()
	for _, path := range paths {
		if path != paths[0] || path == "" {
			t.Errorf("one form leads to %q", paths)
		}
	}
	text := s.ends(t, strings.TrimPrefix(paths[0], "/admin/soniq"), "2 of 3")
	wantIn(t, "the result", text, other.String()+": a replay is under way already")
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_jobs`); n != 2 {
		t.Errorf("%d jobs", n)
	}
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_audit where action = 'replay' and actor = 'ada' and comment = 'ticket 7'`); n != 2 {
		t.Errorf("%d records", n)
	}
}

// The number that is shown is what is done: what dies later, and what doesn't match, stays.
func TestReplay_allThatMatch_areThoseOfThePreview(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	for range 25 {
		clitest.Seed(t, s.pool, clitest.Letter{Job: "mail"})
	}
	clitest.Seed(t, s.pool, clitest.Letter{Job: "mail", State: "resolved"})
	clitest.Seed(t, s.pool, clitest.Letter{Job: "report"})
	page, form := s.prepared(t, "replay", url.Values{"all": {"1"}, "picked": {"job=mail&since=7d"}})
	wantIn(t, "the preview", page, "Replay 25 dead letters", "Left alone: 1 resolved", "The first 10 of 25")
	clitest.Seed(t, s.pool, clitest.Letter{Job: "mail", Age: -time.Millisecond})
	form.Set("breaker", "50")
	path := s.follow(t, "/dead-letters/replay", form)
	if !strings.HasPrefix(path, "/operations/") {
		t.Fatalf("leads to %s", path)
	}
	wantIn(t, "the operation", s.ends(t, path, "Done"), "25 of 25", "by ada", "ticket 7")
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_jobs where job_name = 'mail'`); n != 25 {
		t.Errorf("%d jobs", n)
	}
	if again := s.follow(t, "/dead-letters/replay", form); again != path {
		t.Errorf("the same form again leads to %s", again)
	}
	page, form = s.prepared(t, "replay", url.Values{"all": {"1"}, "picked": {"job=nobody"}})
	if form != nil {
		t.Error("nothing can be replayed")
	}
	wantIn(t, "nothing", page, "There is nothing to replay")
}

func TestReplay_canary_isStoppedAndResumed(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	for range 5 {
		clitest.Seed(t, s.pool, clitest.Letter{})
	}
	_, form := s.prepared(t, "replay", url.Values{"all": {"1"}})
	form.Set("canary", "2")
	path := s.follow(t, "/dead-letters/replay", form)
	wantIn(t, "while the canaries run", s.ends(t, path, "2 of 5"), "Running", "Stop after this batch")
	s.follow(t, path+"/stop", url.Values{})
	text := s.ends(t, path, "Stopped")
	wantIn(t, "stopped", text, "stopped on the dashboard", "Resume")
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_jobs`); n != 2 {
		t.Fatalf("%d jobs", n)
	}
	testkit.Exec(t, s.pool, `update soniq_jobs set status = 'done', result = '{}'`)
	if to := s.follow(t, path+"/resume", url.Values{"token": {field(t, text, "token")}}); to != path {
		t.Errorf("resumed: %s", to)
	}
	wantIn(t, "resumed", s.ends(t, path, "Done"), "5 of 5")
	s.post(path+"/resume", url.Values{"token": {uuid.NewString()}}).wantStatus(t, "resume what is done", http.StatusBadRequest)
	s.get("/operations/"+uuid.NewString()).wantStatus(t, "no operation", http.StatusNotFound)
}

func TestEdit_diffThenReplay_keepsSecretsAndDigits(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	id := clitest.Seed(t, s.pool, clitest.Letter{Args: `{"password": "` + secret + `", "big": 12345678901234567890.10, "email": "a@", "list": [{"token": "` + secret + `"}], "odd\u202ekey": "x\u007f\u202e"}`})
	at := "/dead-letters/" + id.String()
	form := s.page(at + "/edit")
	wantNotIn(t, "the form", form, secret)
	_, rest, _ := strings.Cut(form, "<textarea")
	_, rest, _ = strings.Cut(rest, ">")
	shown, _, _ := strings.Cut(rest, "</textarea>")
	shown = html.UnescapeString(shown)
	check := func(text string) string {
		a := s.post(at+"/edit", url.Values{"args": {strings.ReplaceAll(text, "\n", "\r\n")}})
		a.wantStatus(t, "check", http.StatusOK)
		wantNotIn(t, "the diff", a.text, secret)
		return a.text
	}
	wantIn(t, "without a change", check(shown), "Nothing: the arguments are as they were")
	diff := check(strings.Replace(shown, `"a@"`, `"ada@example.com"`, 1))
	wantIn(t, "the diff", diff, "<code>email</code>", "a@", "ada@example.com")
	wantNotIn(t, "the diff", diff, "<code>odd", "<code>big", "<code>password")
	for text, want := range map[string]string{
		"{\n\"a\": 1,\n}": "it is no JSON", "[1]": "a JSON object", "null": "a JSON object",
		strings.Replace(shown, `"list": [`, `"list": [1, `, 1): "hidden secret", strings.Replace(shown, `"email": "a@"`, `"email": "x \u0000"`, 1): "stored",
	} {
		wantIn(t, text, check(text), want)
	}
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_jobs`); n != 0 {
		t.Errorf("%d jobs before anybody said so", n)
	}
	replay := url.Values{"token": {field(t, diff, "token")}, "edits": {field(t, diff, "edits")}, "comment": {"typo"}}
	to := s.follow(t, at+"/replay", replay)
	wantIn(t, "the page after it", s.page(to), "Queued 1 dead letter again", "replaying", "ada@example.com")
	if again := s.follow(t, at+"/replay", replay); again != to {
		t.Errorf("the same form again leads to %s", again)
	}
	got := testkit.Value[json.RawMessage](t, s.pool, `select args::text from soniq_jobs`)
	testkit.SameJSON(t, got, `{"password": "`+secret+`", "big": 12345678901234567890.10, "email": "ada@example.com", "list": [{"token": "`+secret+`"}], "odd\u202ekey": "x\u007f\u202e"}`)
	if !bytes.Contains(got, []byte("12345678901234567890.10")) {
		t.Errorf("the digits: %s", got)
	}
	wantIn(t, "once more", s.post(at+"/replay", url.Values{"token": {uuid.NewString()}}).text, "a replay is under way already")
}

func TestDelete_tagAndCleanup_doWhatThePreviewSays(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	s.running(t)
	var ids []string
	for i := range 12 {
		ids = append(ids, clitest.Seed(t, s.pool, clitest.Letter{Queue: fmt.Sprintf("q%d", i%3), Age: time.Duration(i+1) * 24 * time.Hour}).String())
	}
	_, form := s.prepared(t, "tag", url.Values{"id": ids[:2]})
	form.Set("key", "team")
	form.Set("value", "core")
	s.ends(t, s.follow(t, "/dead-letters/tag", form), "2 of 2")
	wantIn(t, "tagged", s.page("/dead-letters?tag=team%3Dcore"), "<strong>2</strong> dead letters")

	page, form := s.prepared(t, "delete", url.Values{"all": {"1"}, "picked": {"queue=q1"}})
	wantIn(t, "the preview", page, "Delete 4 dead letters", "can't be undone")
	s.ends(t, s.follow(t, "/dead-letters/delete", form), "4 of 4")
	_, form = s.prepared(t, "delete", url.Values{"id": {ids[0], uuid.NewString()}})
	wantIn(t, "one of them is gone", s.ends(t, s.follow(t, "/dead-letters/delete", form), "1 of 2"), "no such dead letter")

	preview := s.page("/cleanup?older=5d&queue=q2")
	wantIn(t, "the preview of a cleanup", preview, "3 dead letters")
	form = url.Values{"token": {field(t, preview, "token")}, "older": {field(t, preview, "older")}, "picked": {field(t, preview, "picked")}}
	s.ends(t, s.follow(t, "/cleanup", form), "3 of 3")
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_jobs`); n != 12-4-1-3 {
		t.Errorf("%d are left", n)
	}
	for _, older := range []string{"0", "x", "-1d", "400000d"} {
		s.get("/cleanup?older="+older).wantStatus(t, older, http.StatusBadRequest)
	}
	for action, n := range map[string]int{"tag": 2, "delete": 1} {
		if got := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_audit where action = $1 and actor = 'ada'`, action); got != n {
			t.Errorf("%d records of %s", got, action)
		}
	}
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_operations where actor = 'ada' and (action, done) in (('delete', 4), ('cleanup', 3))`); n != 2 {
		t.Errorf("%d operations", n)
	}
}

func TestExport_isThatOfTheCommand_andRecorded(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	for range 3 {
		clitest.Seed(t, s.pool, clitest.Letter{Job: "mail", Args: `{"password": "` + secret + `"}`})
	}
	clitest.Seed(t, s.pool, clitest.Letter{Job: "other"})
	for _, format := range []string{"json", "jsonl", "csv"} {
		a := s.post("/dead-letters/export", url.Values{"format": {format}, "picked": {"job=mail"}})
		a.wantStatus(t, format, http.StatusOK)
		var want bytes.Buffer
		if _, err := testclient.Queue(t, s.pool).Export(t.Context(), &want, deadletter.Filter{JobNames: []string{"mail"}}, deadletter.Format(format)); err != nil {
			t.Fatal(err)
		}
		if a.text != want.String() || !strings.Contains(a.Header.Get("Content-Disposition"), "."+format) {
			t.Errorf("%s: %d bytes, want %d; %s", format, len(a.text), want.Len(), a.Header.Get("Content-Disposition"))
		}
	}
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_audit where action = 'reveal' and actor = 'ada'`); n != 9 {
		t.Errorf("%d records", n)
	}
	s.post("/dead-letters/export", url.Values{"format": {"xml"}}).wantStatus(t, "a format", http.StatusBadRequest)
	s.user.Rights = seeAndDo
	refused := s.post("/dead-letters/export", url.Values{"format": {"json"}})
	refused.wantStatus(t, "without the right", http.StatusForbidden)
	wantNotIn(t, "without the right", refused.text, secret)
}

func TestActions_badForms_changeNothing(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	id := clitest.Seed(t, s.pool, clitest.Letter{})
	_, form := s.prepared(t, "replay", url.Values{"id": {id.String()}})
	with := func(pairs ...string) url.Values {
		changed := url.Values{"selection": form["selection"], "token": {uuid.NewString()}}
		for i := 0; i < len(pairs); i += 2 {
			changed.Set(pairs[i], pairs[i+1])
		}
		return changed
	}
	for name, test := range map[string]struct {
		path string
		form url.Values
	}{
		"nothing selected":      {"/dead-letters/prepare", url.Values{"do": {"replay"}}},
		"an id that is none":    {"/dead-letters/prepare", url.Values{"do": {"replay"}, "id": {"x"}}},
		"another verb":          {"/dead-letters/prepare", url.Values{"do": {"burn"}, "id": {id.String()}}},
		"tag all":               {"/dead-letters/prepare", url.Values{"do": {"tag"}, "all": {"1"}}},
		"a filter that is none": {"/dead-letters/prepare", url.Values{"do": {"delete"}, "all": {"1"}, "picked": {"since=x"}}},
		// Who may not see secrets must not count what has them.
		"all with a text":       {"/dead-letters/prepare", url.Values{"do": {"delete"}, "all": {"1"}, "picked": {"text=hunter"}}},
		"no token":              {"/dead-letters/replay", with("token", "")},
		"no selection":          {"/dead-letters/replay", with("selection", "")},
		"an empty selection":    {"/dead-letters/delete", with("selection", "{}")},
		"a selection of others": {"/dead-letters/delete", with("selection", `{"all":true}`)},
		"a rate":                {"/dead-letters/replay", with("rate", "-1")},
		"a canary":              {"/dead-letters/replay", with("canary", "many")},
		"a breaker":             {"/dead-letters/replay", with("breaker", "101")},
		"a delay":               {"/dead-letters/replay", with("delay", "soon")},
		"a tag without a name":  {"/dead-letters/tag", with("key", " ")},
		"an age":                {"/cleanup", with("older", "x")},
		"edits":                 {"/dead-letters/" + id.String() + "/replay", with("edits", "{")},
	} {
		s.post(test.path, test.form).wantStatus(t, name, http.StatusBadRequest)
	}
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_jobs where state = 'dead'`) - testkit.Count(t, s.pool, `select count(*) from soniq_jobs`); n != 1 {
		t.Error("something was changed")
	}
	// A dead letter that was deleted while its page was open.
	if err := testclient.Queue(t, s.pool).Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/replay", "/edit"} {
		if a := s.post("/dead-letters/"+id.String()+path, with("args", "{}")); a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s of one that is gone: %s", path, a.Status)
		}
	}
}

func TestActions_withoutRun_sayWhy(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	clitest.Seed(t, s.pool, clitest.Letter{})
	_, form := s.prepared(t, "replay", url.Values{"all": {"1"}})
	wantIn(t, "without Run", s.post("/dead-letters/replay", form).text, "Dashboard.Run")
	// The form may be sent again.
	s.running(t)
	eventually.True(t, "the replay", func() bool { return s.post("/dead-letters/replay", form).StatusCode == http.StatusSeeOther })
}
