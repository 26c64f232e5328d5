package pg

import (
	"errors"
	"strings"
	"testing"
)

func schemaOf(t *testing.T, name string) Schema {
	t.Helper()
	s, err := NewSchema(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewSchema_names(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"pg_jobs", "information_schema", "a$$b", "a\nb", "a\x00b", "\xff", strings.Repeat("n", 64),
	} {
		if _, err := NewSchema(name); !errors.Is(err, ErrSchemaName) {
			t.Errorf("NewSchema(%q): %v, want ErrSchemaName", name, err)
		}
	}
	for name, quoted := range map[string]string{
		"": "public", "public": "public", "jobs": `"jobs"`, "Jobs": `"Jobs"`, `a"b`: `"a""b"`, "a'b": `"a'b"`, "a b": `"a b"`,
		strings.Repeat("n", 63): `"` + strings.Repeat("n", 63) + `"`,
	} {
		if got := schemaOf(t, name).Quoted(); got != quoted {
			t.Errorf("%q is quoted as %s, want %s", name, got, quoted)
		}
	}
}

func TestSchema_SQL_replacesWhatIsOurs(t *testing.T) {
	t.Parallel()
	const statement = `
-- public.soniq_jobs isn't touched in a comment
select 'public.soniq_jobs'::regclass, ' public.', 'it''s', republic.x
from public.soniq_jobs j
where pg_notify('soniq_new_job', 'soniq_new_job ') is null`
	const want = `
-- public.soniq_jobs isn't touched in a comment
select '"it''s"".".soniq_jobs'::regclass, ' public.', 'it''s', republic.x
from "it's"".".soniq_jobs j
where pg_notify('it''s".".soniq_new_job', 'soniq_new_job ') is null`
	s := schemaOf(t, `it's".`)
	for range 2 {
		got := s.SQL(statement)
		if expected := strings.Replace(want, `'it''s".".soniq_new_job'`, `'it''s"..soniq_new_job'`, 1); got != expected {
			t.Errorf("got %s\nwant %s", got, expected)
		}
	}
	if got := (Schema{}).SQL(statement); got != statement {
		t.Errorf("the default schema changes the statement: %s", got)
	}
}

func TestSchema_Channel_isAName(t *testing.T) {
	t.Parallel()
	const longest = "soniq_dead_letter"
	if got := (Schema{}).Channel(longest); got != longest {
		t.Errorf("public's channel is %q", got)
	}
	seen := map[string]string{}
	for _, name := range []string{"a", "A", strings.Repeat("n", 45), strings.Repeat("n", 46), strings.Repeat("n", 63)} {
		got := schemaOf(t, name).Channel(longest)
		if len(got) > maxName || !strings.HasSuffix(got, "."+longest) {
			t.Errorf("schema %q has the channel %q", name, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("schemas %q and %q share the channel %q", name, other, got)
		}
		seen[got] = name
	}
}

func TestSchema_statementsKept_areBounded(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, "jobs")
	for i := range maxStatements + 100 {
		s.SQL("select from public.soniq_jobs limit " + strings.Repeat("1", 1+i%50) + strings.Repeat("2", i/50))
	}
	kept := 0
	s.in.statements.Range(func(_, _ any) bool {
		kept++
		return true
	})
	if kept > maxStatements {
		t.Errorf("%d statements are kept, more than %d", kept, maxStatements)
	}
}
