package deadletter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

var formats = []deadletter.Format{deadletter.FormatJSON, deadletter.FormatJSONL, deadletter.FormatCSV}

func restore(t testing.TB, q *deadletter.Queue, file string, format deadletter.Format) deadletter.ImportResult {
	t.Helper()
	result, err := q.Import(t.Context(), strings.NewReader(file), format, deadletter.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// awkward are texts that a format could lose something of.
var awkward = []string{
	"", "plain", "a\r\nb\nc\rd", "\r\n", "\n", " leading and trailing ", `"quoted", 'so'`, "=1+1", "'=1+1", "''=1+1", "'it's", "'",
	"+1", "-1", "@x", "\tx", "\r", "'\r\nx", `\.`, "é\u2028\u2029\ufeff<&>", "\x01\x1b[2J\x7f\u009b", "\U0001F600", `\u0000`, "a,b;c", "null",
}

// awkwardLetters fills the table with every column in every way.
func awkwardLetters(t *testing.T, pool *pgxpool.Pool, r *rand.Rand, n int) {
	t.Helper()
	reasons := deadletter.Reasons()
	failures := jsonOf(t, []deadletter.Failure{
		{Attempt: 1, FailedAt: noon, Message: "=a\r\nb", Kind: deadletter.KindPanic, Stack: "x\n\ty", WorkerID: ptr(uuid.New())},
		{Attempt: 2, StartedAt: ptr(noon), FailedAt: noon.Add(1500 * time.Millisecond), Type: "*x.E", Code: "-1", DecidedBy: "budget"},
	})
	text := func() string { return pick(r, awkward...) }
	for range n {
		at := noon.Add(time.Duration(r.IntN(1e9)) * time.Microsecond)
		name := text()
		if name == "" {
			name = "emails.send"
		}
		insertDead(t, pool, columns{
			"job_name": name, "queue": "q" + text(), "last_error": text(), "dead_letter_reason": string(pick(r, reasons...)),
			"args": pick(r, `{"user_id": 12345678901234567890.50, "s": "<&> =1"}`, `[]`, `null`, `"=x"`, `-1`, `{"é\n": [1e3, {"a": null}]}`),
			"tags": pick(r, nil, ptr(`{"team": "a"}`), ptr(`"{\"team\": \"b\"}"`), ptr(`[1]`)), "errors": pick(r, nil, ptr(failures)),
			"priority": r.IntN(300) - 100, "max_attempts": r.IntN(9), "attempts": r.IntN(9), "resurrection_count": r.IntN(3),
			"original_created_at": at.Add(-time.Hour), "moved_to_dead_letter_at": at, "last_resurrection_at": pick(r, nil, ptr(at)),
			"created_at": pick(r, nil, ptr(at)), "scheduled_at": pick(r, nil, ptr(at)), "moved_xid": nil,
			"state": pick(r, "dead", "resolved"), "replay_job_id": pick(r, nil, ptr(uuid.New())), "replay_of": pick(r, nil, ptr(uuid.New())),
			"error_kind": text(), "error_type": text(), "error_code": text(), "decided_by": text(), "fingerprint": text(),
			"args_hash": pick(r, nil, ptr(text())), "unique_job": pick(r, nil, ptr(true), ptr(false)), "dedup_key": pick(r, nil, ptr(text())),
			"producer_id": pick(r, nil, ptr(text())), "worker_id": pick(r, nil, ptr(uuid.New())),
		})
	}
}

// Export, delete, import, export: the same bytes, whatever the rows hold. CSV
// has one way to write nothing and the empty text, so of those the bytes are the
// same as well.
func TestQueue_Import_roundTrip_isTheSameFile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	awkwardLetters(t, pool, rand.New(rand.NewPCG(seed, 1)), 300)
	whole, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	files := map[deadletter.Format]string{}
	for _, format := range formats {
		files[format], _ = export(t, q, deadletter.Filter{}, format)
	}
	for _, from := range formats {
		exec(t, pool, "truncate soniq_dead_letter_jobs")
		result := restore(t, q, files[from], from)
		if result.Imported != 300 || result.Skipped != 0 || result.Settled != 0 {
			t.Errorf("%s: %+v", from, result)
		}
		if got, _ := export(t, q, deadletter.Filter{}, from); got != files[from] {
			t.Errorf("%s became another file, first at %s", from, firstDifference(files[from], got))
		}
		again, err := q.List(t.Context(), deadletter.Filter{})
		if err != nil || len(again) != len(whole) {
			t.Fatalf("%s: %d rows, %v", from, len(again), err)
		}
		for i := range whole {
			want, got := whole[i], again[i]
			if from == deadletter.FormatCSV {
				for _, text := range []**string{&want.ArgsHash, &want.DedupKey, &want.ProducerID} {
					if *text != nil && **text == "" {
						*text = nil
					}
				}
			}
			if jsonOf(t, want) != jsonOf(t, got) {
				t.Errorf("%s:\n%s became\n%s", from, jsonOf(t, want), jsonOf(t, got))
			}
		}
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %q, now %q", i+1, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d lines, now %d", len(x), len(y))
}

func zipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What was compressed is known by its content, and what an editor puts before
// the first character is passed over.
func TestQueue_Import_compressedOrMarked_isTheSame(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	fill(t, pool, 20)
	for _, format := range formats {
		file, _ := export(t, q, deadletter.Filter{}, format)
		for _, in := range []string{zipped(t, file), "\ufeff" + file, zipped(t, "\ufeff"+file), strings.ReplaceAll(file, "\n", "\r\n")} {
			exec(t, pool, "truncate soniq_dead_letter_jobs")
			if result := restore(t, q, in, format); result.Imported != 20 {
				t.Errorf("%s: %+v", format, result)
			}
		}
	}
}

func TestQueue_Import_ofNothing_isDone(t *testing.T) {
	t.Parallel()
	q := deadletter.NewQueue(testdb.New(t))
	for _, format := range formats {
		file, _ := export(t, q, deadletter.Filter{}, format)
		if result := restore(t, q, file, format); result.Imported != 0 || result.Skipped != 0 {
			t.Errorf("%s: %+v", format, result)
		}
	}
	if ops, err := q.Operations(t.Context(), 5); len(ops) != 0 || err != nil {
		t.Errorf("the history has %+v, %v", ops, err)
	}
}

// A second import adds nothing, and what changed since stays as it is. One id
// twice in a file is one dead letter, the first.
func TestQueue_Import_whatIsThere_isLeftAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	fill(t, pool, 2500)
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSONL)
	exec(t, pool, "delete from soniq_dead_letter_jobs where args ->> 'n' in ('7', '2007')")
	exec(t, pool, `update soniq_dead_letter_jobs set tags = '{"mine": "1"}'`)
	file += file[:strings.Index(file, "\n")+1]
	for _, dry := range []bool{true, false, true} {
		want := deadletter.ImportResult{Imported: 2, Skipped: 2499}
		if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs"); n == 2500 {
			want = deadletter.ImportResult{Skipped: 2501}
		}
		var told deadletter.ImportResult
		got, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL,
			deadletter.ImportOptions{DryRun: dry, Told: func(r deadletter.ImportResult) { told = r }})
		if err != nil || got.Imported != want.Imported || got.Skipped != want.Skipped || len(got.SkippedIDs) != 10 || told.Skipped != got.Skipped {
			t.Errorf("dry run %v: %+v, %v; want %+v, told %+v", dry, got, err, want, told)
		}
	}
	if n := value[int](t, pool, `select count(*) from soniq_dead_letter_jobs where tags = '{"mine": "1"}'`); n != 2498 {
		t.Errorf("%d are as they were", n)
	}
}

// They died long ago: nobody is told, who catches up does not meet them, and the
// database warns of nothing.
func TestQueue_Import_isSilent(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	for range 3 {
		insertDead(t, pool, nil)
	}
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSON)
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	exec(t, pool, `insert into soniq_hooks (name, kind, url, events) values ('all', 'webhook', 'https://example.com', '{job.dead_lettered,job.resurrected,job.resolved}')`)

	var notices []string
	config := pool.Config().Copy()
	config.MaxConns = 1
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	noisy, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(noisy.Close)
	listener, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close(context.Background()) })
	for _, channel := range []string{"soniq_dead_letter", "soniq_hook", "soniq_new_job", "after"} {
		if _, err := listener.Exec(t.Context(), "listen "+channel); err != nil {
			t.Fatal(err)
		}
	}
	if result := restore(t, deadletter.NewQueue(noisy), file, deadletter.FormatJSON); result.Imported != 3 {
		t.Fatalf("%+v", result)
	}
	// Notifications come in the order of the commits.
	exec(t, pool, "notify after")
	first, err := listener.WaitForNotification(within(t, 30*time.Second))
	if err != nil || first.Channel != "after" {
		t.Errorf("%+v, %v", first, err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_hook_deliveries"); n != 0 {
		t.Errorf("%d deliveries", n)
	}
	const caughtUp = `
		select count(*) from soniq_dead_letter_jobs
		where (moved_xid, id) > ('0'::xid8, '00000000-0000-0000-0000-000000000000')`
	if n := value[int](t, pool, caughtUp); n != 0 {
		t.Errorf("who catches up meets %d", n)
	}
	if len(notices) > 0 {
		t.Errorf("the database said %q", notices)
	}
	// The session is as it was: what dies now is told.
	insertDead(t, noisy, nil)
	if n, err := listener.WaitForNotification(within(t, 30*time.Second)); err != nil || n.Channel != "soniq_dead_letter" {
		t.Errorf("%+v, %v", n, err)
	}
}

// Of what was being replayed when it was exported, the job tells what became of
// it. Without the job it is dead.
func TestQueue_Import_whatWasReplaying_hasTheStateOfItsReplay(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	want := map[uuid.UUID]string{}
	put := func(replayOf *uuid.UUID, status, state string) {
		id, job := uuid.New(), uuid.New()
		if replayOf == nil {
			replayOf = &id
		}
		insertDead(t, pool, columns{"id": id, "state": "replaying", "replay_job_id": job, "resurrection_count": 1})
		if status != "" {
			insertJob(t, pool, columns{"id": job, "status": status, "replay_of": *replayOf})
		}
		want[id] = state
	}
	put(nil, "queued", "replaying")
	put(nil, "processing", "replaying")
	put(nil, "done", "resolved")
	put(nil, "cancelled", "dead")
	put(nil, "", "dead")
	put(ptr(uuid.New()), "queued", "dead") // a job of that id, but of something else
	insertDead(t, pool, columns{"state": "replaying"})
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatCSV)
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	for _, dry := range []bool{true, false} {
		result, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatCSV, deadletter.ImportOptions{DryRun: dry})
		if err != nil || result.Imported != 7 || result.Settled != 5 {
			t.Errorf("dry run %v: %+v, %v", dry, result, err)
		}
	}
	for id, state := range want {
		if j := get(t, q, id); j.State != state || j.ResurrectionCount != 1 || j.ReplayJobID == nil {
			t.Errorf("%+v, want %s", j, state)
		}
	}
	// The end of a replay finds what was restored.
	exec(t, pool, "update soniq_jobs set status = 'done' where status = 'processing'")
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs where state = 'resolved'"); n != 2 {
		t.Errorf("%d resolved", n)
	}
}

// A replay that ends while its dead letter is being restored is not missed.
func TestQueue_Import_replayEndsMeanwhile_isSeen(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	id := insertDead(t, pool, nil)
	job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSONL)
	exec(t, pool, "delete from soniq_dead_letter_jobs")
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "update soniq_jobs set status = 'done' where id = $1", job); err != nil {
		t.Fatal(err)
	}
	imported := make(chan error, 1)
	go func() {
		_, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL, deadletter.ImportOptions{})
		imported <- err
	}()
	eventually.True(t, "the import to wait for the replay", func() bool {
		return value[int](t, pool, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") > 0
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-imported; err != nil {
		t.Fatal(err)
	}
	if j := get(t, q, id); j.State != deadletter.StateResolved {
		t.Errorf("%+v", j)
	}
}

func TestQueue_Import_historySaysWhoAndWhy(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool).As("ann", "deleted by mistake")
	fill(t, pool, 1200)
	id := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs limit 1")
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSONL)
	exec(t, pool, "delete from soniq_dead_letter_jobs where args ->> 'n' <> '1100'")
	o := deadletter.ImportOptions{DryRun: true, Source: "dead.jsonl"}
	if _, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL, o); err != nil {
		t.Fatal(err)
	}
	o.DryRun = false
	if _, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL, o); err != nil {
		t.Fatal(err)
	}
	ops, err := q.Operations(t.Context(), 5)
	if err != nil || len(ops) != 1 {
		t.Fatalf("%+v, %v", ops, err)
	}
	op := ops[0]
	if op.Action != deadletter.ActionImport || op.State != deadletter.OperationDone || op.Actor != "ann" || op.Because != "deleted by mistake" ||
		op.Total != 1200 || op.Done != 1199 || op.Skipped != 1 || string(op.Filter) != `{"source": "dead.jsonl"}` {
		t.Errorf("%+v, %s", op, op.Filter)
	}
	records, err := q.History(t.Context(), id)
	if err != nil || len(records) != 1 || records[0].Action != deadletter.ActionImport || records[0].Actor != "ann" || *records[0].OperationID != op.ID {
		t.Errorf("%+v, %v", records, err)
	}

	// Stopped in the middle, it tells how far it came.
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	result, err := q.Import(t.Context(), strings.NewReader(file+"{}\n"), deadletter.FormatJSONL, o)
	if err == nil || result.Imported != 1000 {
		t.Errorf("%+v, %v", result, err)
	}
	if ops, err = q.Operations(t.Context(), 1); err != nil || ops[0].State != deadletter.OperationStopped || ops[0].Done != 1000 || !strings.Contains(ops[0].StoppedBy, "record 1201") {
		t.Errorf("%+v, %v", ops, err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs"); n != 1000 {
		t.Errorf("%d rows", n)
	}
}

// Files as Python Soniq's export writes them: an array over many lines, times
// with a space, fewer columns, and in CSV line ends of CR LF and no defusing.
func TestQueue_Import_filesOfPython(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	for _, name := range []string{"python_export.json", "python_export.csv"} {
		file, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, "truncate soniq_dead_letter_jobs")
		format := deadletter.Format(name[strings.LastIndex(name, ".")+1:])
		if result := restore(t, q, string(file), format); result.Imported != 2 {
			t.Errorf("%s: %+v", name, result)
		}
		j := get(t, q, uuid.MustParse("0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10"))
		if j.JobName != "emails.send" || j.LastError != "'=1\r\nTraceback: \"é\"" || string(j.Args) != `{"user_id": 42}` ||
			string(j.Tags) != `{"team": "a"}` || j.State != deadletter.StateDead || j.CreatedAt != nil || j.MovedXID != nil ||
			!j.MovedAt.Equal(time.Date(2026, 11, 23, 9, 39, 15, 766776000, time.UTC)) || j.ResurrectionCount != 1 || !j.OutcomeUnknown() {
			t.Errorf("%s: %+v", name, j)
		}
	}
}

// good is a record that lacks nothing; a test takes something away.
const good = `{"id":"00000000-0000-4000-8000-000000000001","job_name":"a","args":{},"dead_letter_reason":"timeout","moved_to_dead_letter_at":"2026-01-02T03:04:05Z"}`

// with is good with these keys too; the last one of a name counts.
func with(more string) string { return strings.TrimSuffix(good, "}") + "," + more + "}" }

// Each mistake is told in one line, with its place, and nothing gets in.
func TestQueue_Import_mistakes_areNamedAndNothingGetsIn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	const header = "id,job_name,args,dead_letter_reason,moved_to_dead_letter_at"
	const row = "00000000-0000-4000-8000-000000000001,a,{},timeout,2026-01-02T03:04:05Z"
	long := func(n int) string { return strings.Repeat("x", n) }
	deep := strings.Repeat("[", 1001) + strings.Repeat("]", 1001)
	for _, tt := range []struct {
		format deadletter.Format
		file   string
		want   string
	}{
		{"xml", "", `unknown format "xml"`},
		{"json", "", "line 1: the file is empty"},
		{"json", " \n\n", "line 3: the file is empty"},
		{"json", "null", "line 1: not a JSON array"},
		{"json", good, "line 1: not a JSON array but an object; if each line is one, the format is jsonl"},
		{"json", "[\n" + good, "line 2: the file ends before the ] of the array"},
		{"json", "[\n" + good + ",", "line 2: the file ends before the ] of the array"},
		{"json", "[\n" + good + ",]", "line 2, record 2: not a JSON object"},
		{"json", "[\n" + good + "\n" + good + "]", "line 3: no comma"},
		{"json", "[\n" + good + "\n]\n\nx", "line 5: there is something after the array"},
		{"json", "[\n" + good + ",\n7]", "line 3, record 2: not a JSON object"},
		{"json", "[\n" + good + ",\n{\"id\": [\n\n", "line 3, record 2: the file ends in the middle of it"},
		{"json", "[\n{\"a\": \"\\", "line 2, record 1: the file ends in the middle of it"},
		{"json", "[{]]", "line 1, record 1: not valid JSON"},
		{"json", "[{x}]", "line 1, record 1: not valid JSON"},
		{"jsonl", good + "\n[" + good + "]\n", "line 2, record 2: an array, not an object; if the whole file is one array, the format is json"},
		{"jsonl", good + "\n\n" + good[:20], "line 3, record 2: not valid JSON"},
		{"jsonl", good + "\n7", "line 2, record 2: not a JSON object"},
		{"jsonl", good + good, "line 1, record 1: not valid JSON"},
		{"jsonl", "{}", "line 1, record 1: id is missing"},
		{"jsonl", with(`"args":null,"job_name":null`), "job_name is missing"},
		{"jsonl", with(`"job_nmae":"x","queeu":"y"`), `unknown column "job_nmae"`},
		{"jsonl", with(`"ID":"x"`), `unknown column "ID"`},
		{"jsonl", with(`"id":"7"`), `id: "7" is not a UUID`},
		{"jsonl", with(`"id":7`), `id: 7 is not a UUID`},
		{"jsonl", with(`"job_name":7`), `job_name: 7 is not a text`},
		{"jsonl", with(`"job_name":""`), `job_name is empty`},
		{"jsonl", with("\"job_name\":\"a\xffb\""), `not valid UTF-8`},
		{"jsonl", with(`"job_name":"a\u0000b"`), `job_name: it has a NUL`},
		{"jsonl", with(`"job_name":"` + long(2001) + `"`), `job_name: 2001 bytes, more than 2000`},
		{"jsonl", with(`"dedup_key":"` + long(2001) + `"`), `dedup_key: 2001 bytes, more than 2000`},
		{"jsonl", with(`"last_error":"` + long(32769) + `"`), `last_error: 32769 bytes, more than the 32768`},
		{"jsonl", with(`"args":{"a":"\u0000"}`), `args: \u0000 can't be stored`},
		{"jsonl", with(`"args":{"a":"\ud800"}`), `args: half of a surrogate pair`},
		{"jsonl", with(`"args":` + deep), `args: it is nested deeper than 1000`},
		{"jsonl", with(`"args":[1e131072]`), `args: the number "1e131072" can't be stored`},
		{"jsonl", with(`"args":[1e-99999999999999]`), `args: the number "1e-99999999999999" can't be stored`},
		{"jsonl", with(`"tags":"{\"a\":\"\\u0000\"}"`), `tags: \u0000 can't be stored`},
		{"jsonl", with(`"dead_letter_reason":"bad_luck"`), `dead_letter_reason: unknown reason "bad_luck"`},
		{"jsonl", with(`"dead_letter_reason":"` + long(100) + `"`), `dead_letter_reason: unknown reason "` + long(60) + `"...`},
		{"jsonl", with(`"state":"zombie"`), `state: "zombie" is not dead, replaying or resolved`},
		{"jsonl", with(`"priority":1.5`), `priority: 1.5 is not a whole number`},
		{"jsonl", with(`"priority":3000000000`), `priority: 3000000000 is not a whole number of 32 bits`},
		{"jsonl", with(`"attempts":-1`), `attempts: -1 is negative`},
		{"jsonl", with(`"moved_xid":-1`), `moved_xid: -1 is not a transaction number`},
		{"jsonl", with(`"unique_job":"yes"`), `unique_job: "yes" is neither true nor false`},
		{"jsonl", with(`"created_at":"yesterday"`), `created_at: "yesterday" is not a time`},
		{"jsonl", with(`"created_at":"2026-01-02T03:04:05"`), `created_at: "2026-01-02T03:04:05" is not a time`},
		{"jsonl", with(`"created_at":"9999-12-31T23:59:59-01:00"`), `is not a time`},
		{"jsonl", with(`"errors":[{"attempt":1,"failed_at":"2026-01-02T03:04:05Z","massage":""}]`), `errors: unknown field "massage"`},
		{"jsonl", with(`"errors":{}`), `errors: a JSON object where none belongs`},
		{"jsonl", with(`"errors":[{"message":"` + long(2049) + `"}]`), `errors: entry 1: message: 2049 bytes, more than 2048`},
		{"jsonl", with(`"errors":[{"message":"\u0000"}]`), `errors: entry 1: message: it has a NUL`},
		{"jsonl", with(`"errors":[` + strings.Repeat("{},", 10) + `{}]`), `errors: 11 entries, more than the 10`},
		{"csv", "", "line 1: the file is empty"},
		{"csv", "id,nmae\n", `line 1: unknown column "nmae"`},
		{"csv", "id;job_name;args\n", `line 1: unknown column "id;job_name;args"`},
		{"csv", "id,id\n", `line 1: the column id is there twice`},
		{"csv", "id,job_name,args\n", `line 1: the column dead_letter_reason is missing`},
		{"csv", header + "\n\n" + row + ",\n", "line 3, record 1: it has 6 cells, and the header has 5"},
		{"csv", header + "\n" + row + "\n" + `"` + row, "line 3, record 2: the file ends in the middle of it"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", `,a"b,`, 1), "line 2, record 1: a quote within a cell"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", `,"a"b,`, 1), "line 2, record 1: something between the quote"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\rb,", 1), "line 2, record 1: a line end of CR alone"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\xff,", 1), "line 2, record 1: job_name: not valid UTF-8"},
		{"csv", header + "\n" + strings.Replace(row, ",a,", ",a\x00,", 1), "line 2, record 1: job_name: it has a NUL"},
		{"csv", header + "\n" + strings.Replace(row, ",{},", ",{x},", 1), `line 2, record 1: args: not valid JSON`},
		{"csv", header + "\n" + strings.Replace(row, "0000", ",", 1), "line 2, record 1: it has 6 cells"},
		{"json", "\x1f\x8bxx", "line 1: "},
		{"json", zipped(t, "[]")[:20], "unexpected EOF"},
		{"jsonl", zipped(t, good)[:len(zipped(t, good))-8] + "checksum", "gzip: invalid checksum"},
	} {
		_, checked := deadletter.CheckImport(t.Context(), strings.NewReader(tt.file), tt.format, nil)
		result, err := q.Import(t.Context(), strings.NewReader(tt.file), tt.format, deadletter.ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\r") || result.Imported != 0 {
			t.Errorf("%s %.200q: %v, want %q; %+v", tt.format, tt.file, err, tt.want, result)
		} else if checked == nil || strings.TrimPrefix(checked.Error(), "check dead letters: ") != strings.TrimPrefix(err.Error(), "import dead letters: ") {
			t.Errorf("%s %.200q: the check says %v, the import %v", tt.format, tt.file, checked, err)
		}
		var where *deadletter.FileError
		if tt.format != "xml" && !errors.As(err, &where) {
			t.Errorf("%s %.200q: %v is no FileError", tt.format, tt.file, err)
		}
	}
	if n := value[int](t, pool, "select (select count(*) from soniq_dead_letter_jobs) + (select count(*) from soniq_dead_letter_operations)"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// The limits of what is let through are within those of the database.
func TestQueue_Import_atTheLimits_isStored(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	// Texts that the server can't make shorter.
	noise := func(n int) string {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + r.IntN(75))
		}
		return strings.NewReplacer(`\`, "/", `"`, "/").Replace(string(b))
	}
	name := noise(2000)
	file := with(`"job_name":"` + name + `","queue":"` + name + `","fingerprint":"` + name + `","dedup_key":"` + name + `","last_error":"` + noise(32768) + `"`)
	deepest := strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
	for i, more := range []string{
		`"args":` + deepest + `,"tags":` + strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
		`"args":[1e131071,-1.5e131071,1e-16383,1.50E+3,0e0,` + strings.Repeat("9", 131072) + `]`,
		`"moved_to_dead_letter_at":"0001-01-01T00:00:00Z","created_at":"9999-12-31T23:59:59.999999999Z"`,
		`"priority":-2147483648,"attempts":2147483647,"moved_xid":18446744073709551615`,
		`"args":"\ud83d\ude00","errors":[null,{}],"tags":null`,
		`"errors":[{"failed_at":"0000-01-01T00:00:00+23:59","message":"\ud800"}]`,
	} {
		file += "\n" + with(fmt.Sprintf(`"id":"00000000-0000-4000-8000-0000000001%02d",`, i)+more)
	}
	if result := restore(t, q, file, deadletter.FormatJSONL); result.Imported != 7 {
		t.Errorf("%+v", result)
	}
	for _, format := range formats {
		again, n := export(t, q, deadletter.Filter{}, format)
		if n != 7 {
			t.Errorf("%d rows", n)
		}
		exec(t, pool, "truncate soniq_dead_letter_jobs")
		restore(t, q, again, format)
		if last, _ := export(t, q, deadletter.Filter{}, format); last != again {
			t.Errorf("%s: %s", format, firstDifference(again, last))
		}
	}
}

var errDisk = errors.New("disk broken")

// brokenDisk gives some bytes and then an error.
type brokenDisk struct{ in io.Reader }

func (d brokenDisk) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if errors.Is(err, io.EOF) {
		err = errDisk
	}
	return n, err
}

// Where the file can't be read it isn't the file's content that is wrong.
func TestQueue_Import_inputFails_isNoFileError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	insertDead(t, pool, nil)
	for _, format := range formats {
		whole, _ := export(t, q, deadletter.Filter{}, format)
		for _, start := range []string{"", "\x1f", whole[:len(whole)/2], strings.TrimSuffix(whole, "]\n"), zipped(t, whole)[:20]} {
			_, err := q.Import(t.Context(), brokenDisk{strings.NewReader(start)}, format, deadletter.ImportOptions{})
			var where *deadletter.FileError
			if !errors.Is(err, errDisk) || errors.As(err, &where) {
				t.Errorf("%s, after %q: %v", format, start, err)
			}
		}
	}
}

// A file of any length needs the memory of a batch.
func TestQueue_Import_needsTheSameMemoryForAnyNumberOfRows(t *testing.T) {
	// Not parallel: it looks at the heap of the process.
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	const n = 6000
	meter := &rowsMeter{n: n}
	result, err := q.Import(t.Context(), meter, deadletter.FormatJSONL, deadletter.ImportOptions{})
	if err != nil || result.Imported != n {
		t.Fatalf("%+v, %v", result, err)
	}
	if meter.read < 24_000_000 {
		t.Fatalf("read only %d bytes", meter.read)
	}
	if meter.high > meter.first+16<<20 {
		t.Errorf("the heap grew from %d to %d bytes while %d were read", meter.first, meter.high, meter.read)
	}
}

// rowsMeter is a file of n dead letters that looks at the live heap now and then.
type rowsMeter struct {
	n, row      int
	rest        []byte
	read        int
	first, high uint64
}

func (m *rowsMeter) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		if m.row == m.n {
			return 0, io.EOF
		}
		if m.row%500 == 0 {
			runtime.GC()
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			if m.row == 0 {
				m.first = s.HeapAlloc
			}
			m.high = max(m.high, s.HeapAlloc)
		}
		m.row++
		m.rest = []byte(with(fmt.Sprintf(`"id":"00000000-0000-4000-8000-%012d","last_error":"%s"`, m.row, strings.Repeat("x", 4000))) + "\n")
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	m.read += n
	return n, nil
}

// A dry run counts what the import then does, over files that overlap with the
// table and with themselves.
func TestQueue_Import_dryRun_isTheEffect(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	for range 60 {
		id, job := uuid.New(), uuid.New()
		insertDead(t, pool, columns{"id": id, "state": pick(r, someStates...), "replay_job_id": job})
		if status := pick(r, "", "queued", "done", "cancelled"); status != "" {
			insertJob(t, pool, columns{"id": job, "status": status, "replay_of": id})
		}
	}
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSONL)
	lines := strings.SplitAfter(strings.TrimSuffix(file, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	for range 20 {
		exec(t, pool, "delete from soniq_dead_letter_jobs where random() < 0.5")
		var some strings.Builder
		for range 1 + r.IntN(100) {
			some.WriteString(pick(r, lines...))
		}
		before := value[int64](t, pool, "select count(*) from soniq_dead_letter_jobs")
		preview, err := q.Import(t.Context(), strings.NewReader(some.String()), deadletter.FormatJSONL, deadletter.ImportOptions{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if n := value[int64](t, pool, "select count(*) from soniq_dead_letter_jobs"); n != before {
			t.Fatalf("the dry run made %d of %d", n, before)
		}
		result := restore(t, q, some.String(), deadletter.FormatJSONL)
		if preview.Imported != result.Imported || preview.Skipped != result.Skipped || preview.Settled != result.Settled {
			t.Errorf("previewed %+v, did %+v", preview, result)
		}
		if n := value[int64](t, pool, "select count(*) from soniq_dead_letter_jobs"); n != before+result.Imported {
			t.Errorf("%d rows, %d before, %+v", n, before, result)
		}
	}
}

// Two at once restore each dead letter once.
func TestQueue_Import_twoAtOnce_restoreEachOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := deadletter.NewQueue(pool)
	fill(t, pool, 3000)
	file, _ := export(t, q, deadletter.Filter{}, deadletter.FormatJSONL)
	exec(t, pool, "truncate soniq_dead_letter_jobs")
	results := make(chan deadletter.ImportResult, 2)
	for range 2 {
		go func() {
			r, err := q.Import(t.Context(), strings.NewReader(file), deadletter.FormatJSONL, deadletter.ImportOptions{})
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
	}
	one, two := <-results, <-results
	if one.Imported+two.Imported != 3000 || one.Skipped+two.Skipped != 3000 {
		t.Errorf("%+v, %+v", one, two)
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_audit"); n != 3000 {
		t.Errorf("%d records", n)
	}
}

// The names of the columns are the same in each place.
func TestImport_columns_areThoseOfTheExport(t *testing.T) {
	t.Parallel()
	names := regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(jsonOf(t, deadletter.Job{}), -1)
	var of []string
	for _, name := range names {
		of = append(of, name[1])
	}
	want := strings.Split(strings.TrimSuffix(exportHeader, "\n"), ",")
	if !slices.Equal(of, want) {
		t.Errorf("JSON has %v, CSV %v", of, want)
	}
}
