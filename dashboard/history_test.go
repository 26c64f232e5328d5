package dashboard_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/clitest"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

func TestHistory_hasWhoDidWhat(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	wantIn(t, "nothing", s.page("/history"), "Nobody has done anything yet")
	one := clitest.Seed(t, s.pool, clitest.Letter{Job: "one"})
	for range 3 {
		clitest.Seed(t, s.pool, clitest.Letter{Job: "many"})
	}
	ada, bob := testclient.Queue(t, s.pool).As("ada", "ticket 7 password="+secret), testclient.Queue(t, s.pool).As("bob", "")
	if err := ada.Tag(t.Context(), one, map[string]string{"team": "core"}); err != nil {
		t.Fatal(err)
	}
	replayed, err := bob.Replay(t.Context(), one, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.DeleteAll(t.Context(), deadletter.Filter{JobNames: []string{"many"}}); err != nil {
		t.Fatal(err)
	}
	operation := testkit.Value[uuid.UUID](t, s.pool, `select id from soniq_dead_letter_operations`)
	text := s.page("/history")
	wantIn(t, "the history", text, "ticket 7", "team=core", ">replay", ">delete", "3 of 3 dead letters", "many",
		"/dead-letters/"+one.String(), "/jobs/"+fmt.Sprint(replayed), "/operations/"+operation.String())
	wantNotIn(t, "the history", text, secret)
	wantIn(t, "one person", s.page("/history?actor=ada"), "team=core")
	wantNotIn(t, "one person", s.page("/history?actor=ada"), "3 of 3", ">replay")
	wantIn(t, "lately", s.page("/history?since=1h"), "team=core")
	wantIn(t, "long ago", s.page("/history?until=1h"), "Nothing matches", "Remove the filter")
	s.page("/operations/" + operation.String())
	for query, want := range map[string]string{"since=yesterday": "since", "until=x": "until", "before=x": "before", "since=1h&until=2h": ""} {
		if a := s.get("/history?" + query); want != "" {
			a.wantStatus(t, query, http.StatusBadRequest)
			wantIn(t, query, a.text, want)
		}
	}
}

// Each entry is on one page, those of the same moment together.
func TestHistory_pages_haveEachEntryOnce(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	at := time.Now().UTC().Truncate(time.Microsecond)
	for i, n := range []int{60, 80, 1, 90, 30} { // the second and the fourth are cut at a hundred
		testkit.Exec(t, s.pool, `
			insert into soniq_dead_letter_audit (dead_letter_id, action, actor, at)
			select gen_random_uuid(), 'tag', 'ada', $2::timestamptz from generate_series(1, $1)`, n, at.Add(-time.Duration(i)*time.Microsecond))
	}
	seen, path := map[string]int{}, "/history?actor=ada"
	for pages := 0; path != "" && pages < 10; pages++ {
		text := s.page(path)
		for part := range strings.SplitSeq(text, `data-open href="/admin/soniq/dead-letters/`) {
			if id, _, _ := strings.Cut(part, `"`); len(id) == 36 {
				seen[id]++
			}
		}
		path = ""
		if _, rest, ok := strings.Cut(text, `rel="next" href="`); ok {
			link, _, _ := strings.Cut(rest, `"`)
			path = strings.TrimPrefix(html.UnescapeString(link), "/admin/soniq")
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is on %d pages", id, n)
		}
	}
	if len(seen) != 261 {
		t.Errorf("%d entries, want 261", len(seen))
	}
	wantIn(t, "after the last", s.page("/history?before="+url.QueryEscape(at.Add(-time.Hour).Format(time.RFC3339Nano))), "There are no older ones", "Newest")
}
