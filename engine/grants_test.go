package engine_test

import (
	"context"
	"strings"
	"testing"

	"soniq/engine"
	"soniq/internal/testdb"
)

// Whoever starts a worker hears in one line of all rights that it lacks. It starts
// unless it could not claim a job.
func TestWorker_rightsAreMissing_isToldAtTheStart(t *testing.T) {
	t.Parallel()
	role := workerRole(t)
	database := testdb.NewURL(t)
	admin := connect(t, database)
	pool := connect(t, roleURL(t, database, role))
	started := func() (string, error) {
		t.Helper()
		var log journal
		w, err := engine.NewWorker(pool, newRegistry("a"), engine.WorkerConfig{Logger: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		waitTrue(t, "the start or its end", func() bool {
			return strings.Contains(log.String(), "worker started") || len(ended) > 0
		})
		cancel()
		return log.String(), receive(t, "the end of the worker", ended)
	}
	_, err := started()
	for _, part := range []string{
		"lacks rights that it can't work without", "grant select, update, delete on public.soniq_jobs to " + role,
		"; grant select, insert, update, delete on public.soniq_dead_letter_jobs to " + role, "; grant select on public.soniq_migrations to " + role,
	} {
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("without any right: no %q in: %v", part, err)
		}
	}
	exec(t, admin, `grant select, insert, update, delete on all tables in schema public to `+role)
	if log, err := started(); err != nil || strings.Contains(log, "lacks rights") {
		t.Errorf("with all rights: %v: %s", err, log)
	}
	exec(t, admin, `revoke insert on soniq_dead_letter_jobs from `+role+`; revoke delete on soniq_jobs from `+role)
	log, err := started()
	want := `level=ERROR msg="the worker's role lacks rights; outcomes and maintenance that need them wait until they are granted"`
	grants := `remedy="grant insert on public.soniq_dead_letter_jobs to ` + role + `; grant delete on public.soniq_jobs to ` + role + `"`
	if err != nil || strings.Count(log, want) != 1 || !strings.Contains(log, grants) {
		t.Errorf("without the rights for deaths: %v:\n%s\nwant %s", err, log, grants)
	}
}
