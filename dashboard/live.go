package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
)

const (
	// remembered is how many dead letters a page can catch up with whose connection broke.
	// Beyond that it reads its rows anew.
	remembered = 20_000
	// together is how long news wait for others: a page hears four times a second at most.
	together = 250 * time.Millisecond
	// beatInterval is how often a page hears that nothing is new. It takes two and a half of
	// them for frozen.
	beatInterval = 10 * time.Second
	// writeTimeout is how long a page may take to read what is sent to it.
	writeTimeout = 20 * time.Second
	// mostStreams bounds the pages that are fed at once.
	mostStreams = 2000
)

// A hub follows the dead letters once, for all pages.
type hub struct {
	// boot tells the numbers of this process from those of one before.
	boot string

	mu      sync.Mutex
	events  []deadletter.Event // the latest ones
	next    int                // the number of the next event
	changed chan struct{}      // closed when something has changed, and replaced
	running bool
	failing bool // the database doesn't answer
	streams int
}

func newHub() *hub {
	return &hub{boot: uuid.NewString()[:8], changed: make(chan struct{})}
}

func (h *hub) change(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
	close(h.changed)
	h.changed = make(chan struct{})
}

// add takes a new dead letter.
func (h *hub) add(e deadletter.Event) {
	h.change(func() {
		if len(h.events) >= 2*remembered {
			h.events = slices.Clone(h.events[remembered:])
		}
		h.events = append(h.events, e)
		h.next++
	})
}

// state is what a stream needs to know.
type hubState struct {
	running, failing bool
	next             int
	changed          <-chan struct{}
}

// after returns the events from a number on. known is false if some of them are forgotten.
func (h *hub) after(number int) (news []deadletter.Event, s hubState, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s = hubState{h.running, h.failing, h.next, h.changed}
	oldest := h.next - len(h.events)
	if number < oldest || number > h.next {
		return nil, s, false
	}
	return h.events[number-oldest:], s, true
}

// id is the id of a moment, which a page sends when it connects again.
func (h *hub) id(number int) string { return h.boot + "-" + strconv.Itoa(number) }

// number reads an id. It is -1 for one of another process.
func (h *hub) number(id string) int {
	boot, text, _ := strings.Cut(id, "-")
	n, err := strconv.Atoi(text)
	if err != nil || boot != h.boot {
		return -1
	}
	return n
}

// enter counts a stream in, unless there are too many.
func (h *hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams >= mostStreams {
		return false
	}
	h.streams++
	return true
}

func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams--
}

// follow feeds the hub until ctx ends.
func (d *Dashboard) follow(ctx context.Context) error {
	defer d.hub.change(func() { d.hub.running = false })
	for ctx.Err() == nil {
		from, err := d.queue.Position(ctx)
		if err == nil {
			d.hub.change(func() { d.hub.running, d.hub.failing = true, false })
			return deadletter.Subscribe(ctx, d.cfg.ListenConfig, deadletter.SubscribeOptions{
				Schema: d.cfg.Schema, Logger: d.log, From: &from, Eager: true,
			}, func(_ context.Context, e deadletter.Event) { d.hub.add(e) })
		}
		d.hub.change(func() { d.hub.running, d.hub.failing = true, true })
		wait(ctx, beatInterval/2)
	}
	return nil
}

// watch notices, for all pages, that the database doesn't answer.
func (d *Dashboard) watch(ctx context.Context) error {
	for {
		wait(ctx, beatInterval)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end
		}
		patience, cancel := context.WithTimeout(ctx, beatInterval/2)
		_, err := d.now(patience)
		cancel()
		if ctx.Err() == nil {
			d.hub.change(func() { d.hub.failing = err != nil })
		}
	}
}

// wait waits for a while, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// A message is what a page hears.
type message struct {
	// New is how many dead letters are new that the page's filter picks, and Maybe that only
	// the table knows whether it picks them.
	New   int  `json:"new,omitempty"`
	Maybe bool `json:"maybe,omitempty"`
	// Missed: news are forgotten; the page reads its rows anew.
	Missed bool `json:"missed,omitempty"`
	// Failing: the database doesn't answer.
	Failing bool `json:"failing,omitempty"`
}

// live feeds a page.
func (d *Dashboard) live(v *visit) error {
	picked, err := readSelection(v.r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	if !d.hub.enter() {
		return &inputError{"too many pages are live: reload this one to see what is new"}
	}
	defer d.hub.leave()
	last := v.r.Header.Get("Last-Event-ID")
	if last == "" {
		last = v.r.URL.Query().Get("last")
	}
	_, state, _ := d.hub.after(0)
	if !state.running {
		v.written = true
		v.w.WriteHeader(http.StatusNoContent) // a browser doesn't try again
		return nil
	}
	v.written = true
	h := v.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	v.w.WriteHeader(http.StatusOK)
	s := &stream{v: v, hub: d.hub, picked: picked.Filter, control: http.NewResponseController(v.w)}
	first := message{}
	if s.at = state.next; last != "" {
		if n := d.hub.number(last); n < 0 {
			first.Missed = true
		} else {
			s.at = n
		}
	}
	if s.send("hello", first) {
		s.run()
	}
	return nil
}

// A stream is the connection to one page.
type stream struct {
	v       *visit
	hub     *hub
	picked  deadletter.Filter
	control *http.ResponseController
	at      int // the number of the next event
	failing bool
}

// run sends news until the page or the program has gone.
func (s *stream) run() {
	beat := time.NewTicker(beatInterval)
	defer beat.Stop()
	for {
		news, state, known := s.hub.after(s.at)
		s.at = state.next
		m := message{Missed: !known}
		for _, e := range news {
			switch yes, maybe := matches(s.picked, e); {
			case maybe:
				m.Maybe = true
				m.New++
			case yes:
				m.New++
			}
		}
		if (m.New > 0 || m.Missed) && !s.send("new", m) {
			return
		}
		if state.failing != s.failing {
			if s.failing = state.failing; !s.send("beat", message{}) {
				return
			}
		}
		if !state.running {
			return
		}
		if len(news) > 0 {
			wait(s.v.Context(), together)
		}
		select {
		case <-s.v.Context().Done():
			return
		case <-beat.C:
			if !s.send("beat", message{}) {
				return
			}
		case <-state.changed:
		}
	}
}

// send reports whether the page takes it.
func (s *stream) send(event string, m message) bool {
	m.Failing = s.failing
	data, err := json.Marshal(m)
	if err != nil {
		return false
	}
	// The server's own timeout is for answers that end.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := fmt.Fprintf(s.v.w, "id: %s\nevent: %s\ndata: %s\n\n", s.hub.id(s.at), event, data); err != nil {
		return false
	}
	return s.control.Flush() == nil && s.v.Context().Err() == nil
}

// matches reports whether a filter picks a dead letter that has just died, as far as its
// notification tells.
func matches(f deadletter.Filter, e deadletter.Event) (yes, maybe bool) {
	has := func(list []string, value string) bool { return list == nil || slices.Contains(list, value) }
	switch {
	case !has(f.JobNames, e.JobName), !has(f.Queues, e.Queue),
		f.Reasons != nil && !slices.Contains(f.Reasons, e.Reason),
		f.State != "" && f.State != deadletter.StateDead,
		f.Replayed != nil && *f.Replayed,
		!f.From.IsZero() && e.MovedAt.Before(f.From),
		!f.To.IsZero() && e.MovedAt.After(f.To),
		f.NameLike != "" && !strings.ContainsAny(f.NameLike, "*?") && !strings.Contains(e.JobName, f.NameLike):
		return false, false
	case f.Groups != nil && e.Fingerprint != "" && !slices.Contains(f.Groups, e.Fingerprint):
		return false, false
	}
	maybe = f.Tags != nil || f.ErrorLike != "" || f.Text != "" || strings.ContainsAny(f.NameLike, "*?") || f.Groups != nil && e.Fingerprint == ""
	return !maybe, maybe
}
