package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/dashboard"
	"soniq/engine"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

// addJobs inserts n jobs of a status.
func addJobs(t *testing.T, s *site, n int, job, queue, status string) {
	t.Helper()
	testkit.Exec(t, s.pool, `
		insert into soniq_jobs (id, job_name, args, queue, status, created_at, updated_at, expires_at)
		select gen_random_uuid(), $2, '{}', $3, $4, now() - i * interval '1 second', now(), case when $4 in ('done', 'cancelled') then now() + interval '1 hour' end
		from generate_series(1, $1) i`, n, job, queue, status)
}

// rowOf is the row of a table that begins with a link of this text.
func rowOf(t *testing.T, page, text string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, ">"+text+"</a>")
	if !ok {
		t.Fatalf("no row of %s:\n%s", text, page)
	}
	row, _, _ := strings.Cut(rest, "</tr>")
	return row
}

func TestQueues_areCounted_pausedAndResumed(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	wantIn(t, "no queues", s.page("/queues"), "No queue has jobs", "soniq enqueue NAME")
	addJobs(t, s, 3, "mail", "emails", "queued")
	addJobs(t, s, 2, "mail", "emails", "processing")
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, queue, scheduled_at) values (gen_random_uuid(), 'later', '{}', 'emails', now() + interval '1 day')`)
	addJobs(t, s, 1, "report", "slow", "queued")
	testkit.Exec(t, s.pool, `insert into soniq_workers (id, hostname, pid, queues, version, last_heartbeat) values ($1, 'box-7', 12, '{emails,idle}', 'go/1', now())`, uuid.New())
	text := s.page("/queues")
	wantIn(t, "emails", rowOf(t, text, "emails"), `<td class="num">3</td>`, `<td class="num">1</td>`, `<td class="num">2</td>`, ">open<", ">Pause<")
	wantIn(t, "slow", rowOf(t, text, "slow"), "no worker serves it")
	wantIn(t, "a queue without jobs that a worker serves", rowOf(t, text, "idle"), ">open<")

	pause := "/queues/pause?queue=emails"
	for range 2 { // that it is paused already is no mistake
		wantIn(t, "the page after it", s.page(s.follow(t, pause, url.Values{})), "Paused: no Go worker", ">Resume<", "by ada")
	}
	queues, err := testclient.New(t, s.pool).Queues(t.Context())
	if i := slices.IndexFunc(queues, func(q engine.QueueStatus) bool { return q.PausedAt != nil }); err != nil || i < 0 || queues[i].Queue != "emails" || queues[i].PausedBy != "ada" {
		t.Errorf("what is paused: %+v, %v", queues, err)
	}
	wantIn(t, "resumed", s.page(s.follow(t, "/queues/resume?queue=emails", url.Values{})), "Resumed:")
	if n := testkit.Count(t, s.pool, `select count(*) from soniq_queues where paused_at is not null`); n != 0 {
		t.Errorf("%d are paused", n)
	}
	for name, form := range map[string]url.Values{"no queue": {}, "a NUL": {"queue": {"a\x00"}}, "not UTF-8": {"queue": {"\xff"}}} {
		s.post("/queues/pause", form).wantStatus(t, name, http.StatusBadRequest)
	}
	s.user.Rights = onlySee
	wantNotIn(t, "who may only look", s.page("/queues"), "<form method=\"post\" action=\"/admin/soniq/queues")
}

// A large backlog is counted to a bound, and the oldest job is found in whichever priority it is.
func TestQueues_largeBacklog_isBounded(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	for i := range 100 {
		addJobs(t, s, 1, "mail", fmt.Sprintf("q%03d", i), "queued")
	}
	addJobs(t, s, 500, "mail", "q000", "queued")
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, queue, priority, scheduled_at) values (gen_random_uuid(), 'old', '{}', 'q000', 900, now() - interval '50 hours')`)
	text := s.page("/queues")
	wantIn(t, "the large one", rowOf(t, text, "q000"), `<td class="num">400+</td>`, "2.08 d")
	wantIn(t, "a small one", rowOf(t, text, "q099"), `<td class="num">1</td>`)
}

func TestWorkers_showWhatTheyRun(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	wantIn(t, "no workers", s.page("/workers"), "No worker runs.", "soniq worker")
	worker := uuid.New()
	testkit.Exec(t, s.pool, `insert into soniq_workers (id, hostname, pid, queues, version, concurrency, last_heartbeat) values ($1, 'box-7', 12, '{q}', 'go/1.2', 8, now())`, worker)
	testkit.Exec(t, s.pool, `insert into soniq_workers (id, hostname, pid, last_heartbeat) values ($1, 'old-box', 13, now() - interval '1 day')`, uuid.New())
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, status, worker_id) values (gen_random_uuid(), 'busy password=hunter2hunter2', '{}', 'processing', $1)`, worker)
	text := s.page("/workers")
	wantIn(t, "the workers", text, "box-7", "go/1.2", "1 of 8", "busy password=", "old-box", ">silent<")
	wantNotIn(t, "the workers", text, secret)
}

// What these pages read of the jobs they find by indexes, however large the table is.
func TestPages_largeTable_isNotReadWhole(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	addJobs(t, s, 3000, "mail", "emails", "queued")
	addJobs(t, s, 300, "mail", "emails", "done")
	addJobs(t, s, 20, "mail", "emails", "processing")
	testkit.Exec(t, s.pool, "analyze soniq_jobs")
	watched, plans, ok := testkit.ExplainEach(t, s.pool)
	if !ok {
		t.Skip("needs auto_explain")
	}
	s.pool = watched
	s.serve(dashboard.Config{Open: true})
	// Of a small table the list of jobs reads all: then the plans say so.
	reads := func(path string) (whole string) {
		plans.Take()
		s.page(path)
		all := plans.Take()
		if len(all) == 0 {
			t.Errorf("%s: no statement was seen", path)
		}
		for _, statement := range all {
			for node := range strings.SplitSeq(statement.Plan, `"Node Type": `) {
				if strings.HasPrefix(node, `"Seq Scan"`) && strings.Contains(node, `"Relation Name": "soniq_jobs"`) {
					whole = statement.Plan
				}
			}
		}
		return whole
	}
	if reads("/jobs") == "" {
		t.Error("the plans don't say that a small table is read as a whole")
	}
	s.d.SetSmallTable(0)
	for _, path := range []string{"/queues", "/workers", "/jobs", "/jobs?status=queued", "/jobs?status=processing", "/jobs?status=done", "/jobs?queue=emails&job=nobody"} {
		if plan := reads(path); plan != "" {
			t.Errorf("%s reads the whole table:\n%s", path, plan)
		}
	}
}
