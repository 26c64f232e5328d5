// Package sweep deletes the rows of a table that match a condition: all of them, in
// one pass over the table, a few pages at a time.
//
// A pass goes by the position of the rows in the table, not by their age or their
// name. So it needs no index and meets each row once, and no row's contents can stop it.
// A row that the database refuses to delete, because a foreign key refers to it for
// instance, is left, and the error reports it at the end.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// pagesATime is how many pages one statement reads: half a megabyte, some thousands
	// of rows, some 20 ms of locks.
	pagesATime = 64
	// leastPause is the least time between two statements. Usually it is as long as the
	// last one took: nobody waits for them.
	leastPause = 5 * time.Millisecond
	// lockPatience is how long a pass waits for the lock each time, with pauses of up to
	// lockPause. A session that has it for longer does this work itself.
	lockPatience = 2 * time.Second
	lockPause    = 250 * time.Millisecond
	// maxRefused is how many rows of one pass may be refused. Each one is a line in the
	// server's log.
	maxRefused = 100
)

// Table is what a pass deletes from.
type Table struct {
	// Name is the table's.
	Name string
	// Where is the condition for a row r. $1 is Args[0].
	Where string
	Args  []any
	// Lock is the key of an advisory lock that each statement takes; 0 is none. While
	// another session has it, the pass waits.
	Lock int64
}

// ErrLocked is returned if another session had the lock all the time.
var ErrLocked = errors.New("another session has the lock")

// RefusedError reports rows that the database refused to delete. All others were
// deleted.
type RefusedError struct {
	// Rows is how many were refused. More is true if others were not tried.
	Rows int
	More bool
	// Err is the first refusal.
	Err error
}

func (e *RefusedError) Error() string {
	more := ""
	if e.More {
		more = " or more"
	}
	return fmt.Sprintf("%d rows%s can't be deleted: %v", e.Rows, more, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// The table's name is a literal of the statement, not a parameter: there it is
// given the schema that the tables are in. %s is the name.
const pagesSQL = "select pg_relation_size('%s'::regclass) / current_setting('block_size')::bigint"

// Rows are locked before they are deleted, so that no other row can take their place.
// Parameters: $1 the lock, $2 and $3 the first page and the one after the last.
const deleteSQL = pg.Leader + `, gone as (
  delete from %[1]s
  where ctid = any (array(
    select r.ctid
    from %[1]s r
    where ` + pg.IsLeader + `
      and r.ctid >= format('(%%s,0)', $2::bigint)::tid
      and r.ctid < format('(%%s,0)', $3::bigint)::tid
      and (%[2]s)
    for update skip locked
  ))
  returning 1
)
select ` + pg.IsLeader + `, (select count(*) from gone)`

// Parameters: $1 and $2 the first page and the one after the last.
const placesSQL = `
select r.ctid::text
from %[1]s r
where r.ctid >= format('(%%s,0)', $1::bigint)::tid
  and r.ctid < format('(%%s,0)', $2::bigint)::tid
  and (%[2]s)`

// Parameter: $1 the place.
const deleteOneSQL = `
delete from %[1]s
where ctid = (
  select r.ctid
  from %[1]s r
  where r.ctid = $1::text::tid
    and (%[2]s)
  for update skip locked
)`

// Delete makes one pass and returns how many rows it deleted.
//
// Errors: [*RefusedError] for rows that were left, [ErrLocked], and those of the
// database.
func Delete(ctx context.Context, db pg.Querier, t Table) (deleted int64, err error) {
	var pages int64
	if err := db.QueryRow(ctx, fmt.Sprintf(pagesSQL, t.Name)).Scan(&pages); err != nil {
		return 0, err
	}
	var refused RefusedError
	// From another page each time: if more rows are refused than are tried, a later pass
	// comes to the others.
	steps := (pages + pagesATime - 1) / pagesATime
	first := rand.Int64N(max(steps, 1))
	for step := range steps {
		from := (first + step) % steps * pagesATime
		began := time.Now()
		n, err := t.delete(ctx, db, from)
		if IsRefusal(err) {
			n, err = t.deleteEach(ctx, db, from, &refused)
		}
		deleted += n
		if err != nil {
			return deleted, err
		}
		if n > 0 {
			if err := pause.For(ctx, max(time.Since(began), leastPause)); err != nil {
				return deleted, err
			}
		}
	}
	if refused.Rows > 0 {
		return deleted, &refused
	}
	return deleted, nil
}

// sql is a statement with the table and the condition. The condition's parameters come
// after the statement's own.
func (t Table) sql(form string, own ...any) (sql string, args []any) {
	where := shift(t.Where, len(own))
	return fmt.Sprintf(form, t.Name, where), append(own, t.Args...)
}

// delete deletes the rows of some pages.
func (t Table) delete(ctx context.Context, db pg.Querier, from int64) (deleted int64, err error) {
	sql, args := t.sql(deleteSQL, t.Lock, from, from+pagesATime)
	err = Elected(ctx, func() (elected bool, err error) {
		err = db.QueryRow(ctx, sql, args...).Scan(&elected, &deleted)
		return elected, err
	})
	return deleted, err
}

// Elected calls try until it was elected. try runs a statement that does its work only
// if it gets an advisory lock (see [pg.Leader]), and reports whether it got it. Another
// session usually has the lock for one statement, and may do other work.
//
// Errors: [ErrLocked] if another session has the lock for 2 s, and those of try.
func Elected(ctx context.Context, try func() (elected bool, err error)) error {
	wait := 10 * time.Millisecond
	for began := time.Now(); ; {
		if elected, err := try(); err != nil || elected {
			return err
		}
		if time.Since(began) > lockPatience {
			return ErrLocked
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lockPause)
	}
}

// deleteEach deletes the rows of some pages one by one, and counts the refusals. It
// needs no lock: two sessions may do it at the same time.
func (t Table) deleteEach(ctx context.Context, db pg.Querier, from int64, refused *RefusedError) (deleted int64, err error) {
	sql, args := t.sql(placesSQL, from, from+pagesATime)
	rows, _ := db.Query(ctx, sql, args...)
	places, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, err
	}
	rand.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	for _, place := range places {
		if refused.Rows >= maxRefused {
			refused.More = true
			return deleted, nil
		}
		sql, args := t.sql(deleteOneSQL, place)
		tag, err := db.Exec(ctx, sql, args...)
		switch {
		case IsRefusal(err):
			if refused.Rows++; refused.Err == nil {
				refused.Err = err
			}
		case err != nil:
			return deleted, err
		}
		deleted += tag.RowsAffected()
	}
	return deleted, nil
}

// IsRefusal reports whether the database refuses a statement because of its rows, or
// may: without some of them it may succeed. What other transactions do at the same time
// is no such reason, nor is a right to the table that the role lacks.
func IsRefusal(err error) bool {
	var denied *pg.DeniedError
	return pg.Refused(err) && !errors.As(err, &denied) && !pg.Momentary(err) && !pg.IsCode(err, pg.ObjectInUse)
}

// shift numbers the parameters of a condition from n+1 on.
func shift(where string, n int) string {
	var b []byte
	for i := 0; i < len(where); i++ {
		b = append(b, where[i])
		if where[i] != '$' {
			continue
		}
		number := 0
		for i+1 < len(where) && '0' <= where[i+1] && where[i+1] <= '9' {
			i++
			number = number*10 + int(where[i]-'0')
		}
		b = fmt.Append(b, number+n)
	}
	return string(b)
}
