package deadletter_test

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// randomText can't be compressed into an index.
const randomText = `(select string_agg(md5(random()::text), '') from generate_series(1, $1::int / 32 + 1))`

// Names that no index of the dead letters can hold.
func TestMove_longNames_areShortenedAndNothingIsLost(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	// Those that Python Soniq makes, of one column.
	for _, column := range []string{"job_name", "queue", "dead_letter_reason"} {
		exec(t, pool, `create index on soniq_dead_letter_jobs (`+column+`)`)
	}
	verdict := classify.Decide(classify.Attempt{Kind: classify.KindUnregistered})
	worker := insertWorker(t, pool)
	name := func() string { return value[string](t, pool, "select "+randomText, 5000) }
	moves := map[string]func(c columns) uuid.UUID{
		"queued": func(c columns) uuid.UUID {
			id := insertJob(t, pool, c)
			if moved, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{id}, verdict); err != nil || len(moved) != 1 {
				t.Fatalf("moved %v, %v", moved, err)
			}
			return id
		},
		"claimed": func(c columns) uuid.UUID {
			id := insertClaimed(t, pool, worker, c)
			if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 {
				t.Fatalf("moved %v, %v", moved, err)
			}
			return id
		},
		"abandoned": func(c columns) uuid.UUID {
			id := insertClaimed(t, pool, worker, c)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if moved, err := deadwrite.MoveAbandoned(t.Context(), tx, death(id)); err != nil || !moved {
				t.Fatalf("moved %t, %v", moved, err)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			return id
		},
	}
	for how, move := range moves {
		// A queue that long can be queued only if it compresses well.
		first, second, queue := name(), name(), strings.Repeat("q", 10_000)
		second = first[:1000] + second
		ids := []uuid.UUID{
			move(columns{"job_name": first, "queue": queue, "unique_job": false}),
			move(columns{"job_name": second}),
		}
		a, b := get(t, q, ids[0]), get(t, q, ids[1])
		for _, j := range []deadletter.Job{a, b} {
			if len(j.JobName) > 250 || !strings.HasPrefix(j.JobName, first[:200]+"...") {
				t.Errorf("%s: the name is %q", how, j.JobName)
			}
		}
		if a.JobName == b.JobName || len(a.Queue) > 250 {
			t.Errorf("%s: %q, %q, queue %q", how, a.JobName, b.JobName, a.Queue)
		}
		// An export has the whole, and an import takes it back.
		var file bytes.Buffer
		if _, err := q.Export(t.Context(), &file, deadletter.Filter{JobNames: []string{a.JobName}}, deadletter.FormatJSONL); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(file.String(), first) || !strings.Contains(file.String(), queue) {
			t.Errorf("%s: the export has %.300s", how, file.String())
		}
		exec(t, pool, `delete from soniq_dead_letter_jobs where id = $1`, ids[0])
		if _, err := q.Import(t.Context(), &file, deadletter.FormatJSONL, deadletter.ImportOptions{}); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		for i, want := range []string{first, second} {
			job, err := q.Replay(t.Context(), ids[i], deadletter.ReplayOptions{})
			if err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			if got := value[string](t, pool, `select job_name from soniq_jobs where id = $1`, job); got != want {
				t.Errorf("%s: the replay is called %.300q", how, got)
			}
		}
		if n := value[int](t, pool, `select count(*) from soniq_jobs where queue = $1 and replay_of = $2`, queue, ids[0]); n != 1 {
			t.Errorf("%s: %d replays in the queue", how, n)
		}
	}
}

// A filter takes the names that the jobs had, though the table has shortened them.
func TestFilter_longNames_matchWhatWasShortened(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	verdict := classify.Decide(classify.Attempt{Kind: classify.KindUnregistered})
	first := strings.Repeat("é", 1500)
	second, queue := first+"2", strings.Repeat("q", 3000)
	ids := map[string]uuid.UUID{}
	for _, name := range []string{first, second, "short"} {
		ids[name] = insertJob(t, pool, columns{"job_name": name, "queue": queue})
		if _, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{ids[name]}, verdict); err != nil {
			t.Fatal(err)
		}
	}
	// Another program keeps a name that an index holds because it compresses well.
	other := insertDead(t, pool, columns{"job_name": first, "moved_to_dead_letter_at": time.Now().Add(-time.Hour)})
	for what, test := range map[string]struct {
		filter deadletter.Filter
		want   []uuid.UUID
	}{
		"a name":          {deadletter.Filter{JobNames: []string{first}}, []uuid.UUID{ids[first], other}},
		"names":           {deadletter.Filter{JobNames: []string{"short", second, second}}, []uuid.UUID{ids["short"], ids[second]}},
		"a queue":         {deadletter.Filter{Queues: []string{queue}}, []uuid.UUID{ids["short"], ids[second], ids[first]}},
		"a part":          {deadletter.Filter{NameLike: strings.Repeat("é", 1500)}, []uuid.UUID{ids[second], ids[first], other}},
		"a pattern":       {deadletter.Filter{NameLike: "é*2"}, []uuid.UUID{ids[second]}},
		"a digest":        {deadletter.Filter{NameLike: "..."}, nil},
		"no name":         {deadletter.Filter{JobNames: []string{first + "3"}}, nil},
		"short and queue": {deadletter.Filter{JobNames: []string{"short"}, Queues: []string{queue}}, []uuid.UUID{ids["short"]}},
	} {
		jobs, err := q.List(t.Context(), test.filter)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var got []uuid.UUID
		for _, j := range jobs {
			got = append(got, j.ID)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", what, got, test.want)
		}
		if n, err := q.Count(t.Context(), test.filter); err != nil || n != int64(len(test.want)) {
			t.Errorf("%s: it counts %d, %v", what, n, err)
		}
		for _, id := range ids {
			if picked, err := q.Picks(t.Context(), test.filter, id); err != nil || picked != slices.Contains(test.want, id) {
				t.Errorf("%s: picks %t, %v", what, picked, err)
			}
		}
	}
	result, err := q.ReplayAll(t.Context(), deadletter.Filter{JobNames: []string{second}}, deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{Queue: "default"}})
	if err != nil || len(result.Replayed) != 1 || result.Replayed[0].From != ids[second] {
		t.Errorf("replayed %v, %v", result.Replayed, err)
	}
}

// One that can't go back to its queue holds up no bulk replay, and says why.
func TestQueue_Replay_queueThatNoIndexHolds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, columns{"job_name": "a"})
	other := insertDead(t, pool, columns{"job_name": "a"})
	// A row that is processing is in no index of queues.
	exec(t, pool, `update soniq_jobs set queue = `+strings.ReplaceAll(randomText, "$1", "5000")+` where id = $1`, id)
	if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 {
		t.Fatalf("moved %v, %v", moved, err)
	}
	filter := deadletter.Filter{JobNames: []string{"a"}}
	if n, err := q.ReplayCount(t.Context(), filter, deadletter.ReplayOptions{}); err != nil || n != 1 {
		t.Errorf("it counts %d, %v", n, err)
	}
	for queue, want := range map[string]int64{"": 1, "default": 0} {
		plan, err := q.PlanReplay(t.Context(), filter, deadletter.ReplayOptions{Queue: queue})
		if err != nil || plan.LongQueue != want || plan.Picked != 2-want {
			t.Errorf("into %q: %+v, %v", queue, plan, err)
		}
	}
	result, err := q.ReplayAll(t.Context(), filter, deadletter.ReplayAllOptions{})
	if err != nil || len(result.Replayed) != 1 || result.Replayed[0].From != other {
		t.Errorf("replayed %v, %v", result, err)
	}
	if _, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{}); err == nil || !strings.Contains(err.Error(), "give another queue") {
		t.Errorf("got %v", err)
	}
	if _, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{Queue: "default"}); err != nil {
		t.Error(err)
	}
}

// A history that leaves no room for an entry more.
func TestMove_giantHistory_isLeftOut(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, columns{"job_name": "a"})
	// 26 MB are left out, as 266 MB must be: that much and an entry are no value of a table.
	exec(t, pool, `
		update soniq_jobs set errors = jsonb_build_array(repeat('x', 200000 * $2::int), repeat('x', 66000 * $2::int))
		where id = $1`, id, testkit.Size(100, 1000))
	if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if n := value[int](t, pool, `select coalesce(jsonb_array_length(errors), 0) from soniq_dead_letter_jobs where id = $1`, id); n != 0 {
		t.Errorf("the history has %d entries", n)
	}
}

// One row must not be in the way of a look at the others, nor fill the memory of
// who looks.
func TestQueue_List_giantRows_areShownAsSuch(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	plain := insertDead(t, pool, columns{"job_name": "plain", "args": `{"n": 1}`})
	ids := map[string]uuid.UUID{}
	for name, args := range map[string]string{
		"giant":  `jsonb_build_object('x', repeat('x', 17000000))`,
		"digits": `('{"x": [1e131071' || repeat(', 1e131071', 15000 - 1) || ']}')::jsonb`,
		"few":    `('{"x": [1e131071' || repeat(', 1e131071', 140 - 1) || ']}')::jsonb`,
	} {
		ids[name] = insertDead(t, pool, columns{"job_name": name})
		exec(t, pool, `
			update soniq_dead_letter_jobs set args = `+args+`, last_error = repeat('e', 1000000), errors = jsonb_build_array(repeat('x', 3000000))
			where id = $1`, ids[name])
	}
	jobs, err := q.List(t.Context(), deadletter.Filter{})
	if err != nil || len(jobs) != 4 {
		t.Fatalf("%d, %v", len(jobs), err)
	}
	for _, j := range jobs {
		switch {
		case j.ID == plain && string(j.Args) != `{"n": 1}`:
			t.Errorf("plain arguments are %s", j.Args)
		case j.ID != plain && (!strings.HasPrefix(string(j.Args), `"arguments of `) || !strings.HasSuffix(string(j.Args), ` bytes are not shown"`)):
			t.Errorf("%s: arguments are %.100s", j.JobName, j.Args)
		}
		if len(j.LastError) > 65536 || len(j.Errors) > 0 {
			t.Errorf("%s: an error of %d bytes, %d entries", j.JobName, len(j.LastError), len(j.Errors))
		}
	}
	for name, id := range ids {
		j, err := q.Get(t.Context(), id)
		if err != nil || len(j.Args) > 1000 {
			t.Errorf("%s: arguments of %d bytes, %v", name, len(j.Args), err)
		}
	}
}

// Arguments of which the server makes no text, 100 KB in the table: what would send
// them fails, and names the dead letter, so that it can be left out.
func TestQueue_unsendableArguments_areNamed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	at := time.Now().Add(-72 * time.Hour)
	insertDead(t, pool, columns{"moved_to_dead_letter_at": at.Add(-time.Hour)})
	huge := insertDead(t, pool, columns{"moved_to_dead_letter_at": at, "job_name": "huge"})
	insertDead(t, pool, columns{"moved_to_dead_letter_at": at.Add(time.Hour)})
	exec(t, pool, `update soniq_dead_letter_jobs set args = ('{"x": [1e131071' || repeat(', 1e131071', 9000 - 1) || ']}')::jsonb where id = $1`, huge)
	edit := deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "a", Value: json.RawMessage("1")}}}
	for what, send := range map[string]func() error{
		"export": func() error {
			_, err := q.Export(t.Context(), io.Discard, deadletter.Filter{}, deadletter.FormatJSONL)
			return err
		},
		"archive": func() error {
			_, err := q.CleanupTo(t.Context(), time.Hour, deadletter.Filter{}, &memory{}, deadletter.FormatJSONL)
			return err
		},
		"count of a replay": func() error {
			_, err := q.ReplayCount(t.Context(), deadletter.Filter{All: true}, edit)
			return err
		},
	} {
		if err := send(); err == nil || !strings.Contains(err.Error(), "dead letter "+huge.String()+" is larger than the server can send") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
