package dashboard_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/clitest"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

// listed are the jobs of a page, in their order.
func listed(page string) (ids []uuid.UUID) {
	for part := range strings.SplitSeq(page, `<a data-open href="/admin/soniq/jobs/`) {
		if id, _, _ := strings.Cut(part, `"`); len(id) == 36 {
			ids = append(ids, uuid.MustParse(id))
		}
	}
	return ids
}

// The page lists what 'soniq job list' lists, whether it reads a small table or looks into a large one.
func TestJobs_areThoseOfTheClient(t *testing.T) {
	t.Parallel()
	s := open(t, onlySee)
	wantIn(t, "no jobs", s.page("/jobs"), "No job is queued", "soniq enqueue NAME")
	for i, status := range []engine.JobStatus{engine.StatusQueued, engine.StatusProcessing, engine.StatusDone, engine.StatusCancelled} {
		for j, queue := range []string{"emails", "slow"} {
			addJobs(t, s, i+2*j+1, []string{"mail", "report"}[(i+j)%2], queue, string(status))
		}
	}
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args, queue, priority, created_at) values (gen_random_uuid(), 'bare', '{}', null, null, null)`)
	client := testclient.New(t, s.pool)
	for _, large := range []bool{false, true} {
		if large {
			s.d.SetSmallTable(0)
		}
		for _, status := range []engine.JobStatus{"", engine.StatusQueued, engine.StatusProcessing, engine.StatusDone, engine.StatusCancelled} {
			for _, queue := range []string{"", "emails", "slow", "default", "nowhere"} {
				for _, job := range []string{"", "mail", "bare"} {
					f := engine.JobFilter{}
					if status != "" {
						f.Statuses = []engine.JobStatus{status}
					}
					if queue != "" {
						f.Queues = []string{queue}
					}
					if job != "" {
						f.Names = []string{job}
					}
					jobs, err := client.ListJobs(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					var want []uuid.UUID
					for _, j := range jobs {
						want = append(want, j.ID)
					}
					query := url.Values{"status": {string(status)}, "queue": {queue}, "job": {job}}.Encode()
					text := s.page("/jobs?" + query)
					if got := listed(text); !slices.Equal(got, want) {
						t.Errorf("large %v, %s: %d jobs, want %d", large, query, len(got), len(want))
					}
					if strings.Contains(text, "The table of jobs is large") != large {
						t.Errorf("large %v, %s: the page doesn't say so", large, query)
					}
				}
			}
		}
	}
	wantNotIn(t, "a look at all", s.page("/jobs?all=1"), "The table of jobs is large")
	wantIn(t, "nothing", s.page("/jobs?job=nobody"), "No job matches", "Remove the filter")
	for query, want := range map[string]string{"status=gone": "must be queued, processing, done or cancelled", "queue=%00": "queue", "job=%ff": "job"} {
		a := s.get("/jobs?" + query)
		a.wantStatus(t, query, http.StatusBadRequest)
		wantIn(t, query, a.text, want)
	}
	addJobs(t, s, 120, "many", "emails", "queued")
	if n := len(listed(s.page("/jobs?job=many"))); n != 100 {
		t.Errorf("%d jobs on a page", n)
	}
}

func TestJob_isCancelledAndQueuedAgain_once(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	client := testclient.New(t, s.pool)
	id := testclient.Enqueue(t, client, "mail", map[string]any{"password": secret, "sku": "X-77"}, engine.After(time.Hour))
	at := "/jobs/" + id.String()
	text := s.page(at)
	wantIn(t, "a scheduled job", text, ">queued<", "X-77", "Run it now", ">Cancel<")
	wantNotIn(t, "a scheduled job", text, secret, "data-poll")
	wantIn(t, "its first digits", s.page("/jobs/"+id.String()[:13]), id.String())
	form := url.Values{"token": {field(t, text, "token")}}
	to := s.follow(t, at+"/cancel", form)
	text = s.page(to)
	wantIn(t, "cancelled", text, "Cancelled. The row is kept", ">cancelled<", "Queue it again")
	again := url.Values{"token": {field(t, text, "token")}}
	wantIn(t, "queued again", s.page(s.follow(t, at+"/retry", again)), "Queued to run now.", ">queued<", "data-poll")
	// Both forms once more, as a browser that goes back sends them.
	for path, form := range map[string]url.Values{"/cancel": form, "/retry": again} {
		s.follow(t, at+path, form)
		if j := testclient.Job(t, client, id); j.Status != engine.StatusQueued {
			t.Errorf("%s once more: the job is %s", path, j.Status)
		}
	}
	testkit.Exec(t, s.pool, `update soniq_jobs set status = 'processing', attempts = 1, last_error = 'smtp 421', errors = '[{"attempt": 1, "message": "smtp 421 password=`+secret+`"}]' where id = $1`, id)
	text = s.page(at)
	wantIn(t, "a running job", text, ">processing<", "Ask its worker to stop it", "data-poll", "smtp 421")
	wantNotIn(t, "a running job", text, secret)
	wantIn(t, "asked to stop", s.page(s.follow(t, at+"/cancel", url.Values{"token": {field(t, text, "token")}})), "Its worker was asked", "asked to stop")
	a := s.post(at+"/retry", url.Values{"token": {uuid.NewString()}})
	a.wantStatus(t, "retry a running job", http.StatusBadRequest)
	wantIn(t, "retry a running job", a.text, "only a queued or a cancelled job")
	testkit.Exec(t, s.pool, `update soniq_jobs set status = 'done', result = '{"answer": 42}' where id = $1`, id)
	text = s.page(at)
	wantIn(t, "a done job", text, ">done<", "answer")
	wantNotIn(t, "a done job", text, "data-poll", "/cancel", "/retry")
	file := s.get(at + "/job.json")
	if j := testkit.Decode[engine.Job](t, file.text); j.ID != id || j.Name != "mail" || strings.Contains(file.text, secret) {
		t.Errorf("the download: %s", file.text)
	}
}

func TestJob_thatIsNoMore_orDied_saysSo(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	dead := clitest.Seed(t, s.pool, clitest.Letter{})
	text := s.page("/jobs/" + dead.String())
	wantIn(t, "a dead letter", text, `href="/admin/soniq/dead-letters/`+dead.String(), "dead letter")
	wantNotIn(t, "a dead letter", text, "data-poll", "/cancel", "/retry")
	for _, path := range []string{"/jobs/" + uuid.NewString(), "/jobs/x", "/jobs/12345678"} {
		s.get(path).wantStatus(t, path, http.StatusNotFound)
		s.post(path+"/cancel", url.Values{"token": {uuid.NewString()}}).wantStatus(t, path, http.StatusNotFound)
	}
	s.post("/jobs/"+dead.String()+"/cancel", url.Values{}).wantStatus(t, "without a token", http.StatusBadRequest)
	s.post("/jobs/"+dead.String()+"/cancel", url.Values{"token": {uuid.NewString()}}).wantStatus(t, "cancel a dead letter", http.StatusBadRequest)
	testkit.Exec(t, s.pool, `insert into soniq_jobs (id, job_name, args) values ('aaaaaaaa-0000-4000-8000-000000000001', 'a', '{}'), ('aaaaaaaa-0000-4000-8000-000000000002', 'b', '{}')`)
	a := s.get("/jobs/aaaaaaaa")
	a.wantStatus(t, "digits of two jobs", http.StatusBadRequest)
	wantIn(t, "digits of two jobs", a.text, "give more of it")
}
