package soniq_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/testdb"
)

// Whoever requests it, psql included; a request that is repeated is told
// again, since the first may have been lost.
func TestCancelTrigger_requestForARunningJob_isAnnounced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_control")
	insert := func(status string) uuid.UUID {
		return queryValue[uuid.UUID](t, pool, `
			insert into soniq_jobs (id, job_name, args, status)
			values (gen_random_uuid(), 'n', '{}', $1)
			returning id`, status)
	}
	const request = `update soniq_jobs set cancel_requested_at = clock_timestamp() where id = $1`
	running := insert("processing")
	payload := `{"v": 1, "cancel": "` + running.String() + `"}`
	for _, c := range []struct {
		name, sql string
		id        uuid.UUID
		want      []string
	}{
		{"running", request, running, []string{payload}},
		{"again", request, running, []string{payload}},
		{"another update", `update soniq_jobs set updated_at = now() where id = $1`, running, nil},
		{"success", `update soniq_jobs set status = 'done' where id = $1`, running, nil},
		{"done", request, running, nil},
		{"queued", request, insert("queued"), nil},
		{"cancelled", request, insert("cancelled"), nil},
	} {
		exec(t, pool, c.sql, c.id)
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: announced %q, want %q", c.name, got, c.want)
		}
	}
	if got := queryValue[string](t, pool, `select status from soniq_jobs where id = $1`, running); got != "done" {
		t.Errorf("the job that succeeded is %s", got)
	}
}

func TestQueueTrigger_resumed_isAnnounced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	l := listen(t, pool, "soniq_new_job")
	for _, c := range []struct {
		sql  string
		want []string
	}{
		{`insert into soniq_queues (name, paused_at) values ('a', now()), ('b', now()), ('c', null)`, nil},
		{`update soniq_queues set paused_by = 'someone'`, nil},
		{`update soniq_queues set paused_at = null where name in ('a', 'c')`, []string{"a"}},
		{`update soniq_queues set paused_at = now() where name = 'a'`, nil},
		{`update soniq_queues set name = 'd' where name = 'a'`, []string{"a"}},
		{`delete from soniq_queues`, []string{"b", "d"}},
		{`insert into soniq_queues (name, paused_at) values (repeat('q', 2000), now())`, nil},
		{`begin; set local soniq.notify = off; delete from soniq_queues; commit`, nil},
	} {
		exec(t, pool, c.sql)
		if got := l.heard(t, pool); !sameSet(got, c.want) {
			t.Errorf("%s: announced %q, want %q", c.sql, got, c.want)
		}
	}
}

// A producer can write an error that leaves no room for a word more. The job is
// cancelled all the same, with the beginning of it.
func TestCancelTrigger_hugeError_isCut(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := uuid.New()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, cancel_requested_at, last_error)
		values ($1, 'a', '{}', 'processing', now(), 'first ' || repeat('x', 10000000))`, id)
	exec(t, pool, `update soniq_jobs set status = 'queued' where id = $1`, id)
	var status, lastError string
	if err := pool.QueryRow(t.Context(), `select status, last_error from soniq_jobs where id = $1`, id).Scan(&status, &lastError); err != nil {
		t.Fatal(err)
	}
	if status != "cancelled" || !strings.HasPrefix(lastError, "cancelled by request; the last error was: first x") || len(lastError) > 20000 {
		t.Errorf("%s with %d bytes: %.60s", status, len(lastError), lastError)
	}
}
