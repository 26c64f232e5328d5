package hooks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
)

// sendDigest sends one message of all that is due: an event alone where there
// is one, else its groups with their counts. The fleet has one sender at a
// time. Groups that were told of lately wait for their digest, so that the
// first of a group comes at once and a storm makes a handful of messages.
func (d *Dispatcher) sendDigest(ctx context.Context, t *turn, h dueHook, hook opened) (more bool, err error) {
	lease := uuid.New()
	if ok, err := d.outbox.become(ctx, h.ID, lease, leaseTime); err != nil || !ok {
		return false, err
	}
	sent := false
	defer func() {
		resignCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOver)
		defer cancel()
		if resignErr := d.outbox.resign(resignCtx, h.ID, lease, sent); err == nil {
			err = resignErr
		}
	}()
	rows, err := d.outbox.claim(ctx, h.ID, lease, maxDigest, leaseTime, holdSlack)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	groups := groupRows(rows)
	if groups, err = d.putOff(ctx, h.ID, lease, groups); err != nil || len(groups) == 0 {
		return false, err
	}
	delivery := &Delivery{ID: groups[0].rows[0].ID, Hook: h.Name}
	var ids []uuid.UUID
	var keys []string
	for i, g := range groups {
		for _, row := range g.rows {
			ids = append(ids, row.ID)
			delivery.Attempt = max(delivery.Attempt, row.Attempts)
		}
		keys = append(keys, g.key)
		first := g.rows[0]
		told := Group{
			Event: Event{Type: first.Event, At: first.At.UTC()}, Count: len(g.rows),
			First: first.At, Last: g.rows[len(g.rows)-1].At,
		}
		// What is only counted needs no facts.
		if i <= maxSlackGroups {
			if told.Event, err = d.outbox.event(ctx, first); err != nil {
				return false, err
			}
		}
		delivery.Groups = append(delivery.Groups, told)
	}
	delivery.Event = delivery.Groups[0].Event
	sending, end := t.begin(ctx, hook.yields)
	r, err := d.send(sending, h, hook, lease, ids, delivery)
	end()
	if err = errors.Join(err, d.judge(ctx, h, r)); err != nil || !r.sent {
		return false, err
	}
	sent = true
	return false, d.outbox.told(context.WithoutCancel(ctx), h.ID, keys, d.hold)
}

type rowGroup struct {
	key  string
	rows []claimed // the oldest first
}

// groupRows sorts rows into groups, the largest first.
func groupRows(rows []claimed) (groups []rowGroup) {
	at := map[string]int{}
	for _, row := range rows {
		key := row.Event + " " + row.Group
		i, ok := at[key]
		if !ok {
			i = len(groups)
			at[key] = i
			groups = append(groups, rowGroup{key: key})
		}
		groups[i].rows = append(groups[i].rows, row)
	}
	slices.SortStableFunc(groups, func(a, b rowGroup) int { return len(b.rows) - len(a.rows) })
	return groups
}

// putOff gives back what must wait for its digest. Groups that are due are
// returned.
func (d *Dispatcher) putOff(ctx context.Context, hook, lease uuid.UUID, groups []rowGroup) (due []rowGroup, err error) {
	var keys []string
	for _, g := range groups {
		keys = append(keys, g.key)
	}
	held, err := d.outbox.held(ctx, hook, keys)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		wait, ok := held[g.key]
		if !ok {
			due = append(due, g)
			continue
		}
		var ids []uuid.UUID
		for _, row := range g.rows {
			ids = append(ids, row.ID)
		}
		if err := d.outbox.hold(ctx, lease, ids, wait+10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return due, nil
}
