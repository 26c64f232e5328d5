package engine

import "slices"

// slots count the running jobs of the handlers and queues that have a concurrency
// limit of their own, and say what may be claimed. They have no lock: inflight's
// guards them.
type slots struct {
	names, queues bounds
	// turn rotates the scopes, so that a full backlog of one doesn't take all slots for
	// ever.
	turn int
}

// bounds are the limits of the job names, or of the queues.
type bounds struct {
	// open are those without a limit of their own.
	open []string
	// bounded are the others, and bound is how many jobs each may run.
	bounded []string
	bound   map[string]int
	// busy counts the running jobs of the bounded ones.
	busy map[string]int
}

// claimScope is what one claim takes: jobs of these names from these queues.
type claimScope struct{ queues, names []string }

func (s claimScope) equal(o claimScope) bool {
	return slices.Equal(s.queues, o.queues) && slices.Equal(s.names, o.names)
}

func newSlots(concurrency int, queues []string, queueBounds map[string]int, r *Registry) slots {
	nameBounds := map[string]int{}
	for _, name := range r.Names() {
		if c := r.handlers[name].concurrency; c != nil {
			nameBounds[name] = *c
		}
	}
	return slots{names: newBounds(concurrency, r.Names(), nameBounds), queues: newBounds(concurrency, queues, queueBounds)}
}

func newBounds(concurrency int, all []string, bound map[string]int) bounds {
	b := bounds{bound: map[string]int{}, busy: map[string]int{}}
	for _, what := range all {
		if n, ok := bound[what]; ok && n < concurrency {
			b.bounded = append(b.bounded, what)
			b.bound[what] = n
		} else {
			b.open = append(b.open, what)
		}
	}
	return b
}

// groups are those that may run more: the open ones together, because they share what
// is free, and each of the others by itself.
func (b *bounds) groups() (groups [][]string) {
	if len(b.open) > 0 {
		groups = append(groups, b.open)
	}
	for _, what := range b.bounded {
		if b.busy[what] < b.bound[what] {
			groups = append(groups, []string{what})
		}
	}
	return groups
}

// room is how many more jobs of a group may run, at most free.
func (b *bounds) room(group []string, free int) int {
	if n, ok := b.bound[group[0]]; ok {
		return min(n-b.busy[group[0]], free)
	}
	return free
}

func (b *bounds) full() bool {
	return slices.ContainsFunc(b.bounded, func(what string) bool { return b.busy[what] >= b.bound[what] })
}

func (b *bounds) count(what string, n int) {
	if _, ok := b.bound[what]; ok {
		b.busy[what] += n
	}
}

// scopes are the claims that may bring something. Together they can take more than
// there is room for: ask room before each.
func (s *slots) scopes() []claimScope {
	var scopes []claimScope
	for _, queues := range s.queues.groups() {
		for _, names := range s.names.groups() {
			scopes = append(scopes, claimScope{queues, names})
		}
	}
	if len(scopes) > 1 {
		s.turn = (s.turn + 1) % len(scopes)
		scopes = slices.Concat(scopes[s.turn:], scopes[:s.turn])
	}
	return scopes
}

// open is what may run more: any of these names in any of these queues.
func (s *slots) open() claimScope {
	return claimScope{slices.Concat(s.queues.groups()...), slices.Concat(s.names.groups()...)}
}

// room is how many jobs a claim may bring, at most free.
func (s *slots) room(a claimScope, free int) int {
	return s.names.room(a.names, s.queues.room(a.queues, free))
}

// full reports whether a name or a queue runs as many jobs as it may.
func (s *slots) full() bool { return s.names.full() || s.queues.full() }

func (s *slots) started(j *Job) { s.count(j, 1) }
func (s *slots) ended(j *Job)   { s.count(j, -1) }

func (s *slots) count(j *Job, n int) {
	s.names.count(j.Name, n)
	s.queues.count(j.Queue, n)
}
