package engine

import "slices"

// slots knows what may be claimed while some handlers and queues have a
// concurrency of their own. It is guarded by Worker.mu.
type slots struct {
	names, queues bounds
	// turn rotates the asks, so that a full backlog of one doesn't take all
	// slots for ever.
	turn int
}

// bounds are those of the job names, or of the queues.
type bounds struct {
	// open are those without a bound of their own.
	open []string
	// bounded are the others, and bound what each may run.
	bounded []string
	bound   map[string]int
	// busy counts the running jobs of the bounded ones.
	busy map[string]int
}

// ask is a claim to be made: jobs of these names from these queues.
type ask struct{ queues, names []string }

func (a ask) equal(b ask) bool {
	return slices.Equal(a.queues, b.queues) && slices.Equal(a.names, b.names)
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

// groups are those that may run more: the open ones together, since they share
// what is free, and each of the others for itself.
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

// asks are the claims that may bring something. Together they can ask for more
// than there is room for: see room, before each.
func (s *slots) asks() []ask {
	var asks []ask
	for _, queues := range s.queues.groups() {
		for _, names := range s.names.groups() {
			asks = append(asks, ask{queues, names})
		}
	}
	if len(asks) > 1 {
		s.turn = (s.turn + 1) % len(asks)
		asks = slices.Concat(asks[s.turn:], asks[:s.turn])
	}
	return asks
}

// open is what may run more: any of these names in any of these queues.
func (s *slots) open() ask {
	return ask{slices.Concat(s.queues.groups()...), slices.Concat(s.names.groups()...)}
}

// room is how many jobs a claim may bring.
func (s *slots) room(a ask, free int) int {
	return s.names.room(a.names, s.queues.room(a.queues, free))
}

// full reports whether something runs all that it may.
func (s *slots) full() bool { return s.names.full() || s.queues.full() }

func (s *slots) started(j *Job) { s.count(j, 1) }
func (s *slots) ended(j *Job)   { s.count(j, -1) }

func (s *slots) count(j *Job, n int) {
	s.names.count(j.Name, n)
	s.queues.count(j.Queue, n)
}
