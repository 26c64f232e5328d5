package httpverdict_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"soniq/internal/httpverdict"
)

var write = flag.Bool("write", false, "write the table into docs/worker.md")

// Every status, in both columns, written down a second time and in another way.
func TestOf_eachStatus(t *testing.T) {
	t.Parallel()
	is := func(status int, among ...int) bool { return slices.Contains(among, status) }
	for status := -1; status <= 1000; status++ {
		want := httpverdict.Row{}
		switch class := status / 100; {
		case status < 0 || status > 999:
		case class < 2, class == 3:
			want.Endpoint = httpverdict.Permanent
		case class == 2:
			want.Endpoint = httpverdict.Done
		case class > 5:
			want.Endpoint = httpverdict.Retry
		case class == 4:
			want.Endpoint, want.Dependency = httpverdict.Permanent, httpverdict.Permanent
			if is(status, 400, 422) {
				want.Endpoint = httpverdict.InvalidArguments
			}
			if is(status, 401, 403, 404, 407, 408, 421, 425, 429) {
				want.Endpoint = httpverdict.Retry
			}
			if is(status, 401, 407, 408, 409, 421, 423, 425, 429) {
				want.Dependency = httpverdict.Retry
			}
		default:
			want.Endpoint, want.Dependency = httpverdict.Retry, httpverdict.Retry
			if is(status, 501, 505) {
				want.Dependency = httpverdict.Permanent
			}
		}
		got := httpverdict.Of(status)
		if got.Endpoint != want.Endpoint || got.Dependency != want.Dependency {
			t.Errorf("%d: endpoint %d, dependency %d, want %d and %d", status, got.Endpoint, got.Dependency, want.Endpoint, want.Dependency)
		}
		if got.Paused != is(status, 429, 503) {
			t.Errorf("%d: paused %t", status, got.Paused)
		}
		if got.Misconfigured != is(status, 401, 403, 404, 407, 421) {
			t.Errorf("%d: misconfigured %t", status, got.Misconfigured)
		}
	}
}

func TestRows_eachDifferenceHasItsReason(t *testing.T) {
	t.Parallel()
	for _, row := range httpverdict.Rows() {
		if differ := row.Endpoint != row.Dependency; differ != (row.Why != "") {
			t.Errorf("%s: the columns differ: %t, and the reason is %q", row.Name, differ, row.Why)
		}
		if got := httpverdict.Of(row.First); row.First == row.Last && got != row {
			t.Errorf("%s: another row, %s, decides", row.Name, got.Name)
		}
	}
	httpverdict.Rows()[0].Endpoint = httpverdict.Permanent
	if got := httpverdict.Of(200).Endpoint; got != httpverdict.Done {
		t.Errorf("a caller changed the table: 200 is %d", got)
	}
}

// To write the table: make docs.
func TestRows_docsWorkerHasTheTable(t *testing.T) {
	t.Parallel()
	const (
		file  = "../../docs/worker.md"
		begin = "<!-- internal/httpverdict writes this table: make docs -->\n\n"
		end   = "\n<!-- end of the table -->\n"
	)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	table, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s does not have the lines around its table of statuses", file)
	}
	if table == markdown() {
		return
	}
	if !*write {
		t.Fatalf("%s has another table than internal/httpverdict: run 'make docs'. It must be\n%s", file, markdown())
	}
	if err := os.WriteFile(file, []byte(before+begin+markdown()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// markdown is the table as docs/worker.md has it: one line for the rows that say
// the same.
func markdown() string {
	var b strings.Builder
	b.WriteString("| status | verdict | dead-letter reason | of a dependency | why they differ |\n|---|---|---|---|---|\n")
	var names []string
	rows := httpverdict.Rows()
	for i, row := range rows {
		names = append(names, row.Name)
		// Lines are joined where nothing but the status differs, and only neighbours:
		// the order decides.
		if next := i + 1; next < len(rows) && line(rows[next]) == line(row) {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s\n", strings.Join(names, ", "), line(row))
		names = nil
	}
	return b.String()
}

func line(row httpverdict.Row) string {
	verdict, reason := "", ""
	switch row.Endpoint {
	case httpverdict.Done:
		verdict = "done"
	case httpverdict.Retry:
		verdict, reason = "tried again", "`max_retries_exceeded`, after the last attempt"
	case httpverdict.InvalidArguments:
		verdict, reason = "the arguments are invalid: dead letter at once", "`invalid_arguments`"
	case httpverdict.Permanent:
		verdict, reason = "failed for good: dead letter at once", "`permanent_failure`"
	}
	if row.Paused {
		verdict += "; with `Retry-After` at that time, and the attempt is not counted"
	}
	if row.Misconfigured {
		verdict += ", and a warning in the worker's log"
	}
	dependency := map[httpverdict.Verdict]string{
		httpverdict.None: "no error", httpverdict.Retry: "tried again", httpverdict.Permanent: "dead letter at once",
	}[row.Dependency]
	return fmt.Sprintf("%s | %s | %s | %s |", verdict, reason, dependency, row.Why)
}
