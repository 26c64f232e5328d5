package pg_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pg"
)

func TestExplain_aFunctionOfOursLooksForAnOldName(t *testing.T) {
	t.Parallel()
	for where, want := range map[string]string{
		"PL/pgSQL function app2.soniq_jobs_inserted() line 3 at IF":                                        "--schema app2:",
		`PL/pgSQL function "Job's ""Data".soniq_jobs_inserted() line 3 at IF`:                              `--schema Job's "Data:`,
		"PL/pgSQL function public.soniq_dead_letter_epoch() line 6 at IF":                                  "run 'soniq setup':",
		"PL/pgSQL function soniq_dead_letter_epoch() line 6 at IF":                                         "run 'soniq setup':",
		"PL/pgSQL-Funktion größe.soniq_jobs_inserted() Zeile 3 bei IF":                                     "--schema größe:",
		"PL/pgSQL function app.mine() line 3 at SQL statement":                                             "",
		"SQL statement \"insert into soniq_jobs (id) values (1)\"\nPL/pgSQL function app.mine() line 3 at": "",
		"": "",
	} {
		err := fmt.Errorf("enqueue x: %w", &pgconn.PgError{Code: "3F000", Where: where, Message: `schema "app" does not exist`})
		why, ok := pg.Explain(err)
		again, _ := pg.Explain(fmt.Errorf("again: %w", why))
		if text := again.Error(); ok != (want != "") || !strings.Contains(text, want) || strings.Count(text, "rename") > 1 || pg.Code(why) != "3F000" {
			t.Errorf("%q: %q, %t", where, text, ok)
		}
		if remedy := pg.Remedy(err); strings.Contains(remedy, "rename") != ok {
			t.Errorf("%q: remedy %q", where, remedy)
		}
	}
	if _, ok := pg.Explain(&pgconn.PgError{Code: "23505", Where: "PL/pgSQL function app2.soniq_jobs_inserted() line 3 at IF"}); ok {
		t.Error("another error is explained")
	}
}
