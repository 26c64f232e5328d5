package settle

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter/classify"
	"soniq/internal/testkit"
)

// A refusal is told at once, then at a distance that doubles up to an hour, however often
// it is met. Each line names the job, the reason and the remedy. What comes back after it
// was gone is told once it has lasted.
func TestDeferred_refusalGoesOn_isToldAtGrowingDistance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log testkit.Log
		d := NewDeferred(Writer{Logger: log.Logger(slog.LevelInfo)})
		full := &pgconn.PgError{Code: "53100", Message: "could not extend file", Severity: "ERROR"}
		w := &waiting{Outcome: Outcome{ID: uuid.New(), Name: "mail", Attempts: 2, Kind: DeadLetter, Verdict: classify.Verdict{Message: "never"}}, err: full}
		other := &waiting{Outcome: Outcome{ID: uuid.New(), Name: "other", Kind: Snooze}, err: full}
		began := time.Now()
		var told []int
		// Each is tried some times in a minute, for six hours.
		go func() {
			for range 6 * 60 * 12 {
				for _, w := range []*waiting{w, other} {
					before := strings.Count(log.String(), "level=ERROR")
					d.tell(d.faultOf(w), w)
					if w.Name == "mail" && strings.Count(log.String(), "level=ERROR") > before {
						told = append(told, int(time.Since(began).Minutes()))
					}
				}
				time.Sleep(5 * time.Second) //nolint:forbidigo // The clock is the test's.
			}
		}()
		time.Sleep(7 * time.Hour) //nolint:forbidigo // The clock is the test's.
		synctest.Wait()
		if want := []int{0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303}; !slices.Equal(told, want) {
			t.Errorf("told after %v minutes, want %v", told, want)
		}
		line, _, _ := strings.Cut(log.String(), "\n")
		for _, want := range []string{
			"level=ERROR", "the database refuses the outcome of a job", "job=" + w.ID.String(), "name=mail", "attempt=2", "outcome=dead_letter",
			"53100", "make room on the disk of the database server",
		} {
			if !strings.Contains(line, want) {
				t.Errorf("the line lacks %q: %s", want, line)
			}
		}

		// Gone, and back at once.
		lines := func() int { return strings.Count(log.String(), "name=mail") }
		d.written(w)
		before := lines()
		w.tried = true
		d.written(w)
		if !strings.Contains(log.String(), "outcomes that the database refused are written") {
			t.Error("the end is not told")
		}
		d.tell(d.faultOf(w), w)
		time.Sleep(59 * time.Second) //nolint:forbidigo // The clock is the test's.
		d.tell(d.faultOf(w), w)
		if lines() != before {
			t.Error("what comes back is told at once")
		}
		time.Sleep(time.Second) //nolint:forbidigo // The clock is the test's.
		d.tell(d.faultOf(w), w)
		if lines() != before+1 {
			t.Error("what came back and stays is not told")
		}
	})
}
