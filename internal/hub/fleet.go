package hub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/internal/liveness"
	"soniq/internal/pg"
)

// Each hub hears each notification. So that not all of them look, each finds out on its
// own which of them is first: it ranks the hubs that have the same crew by a hash of
// their locks and of the session that notified, which is the same for all. The lead of
// each hub sees the others' locks when it looks at the other workers.
//
//	rank 0       calls a member at once or, if its crew polls, within slowPace
//	ranks 1, 2   after 250 and 500 ms, unless a member has looked since
//	ranks 3 - 5  after a second, in the same way, and each of the others with the
//	             probability that makes it two of them
//
// Whatever became of the first, another one looks soon; and a hub that finds out that
// others are gone, after a job was announced, looks at once. Nothing depends on that all
// hubs know the same: a hub which ranks itself too low is called late, and one which ranks
// itself too high looks for nothing. A hub without a lock, which the others don't see,
// always calls at once, and so do workers of older releases.
//
// A hub that is first and can't answer sends the call to the others, on soniq_control:
// the first of them calls a member, and if it can't answer either, all do. One that runs
// jobs already gives calls away in this way too, up to 20 a second.

const (
	// deputies look after these many steps of deputyStep.
	deputyStep = 250 * time.Millisecond
	lastStep   = 4
	// deputyRest is the least time between two looks as a deputy, whatever is announced.
	deputyRest = 700 * time.Millisecond
	// lateRanks are those that look after lastStep, and lateOthers about as many of the
	// others as do.
	lateRanks, lateOthers = 5, 2.0
	// silentAfter is when a hub that holds its lock is not counted on: it has missed a
	// heartbeat.
	silentAfter = liveness.BeatInterval + 3*time.Second
	// lately is how long after a job was announced a hub looks because another is gone.
	lately = 3 * time.Second
	// spreadEvery is the least time between two calls that a hub gives away as it is busy.
	spreadEvery = 50 * time.Millisecond
	// sendTimeout is short: the deputies look soon.
	sendTimeout = 2 * time.Second
)

// CrewKey is equal for workers that serve the same queues and job names.
func CrewKey(queues, names []string) string {
	all := strings.Join(slices.Sorted(slices.Values(queues)), "\x00") + "\x00\x00" +
		strings.Join(slices.Sorted(slices.Values(names)), "\x00")
	sum := sha256.Sum256([]byte(all))
	return hex.EncodeToString(sum[:8])
}

// score orders the hubs for what a session has announced.
func score(lock int64, pid uint32) uint64 {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:], uint64(lock))
	binary.BigEndian.PutUint32(b[8:], pid)
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

// rank is how many hubs come before this one, without the one that sends.
func (c *crew) rank(pid uint32, sender int64) (n int) {
	if c.hub.lockKey == 0 {
		return 0
	}
	own := score(c.hub.lockKey, pid)
	for _, other := range c.others {
		if other != sender && score(other, pid) > own {
			n++
		}
	}
	return n
}

// announce calls the crews that serve the queue, the empty one being any, or has them
// called later.
func (h *Hub) announce(pid uint32, queue string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	h.announced = time.Now()
	for _, c := range h.crews {
		if !c.serves(queue) {
			continue
		}
		c.hears(h.announced)
		switch rank := c.rank(pid, 0); {
		case c.polling.on:
			if rank == 0 {
				c.pollSoon()
			}
		case rank == 0 && c.spreads():
			c.send(1)
			c.deputize(h.count, 1)
		case rank == 0:
			c.call(call{origin: h.count})
		default:
			c.deputize(h.count, rank)
		}
	}
	h.wakeDetector()
}

// spreads reports whether a call is rather for another hub, because members of this one run
// jobs: one session that enqueues would else have one process run all, beside others that
// idle. That costs a notification, so it is done now and then only: short jobs don't need it.
func (c *crew) spreads() bool {
	busy := func(m *Member) bool { return m.config.Busy() }
	if len(c.others) == 0 || time.Since(c.spread) < spreadEvery || !slices.ContainsFunc(c.members, busy) {
		return false
	}
	c.spread = time.Now()
	return true
}

// deputy is a look that is to come if others don't.
type deputy struct {
	timer  *time.Timer
	at     time.Time
	origin int64
	// last is when the last one was.
	last time.Time
}

// deputize has the crew called later, unless it looks before that.
func (c *crew) deputize(origin int64, rank int) {
	steps := min(rank, lastStep)
	if rank > 2 {
		steps = lastStep
	}
	if rank > lateRanks && rand.Float64()*float64(len(c.others)) >= lateOthers {
		return
	}
	d := &c.deputy
	d.origin = origin
	at := time.Now().Add(time.Duration(steps) * deputyStep)
	if earliest := d.last.Add(deputyRest); at.Before(earliest) {
		at = earliest
	}
	if d.timer != nil && !at.Before(d.at) {
		return
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at = at
	d.timer = c.hub.after(time.Until(at), func() { c.lookAsDeputy(at) })
}

func (c *crew) lookAsDeputy(at time.Time) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	d := &c.deputy
	if d.timer == nil || !d.at.Equal(at) {
		return
	}
	d.timer, d.last = nil, time.Now()
	if !c.lookedSince(d.origin) {
		c.call(call{origin: d.origin, hop: lastHop})
	}
}

// lookedSince reports whether a member has begun to look since, and found nothing left.
func (c *crew) lookedSince(origin int64) bool {
	return slices.ContainsFunc(c.members, func(m *Member) bool {
		return m.state == parked && !m.limited && m.begun >= origin && m.answering.origin == 0
	})
}

// Saw takes in which other workers there are. Any member may call it.
func (m *Member) Saw(peers []liveness.Peer) {
	h := m.hub.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lockKey == 0 {
		return
	}
	others := map[string][]int64{}
	for _, p := range peers {
		if p.Crew == "" || p.LockKey == nil || !p.Held || p.Silent > silentAfter || *p.LockKey == h.lockKey {
			continue
		}
		others[p.Crew] = append(others[p.Crew], *p.LockKey)
	}
	for _, c := range h.crews {
		seen := others[c.key]
		slices.Sort(seen)
		seen = slices.Compact(seen)
		gone := slices.ContainsFunc(c.others, func(lock int64) bool {
			_, ok := slices.BinarySearch(seen, lock)
			return !ok
		})
		c.others = seen
		if gone && time.Since(h.announced) < lately {
			h.count++
			c.call(call{origin: h.count, hop: lastHop})
		}
	}
}

// message is a call from one hub to the others, on soniq_control.
type message struct {
	V    int    `json:"v"`
	Wake string `json:"wake"`
	Hop  int    `json:"hop"`
	By   string `json:"by"`
}

const sendSQL = `select pg_notify('soniq_control', $1)`

// publisher sends through a pool.
func publisher(pool *pg.Pool) func(ctx context.Context, payload string) error {
	return func(ctx context.Context, payload string) error {
		_, err := pool.Exec(ctx, sendSQL, payload)
		return err
	}
}

// send gives a call to the other hubs. While one is being sent, the next one waits.
func (c *crew) send(hop int) {
	h := c.hub
	if c.sending {
		c.unsent = max(c.unsent, hop)
		return
	}
	payload, err := json.Marshal(message{V: 1, Wake: c.key, Hop: hop, By: strconv.FormatInt(h.lockKey, 10)})
	if err != nil || h.closed {
		return
	}
	c.sending = true
	h.sends.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
		defer cancel()
		if err := h.publish(ctx, string(payload)); err != nil {
			h.logger.Debug("can't wake a worker of another process; one looks soon", "error", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		next := c.unsent
		c.sending, c.unsent = false, 0
		if next > 0 {
			c.send(next)
		}
	})
}

// received takes a call from another hub. It reports whether the payload is one.
func (h *Hub) received(pid uint32, payload string) bool {
	var m message
	if json.Unmarshal([]byte(payload), &m) != nil || m.Wake == "" {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.crews[m.Wake]
	by, err := strconv.ParseInt(m.By, 10, 64)
	if c == nil || err != nil || by != 0 && by == h.lockKey {
		return true
	}
	if m.Hop >= lastHop || c.rank(pid, by) == 0 {
		h.count++
		c.call(call{origin: h.count, hop: min(max(m.Hop, 1), lastHop)})
	}
	return true
}
