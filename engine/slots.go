package engine

import "slices"

// slots knows which job names may be claimed while some handlers have a
// concurrency of their own. It is guarded by Worker.mu.
type slots struct {
	// open are the names without a bound of their own.
	open []string
	// bounded are the others, and bound what each may run.
	bounded []string
	bound   map[string]int
	// busy counts the running jobs of the bounded names.
	busy map[string]int
	// turn rotates the asks, so that a full backlog of one doesn't take all
	// slots for ever.
	turn int
}

// ask is a claim to be made: at most n jobs of these names.
type ask struct {
	names []string
	n     int
}

func newSlots(concurrency int, r *Registry) slots {
	s := slots{bound: map[string]int{}, busy: map[string]int{}}
	for _, name := range r.Names() {
		if c := r.handlers[name].concurrency; c != nil && *c < concurrency {
			s.bounded = append(s.bounded, name)
			s.bound[name] = *c
		} else {
			s.open = append(s.open, name)
		}
	}
	return s
}

// asks splits free slots among the names that may run more. Together they can
// ask for more than is free.
func (s *slots) asks(free int) []ask {
	var asks []ask
	if len(s.open) > 0 {
		asks = append(asks, ask{s.open, free})
	}
	for _, name := range s.bounded {
		if room := s.bound[name] - s.busy[name]; room > 0 {
			asks = append(asks, ask{[]string{name}, room})
		}
	}
	if len(asks) > 1 {
		s.turn = (s.turn + 1) % len(asks)
		asks = slices.Concat(asks[s.turn:], asks[:s.turn])
	}
	return asks
}

// full reports whether some name runs all that it may.
func (s *slots) full() bool {
	return slices.ContainsFunc(s.bounded, func(name string) bool { return s.busy[name] >= s.bound[name] })
}

func (s *slots) started(name string) { s.count(name, 1) }
func (s *slots) ended(name string)   { s.count(name, -1) }

func (s *slots) count(name string, n int) {
	if _, ok := s.bound[name]; ok {
		s.busy[name] += n
	}
}
