package dashboard_test

import (
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/cli/clitest"
	"soniq/internal/pg"
	"soniq/internal/rollup"
	"soniq/internal/testkit"
)

func TestOverview_showsThePast_andWhoWorks(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	wantIn(t, "nothing", s.page("/overview"), "Nothing has died in this time.", "No job has run in this time.", "No worker runs.")
	clitest.Seed(t, s.pool, clitest.Letter{Job: "mail", Error: "smtp 421"})
	testkit.Exec(t, s.pool, "update soniq_dead_letter_jobs set moved_to_dead_letter_at = now()")
	now := testkit.Value[time.Time](t, s.pool, "select now()")
	r := rollup.NewRecorder(pg.Schema{}.Pool(s.pool), slog.New(slog.DiscardHandler))
	const hostile = "<script>alert(1)</script>\u202e"
	for i, a := range []rollup.Attempt{
		{JobName: "mail", Ran: 250 * time.Millisecond, Waited: 2 * time.Second},
		{JobName: "mail", Failed: true, Ran: time.Minute},
		{JobName: hostile, Ran: time.Second, Resolved: true},
	} {
		a.Queue, a.Ended = []string{"q", "q", hostile}[i], now
		r.Add(a)
	}
	r.Flush(t.Context())
	worker := uuid.New()
	testkit.Exec(t, s.pool, `insert into soniq_workers (id, hostname, pid, queues, version) values ($1, 'box-7', 12, '{q}', 'go/1')`, worker)
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, status, worker_id) values (gen_random_uuid(), 'busy', '{}', 'processing', $1), (gen_random_uuid(), 'lost', '{}', 'processing', gen_random_uuid())`, worker)
	for _, span := range []string{"", "?span=1h", "?span=24h", "?span=7d", "?span=30d"} {
		text := s.page("/overview" + span)
		wantIn(t, "the overview "+span, text, "Deaths by reason", "1 job died.", "<strong>2</strong><span>completed", "<svg ", "box-7", "busy ×1", "1 job runs on no worker", ">mail</a>")
		wantNotIn(t, "the overview "+span, text, "<script>alert", "style=", "\u202e")
		for _, part := range strings.Split(text, "<svg ")[1:] {
			svg, _, _ := strings.Cut(part, "</svg>")
			decoder := xml.NewDecoder(strings.NewReader("<svg " + svg + "</svg>"))
			for {
				if _, err := decoder.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", span, err)
				}
			}
		}
	}
	picked := s.page("/overview?span=1h&queue=q&job=mail")
	wantIn(t, "one job", picked, "<strong>1</strong><span>completed", "1 attempt completed, and 1 failed.", "Show all jobs")
	s.get("/overview?span=1y").wantStatus(t, "a span that is none", http.StatusBadRequest)
}
