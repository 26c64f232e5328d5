package interop

import (
	"bytes"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/doctor"
	"soniq/internal/eventually"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
	"soniq/internal/testkit"
)

// movesEnv is 'all' where the database is really moved between servers.
const movesEnv = "SONIQ_TEST_MOVES"

// A moving database, and the programs that follow its dead letters through one address.
type moving struct {
	root      string
	now       *cluster
	proxy     *testkit.Proxy
	pool      *pgxpool.Pool
	followers []*following
	// reader reads in this process; nil where programs follow.
	reader *reader
	ids    []uuid.UUID
	// prepared is the number of a transaction that is not yet committed, and late is what died in it.
	prepared string
	late     []uuid.UUID
}

// A move takes the database to where it is from then on. Followers are away meanwhile.
type move struct {
	name string
	// before runs while the followers are connected; it returns what take needs.
	before func(t *testing.T, m *moving) *cluster
	take   func(t *testing.T, m *moving, prepared *cluster) *cluster
	// after runs once the database is there, before the followers are back.
	after func(t *testing.T, m *moving)
	// loses says that what died after before is lost. The followers have read it.
	loses bool
	// keeps says that the server goes on with the sequence of epochs as it was: only its start tells the run.
	// Elsewhere PostgreSQL has reset it, from 15 on.
	keeps bool
}

// A reader reads the feed on from its cursor, as docs/channel.md says.
type reader struct {
	cursor string
	read   []uuid.UUID
	epoch  int64
}

const readOnSQL = `
select id, moved_epoch, concat_ws('/', moved_epoch, moved_xid, id)
from soniq_dead_letter_feed
where (moved_epoch, moved_xid, id)
  > (split_part($1, '/', 1)::bigint, split_part($1, '/', 2)::xid8, split_part($1, '/', 3)::uuid)
order by moved_epoch, moved_xid, id`

func (r *reader) readOn(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	rows, err := pool.Query(t.Context(), readOnSQL, r.cursor)
	if err != nil {
		t.Fatal(err)
	}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&id, &r.epoch, &r.cursor}, func() error {
		r.read = append(r.read, id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// What ends a run of a server, or takes its files back, begins an epoch that is later than all before it, and a
// reader goes on from its cursor: 'make moves' has the programs of docs/clients do the same, and more moves.
func TestMoved_eachRunOfAServer_beginsAnEpoch(t *testing.T) {
	t.Parallel()
	if postgresBin() == "" {
		t.Logf("not run: no server's programs in /usr/lib/postgresql")
		return
	}
	m := &moving{root: clusterRoot(t), reader: &reader{cursor: "0/0/" + uuid.Nil.String()}}
	m.now = newCluster(t, m.root, "origin")
	m.connect(t)
	setUp(t, m.pool)
	m.die(t, "first")
	m.allRead(t)
	for _, move := range runs() {
		before := m.reader.epoch
		m.make(t, move)
		if m.reader.epoch <= before {
			t.Errorf("%s: epoch %d after %d", move.name, m.reader.epoch, before)
		}
		if t.Failed() {
			t.Fatalf("after %q", move.name)
		}
	}
}

// A standby that is promoted before its first restartpoint after setup can't read the sequence of epochs, on
// PostgreSQL 15.18: deaths go on in one later epoch, a reader misses none, and setup makes the sequence anew.
func TestMoved_promotedRightAfterSetup_deathsGoOn(t *testing.T) {
	t.Parallel()
	if postgresBin() == "" {
		t.Logf("not run: no server's programs in /usr/lib/postgresql")
		return
	}
	m := &moving{root: clusterRoot(t), reader: &reader{cursor: "0/0/" + uuid.Nil.String()}}
	m.now = newCluster(t, m.root, "origin")
	standby := m.now.backup(t, "standby", true)
	standby.configure(t)
	standby.start(t)
	m.connect(t)
	setUp(t, m.pool)
	m.die(t, "first")
	m.allRead(t)
	before := m.reader.epoch
	eventually.True(t, "the standby has all", func() bool {
		return m.now.sql(t, "app", "select pg_current_wal_lsn()") == standby.sql(t, "app", "select pg_last_wal_replay_lsn()")
	})
	examined(t, standby.url())
	m.now.stop(t, "immediate")
	postgresProgram(t, "pg_ctl", "-D", standby.dir, "-w", "promote")
	standby.writable(t)
	m.now = standby
	m.connect(t)
	_, unreadable := m.pool.Exec(t.Context(), `select pg_sequence_last_value('soniq_epochs')`)
	t.Logf("the sequence: %v", unreadable)
	// In one session, two within a second, and in sessions side by side.
	for range 3 {
		m.die(t, "after")
	}
	first := value[int64](t, m.pool, `select max(moved_epoch) from soniq_dead_letter_jobs`)
	if first <= before {
		t.Errorf("epoch %d after %d", first, before)
	}
	m.allRead(t)
	m.adopted(t, unreadable != nil)
	m.die(t, "after setup")
	m.allRead(t)
	if m.reader.epoch < first {
		t.Errorf("epoch %d after %d", m.reader.epoch, first)
	}
}

// examined checks that doctor knows a standby, and that each of its checks can be made there.
func examined(t *testing.T, url string) {
	t.Helper()
	r, err := doctor.Run(t.Context(), doctor.Config{Pool: testkit.Open(t, url)})
	if err != nil || r.Status != doctor.Critical {
		t.Errorf("a standby is %s: %v", r.Status, err)
	}
	for i, f := range r.Findings {
		if f.Severity == doctor.Unknown || i == 0 && !strings.HasPrefix(f.Problem, "this is a standby") {
			t.Errorf("on a standby: %+v", f)
		}
	}
}

// adopted does what 'soniq adopt' does, where the sequence of epochs is unreadable or not.
func (m *moving) adopted(t *testing.T, unreadable bool) {
	t.Helper()
	missing := func() []string {
		s, err := soniq.ReadStatus(t.Context(), m.pool, soniq.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Missing
	}
	if got := missing(); unreadable != slices.Contains(got, "sequence soniq_epochs, which can't be read") {
		t.Errorf("missing: %q", got)
	}
	db := pg.Schema{}.Pool(m.pool)
	if p, err := incarnation.Look(t.Context(), db, pg.Schema{}); err != nil || unreadable && !p.Epoch {
		t.Errorf("what adopt would do: %+v, %v", p, err)
	}
	setUp(t, m.pool)
	if got := missing(); len(got) > 0 {
		t.Errorf("missing after setup: %q", got)
	}
	err := pg.InTx(t.Context(), db, func(tx pgx.Tx) error {
		_, _, err := incarnation.Adopt(t.Context(), pg.Schema{}.Tx(tx), pg.Schema{}, incarnation.Options{})
		return err
	})
	if err != nil {
		t.Errorf("adopt: %v", err)
	}
}

// The programs of docs/clients follow one database through each way in which it can move, in
// turn. They miss nothing that the new place has, and read nothing twice.
func TestMoved_followersGoOn(t *testing.T) {
	t.Parallel()
	if os.Getenv(movesEnv) != "all" {
		t.Logf("not run: 'make moves' runs it")
		return
	}
	if postgresBin() == "" {
		t.Fatal("no server's programs in /usr/lib/postgresql")
	}
	m := &moving{root: clusterRoot(t)}
	m.now = newCluster(t, m.root, "origin")
	m.connect(t)
	setUp(t, m.pool)
	m.proxy = testkit.StartProxy(t, m.now.url())
	for _, s := range snippets() {
		if s.script && !allSnippets() {
			continue
		}
		if command := s.command(t); command != nil {
			f := &following{snippet: s, proxy: m.proxy, pool: m.pool}
			through := m.proxy.Through(t, m.now.url())
			if s.language == "java" {
				through = jdbcURL(t, through)
			}
			f.program = start(t, runnable(command, "DATABASE_URL="+through))
			m.followers = append(m.followers, f)
		}
	}
	m.die(t, "first")
	m.allRead(t)
	for _, move := range moves() {
		m.make(t, move)
		if t.Failed() {
			t.Fatalf("after %q", move.name)
		}
		t.Logf("%s: read to the end, nothing twice", move.name)
	}
}

func setUp(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{}); err != nil {
		t.Fatal(err)
	}
}

func (m *moving) connect(t *testing.T) {
	t.Helper()
	if m.pool != nil {
		m.pool.Close()
	}
	var err error
	if m.pool, err = pgxpool.New(t.Context(), m.now.url()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.pool.Close)
	for _, f := range m.followers {
		f.pool = m.pool
	}
}

func (m *moving) die(t *testing.T, job string) {
	t.Helper()
	id := uuid.New()
	execute(t, m.pool, oneDeathSQL, id, job)
	m.ids = append(m.ids, id)
}

// age uses up transaction numbers, so that those of another place are behind.
func (m *moving) age(t *testing.T) {
	t.Helper()
	execute(t, m.pool, `
		do $$
		begin
		  for i in 1..300 loop
		    perform pg_current_xact_id();
		    commit;
		  end loop;
		end
		$$`)
}

func (m *moving) allRead(t *testing.T) {
	t.Helper()
	for _, f := range m.followers {
		f.ids = m.ids
		f.readsAll(t)
		f.readNothingTwice(t)
	}
	if m.reader == nil {
		return
	}
	eventually.True(t, "the reader has all", func() bool {
		m.reader.readOn(t, m.pool)
		return len(m.reader.read) >= len(m.ids)
	})
	// In the order of the transactions, which is not that of the test where one was prepared.
	byID := func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }
	if !slices.Equal(slices.SortedFunc(slices.Values(m.reader.read), byID), slices.SortedFunc(slices.Values(m.ids), byID)) {
		t.Errorf("it has read %d, and %d have died: not the same", len(m.reader.read), len(m.ids))
	}
}

func (m *moving) make(t *testing.T, move move) {
	t.Helper()
	var prepared *cluster
	if move.before != nil {
		prepared = move.before(t, m)
	}
	m.age(t)
	for i := range 3 {
		m.die(t, "before "+move.name+strconv.Itoa(i))
	}
	if len(m.late) == 0 {
		m.allRead(t)
	}
	if m.proxy != nil {
		m.proxy.Down()
	}
	if !move.loses {
		m.die(t, "nobody has read it")
	}
	if move.loses && m.reader != nil {
		m.clockPasses(t)
	}
	m.now = move.take(t, m, prepared)
	m.connect(t)
	m.expectSequence(t, move)
	for i := range 3 {
		m.die(t, "after "+move.name+strconv.Itoa(i))
	}
	if move.after != nil {
		move.after(t, m)
	}
	m.ids, m.late = append(m.ids, m.late...), nil
	if m.proxy != nil {
		m.proxy.Up(t, m.now.url())
	}
	m.die(t, "at last")
	m.allRead(t)
}

// clockPasses waits until an epoch that begins now is later than the one that was read, whose number may be up to
// 2^20 µs ahead of the clock. A server that lost it knows the clock alone: older files can't take the place of
// newer ones within a second of the first death there, but in a test.
func (m *moving) clockPasses(t *testing.T) {
	t.Helper()
	latest := value[int64](t, m.pool, `select max(moved_epoch) from soniq_dead_letter_jobs`)
	eventually.True(t, "the clock to pass the epoch", func() bool { return time.Now().UnixMicro()>>20 > latest>>20 })
}

// expectSequence compares what became of the sequence of epochs.
func (m *moving) expectSequence(t *testing.T, move move) {
	t.Helper()
	if m.reader == nil || value[int](t, m.pool, `select current_setting('server_version_num')::integer`) < 150000 {
		return
	}
	if kept := value[bool](t, m.pool, `select pg_sequence_last_value('soniq_epochs') is not null`); kept != move.keeps {
		t.Errorf("%s: the sequence of epochs was kept: %t", move.name, kept)
	}
}

func moves() []move { return append(runs(), places()...) }

// runs are the moves after which the database is where it was, or on a server with the same identifier.
func runs() []move {
	return []move{
		{
			name: "restart", keeps: true,
			before: func(t *testing.T, m *moving) *cluster {
				// What is imported is no news: not after a move either.
				execute(t, m.pool, `
					insert into soniq_dead_letter_jobs
					select (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid(), 'moved_xid', null))).*
					from soniq_dead_letter_jobs d
					limit 1`)
				return nil
			},
			take: func(t *testing.T, m *moving, _ *cluster) *cluster {
				m.now.stop(t, "fast")
				m.now.start(t)
				return m.now
			},
		},
		{
			name: "session killed, commits not yet on disk", loses: true,
			before: func(t *testing.T, m *moving) *cluster {
				m.now.set(t, "synchronous_commit", "off")
				m.now.set(t, "wal_writer_delay", "'10s'")
				return nil
			},
			take: func(t *testing.T, m *moving, _ *cluster) *cluster {
				m.pool.Close()
				m.now.crash(t)
				m.now.set(t, "synchronous_commit", "on")
				m.now.set(t, "wal_writer_delay", "'200ms'")
				return m.now
			},
		},
		{name: "crash", take: func(t *testing.T, m *moving, _ *cluster) *cluster {
			m.now.stop(t, "immediate")
			m.now.start(t)
			return m.now
		}},
		{
			name: "files rolled back", loses: true, keeps: true,
			before: func(t *testing.T, m *moving) *cluster {
				m.pool.Close()
				m.now.stop(t, "fast")
				old := m.now.copyTo(t, "old")
				m.now.start(t)
				m.connect(t)
				m.allRead(t)
				return old
			},
			take: func(t *testing.T, m *moving, old *cluster) *cluster {
				m.now.stop(t, "fast")
				old.start(t)
				return old
			},
		},
		{
			name: "backup recovered", loses: true,
			before: func(t *testing.T, m *moving) *cluster { return m.now.backup(t, "backup", false) },
			take: func(t *testing.T, m *moving, backup *cluster) *cluster {
				m.now.stop(t, "fast")
				backup.recover(t)
				return backup
			},
		},
		{
			name: "standby promoted, with a prepared transaction",
			before: func(t *testing.T, m *moving) *cluster {
				standby := m.now.backup(t, "standby", true)
				standby.configure(t)
				standby.start(t)
				m.prepare(t)
				return standby
			},
			after: func(t *testing.T, m *moving) {
				// It is older than what died after it and nobody has read: no follower may pass it.
				if n := value[int](t, m.pool, `select count(*) from soniq_dead_letter_feed where job_name in ('nobody has read it', 'at last') and moved_xid > $1::text::xid8`, m.prepared); n > 0 {
					t.Errorf("%d dead letters can be read before one that is prepared", n)
				}
				execute(t, m.pool, `commit prepared 'older'`)
			},
			take: func(t *testing.T, m *moving, standby *cluster) *cluster {
				eventually.True(t, "the standby has all", func() bool {
					return m.now.sql(t, "app", "select pg_current_wal_lsn()") == standby.sql(t, "app", "select pg_last_wal_replay_lsn()")
				})
				m.now.stop(t, "immediate")
				postgresProgram(t, "pg_ctl", "-D", standby.dir, "-w", "promote")
				standby.writable(t)
				return standby
			},
		},
		{
			name: "standby promoted with loss", loses: true,
			before: func(t *testing.T, m *moving) *cluster {
				standby := m.now.backup(t, "behind", true)
				standby.configure(t)
				standby.start(t)
				standby.sql(t, "postgres", "alter system set primary_conninfo = ''")
				standby.sql(t, "postgres", "select pg_reload_conf()")
				eventually.True(t, "the standby is alone", func() bool {
					return standby.sql(t, "postgres", "select count(*) from pg_stat_wal_receiver") == "0"
				})
				return standby
			},
			take: func(t *testing.T, m *moving, standby *cluster) *cluster {
				m.now.stop(t, "immediate")
				postgresProgram(t, "pg_ctl", "-D", standby.dir, "-w", "promote")
				standby.writable(t)
				return standby
			},
		},
	}
}

// places are the moves to another database.
func places() []move {
	return []move{
		{name: "dump restored elsewhere", take: func(t *testing.T, m *moving, _ *cluster) *cluster {
			return m.restored(t, newCluster(t, m.root, "dumped"))
		}},
		{
			name: "data restored where jobs had died",
			before: func(t *testing.T, m *moving) *cluster {
				to := newCluster(t, m.root, "filled")
				pool, err := pgxpool.New(t.Context(), to.url())
				if err != nil {
					t.Fatal(err)
				}
				defer pool.Close()
				setUp(t, pool)
				execute(t, pool, oneDeathSQL, uuid.New(), "of its own")
				execute(t, pool, `truncate soniq_migrations`)
				// Its run begins after that one's: so the dump has the later epoch.
				m.pool.Close()
				m.now.stop(t, "fast")
				m.now.start(t)
				m.connect(t)
				return to
			},
			take: func(t *testing.T, m *moving, to *cluster) *cluster {
				return m.restored(t, to, "--data-only")
			},
		},
		{name: "logical switch-over", take: func(t *testing.T, m *moving, _ *cluster) *cluster { return m.switchedOver(t) }},
		{name: "template copied", take: func(t *testing.T, m *moving, _ *cluster) *cluster {
			m.pool.Close()
			m.now.sql(t, "postgres", "create database copy template app")
			m.now.sql(t, "postgres", "alter database app rename to original")
			m.now.sql(t, "postgres", "alter database copy rename to app")
			return m.now
		}},
	}
}

// restored restores a dump of the database on another server.
func (m *moving) restored(t *testing.T, to *cluster, options ...string) *cluster {
	t.Helper()
	dump := to.dir + ".dump"
	postgresProgram(t, "pg_dump", "-Fc", "-f", dump, m.now.url())
	postgresProgram(t, "pg_restore", append(options, "-j", "2", "-d", to.url(), dump)...)
	m.pool.Close()
	m.now.stop(t, "fast")
	return to
}

// prepare leaves a transaction open in which a job has died.
func (m *moving) prepare(t *testing.T) {
	t.Helper()
	tx, err := m.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	for _, s := range []string{
		`set local soniq.notify = off`,
		strings.NewReplacer("$1", "'"+id.String()+"'", "$2", "'prepared'").Replace(oneDeathSQL),
	} {
		if _, err := tx.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.QueryRow(t.Context(), `select pg_current_xact_id()::text`).Scan(&m.prepared); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `prepare transaction 'older'`); err != nil {
		t.Fatal(err)
	}
	_ = tx.Rollback(t.Context())
	m.late = append(m.late, id)
}

// switchedOver is a new server to which the rows were replicated.
func (m *moving) switchedOver(t *testing.T) *cluster {
	t.Helper()
	to := newCluster(t, m.root, "subscriber")
	pool, err := pgxpool.New(t.Context(), to.url())
	if err != nil {
		t.Fatal(err)
	}
	setUp(t, pool)
	pool.Close()
	m.now.sql(t, "app", "create publication all_rows for table soniq_dead_letter_jobs, soniq_jobs")
	to.sql(t, "app", "create subscription all_rows connection '"+m.now.url()+"' publication all_rows")
	m.die(t, "while it is replicated")
	eventually.True(t, "all rows", func() bool {
		const count = "select count(*) from soniq_dead_letter_jobs"
		return to.sql(t, "app", count) == m.now.sql(t, "app", count)
	})
	to.sql(t, "app", "drop subscription all_rows")
	m.pool.Close()
	m.now.stop(t, "fast")
	return to
}

// A copy of the disk that is started beside its original has all that tells a server. docs/restore.md has what to
// do before its start, so that it is told apart; and a program that comes from the original notices by itself.
func TestMoved_copyOfTheDisk_isToldApart(t *testing.T) {
	t.Parallel()
	if postgresBin() == "" {
		t.Logf("not run: no server's programs in /usr/lib/postgresql")
		return
	}
	root := clusterRoot(t)
	origin := newCluster(t, root, "origin")
	m := &moving{root: root, now: origin}
	m.connect(t)
	setUp(t, m.pool)
	guard := func(c *cluster) *incarnation.Guard {
		t.Helper()
		pool, err := pgxpool.New(t.Context(), c.url())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return incarnation.NewGuard(pg.Schema{}.Pool(pool), slog.New(slog.DiscardHandler))
	}
	held := func(g *incarnation.Guard) string {
		t.Helper()
		reason, err := g.Held(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return reason
	}
	if r := held(guard(origin)); r != "" {
		t.Fatalf("the original holds: %s", r)
	}
	m.pool.Close()
	origin.stop(t, "fast")
	plain, recovered, marked := origin.copyTo(t, "plain"), origin.copyTo(t, "recovered"), origin.copyTo(t, "marked")
	origin.start(t)
	m.connect(t)
	m.age(t)

	// Nothing tells the plain copy, but to who knew the original.
	plain.configure(t)
	plain.start(t)
	if r := held(guard(plain)); r != "" {
		t.Errorf("docs/restore.md says that a plain copy can't be told apart, and it holds: %s", r)
	}
	proxy := testkit.StartProxy(t, origin.url())
	wanders := &cluster{port: proxyPort(t, proxy.Through(t, origin.url()))}
	lasting := guard(wanders)
	if r := held(lasting); r != "" {
		t.Errorf("the original holds: %s", r)
	}
	proxy.Down()
	proxy.Up(t, plain.url())
	eventually.True(t, "a program that knew the original holds", func() bool {
		reason, err := lasting.Held(t.Context(), time.Now())
		return err == nil && strings.Contains(reason, "older state")
	})

	// recovery.signal gives it a timeline of its own.
	recovered.recover(t)
	if r := held(guard(recovered)); !strings.Contains(r, "timeline 2, it was 1") {
		t.Errorf("a copy that was recovered: held %q", r)
	}
	// A statement before the server takes connections.
	marked.configure(t)
	marked.single(t, markSQL)
	marked.start(t)
	if r := held(guard(marked)); !strings.Contains(r, "a copy of another one") {
		t.Errorf("a copy that was marked: held %q", r)
	}
}

// markSQL is in docs/restore.md, too.
const markSQL = `update soniq_incarnations set system_identifier = 'copied' where replaced_at is null`

func TestMoved_docsHaveTheStatement(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/restore.md")
	if err != nil || !strings.Contains(string(text), markSQL) {
		t.Errorf("docs/restore.md lacks %q (%v)", markSQL, err)
	}
}

func proxyPort(t *testing.T, url string) int {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return int(config.Port)
}
