package engine_test

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// chaosEvent is a row of chaos_log.
type chaosEvent struct {
	At           time.Time
	Job          uuid.UUID
	Event        string
	Worker       *uuid.UUID
	Token        *int64
	Attempts     *int
	Writer       string
	Status       string
	AttemptsLeft *int
}

func (e *chaosEvent) String() string {
	s := e.At.Format("15:04:05.000 ") + fmt.Sprintf("%s of attempt %d by %s under claim %d of worker %s", e.Event, *e.Attempts, e.Writer, *e.Token, e.Worker)
	if e.Event != "claim" {
		s += fmt.Sprintf(": %s, attempts %d", e.Status, *e.AttemptsLeft)
	}
	return s
}

type chaosClaim struct {
	job   uuid.UUID
	token int64
}

// check compares what became of each job with what was written about it, by
// the database and by the handlers.
func (c *chaos) check() {
	kinds := map[string]chaosKind{}
	for _, kind := range chaosKinds {
		kinds[kind.name] = kind
	}
	type end struct {
		ID       uuid.UUID
		Kind     string
		Status   *string
		Attempts *int
		Reason   *string
		Died     *int
		Entered  int
	}
	rows, _ := c.pool.Query(c.Context(), `
		select k.id, k.kind, j.status, j.attempts, d.dead_letter_reason, d.attempts,
		  (select count(*) from chaos_ledger l where l.job = k.id)
		from chaos_jobs k
		left join soniq_jobs j on j.id = k.id
		left join soniq_dead_letter_jobs d on d.id = k.id`)
	ends, err := pgx.CollectRows(rows, pgx.RowToStructByPos[end])
	if err != nil {
		c.Fatal(err)
	}
	rows, _ = c.pool.Query(c.Context(), `
		select at, job, event, worker, token, attempts, writer, status, attempts_left
		from chaos_log
		order by n`)
	events, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[chaosEvent])
	if err != nil {
		c.Fatal(err)
	}
	histories := map[uuid.UUID][]*chaosEvent{}
	for _, e := range events {
		histories[e.Job] = append(histories[e.Job], e)
	}
	runs, processOf := c.records()

	complained := 0
	complain := func(job uuid.UUID, format string, args ...any) {
		c.Helper()
		if complained++; complained > 20 {
			return
		}
		var story []string
		for _, e := range histories[job] {
			story = append(story, e.String())
			if r := runs[chaosClaim{job, *e.Token}]; r != nil && e.Event == "claim" {
				story = append(story, fmt.Sprintf("  run by %s: %q", r.process, r.outcome))
			}
		}
		c.Errorf("job %s: %s\n  %s", job, fmt.Sprintf(format, args...), strings.Join(story, "\n  "))
	}

	counts := map[string]int{}
	for _, e := range ends {
		kind := kinds[e.Kind]
		history := histories[e.ID]
		var last *chaosEvent
		if len(history) > 0 {
			last = history[len(history)-1]
		}
		switch {
		case last == nil:
			complain(e.ID, "a %s job that nobody claimed", e.Kind)
			continue
		case (e.Status == nil) == (e.Reason == nil):
			complain(e.ID, "a %s job that is lost, or both a job and a dead letter", e.Kind)
			continue
		case e.Status != nil && (*e.Status != "done" || kind.dead != nil || last.Status != "done" || *e.Attempts != *last.Attempts):
			complain(e.ID, "a %s job that is %s after %d attempts", e.Kind, *e.Status, *e.Attempts)
		case e.Reason != nil && (!slices.Contains(kind.dead, *e.Reason) || last.Status != "gone" || *e.Died != *last.Attempts):
			complain(e.ID, "a %s job that died as %s after %d attempts", e.Kind, *e.Reason, *e.Died)
		}
		if e.Kind == "ledger" && e.Entered != 1 {
			complain(e.ID, "it did its work %d times", e.Entered)
		}
		counts["jobs that ended"]++
		if e.Reason != nil {
			counts["dead letters"]++
		}
		for i, ev := range history {
			if want := []string{"claim", "end"}[i%2]; ev.Event != want {
				complain(e.ID, "event %d is a %s, want a %s", i+1, ev.Event, want)
				break
			}
			if ev.Event == "claim" {
				counts["claims"]++
				continue
			}
			claim := history[i-1]
			if *ev.Token != *claim.Token || *ev.Worker != *claim.Worker || *ev.Attempts != *claim.Attempts {
				complain(e.ID, "event %d ends another claim than the one before", i+1)
			}
			if i != len(history)-1 && ev.Status != "queued" {
				complain(e.ID, "event %d ended it, and it went on", i+1)
			}
			problem, what := c.judge(kind, ev, runs[chaosClaim{e.ID, *ev.Token}], processOf[*ev.Worker])
			if problem != "" {
				complain(e.ID, "event %d: %s", i+1, problem)
			}
			counts[what]++
		}
	}
	for claim, r := range runs {
		counts["runs"]++
		if !slices.ContainsFunc(histories[claim.job], func(e *chaosEvent) bool {
			return e.Event == "claim" && *e.Token == r.token && *e.Attempts == r.attempts && *e.Worker == r.worker
		}) {
			complain(claim.job, "it was run by %s without a claim, as attempt %d", r.process, r.attempts)
		}
	}
	if len(ends) != c.jobs {
		c.Errorf("%d jobs were enqueued, want %d", len(ends), c.jobs)
	}
	if complained > 20 {
		c.Errorf("and %d more", complained-20)
	}
	c.checkAnnouncements()
	c.Logf("%d worker processes, of which %d met a server that was away when they began or ended", c.started.Load(), c.failed.Load())
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		c.Logf("%6d %s", counts[what], what)
	}
}

// judge says what is wrong with the end of a claim, if anything, and what it
// was. run is nil where the handler was not called; process had the claim.
func (c *chaos) judge(kind chaosKind, end *chaosEvent, run *chaosRun, process string) (problem, what string) {
	own := end.Writer == process
	ran := ""
	if run != nil {
		ran = cmp.Or(run.outcome, "begun")
	}
	charged := *end.AttemptsLeft == *end.Attempts
	failed := ran == ranBadly || ran == ranPanicked
	switch {
	case end.Status == "done":
		// Of a handler that commits with the job, the commit is the outcome.
		if !own || ran != ranWell && !(kind.name == "ledger" && run != nil) {
			return fmt.Sprintf("made done by %s, while the handler of %s: %q", end.Writer, process, ran), "done"
		}
		return "", "done"
	case end.Status == "gone" && own:
		if !failed && ran != ranPermanent && ran != ranInvalid {
			return fmt.Sprintf("buried, while the handler: %q", ran), "buried by their workers"
		}
		return "", "buried by their workers"
	case end.Status == "gone":
		if *end.Attempts < kind.attempts {
			return fmt.Sprintf("buried by %s, with attempts left", end.Writer), "buried after a crash"
		}
		return "", "buried after a crash"
	case end.Status != "queued":
		return "it became " + end.Status, "strange"
	case !own:
		if !charged {
			return fmt.Sprintf("taken from %s by %s, and not charged", process, end.Writer), "taken from the dead"
		}
		return "", "taken from the dead"
	case charged:
		if !failed {
			return fmt.Sprintf("tried again, while the handler: %q", ran), "tried again"
		}
		return "", "tried again"
	case *end.AttemptsLeft != *end.Attempts-1:
		return fmt.Sprintf("given back with attempts %d", *end.AttemptsLeft), "strange"
	case run == nil:
		return "", "given back: the claim's answer was lost, or the worker stopped"
	case ran == ranSnoozed:
		return "", "snoozed"
	}
	c.mu.Lock()
	stopped := c.stopped[process]
	c.mu.Unlock()
	if !stopped {
		return fmt.Sprintf("given back by a worker that went on, while the handler: %q", ran), "given back at a stop"
	}
	return "", "given back at a stop"
}

// records returns the runs of all processes, and the process of each worker.
func (c *chaos) records() (runs map[chaosClaim]*chaosRun, processOf map[uuid.UUID]string) {
	paths, err := filepath.Glob(filepath.Join(c.folder, "*.records"))
	if err != nil {
		c.Fatal(err)
	}
	runs, processOf = map[chaosClaim]*chaosRun{}, map[uuid.UUID]string{}
	for _, path := range paths {
		process := strings.TrimSuffix(filepath.Base(path), ".records")
		more, workers, err := readRecords(process, path)
		if err != nil {
			c.Fatal(err)
		}
		for _, id := range workers {
			processOf[id] = process
		}
		for _, r := range more {
			claim := chaosClaim{r.job, r.token}
			if other := runs[claim]; other != nil {
				c.Errorf("job %s was run twice under one claim, by %s and %s", r.job, other.process, r.process)
			}
			runs[claim] = r
		}
	}
	return runs, processOf
}
