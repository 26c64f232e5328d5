package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/hooks"
	"soniq/internal/explain"
	"soniq/internal/pg"
)

// letterPage is what the page of one dead letter shows.
type letterPage struct {
	deadletter.Job
	StateText  string
	Why        string
	Lineage    deadletter.Lineage
	History    []change
	Deliveries []hooks.DeliveryInfo
	// Revealed: secrets are shown, and the history says to whom.
	Revealed bool
	// Token is for the form that replays it, and Selection for the others.
	Token     string
	Selection frozen
}

// A change is a record of the history, with what it changed.
type change struct {
	deadletter.Record
	Changes []deadletter.ArgsChange
}

func (d *Dashboard) letter(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	return d.showLetter(v, j, false)
}

// reveal shows the secrets of a dead letter, once it is recorded who sees them.
func (d *Dashboard) reveal(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	if err := v.queue(v.r.FormValue("comment")).Reveal(v.Context(), j.ID); err != nil {
		return fmt.Errorf("nothing is shown, since who sees secrets is recorded and that failed: %w", err)
	}
	return d.showLetter(v, j, true)
}

// letterID is the id in the path. The first digits of one are enough.
func (v *visit) letterID() (uuid.UUID, error) {
	text := v.r.PathValue("id")
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	if !deadletter.IsPrefix(text) {
		return uuid.Nil, errNoLetter
	}
	id, err := v.d.queue.Find(v.Context(), text)
	var ambiguous *deadletter.AmbiguousError
	if errors.As(err, &ambiguous) {
		return id, badInput("%s", err)
	}
	return id, err
}

func (d *Dashboard) readLetter(v *visit) (deadletter.Job, error) {
	id, err := v.letterID()
	if err != nil {
		return deadletter.Job{}, err
	}
	j, err := d.queue.Get(v.Context(), id)
	if !errors.Is(err, deadletter.ErrNotFound) {
		return j, err
	}
	// What is known of one that was deleted stands in the history.
	history, err := d.queue.History(v.Context(), id)
	if err == nil && len(history) > 0 {
		last := history[len(history)-1].Redacted()
		return j, badInput("the dead letter %s is gone: %s by %s, %s", id, last.Action, last.Actor, age(time.Since(last.At)))
	}
	return j, errors.Join(errNoLetter, err)
}

func (d *Dashboard) showLetter(v *visit, j deadletter.Job, revealed bool) (err error) {
	page := letterPage{StateText: stateText(j), Revealed: revealed, Token: uuid.NewString(), Selection: frozen{IDs: []uuid.UUID{j.ID}}}
	if page.Job = j; !revealed {
		page.Job = j.Redacted()
	}
	page.Why = explain.Death(page.Job)
	if page.Lineage, err = d.queue.Lineage(v.Context(), j.ID); err != nil {
		return err
	}
	history, err := d.queue.History(v.Context(), j.ID)
	if err != nil {
		return err
	}
	for _, r := range history {
		page.History = append(page.History, change{r.Redacted(), r.Changes(j.Args)})
	}
	if page.Deliveries, err = d.deliveriesOf(v.Context(), j); err != nil {
		return err
	}
	return v.show("letter", view{Title: page.JobName, Nav: "/groups", Data: page})
}

// A delivery is written in the transaction of the death, whose time it has. There is no index by
// the dead letter. $1 is its time, $2 its id.
const deliveriesSQL = `
select d.id
from public.soniq_hook_deliveries d
where d.created_at between $1::timestamptz - interval '5 s' and $1::timestamptz + interval '5 s'
  and d.dead_letter_id = $2
order by d.created_at
limit 50`

func (d *Dashboard) deliveriesOf(ctx context.Context, j deadletter.Job) ([]hooks.DeliveryInfo, error) {
	ids, err := pg.Collect(ctx, d.db, pgx.RowTo[uuid.UUID], deliveriesSQL, j.MovedAt, j.ID)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return d.store.Deliveries(ctx, hooks.DeliveryFilter{IDs: ids})
}

// letterArgs sends the arguments as a file: all of them, without the secrets.
func (d *Dashboard) letterArgs(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	v.written = true
	v.w.Header().Set("Content-Type", "application/json")
	v.w.Header().Set("Content-Disposition", `attachment; filename="`+j.ID.String()+`.json"`)
	v.w.WriteHeader(http.StatusOK)
	_, err = v.w.Write(j.Redacted().Args)
	return err
}
