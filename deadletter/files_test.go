package deadletter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/recordfile"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// oddTimes are times that Go or JSON has no value for, and others.
var oddTimes = []string{
	"infinity", "-infinity", "0044-03-15 12:00:00.000001+00 BC", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
	"10000-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00", "1969-12-31 23:59:59.5+00", "2026-01-02 03:04:00+00",
}

// oddDocuments are JSON that a database takes; the first ones are SQL that makes one.
var oddDocuments = []string{
	`repeat('[', 1500) || repeat(']', 1500)`, `repeat('{"a":', 10000) || '1' || repeat('}', 10000)`, `'1e131071'`, `'"' || repeat('x', 70000) || '"'`,
	`'null'`, `'{}'`, `'[1.50, 1e-16383, -0, 12345678901234567890.10]'`, `'"\u0001\u007f\u2028 <&> \" \\ \r\n"'`, `'{"": {"=1": "+2"}, "a": [null]}'`,
	`'"{\"team\": \"=a\"}"'`, `'"{not json"'`, `'"null"'`, `'[{"attempt": "one", "massage": 1}, 7]'`,
	`(select jsonb_agg(jsonb_build_object('message', repeat('m', 3000), 'n', n))::text from generate_series(1, 40) n)`,
}

var oddTexts = slices.Concat(awkward, []string{strings.Repeat("long ", 8_000), "ʼ=1", "ʼʼ", "'\tx", "\u00a0=1", "\uff1d1", "\u200b+1", "a;b\t-c", "NULL", "\\N", "nan", "t"})

// oddLetter inserts a row in which each column is something that only the database has taken.
func oddLetter(t *testing.T, pool *pgxpool.Pool, r *rand.Rand) {
	t.Helper()
	text := func() string {
		return "'" + strings.ReplaceAll(pick(r, oddTexts...), "'", "''") + "'"
	}
	name := func() string {
		// What doesn't compress isn't held by an index: workers and imports shorten it.
		return pick(r, text(), text(), "'q'", "repeat('n', 100000)", "left("+strings.ReplaceAll(randomText, "$1::int", "2600")+", 2600)")
	}
	null := func(sql string) string { return pick(r, "null", sql) }
	when := func() string { return "timestamptz '" + pick(r, oddTimes...) + "'" }
	doc := func() string { return "(" + pick(r, oddDocuments...) + ")::jsonb" }
	id := func() string { return null("gen_random_uuid()") }
	number := func() string { return pick(r, "0", "-1", "2147483647", "-2147483648") }
	values := map[string]string{
		"id": "gen_random_uuid()", "job_name": name(), "queue": name(), "dead_letter_reason": text(), "args": doc(),
		"priority": number(), "max_attempts": number(), "attempts": number(), "resurrection_count": null(number()),
		"original_created_at": when(), "moved_to_dead_letter_at": when(), "last_resurrection_at": null(when()), "scheduled_at": null(when()), "created_at": null(when()),
		"tags": null(doc()), "errors": null(doc()), "state": pick(r, "'dead'", "'resolved'"), "replay_job_id": id(), "replay_of": id(), "worker_id": id(),
		"unique_job": pick(r, "null", "true", "false"), "whole_job_name": pick(r, "null", "null", text()), "whole_queue": pick(r, "null", "null", text()),
	}
	for _, column := range []string{"last_error", "error_kind", "error_type", "error_code", "decided_by", "fingerprint", "args_hash", "dedup_key", "producer_id"} {
		values[column] = null(text())
	}
	var names, of []string
	for name, sql := range values {
		names, of = append(names, name), append(of, sql)
	}
	exec(t, pool, "insert into soniq_dead_letter_jobs ("+strings.Join(names, ", ")+") values ("+strings.Join(of, ", ")+")")
}

// differences are the rows that aren't as they were saved. Numbers of JSON must have the same digits too.
const differences = `
	select coalesce(s.id, d.id)::text || ': ' || case when d.id is null then 'lost' when s.id is null then 'new' else concat_ws(', ',
	    %s) end
	from saved s
	full join soniq_dead_letter_jobs d using (id)
	where (s.*) is distinct from (d.*)
	  or (s.args::text, s.tags::text, s.errors::text) is distinct from (d.args::text, d.tags::text, d.errors::text)`

func changes(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	var of []string
	for _, c := range tableColumns(t, pool) {
		of = append(of, fmt.Sprintf("case when s.%[1]s is distinct from d.%[1]s then '%[1]s ' || coalesce(left(s.%[1]s::text, 60), 'NULL') || ' is ' || coalesce(left(d.%[1]s::text, 60), 'NULL') end", c))
	}
	rows, err := pool.Query(t.Context(), fmt.Sprintf(differences, strings.Join(of, ", ")))
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func tableColumns(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "select attname::text from pg_attribute where attrelid = 'soniq_dead_letter_jobs'::regclass and attnum > 0 and not attisdropped order by attnum")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Whatever a row holds that the database took: what is exported and deleted is the same row again once
// it is imported, column for column, in each format, compressed or not.
func TestFiles_anyRow_comesBackAsItWas(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	r := testkit.Rand(t)
	for range 40 {
		oddLetter(t, pool, r)
	}
	awkwardLetters(t, pool, r, 10)
	// An import is no news: see docs/channel.md.
	exec(t, pool, "update soniq_dead_letter_jobs set moved_xid = null, moved_epoch = 0, closed = case state when 'resolved' then 'resolved' end")
	exec(t, pool, "create table saved as select * from soniq_dead_letter_jobs")
	for _, format := range formats {
		file, n := export(t, q, deadletter.Filter{}, format)
		if n != 50 {
			t.Fatalf("%d rows", n)
		}
		for i, in := range []string{file, zipped(t, file)} {
			exec(t, pool, "truncate soniq_dead_letter_jobs")
			result, err := q.Import(t.Context(), strings.NewReader(in), format, deadletter.ImportOptions{})
			if err != nil || result.Imported != 50 || result.IgnoredColumns != nil {
				t.Errorf("%s: %+v, %v", format, result, err)
			}
			exec(t, pool, "update soniq_dead_letter_jobs set moved_epoch = 0")
			if found := changes(t, pool); len(found) > 0 {
				t.Errorf("%s, compressed %t: %d rows, such as %s", format, i == 1, len(found), strings.Join(found[:min(5, len(found))], "\n"))
			}
		}
	}
}

// A new column of the table is in the files, or somebody has decided that it isn't.
func TestFiles_haveEachColumnOfTheTable(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	// What the others say.
	table := slices.DeleteFunc(tableColumns(t, pool), func(c string) bool { return c == "closed" })
	file := recordfile.TableColumns()
	slices.Sort(table)
	slices.Sort(file)
	if !slices.Equal(table, file) {
		t.Errorf("the table has %v, files have %v", table, file)
	}
}

// meanwhile is an archive that changes rows once it is complete.
type meanwhile struct {
	inMemory
	change func()
}

func (m *meanwhile) Commit() error {
	m.change()
	return nil
}

// What is archived and deleted is one and the same row: one that was tagged, replayed, edited or made anew
// after it was written to the archive stays, and only what is in the archive as it was is deleted.
func TestQueue_CleanupTo_changedSinceTheArchive_stays(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 8)
	all, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(all) != 8 {
		t.Fatal(err)
	}
	archive := &meanwhile{change: func() {
		if err := q.Tag(t.Context(), all[0].ID, map[string]string{"ticket": "OPS-7"}); err != nil {
			t.Error(err)
		}
		if _, err := q.Replay(t.Context(), all[1].ID, deadletter.ReplayOptions{}); err != nil {
			t.Error(err)
		}
		exec(t, pool, "update soniq_dead_letter_jobs set resurrection_count = 1 where id = $1", all[2].ID)
		// Gone and restored: it is another row with the same id.
		exec(t, pool, "create table other as select * from soniq_dead_letter_jobs where id = $1", all[3].ID)
		exec(t, pool, "delete from soniq_dead_letter_jobs where id = $1", all[3].ID)
		exec(t, pool, "insert into soniq_dead_letter_jobs select * from other")
		// A lock changes nothing, and the row is as it was.
		exec(t, pool, "select from soniq_dead_letter_jobs where id = $1 for update", all[4].ID)
		if err := q.Delete(t.Context(), all[5].ID); err != nil {
			t.Error(err)
		}
	}}
	n, err := q.CleanupTo(t.Context(), 24*time.Hour, deadletter.Filter{}, archive, deadletter.FormatJSONL)
	if err != nil || n != 3 || strings.Count(archive.String(), "\n") != 8 {
		t.Errorf("%d deleted, %v, of %d archived", n, err, strings.Count(archive.String(), "\n"))
	}
	left, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || !slices.Equal(idsOf(left), idsOf(all[:4])) {
		t.Errorf("left %v, %v; want %v", idsOf(left), err, idsOf(all[:4]))
	}
	ops, err := q.Operations(t.Context(), 1)
	if err != nil || len(ops) != 1 || ops[0].Total != 8 || ops[0].Done != 3 || ops[0].Skipped != 5 {
		t.Errorf("%+v, %v", ops, err)
	}
}

// With SkipInvalid a record that can't be taken, be it by us or by the database, is named and left out,
// and all others are imported.
func TestQueue_Import_skipInvalid_theRestGoesIn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	exec(t, pool, "alter table soniq_dead_letter_jobs add constraint no_seven check (priority <> 7)")
	line := func(n int, more string) string {
		return with(fmt.Sprintf(`"id":"00000000-0000-4000-8000-%012d"%s`, n, more))
	}
	bad := map[int]string{
		3: line(3, `,"args":"\ud800"`), 4: line(4, `,"created_at":"yesterday"`), 50: line(50, `,"priority":7`), 777: line(777, `,"priority":7`),
		900: "nonsense", 1500: line(1500, `,"fingerprint":"`+value[string](t, pool, "select "+randomText, 4000)+`"`), 1501: line(1501, `,"args":`+strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000)),
	}
	var file strings.Builder
	for n := 1; n <= 2000; n++ {
		text, is := bad[n]
		if !is {
			text = line(n, "")
		}
		file.WriteString(text + "\n")
	}
	for _, dry := range []bool{true, false} {
		var told []string
		result, err := q.Import(t.Context(), strings.NewReader(file.String()), deadletter.FormatJSONL, deadletter.ImportOptions{
			DryRun: dry, SkipInvalid: true, OnInvalid: func(e *deadletter.FileError) { told = append(told, e.Error()) },
		})
		want := len(bad)
		if dry {
			want -= 3 // which only an insert finds out
		}
		if err != nil || result.Invalid != int64(want) || result.Imported != int64(2000-want) || len(told) != want {
			t.Errorf("dry run %t: %+v, %v, %q", dry, result, err, told)
		}
		all := strings.Join(told, "\n")
		for _, text := range []string{
			"line 3, record 3, id 00000000-0000-4000-8000-000000000003: args: half of a surrogate pair",
			`line 4, record 4, id 00000000-0000-4000-8000-000000000004: created_at: "yesterday" is not a time`, "line 900, record 900: not a JSON object",
			"line 1501, record 1501, id 00000000-0000-4000-8000-000000001501: ERROR: stack depth limit exceeded",
		} {
			if !strings.Contains(all, text) {
				t.Errorf("dry run %t: %q is not in %q", dry, text, all)
			}
		}
		for _, n := range []int{50, 777, 1500} {
			if strings.Contains(all, fmt.Sprintf("line %d, record %d, id", n, n)) == dry {
				t.Errorf("dry run %t: %d", dry, n)
			}
		}
	}
	// Without it the first mistake ends the import, and is named.
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	_, err := q.Import(t.Context(), strings.NewReader(bad[50]), deadletter.FormatJSONL, deadletter.ImportOptions{})
	var where *deadletter.FileError
	if !errors.As(err, &where) || where.ID != "00000000-0000-4000-8000-000000000050" || where.Line != 1 {
		t.Errorf("%v", err)
	}
}

// What other programs make of our values is read as what it was.
func TestImport_valuesOfOtherPrograms(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const id = "00000000-0000-4000-8000-000000000001"
	for when, want := range map[string]time.Time{
		"2026-01-02 03:04:05+00": at, "2026-01-02 05:04:05+02": at, "2026-01-02 08:34:05+05:30": at, "2026-01-02 08:34:05+0530": at, // psql, DuckDB
		"2026-01-02 03:04:05": at, "2026-01-02T03:04:05": at, // sqlite3's datetime()
		"2026-01-02 03:04:05.250000+00:00": at.Add(250 * time.Millisecond), "1767323045000": at, "1767323045000000": at, "1767323045": at, // pandas
		"2026-01-02T03:04:05.123456789Z": at.Add(123456 * time.Microsecond), "2026-01-02": at.Truncate(24 * time.Hour), "2026-01-02 03:04 UTC": at.Add(-5 * time.Second),
		"1894-01-02 03:04:05-04:56:02": time.Date(1894, 1, 2, 8, 0, 7, 0, time.UTC), // psql in a zone's local mean time
	} {
		for _, separator := range []string{",", ";", "\t"} {
			for _, other := range []string{
				"3.0,100,,,t,x,{}", "3,100.0,7.0,'',True,x,{}", "3,1e2,7,,1,x,{}",
			} {
				cells := strings.Split(other, ",")
				file := "\ufeff" + strings.Join([]string{"", "attempts", "priority", "moved_xid", "scheduled_at", "unique_job", "job_name", "args", "dead_letter_reason", "id", "moved_to_dead_letter_at", "note"}, separator) + "\r\n" +
					strings.Join([]string{"0", cells[0], cells[1], cells[2], "", cells[4], cells[5], cells[6], "timeout", id, when, "mine"}, separator) + "\r\n"
				exec(t, pool, "truncate soniq_dead_letter_jobs")
				result, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatCSV, deadletter.ImportOptions{})
				if err != nil || result.Imported != 1 || !slices.Equal(result.IgnoredColumns, []string{"", "note"}) {
					t.Errorf("%q: %+v, %v", file, result, err)
					continue
				}
				if j := get(t, q, uuid.MustParse(id)); !j.MovedAt.Equal(want) || j.Attempts != 3 || j.Priority != 100 || !j.UniqueJob || j.ScheduledAt != nil {
					t.Errorf("%q: %+v", file, j)
				}
			}
		}
	}
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	restore(t, q, with(`"attempts":"3","priority":2.0,"unique_job":"t","scheduled_at":"","moved_to_dead_letter_at":1767323045000`), deadletter.FormatJSONL)
	if j := get(t, q, uuid.MustParse(id)); !j.MovedAt.Equal(at) || j.Attempts != 3 || j.Priority != 2 || !j.UniqueJob || j.ScheduledAt != nil {
		t.Errorf("%+v", j)
	}
}
