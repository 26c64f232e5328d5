package deadletter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
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
	reasons := classify.Reasons()
	failures := jsonOf(t, []classify.Failure{
		{Attempt: 1, FailedAt: noon, Message: "=a\r\nb", Kind: classify.KindPanic, Stack: "x\n\ty", WorkerID: ptr(uuid.New())},
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

// Export, delete, import, export: the same bytes, whatever the rows hold.
func TestQueue_Import_roundTrip_isTheSameFile(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
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
	q := newQueue(t, pool)
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
	q := newQueue(t, testdb.New(t))
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
	q := newQueue(t, pool)
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
			deadletter.ImportOptions{DryRun: dry, OnProgress: func(r deadletter.ImportResult) { told = r }})
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
	q := newQueue(t, pool)
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
	if result := restore(t, newQueue(t, noisy), file, deadletter.FormatJSON); result.Imported != 3 {
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
	q := newQueue(t, pool)
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
		if j := get(t, q, id); string(j.State) != state || j.ResurrectionCount != 1 || j.ReplayJobID == nil {
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
	q := newQueue(t, pool)
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
	q := newQueue(t, pool).As("ann", "deleted by mistake")
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
	if op.Action != deadletter.ActionImport || op.State != deadletter.OperationDone || op.Actor != "ann" || op.Comment != "deleted by mistake" ||
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

// A file of any length needs the memory of a batch.
func TestQueue_Import_needsTheSameMemoryForAnyNumberOfRows(t *testing.T) {
	// Not parallel: it looks at the heap of the process.
	pool := testdb.New(t)
	q := newQueue(t, pool)
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
	q := newQueue(t, pool)
	r := testkit.Rand(t)
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
	q := newQueue(t, pool)
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
