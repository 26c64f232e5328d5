package deadletter_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/testdb"
)

const exportHeader = "id,job_name,args,queue,priority,max_attempts,attempts,last_error,dead_letter_reason," +
	"original_created_at,moved_to_dead_letter_at,resurrection_count,last_resurrection_at,tags," +
	"state,replay_job_id,replay_of,error_kind,error_type,error_code,decided_by,fingerprint," +
	"args_hash,unique_job,dedup_key,producer_id,worker_id,scheduled_at,moved_xid,created_at,errors,trace_context\n"

// csvHeaderLine is that of a CSV file: it has the column exact in each case.
var csvHeaderLine = `"` + strings.ReplaceAll(strings.TrimSuffix(exportHeader, "\n"), ",", `","`) + `","exact"` + "\n"

func export(t testing.TB, q *deadletter.Queue, f deadletter.Filter, format deadletter.Format) (string, int64) {
	t.Helper()
	var b strings.Builder
	n, err := q.Export(t.Context(), &b, f, format)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), n
}

func TestQueue_Export_ofNothingIsAValidFile(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testdb.New(t))
	for format, want := range map[deadletter.Format]string{
		deadletter.FormatJSON: "[]\n", deadletter.FormatJSONL: "", deadletter.FormatCSV: csvHeaderLine,
	} {
		if got, n := export(t, q, deadletter.Filter{}, format); got != want || n != 0 {
			t.Errorf("%s: %q, %d rows", format, got, n)
		}
	}
}

func TestQueue_Export_writesEveryColumnExactly(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	made := time.Date(2026, 1, 2, 4, 4, 5, 600_000_000, time.FixedZone("", 3600))
	bare := uuid.MustParse("00000000-0000-4000-8000-000000000001")
	full := uuid.MustParse("00000000-0000-4000-8000-000000000002")
	insertDead(t, pool, columns{
		"id": bare, "original_created_at": made, "moved_to_dead_letter_at": noon, "created_at": nil, "moved_xid": nil,
		"last_error": "a\r\nb, \"c\" <d>\u2028é\x01",
	})
	insertDead(t, pool, columns{
		"id": full, "original_created_at": made, "moved_to_dead_letter_at": noon.Add(time.Hour), "created_at": made,
		"args": `{"n": 12345678901234567890, "f": 1.50, "s": "<&>"}`, "priority": -5, "last_error": "=cmd|' /C calc'!A0",
		"job_name": "@x", "queue": "+q", "resurrection_count": 1, "last_resurrection_at": made, "tags": `{"a": "=1"}`,
		"state": "replaying", "replay_job_id": bare, "replay_of": bare, "error_kind": "error", "error_type": "*x.E", "error_code": "-1",
		"decided_by": "budget", "fingerprint": "f", "args_hash": "h", "unique_job": true, "dedup_key": "\tk", "producer_id": "-p",
		"worker_id": bare, "scheduled_at": made,
		"errors":        `[{"attempt": 1, "failed_at": "2026-01-02T03:04:05Z", "message": "=1+1"}]`,
		"trace_context": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1",
	})
	exec(t, pool, "update soniq_dead_letter_jobs set moved_xid = '77' where moved_xid is not null")

	jsonBare := `{"id":"00000000-0000-4000-8000-000000000001","job_name":"emails.send","args":{"user_id": 42},"queue":"default",` +
		`"priority":100,"max_attempts":3,"attempts":3,"last_error":"a\r\nb, \"c\" <d>\u2028é\u0001","dead_letter_reason":"max_retries_exceeded",` +
		`"original_created_at":"2026-01-02T03:04:05.600000Z","moved_to_dead_letter_at":"2026-11-23T12:00:00.000000Z","resurrection_count":0,` +
		`"last_resurrection_at":null,"tags":null,"state":"dead","replay_job_id":null,"replay_of":null,"error_kind":"","error_type":"",` +
		`"error_code":"","decided_by":"","fingerprint":"","args_hash":null,"unique_job":null,"dedup_key":null,"producer_id":null,` +
		`"worker_id":null,"scheduled_at":null,"moved_xid":null,"created_at":null,"errors":null}`
	jsonFull := `{"id":"00000000-0000-4000-8000-000000000002","job_name":"@x","args":{"f": 1.50, "n": 12345678901234567890, "s": "<&>"},"queue":"+q",` +
		`"priority":-5,"max_attempts":3,"attempts":3,"last_error":"=cmd|' /C calc'!A0","dead_letter_reason":"max_retries_exceeded",` +
		`"original_created_at":"2026-01-02T03:04:05.600000Z","moved_to_dead_letter_at":"2026-11-23T13:00:00.000000Z","resurrection_count":1,` +
		`"last_resurrection_at":"2026-01-02T03:04:05.600000Z","tags":{"a": "=1"},"state":"replaying","replay_job_id":"` + bare.String() + `",` +
		`"replay_of":"` + bare.String() + `","error_kind":"error","error_type":"*x.E","error_code":"-1","decided_by":"budget","fingerprint":"f",` +
		`"args_hash":"h","unique_job":true,"dedup_key":"\tk","producer_id":"-p","worker_id":"` + bare.String() + `",` +
		`"scheduled_at":"2026-01-02T03:04:05.600000Z","moved_xid":77,"created_at":"2026-01-02T03:04:05.600000Z",` +
		`"errors":[{"attempt": 1, "message": "=1+1", "failed_at": "2026-01-02T03:04:05Z"}],"trace_context":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1"}`
	csvBare := `"` + bare.String() + `","emails.send","{""user_id"": 42}","default","100","3","3","a` + "\r\n" + `b, ""c"" <d>` + "\u2028é\x01" + `","max_retries_exceeded",` +
		`"2026-01-02T03:04:05.600000Z","2026-11-23T12:00:00.000000Z","0",,,"dead",,,,,,,,,,,,,,,,,,"{ }"` + "\n"
	csvFull := `"` + full.String() + `","ʼ@x","{""f"": 1.50, ""n"": 12345678901234567890, ""s"": ""<&>""}","ʼ+q","-5","3","3","ʼ=cmd|' /C calc'!A0","max_retries_exceeded",` +
		`"2026-01-02T03:04:05.600000Z","2026-11-23T13:00:00.000000Z","1","2026-01-02T03:04:05.600000Z","{""a"": ""\u003d1""}","replaying","` + bare.String() + `","` + bare.String() +
		`","error","*x.E","ʼ-1","budget","f","h","true","` + "\tk" + `","ʼ-p","` + bare.String() + `","2026-01-02T03:04:05.600000Z","77","2026-01-02T03:04:05.600000Z",` +
		`"[{""attempt"": 1, ""message"": ""\u003d1+1"", ""failed_at"": ""2026-01-02T03:04:05Z""}]","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1","{ }"` + "\n"

	for format, want := range map[deadletter.Format]string{
		deadletter.FormatJSON:  "[\n" + jsonBare + ",\n" + jsonFull + "\n]\n",
		deadletter.FormatJSONL: jsonBare + "\n" + jsonFull + "\n",
		deadletter.FormatCSV:   csvHeaderLine + csvBare + csvFull,
	} {
		got, n := export(t, q, deadletter.Filter{}, format)
		if got != want || n != 2 {
			t.Errorf("%s, %d rows: got\n%s\nwant\n%s", format, n, got, want)
		}
	}
}

func TestQueue_Export_filtersAndLimitsOldestFirst(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 1500)
	insertDead(t, pool, nil)

	got, n := export(t, q, deadletter.Filter{JobNames: []string{"bulk"}}, deadletter.FormatJSON)
	var jobs []deadletter.Job
	if err := json.Unmarshal([]byte(got), &jobs); err != nil || len(jobs) != 1500 || n != 1500 {
		t.Fatalf("%d objects, %d rows, %v", len(jobs), n, err)
	}
	if jobs[0].LastError != "error 1" || jobs[1499].LastError != "error 1500" {
		t.Errorf("from %q to %q", jobs[0].LastError, jobs[1499].LastError)
	}
	got, n = export(t, q, deadletter.Filter{Limit: 2}, deadletter.FormatCSV)
	rows, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	if err != nil || len(rows) != 3 || n != 2 || rows[2][7] != "error 2" {
		t.Errorf("limited: %v, %d rows, %v", rows, n, err)
	}
}

func TestQueue_Export_refusesAnUnknownFormatBeforeItWrites(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testdb.New(t))
	var b bytes.Buffer
	if _, err := q.Export(t.Context(), &b, deadletter.Filter{}, "xml"); err == nil || !strings.Contains(err.Error(), `"xml"`) || b.Len() > 0 {
		t.Errorf("%v, wrote %q", err, b.String())
	}
	if _, err := deadletter.ParseFormat("csv"); err != nil {
		t.Error(err)
	}
}

var errFull = errors.New("disk full")

// fullDisk takes some bytes and then no more.
type fullDisk struct{ room int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		return 0, errFull
	}
	d.room -= len(p)
	return len(p), nil
}

func TestQueue_Export_tellsThatTheOutputFailed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 1000)
	for _, format := range []deadletter.Format{deadletter.FormatJSON, deadletter.FormatJSONL, deadletter.FormatCSV} {
		for _, room := range []int{0, 100_000} {
			if _, err := q.Export(t.Context(), &fullDisk{room}, deadletter.Filter{}, format); !errors.Is(err, errFull) {
				t.Errorf("%s with room for %d: %v", format, room, err)
			}
		}
	}
	// The connections are free again.
	if _, err := q.Count(t.Context(), deadletter.Filter{}); err != nil {
		t.Error(err)
	}
}

func TestQueue_Export_needsTheSameMemoryForAnyNumberOfRows(t *testing.T) {
	// Not parallel: it looks at the heap of the process.
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 8000)
	exec(t, pool, "update soniq_dead_letter_jobs set last_error = repeat('x', 4000)")

	peak := &heapMeter{}
	n, err := q.Export(t.Context(), peak, deadletter.Filter{}, deadletter.FormatJSONL)
	if err != nil || n != 8000 {
		t.Fatalf("%d rows, %v", n, err)
	}
	if peak.bytes < 32_000_000 {
		t.Fatalf("wrote only %d bytes", peak.bytes)
	}
	if peak.high > peak.first+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes while %d were written", peak.first, peak.high, peak.bytes)
	}
}

// heapMeter looks at the live heap on some of the writes.
type heapMeter struct {
	writes      int
	bytes       int
	first, high uint64
}

func (m *heapMeter) Write(p []byte) (int, error) {
	m.bytes += len(p)
	if m.writes%100 == 0 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		if m.writes == 0 {
			m.first = s.HeapAlloc
		}
		m.high = max(m.high, s.HeapAlloc)
	}
	m.writes++
	return len(p), nil
}

var _ io.Writer = (*heapMeter)(nil)
