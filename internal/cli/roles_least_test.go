package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric/noop"
	"go.yaml.in/yaml/v3"

	"soniq"
	"soniq/deadletter"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/pg"
	"soniq/internal/roles"
	"soniq/internal/rollup"
	"soniq/internal/testkit"
	"soniq/telemetry"
)

// statements are those that the programs of a role have sent, each with its parameters.
type statements struct {
	mu   sync.Mutex
	seen map[string][]any
}

func (s *statements) add(sql string, args []any) {
	// What only pgx reads comes first.
	args = slices.DeleteFunc(slices.Clone(args), func(arg any) bool {
		switch arg.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return true
		}
		return false
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[sql] = args
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.add(data.SQL, data.Args)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		s.add(q.SQL, q.Arguments)
	}
	return ctx
}

func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// recorded is a caller of a kind whose statements are noted.
func (p *place) recorded(kind roles.Kind) (*caller, *statements) {
	p.t.Helper()
	s := &statements{seen: map[string][]any{}}
	config, err := pgxpool.ParseConfig(p.urls[kind])
	if err != nil {
		p.t.Fatal(err)
	}
	config.ConnConfig.Tracer = s
	pool, err := pgxpool.NewWithConfig(p.t.Context(), config)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.callerOn(pool), s
}

// Each right that 'soniq grants' gives is one that a program of that kind can't do without:
// where it lacks, the server refuses a statement that the program sends. All statements come
// from the programs themselves, and the server says what it refuses.
func TestGrants_eachRight_isNeeded(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	sent := map[roles.Kind]*statements{}
	for _, kind := range roles.Kinds() {
		c, s := p.recorded(kind)
		sent[kind] = s
		c.work(kind)
		c.pool.Close()
	}
	conn, err := p.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, kind := range roles.Kinds() {
		for _, grant := range roles.Of(kind) {
			for _, right := range grant.Each() {
				p.wantNeeded(conn.Conn(), kind, right, sent[kind])
			}
		}
	}
}

// promoted is the table that a program changes when a standby has become its primary, which
// no test of roles can make: package incarnation writes there then.
const promoted = "soniq_incarnations"

// wantNeeded takes a right from a kind, and gives it back.
func (p *place) wantNeeded(conn *pgx.Conn, kind roles.Kind, right roles.Right, sent *statements) {
	p.t.Helper()
	what := right.Right
	if right.Column != "" {
		what += " (" + right.Column + ")"
	}
	tx, err := conn.Begin(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	name := p.names[kind]
	for _, sql := range []string{fmt.Sprintf("revoke %s on %s from %s", what, right.Table, name), "set local role " + name} {
		if _, err := tx.Exec(p.t.Context(), sql); err != nil {
			p.t.Fatalf("%s: %v", sql, err)
		}
	}
	mentioned := 0
	table := regexp.MustCompile(`\b` + right.Table + `\b`)
	for sql, args := range sent.seen {
		if !table.MatchString(sql) {
			continue
		}
		mentioned++
		if refuses(p.t, tx, right.Table, sql, args) {
			return
		}
	}
	if right.Right == "update" && right.Table == promoted {
		return
	}
	p.t.Errorf("%s: nothing needs %s on %s: none of %d statements", kind, what, right.Table, mentioned)
}

// refuses reports whether the server refuses a statement for lack of a right to a table. It is
// explained, which looks at the rights and changes nothing.
func refuses(t *testing.T, tx pgx.Tx, table, sql string, args []any) bool {
	t.Helper()
	nested, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = nested.Exec(t.Context(), "explain "+sql, args...)
	if rollback := nested.Rollback(t.Context()); rollback != nil {
		t.Fatal(rollback)
	}
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42501" && strings.Contains(pgErr.Message, table)
}

// work does all that a kind of role does.
func (c *caller) work(kind roles.Kind) {
	c.t.Helper()
	ctx := c.t.Context()
	for _, call := range apiCalls {
		if !slices.Contains(strings.Fields(call.may), string(kind)) {
			continue
		}
		if err := call.do(ctx, c); err != nil {
			c.t.Errorf("%s as %s: %v", call.name, kind, err)
		}
	}
	switch kind {
	case roles.Scaler:
		c.keda()
	case roles.Metrics:
		c.keda()
		c.read()
	case roles.UniqueProducer:
		for range 2 { // the second finds the first
			if _, err := c.client.Enqueue(ctx, "j", nil, later, engine.Unique(), engine.DedupKey("k")); err != nil {
				c.t.Error(err)
			}
		}
	case roles.Viewer, roles.Operator:
		c.overview()
	case roles.Worker:
		c.keepHouse()
	case roles.Dispatcher:
		c.send()
	}
}

// overview reads what the dashboard's overview shows of the past.
func (c *caller) overview() {
	c.t.Helper()
	schema, err := pg.NewSchema("")
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := rollup.ReadPool(c.t.Context(), schema.Pool(c.pool), rollup.Windows()[0], rollup.Pick{}); err != nil {
		c.t.Error(err)
	}
}

// keda runs the query of deploy/kubernetes/keda.yaml.
func (c *caller) keda() {
	c.t.Helper()
	text, err := os.ReadFile("../../deploy/kubernetes/keda.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	for {
		var doc struct {
			Spec struct {
				Triggers []struct{ Metadata struct{ Query string } }
			}
		}
		if err := decoder.Decode(&doc); err != nil {
			c.t.Fatalf("there is no query: %v", err)
		}
		if len(doc.Spec.Triggers) > 0 {
			if _, err := c.pool.Exec(c.t.Context(), doc.Spec.Triggers[0].Metadata.Query); err != nil {
				c.t.Error(err)
			}
			return
		}
	}
}

// read reads what 'soniq metrics' serves.
func (c *caller) read() {
	c.t.Helper()
	fleet, err := telemetry.NewFleet(c.pool, telemetry.FleetConfig{MeterProvider: noop.NewMeterProvider()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.letter()
	reading, _, err := fleet.Read(c.t.Context())
	if err != nil || reading.Hooks == nil {
		c.t.Errorf("%+v, %v", reading, err)
	}
	if err := fleet.Close(); err != nil {
		c.t.Error(err)
	}
}

// keepHouse is a worker with everything to do: to run, bury, retry, cancel, resolve, recover,
// keep what is refused, and delete what is old.
func (c *caller) keepHouse() {
	c.t.Helper()
	c.exec(`
		delete from soniq_leader_tasks; -- a worker of the table of calls has had its turns
		delete from soniq_queues;
		delete from soniq_dead_letter_operations;
		delete from soniq_dead_letter_selections;
		delete from soniq_jobs`)
	c.exec(oldHouse)
	c.exec(`
		create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$;
		create trigger refuse before delete on soniq_jobs for each row when (old.job_name = 'refused') execute function refuse();
		insert into soniq_jobs (id, job_name, args, max_attempts) select gen_random_uuid(), n, '{}', 3
		from unnest(array['good', 'bad', 'again', 'refused']) n`)
	registry := engine.NewRegistry()
	for name, err := range map[string]error{"good": nil, "refused": nil, "again": errors.New("once more"), "bad": engine.Permanent(errors.New("bad"))} {
		engine.Handle(registry, name, func(context.Context, struct{}) error { return err })
	}
	w, err := engine.NewWorker(c.pool, registry, engine.WorkerConfig{
		Logger: new(testkit.Log).Logger(0), ResultTTL: -1, Retention: []deadletter.Retention{{Keep: 30 * 24 * time.Hour}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	left := ""
	defer func() {
		if c.t.Failed() {
			c.t.Logf("left of the house: %s", left)
		}
	}()
	eventually.True(c.t, "the house to be kept", func() bool {
		left = testkit.Value[string](c.t, c.place.pool, houseLeft)
		return left == "0 0 0 0 0 0 0 1" && // what is refused is still running
			testkit.Count(c.t, c.place.pool, "select count(*) from soniq_kept_outcomes") > 0
	})
	c.exec("drop trigger refuse on soniq_jobs; drop function refuse")
	eventually.True(c.t, "the outcome that was refused", func() bool {
		return testkit.Count(c.t, c.place.pool, "select count(*) from soniq_jobs where job_name = 'refused'") == 0
	})
	cancel()
	if err := <-ended; err != nil {
		c.t.Error(err)
	}
}

// send is a dispatcher that sends to an endpoint and to a digest.
func (c *caller) send() {
	c.t.Helper()
	heard := make(chan struct{}, 100)
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard <- struct{}{} }))
	defer endpoint.Close()
	d, err := hooks.NewDispatcher(c.pool, hooks.Config{Logger: new(testkit.Log).Logger(0)})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	for _, err := range []error{
		soniq.Check(ctx, c.pool, soniq.Config{}), // as 'soniq hooks run' does
		d.Declare(ctx, hooks.Spec{Name: "least", Kind: "webhook", URL: endpoint.URL, Allow: []string{"127.0.0.0/8"}},
			hooks.Spec{Name: "digest", Kind: "slack", URL: endpoint.URL, Allow: []string{"127.0.0.0/8"}}),
	} {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.exec("delete from soniq_leader_tasks; delete from soniq_incarnations")
	ended := make(chan error, 1)
	go func() { ended <- d.RunAlone(ctx, c.pool.Config().ConnConfig) }()
	c.letter()
	eventually.True(c.t, "deliveries, a digest and maintenance", func() bool {
		return len(heard) >= 2 && testkit.Value[bool](c.t, c.place.pool, `select exists (select from soniq_hook_groups)
			and exists (select from soniq_leader_tasks where name = 'hooks.bound') and exists (select from soniq_incarnations)`)
	})
	cancel()
	if err := <-ended; err != nil {
		c.t.Error(err)
	}
}
