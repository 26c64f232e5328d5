package notify_test

import (
	"testing"

	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/notify"
)

// Whatever the schema is called, its listener hears what is announced in it and
// nothing of another schema. One listener serves two of them.
func TestListener_channelsOfAnySchema(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	names := []string{
		"", "jobs", "Jobs", `a "quoted" name`, "it's", "with space", "semi;colon--", `back\slash`, "dot.ted", "ünïcode",
		"n23456789012345678901234567890123456789012345678901234567890123",
	}
	both := newRecorder()
	handlers := map[string]notify.Handler{}
	recorders := make([]recorder, len(names))
	for i, name := range names {
		schema, err := pg.NewSchema(name)
		if err != nil {
			t.Fatal(err)
		}
		recorders[i] = newRecorder()
		listen(t, config(pool), map[string]notify.Handler{schema.Channel(notify.Hook): recorders[i]})
		recorders[i].expect(t, connected)
		if i < 2 {
			handlers[schema.Channel(notify.Hook)] = both
		}
	}
	listen(t, config(pool), handlers)
	both.expect(t, connected, connected)
	for i, name := range names {
		schema, err := pg.NewSchema(name)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, `select pg_notify($1, $2)`, schema.Channel(notify.Hook), "of "+name)
		// As the statements and triggers of the schema do it.
		exec(t, pool, schema.SQL(`select pg_notify('soniq_hook', '')`))
		recorders[i].expect(t, "of "+name, "")
	}
	both.expect(t, "of ", "", "of jobs", "")
	for i, r := range recorders {
		select {
		case payload := <-r:
			t.Errorf("%q hears %q", names[i], payload)
		default:
		}
	}
}
