package hooks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/internal/limiter"
)

const (
	// firstDelay is how long a group waits for its first digest.
	firstDelay = time.Minute
	// digestSlack gathers the rows of one digest, whose times differ by how long the
	// statements took that postponed them.
	digestSlack = time.Second
)

// sendDigest sends one message about all that is due: an event by itself, or groups
// with their counts. Only one dispatcher of all does so at a time. A group that had a
// message lately waits for its digest: the first event of a group is sent at once,
// and a storm makes a handful of messages.
func (d *Dispatcher) sendDigest(ctx context.Context, s *limiter.Sender, h dueHook, hook opened) (more bool, err error) {
	lease := uuid.New()
	if ok, err := d.outbox.acquireSender(ctx, h.ID, lease, leaseTime); err != nil || !ok {
		return false, err
	}
	sent := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if releaseErr := d.outbox.releaseSender(ctx, h.ID, lease, sent); err == nil {
			err = releaseErr
		}
	}()
	rows, err := d.outbox.claim(ctx, h, lease, hook.digest.rows, leaseTime, digestSlack)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	groups, err := d.postponeGroups(ctx, h.ID, lease, groupRows(rows))
	if err != nil || len(groups) == 0 {
		return false, err
	}
	delivery, ids, err := d.gather(ctx, h.Name, groups, hook.digest.read)
	if err != nil {
		return false, err
	}
	r, err := d.send(ctx, s, h, hook, lease, ids, delivery)
	if err = errors.Join(err, d.recordFailure(ctx, h, r)); err != nil || !r.sent {
		return false, err
	}
	sent = true
	keys := make([]string, len(groups))
	for i, g := range groups {
		keys[i] = g.key
	}
	return false, d.outbox.recordDigest(context.WithoutCancel(ctx), h.ID, keys, d.firstDelay)
}

// gather makes the delivery of a digest. The dead letters of the first groups are
// read, as many as read says.
func (d *Dispatcher) gather(ctx context.Context, hook string, groups []rowGroup, read int) (*Delivery, []uuid.UUID, error) {
	delivery := &Delivery{ID: groups[0].rows[0].ID, Hook: hook}
	var ids []uuid.UUID
	for i, g := range groups {
		for _, row := range g.rows {
			ids = append(ids, row.ID)
			delivery.Attempt = max(delivery.Attempt, row.Attempts)
		}
		first, last := g.rows[0], g.rows[len(g.rows)-1]
		group := Group{Count: len(g.rows), First: first.At, Last: last.At}
		if i < read {
			var err error
			if group.Event, err = d.outbox.event(ctx, first); err != nil {
				return nil, nil, err
			}
		} else {
			group.Event = first.summary()
			group.Event.Summary = true
		}
		delivery.Groups = append(delivery.Groups, group)
	}
	delivery.Event = delivery.Groups[0].Event
	return delivery, ids, nil
}

// rowGroup are rows about events that are alike.
type rowGroup struct {
	key  string
	rows []claimed // the oldest first
}

// groupRows sorts rows into groups, the largest first.
func groupRows(rows []claimed) (groups []rowGroup) {
	at := map[string]int{}
	for _, row := range rows {
		key := string(row.Event) + " " + row.Group
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

// postponeGroups releases the rows of groups that must wait for their digest, until
// then. It returns the groups that are due.
func (d *Dispatcher) postponeGroups(ctx context.Context, hook, lease uuid.UUID, groups []rowGroup) (due []rowGroup, err error) {
	var keys []string
	for _, g := range groups {
		keys = append(keys, g.key)
	}
	delays, err := d.outbox.groupDelays(ctx, hook, keys)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		delay, ok := delays[g.key]
		if !ok {
			due = append(due, g)
			continue
		}
		var ids []uuid.UUID
		for _, row := range g.rows {
			ids = append(ids, row.ID)
		}
		if err := d.outbox.postpone(ctx, lease, ids, delay+10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return due, nil
}
