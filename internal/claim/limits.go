package claim

import "slices"

// Limits count the running jobs of the handlers and queues that have a concurrency
// limit of their own, and say what may be claimed. They have no lock: whoever counts
// the running jobs guards them.
type Limits struct {
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

// NewLimits returns the limits of a worker with this concurrency that serves these
// queues and job names. queueLimits and nameLimits are those that some of them have.
func NewLimits(concurrency int, queues, names []string, queueLimits, nameLimits map[string]int) *Limits {
	return &Limits{names: newBounds(concurrency, names, nameLimits), queues: newBounds(concurrency, queues, queueLimits)}
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

// Scopes are the claims that may bring something. Together they can take more than
// there is room for: ask Room before each.
func (l *Limits) Scopes() []Scope {
	var scopes []Scope
	for _, queues := range l.queues.groups() {
		for _, names := range l.names.groups() {
			scopes = append(scopes, Scope{queues, names})
		}
	}
	if len(scopes) > 1 {
		l.turn = (l.turn + 1) % len(scopes)
		scopes = slices.Concat(scopes[l.turn:], scopes[:l.turn])
	}
	return scopes
}

// Open is what may run more jobs: any of these names in any of these queues.
func (l *Limits) Open() Scope {
	return Scope{slices.Concat(l.queues.groups()...), slices.Concat(l.names.groups()...)}
}

// Room is how many jobs a claim may bring, at most free.
func (l *Limits) Room(scope Scope, free int) int {
	return l.names.room(scope.Names, l.queues.room(scope.Queues, free))
}

// Full reports whether a name or a queue runs as many jobs as it may.
func (l *Limits) Full() bool { return l.names.full() || l.queues.full() }

// Started counts a job that begins.
func (l *Limits) Started(queue, name string) { l.count(queue, name, 1) }

// Ended counts a job that has ended.
func (l *Limits) Ended(queue, name string) { l.count(queue, name, -1) }

func (l *Limits) count(queue, name string, n int) {
	l.names.count(name, n)
	l.queues.count(queue, n)
}
