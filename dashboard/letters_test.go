package dashboard_test

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/clitest"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

func TestGroups_showCauses_andLeadToTheirRows(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	wantIn(t, "no dead letters", s.page("/groups"), "No dead letters")
	for i := range 3 {
		clitest.Seed(t, s.pool, clitest.Letter{Job: "mail", Error: fmt.Sprintf("smtp 421 try %d", i)})
	}
	clitest.Seed(t, s.pool, clitest.Letter{Job: "report", Error: "no such table", Reason: "permanent_failure"})
	text := s.page("/groups")
	wantIn(t, "the groups", text, "<strong>4</strong> need attention, in 2 groups", "smtp 421 try 2", "max retries exceeded", "no such table", "permanent failure")
	link, _, _ := strings.Cut(text[strings.Index(text, `data-open href="`)+len(`data-open href="`):], `"`)
	rows := s.page(strings.TrimPrefix(html.UnescapeString(link), "/admin/soniq"))
	wantIn(t, "the rows of the group", rows, "<strong>3</strong> dead letters", "smtp 421 try 0", "have the job <b>mail</b>")
	wantNotIn(t, "the rows of the group", rows, "no such table")
	wantIn(t, "a filter that nothing matches", s.page("/groups?job=nobody"), "No dead letter matches")
}

func TestLetters_pages_haveEachRowOnce(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	clitest.SeedMany(t, s.pool, 120)
	seen, path, pages := map[string]bool{}, "/dead-letters?job=emails.send", 0
	for path != "" {
		text := s.page(path)
		for part := range strings.SplitSeq(text, `data-id="`) {
			if id, _, _ := strings.Cut(part, `"`); len(id) == 36 && id[8] == '-' {
				if seen[id] {
					t.Fatalf("%s comes twice", id)
				}
				seen[id] = true
			}
		}
		path = ""
		if _, rest, ok := strings.Cut(text, `rel="next" href="`); ok {
			link, _, _ := strings.Cut(rest, `"`)
			path = "/dead-letters" + html.UnescapeString(link)
		}
		if pages++; pages == 1 {
			wantIn(t, "the first page", text, "<strong>120</strong> dead letters")
		}
	}
	if len(seen) != 120 || pages != 3 {
		t.Errorf("%d rows on %d pages", len(seen), pages)
	}
}

func TestFilter_isThatOfTheCommandLine(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	tags := `{"team": "core"}`
	clitest.Seed(t, s.pool, clitest.Letter{Job: "one.a", Queue: "q1", Reason: "timeout", Error: "Error A", Tags: &tags, Age: time.Hour})
	clitest.Seed(t, s.pool, clitest.Letter{Job: "two.b", Queue: "q2", State: "resolved", Error: "B", Args: `{"sku": "X-77"}`, Age: 48 * time.Hour})
	for query, want := range map[string]string{
		"":                        "one.a two.b",
		"filter=one":              "one.a",
		"filter=*.b":              "two.b",
		"job=two.b":               "two.b",
		"queue=q1":                "one.a",
		"reason=timeout":          "one.a",
		"state=resolved":          "two.b",
		"error=error+a":           "one.a",
		"text=x-77":               "two.b",
		"text=ERROR":              "one.a",
		"tag=team%3Dcore":         "one.a",
		"since=2h":                "one.a",
		"until=2h":                "two.b",
		"replayed=no":             "one.a two.b",
		"replayed=yes":            "",
		"job=&queue=":             "one.a two.b",
		"queue=q1&state=resolved": "",
		"job=one.a&job=two.b":     "one.a two.b",
	} {
		for _, page := range []string{"/groups", "/dead-letters"} {
			text := s.page(page + "?" + query)
			for _, name := range []string{"one.a", "two.b"} {
				_, body, _ := strings.Cut(text, `</form>`)
				if strings.Contains(body, `job">`+name) != strings.Contains(want, name) {
					t.Errorf("%s?%s: %s: want %q", page, query, name, want)
				}
			}
		}
	}
	for query, want := range map[string]string{
		"reason=nope": "reason", "state=gone": "State", "since=yesterday": "since", "until=x": "until", "tag=x": "KEY=VALUE", "replayed=maybe": "replayed",
		"since=1h&until=2h": "before", "job=%00": "NUL", "after=x": "after", "filter=%ff": "UTF-8",
	} {
		a := s.get("/dead-letters?" + query)
		a.wantStatus(t, query, http.StatusBadRequest)
		wantIn(t, query, a.text, want)
	}
}

// whole is a dead letter with all that a page can show.
func whole(t *testing.T, s *site, text string) uuid.UUID {
	t.Helper()
	args, err := json.Marshal(map[string]any{text: text, "list": []any{text, 1, nil}})
	if err != nil {
		t.Fatal(err)
	}
	failures, err := json.Marshal([]classify.Failure{{Attempt: 1, FailedAt: time.Now(), Kind: "error", Type: text, Code: text, DecidedBy: text, Message: text, Stack: text}})
	if err != nil {
		t.Fatal(err)
	}
	id := clitest.Seed(t, s.pool, clitest.Letter{Job: "j" + text, Queue: "q" + text, Reason: "r" + text, Error: text, Args: string(args)})
	testkit.Exec(t, s.pool, `update soniq_dead_letter_jobs set errors = $2, error_type = $3, error_code = $3, decided_by = $3, dedup_key = $3, producer_id = $3, tags = $4, error_kind = $3 where id = $1`,
		id, failures, text, args)
	q := testclient.Queue(t, s.pool).As("a"+text, "c"+text)
	if err := q.Tag(t.Context(), id, map[string]string{"k": text}); err != nil {
		t.Fatal(err)
	}
	return id
}

// around is a job that has this text everywhere, in a queue that is paused, on a worker, and told of to
// a hook.
func around(t *testing.T, s *site, text string) uuid.UUID {
	t.Helper()
	id, worker := uuid.New(), uuid.New()
	doc, err := json.Marshal(map[string]any{text: []any{text, 1, nil}})
	if err != nil {
		t.Fatal(err)
	}
	failures, err := json.Marshal([]classify.Failure{{Attempt: 1, FailedAt: time.Now(), Kind: "error", Message: text, Stack: text}})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Exec(t, s.pool, `insert into soniq_workers (id, hostname, pid, queues, version, last_heartbeat) values ($1, $2, 1, array[$2], $2, now())`, worker, text)
	testkit.Exec(t, s.pool, `insert into soniq_queues (name, paused_at, paused_by) values ($1, now(), $1)`, text)
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, queue, status, worker_id, last_error, errors, result, producer_id, dedup_key) values ($1, $2, $3, $2, 'processing', $4, $2, $5, $3, $2, $2)`,
		id, text, doc, worker, failures)
	testkit.Exec(t, s.pool, `insert into soniq_hooks (name, kind, url, jobs, queues, enabled, disabled_reason) values ($1, 'webhook', 'https://example.com/' || $1, array[$1], array[$1], false, $1)`, text)
	testkit.Exec(t, s.pool, `
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, state, last_answer, last_error, facts, group_key)
		select id, 'job.dead_lettered', $2, 'failed', $1, $1, jsonb_build_object('job_name', $1::text), 'g' from soniq_hooks where name = $1`, text, id)
	return id
}

// What jobs write is text.
func TestPages_whatJobsWrote_isText(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	var ids, jobs []uuid.UUID
	for _, text := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `'-alert(1)-'`, "{{.}}", "abc\u202edef\u202c", "zero\u200bwidth\u2066x\u2069", "esc\x1b[31m\x07\x7f\u009b", "sep\u2028\u2029", `</textarea></pre><b>`, "javascript:alert(1)", "tag\U000e0041x",
	} {
		ids = append(ids, whole(t, s, text))
		jobs = append(jobs, around(t, s, text))
	}
	pages := []string{
		"/groups", "/dead-letters", "/dead-letters?filter=%3Cscript%3E&text=%E2%80%AE", "/overview", "/queues", "/workers", "/jobs", "/hooks", "/history",
		"/jobs?queue=%3Cscript%3E&job=%E2%80%AE", "/hooks?hook=%3Cscript%3E%E2%80%AE", "/history?actor=%3Cscript%3E%E2%80%AE",
	}
	for _, id := range jobs {
		pages = append(pages, "/jobs/"+id.String())
	}
	for _, id := range ids {
		pages = append(pages, "/dead-letters/"+id.String())
	}
	for _, page := range pages {
		text := s.page(page)
		clitest.CheckSafe(t, text)
		wantNotIn(t, page, text, "<script>", "<img", "<b>x", "</pre><b>", `href="javascript:`, "ZgotmplZ")
	}
	for _, name := range []string{"Producer", "Dedup key"} {
		wantIn(t, "what a pointer leads to", s.page(pages[len(pages)-3]), "<dt>"+name+"</dt><dd>&lt;/textarea&gt;")
	}
	wantIn(t, "an override", s.page("/dead-letters/"+ids[4].String()), `abc\u202edef`)
}

func FuzzLetter_isText(f *testing.F) {
	f.Add("<script>", []byte(`{"a": "<b>"}`))
	f.Add("\u202e\x00\xff", []byte(`{"\u202e": [1e400, 12345678901234567890, "`+"\u202e"+`"]}`))
	s := open(f, all)
	f.Fuzz(func(t *testing.T, text string, args []byte) {
		page, err := s.d.LetterHTML(deadletter.Job{
			JobName: text, Queue: text, LastError: text, Reason: classify.Reason(text), ErrorCode: text, Args: args, Tags: args,
			Errors: []classify.Failure{{Message: text, Stack: text}},
		})
		if err != nil {
			t.Fatal(err)
		}
		clitest.CheckSafe(t, page)
		empty, err := s.d.LetterHTML(deadletter.Job{})
		if err != nil {
			t.Fatal(err)
		}
		// No text makes an element of a kind that the page doesn't have, or closes one.
		for _, tag := range []string{"<script", "</script", "<img", "<iframe", "<style", "</main", "<form", "<input", "<object", "<link"} {
			if strings.Count(page, tag) != strings.Count(empty, tag) {
				t.Errorf("%q: %d of %s", text, strings.Count(page, tag), tag)
			}
		}
		if !utf8.ValidString(page) {
			t.Error("not valid UTF-8")
		}
	})
}

func TestLetter_numbers_keepTheirDigits(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	id := clitest.Seed(t, s.pool, clitest.Letter{Args: `{"big": 9007199254740993123, "huge": 1e400, "exact": 1.10}`})
	wantIn(t, "the page", s.page("/dead-letters/"+id.String()), "9007199254740993123", "1"+strings.Repeat("0", 400), "1.10")
}

func TestLetter_hugeArguments_areCut(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	many := `{"list": [` + strings.Repeat("1,", 50_000) + `1], "deep": ` + strings.Repeat(`{"a":`, 900) + "1" + strings.Repeat("}", 900) + `, "text": "` + strings.Repeat("x", 1<<20) + `"}`
	id := clitest.Seed(t, s.pool, clitest.Letter{Args: many, Error: strings.Repeat("line\n", 100_000)})
	text := s.page("/dead-letters/" + id.String())
	wantIn(t, "the page", text, "which are in the download", "args.json")
	if len(text) > 700_000 {
		t.Errorf("the page has %d bytes", len(text))
	}
	a := s.get("/dead-letters/" + id.String() + "/args.json")
	if !testkit.SameJSON(t, json.RawMessage(a.text), many) {
		t.Error("the download is not what is stored")
	}
}

const secret = "hunter2hunter2"

func TestSecrets_areShownToWhoMay_andRecorded(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	id := clitest.Seed(t, s.pool, clitest.Letter{Args: `{"password": "` + secret + `", "sku": "X-77"}`, Error: "login with password=" + secret + " failed"})
	pages := []string{"/groups", "/dead-letters", "/dead-letters/" + id.String(), "/dead-letters/" + id.String() + "/args.json"}
	for _, page := range pages {
		wantNotIn(t, page, s.page(page), secret)
	}
	s.user.Rights = seeAndDo
	reveal := "/dead-letters/" + id.String() + "/reveal"
	refused := s.post(reveal, url.Values{})
	refused.wantStatus(t, "without the right", http.StatusForbidden)
	wantNotIn(t, "without the right", refused.text, secret)
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_dead_letter_audit`); n != 0 {
		t.Errorf("%d records of nothing", n)
	}
	// A search must not find what it doesn't show.
	for _, query := range []string{"text=" + secret, "text=hunter2", "error=" + secret, "text=X-77"} {
		text := s.page("/dead-letters?" + query)
		if strings.Contains(text, id.String()) != (query == "text=X-77") {
			t.Errorf("%s: found %v", query, strings.Contains(text, id.String()))
		}
		if strings.Contains(query, "unter2") {
			wantNotIn(t, query, text, "<strong>1")
			s.get("/groups?"+query).wantStatus(t, "groups by "+query, http.StatusSeeOther)
		}
	}
	s.user.Rights = all
	shown := s.post(reveal, url.Values{"comment": {"ticket 7"}})
	shown.wantStatus(t, "with the right", http.StatusOK)
	wantIn(t, "with the right", shown.text, secret, "The history records that ada saw them")
	records, err := testclient.Queue(t, s.pool).History(t.Context(), id)
	if err != nil || len(records) != 1 || records[0].Action != deadletter.ActionReveal || records[0].Actor != "ada" || records[0].Comment != "ticket 7" {
		t.Errorf("the history: %+v, %v", records, err)
	}
}

func TestLetter_thatIsGone_saysWhoDeletedIt(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	id := clitest.Seed(t, s.pool, clitest.Letter{})
	wantIn(t, "by its first digits", s.page("/dead-letters/"+id.String()[:13]), id.String())
	if err := testclient.Queue(t, s.pool).As("bob", "").Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	wantIn(t, "deleted", s.get("/dead-letters/"+id.String()).text, "delete by bob")
	for _, text := range []string{uuid.NewString(), "x", "0123456789abcdef", strings.Repeat("9", 5000)} {
		s.get("/dead-letters/"+text).wantStatus(t, text, http.StatusNotFound)
	}
}

func TestLetter_lineageAndDeliveries_areShown(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	testkit.Exec(t, s.pool, `insert into soniq_hooks (name, kind) values ('oncall', 'log')`)
	id := clitest.Seed(t, s.pool, clitest.Letter{Age: time.Millisecond})
	job, err := testclient.Queue(t, s.pool).As("bob", "try it").Replay(t.Context(), id, deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "user_id", Value: json.RawMessage("43")}}})
	if err != nil {
		t.Fatal(err)
	}
	text := s.page("/dead-letters/" + id.String())
	wantIn(t, "the page", text, job.String()+"</code>: queued", "by bob", "try it", "<del>42</del>", "<ins>43</ins>", "oncall (log)", "pending", "replaying")
}

// Whatever a table holds, a page reads a bounded number of its rows.
func TestPages_ofManyRows_readAWindow(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	testkit.Exec(t, s.pool, `
		with quiet as (select set_config('soniq.notify', 'off', true))
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at, fingerprint)
		select gen_random_uuid(), 'bulk', '{}', 'default', 100, 3, 3, 'error', 'timeout', now(), now() - n * interval '1 second', 'f' || n % 3
		from quiet, generate_series(1, 12000) n`)
	wantIn(t, "rows", s.page("/dead-letters"), "<strong>10,000+</strong>")
	wantIn(t, "groups", s.page("/groups"), "<strong>10,000&#43;</strong> need attention", "of the latest 10,000", "Count all")
	wantIn(t, "all groups", s.page("/groups?all=1"), ">4,000<")
	none := s.page("/dead-letters?tag=a%3Db")
	wantIn(t, "none in the window", none, "No dead letter matches among those that died since", "Look further back", "Look at all")
	wantIn(t, "all looked at", s.page("/dead-letters?tag=a%3Db&all=1"), "No dead letter matches.")
}
