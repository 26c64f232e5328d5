package engine_test

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
)

// subscribe is a program that must miss no death: it reads the table each time
// that it is connected, and hears of the others.
func (c *chaos) subscribe(ctx context.Context) {
	config, err := pgx.ParseConfig(c.proxies[chaosWorkers].Through(c.T, c.server.URL()))
	if err != nil {
		c.Error(err)
		return
	}
	add := func(ids ...uuid.UUID) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, id := range ids {
			c.subscribed[id] = true
		}
	}
	catchUp := func(ctx context.Context) {
		c.retry(ctx, "catch up", func(ctx context.Context) error {
			rows, _ := c.pool.Query(ctx, `select id from soniq_dead_letter_jobs`)
			ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			add(ids...)
			return err
		})
	}
	logger := slog.New(slog.NewTextHandler(c.Output(), nil))
	err = deadletter.Subscribe(ctx, config, deadletter.SubscribeOptions{OnConnect: catchUp, Logger: logger},
		func(_ context.Context, e deadletter.Event) { add(e.ID) })
	if err != nil {
		c.Error(err)
	}
}

// markChannel is where the suite tells its plain listener how far it has
// heard everything.
const markChannel = "chaos_mark"

// listen is a program that only listens, and hears what is announced while it
// is connected.
func (c *chaos) listen(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		c.listenOnce(ctx)
		<-ticker.C
	}
}

func (c *chaos) listenOnce(ctx context.Context) {
	conn, err := pgx.Connect(ctx, c.server.URL())
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	for _, channel := range []string{"soniq_dead_letter", markChannel} {
		if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
			return
		}
	}
	p := &chaosPeriod{}
	if err := conn.QueryRow(ctx, `select pg_current_snapshot()::text`).Scan(&p.from); err != nil {
		return
	}
	p.to = p.from
	c.mu.Lock()
	c.periods = append(c.periods, p)
	c.mu.Unlock()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return
		}
		if n.Channel == markChannel {
			c.mu.Lock()
			p.to = n.Payload
			c.mu.Unlock()
			continue
		}
		event, err := deadletter.ParseEvent(n.Payload)
		if err != nil {
			c.Error(err)
			continue
		}
		c.mu.Lock()
		c.heard[event.ID]++
		c.mu.Unlock()
	}
}

// Notifications come in the order of the commits: who hears this has heard of
// all that is visible in the snapshot.
const markSQL = `
with snapshot as materialized (
  select pg_current_snapshot()::text as s
)
select s, pg_notify('` + markChannel + `', s)::text
from snapshot`

func (c *chaos) sendMark(ctx context.Context) (mark string, err error) {
	var void string
	err = c.pool.QueryRow(ctx, markSQL).Scan(&mark, &void)
	return mark, err
}

func (c *chaos) mark(ctx context.Context) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		_, _ = c.sendMark(ctx) // the server may be away
		<-ticker.C
	}
}

// awaitAnnouncements returns when both listeners can have heard everything.
func (c *chaos) awaitAnnouncements() {
	last, err := c.sendMark(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	dead := queryValue[int](c.T, c.pool, `select count(*) from soniq_dead_letter_jobs`)
	waitLong(c.T, "the announcements", chaosSettles, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.subscribed) >= dead && len(c.periods) > 0 && c.periods[len(c.periods)-1].to >= last
	})
}

const chaosMissedSQL = `
select d.id
from soniq_dead_letter_jobs d
where pg_visible_in_snapshot(d.moved_xid, $2::pg_snapshot)
  and not pg_visible_in_snapshot(d.moved_xid, $1::pg_snapshot)
  and d.id <> all ($3::uuid[])`

func (c *chaos) checkAnnouncements() {
	rows, _ := c.pool.Query(c.Context(), `select id from soniq_dead_letter_jobs`)
	dead, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		c.Fatal(err)
	}
	rowOf := map[uuid.UUID]bool{}
	for _, id := range dead {
		rowOf[id] = true
		if !c.subscribed[id] {
			c.Errorf("the subscriber never learnt of dead letter %s", id)
		}
	}
	heard := make([]uuid.UUID, 0, len(c.heard))
	for id, times := range c.heard {
		heard = append(heard, id)
		if !rowOf[id] || times != 1 {
			c.Errorf("dead letter %s was announced %d times; it is there: %v", id, times, rowOf[id])
		}
	}
	for id := range c.subscribed {
		if !rowOf[id] {
			c.Errorf("the subscriber learnt of a death that wasn't, %s", id)
		}
	}
	proven := 0
	for _, p := range c.periods {
		rows, _ := c.pool.Query(c.Context(), chaosMissedSQL, p.from, p.to, heard)
		missed, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			c.Fatal(err)
		}
		if len(missed) > 0 {
			c.Errorf("%d dead letters were not announced to who listened, such as %s", len(missed), missed[0])
		}
		proven += queryValue[int](c.T, c.pool, `
			select count(*) from soniq_dead_letter_jobs d
			where pg_visible_in_snapshot(d.moved_xid, $2::pg_snapshot)
			  and not pg_visible_in_snapshot(d.moved_xid, $1::pg_snapshot)`, p.from, p.to)
	}
	c.Logf("%d dead letters, all known to the subscriber; the plain listener was connected %d times and heard of %d, "+
		"where it had to hear of %d", len(dead), len(c.periods), len(heard), proven)
}
