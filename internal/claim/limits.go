package claim

import "slices"

// Limits count the running jobs of the handlers and queues that have a concurrency
// limit of their own, and say what may be claimed. They have no lock: whoever counts
// the running jobs guards them.
type Limits struct {
	names, queues bounds
}

// bounds are the limits of the job names, or of the queues.
type bounds struct {
	// all are those with and without a limit of their own, open those without, and
	// bounded the others.
	all, open, bounded []string
	// bound is how many jobs each of the bounded may run.
	bound map[string]int
	// busy counts the running jobs of the bounded ones.
	busy map[string]int
}

// NewLimits returns the limits of a worker with this concurrency that serves these
// queues and job names. queueLimits and nameLimits are those that some of them have.
func NewLimits(concurrency int, queues, names []string, queueLimits, nameLimits map[string]int) *Limits {
	return &Limits{names: newBounds(concurrency, names, nameLimits), queues: newBounds(concurrency, queues, queueLimits)}
}

func newBounds(concurrency int, all []string, bound map[string]int) bounds {
	// Never nil, which is NULL.
	b := bounds{all: all, open: []string{}, bounded: []string{}, bound: map[string]int{}, busy: map[string]int{}}
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

// room are those that may run more, and how many more those with a limit of their own.
func (b *bounds) room() (what []string, most map[string]int) {
	if len(b.bounded) == 0 {
		return b.all, nil
	}
	what, most = slices.Clone(b.open), make(map[string]int, len(b.bounded))
	for _, name := range b.bounded {
		if n := b.bound[name] - b.busy[name]; n > 0 {
			what = append(what, name)
			most[name] = n
		}
	}
	return what, most
}

func (b *bounds) count(what string, n int) {
	if _, ok := b.bound[what]; ok {
		b.busy[what] += n
	}
}

// Open is what may run more jobs. full reports whether a name or a queue is left out,
// since it runs as many as it may.
func (l *Limits) Open() (open Scope, full bool) {
	open.Queues, open.mostOfQueue = l.queues.room()
	open.Names, open.mostOfName = l.names.room()
	return open, len(open.Queues) < len(l.queues.all) || len(open.Names) < len(l.names.all)
}

// Started counts a job that begins.
func (l *Limits) Started(queue, name string) { l.count(queue, name, 1) }

// Ended counts a job that has ended.
func (l *Limits) Ended(queue, name string) { l.count(queue, name, -1) }

func (l *Limits) count(queue, name string, n int) {
	l.names.count(name, n)
	l.queues.count(queue, n)
}
