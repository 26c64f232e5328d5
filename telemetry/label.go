package telemetry

import (
	"log/slog"
	"strings"
	"sync"
	"unicode/utf8"

	"soniq/internal/redact"
)

// label is a name as the value of a label: valid UTF-8, cut, and without what looks like a
// secret.
func label(name string) string {
	if !utf8.ValidString(name) {
		name = strings.ToValidUTF8(name, "\uFFFD")
	}
	name = redact.Text(name)
	if utf8.RuneCountInString(name) > maxName {
		name = string([]rune(name)[:maxName-1]) + "…"
	}
	return name
}

// bounded has a T for each of up to most keys, and one for all others. It says once in the
// log that there are more.
type bounded[K comparable, T any] struct {
	most   int
	make   func(K) T
	other  K
	full   func()
	once   sync.Once
	mu     sync.RWMutex
	values map[K]T
	rest   *T
}

// newBounded logs under what, the plural of what a key is.
func newBounded[K comparable, T any](most int, other K, logger *slog.Logger, what string, create func(K) T) *bounded[K, T] {
	return &bounded[K, T]{
		most: most, make: create, other: other, values: map[K]T{},
		full: func() {
			logger.Warn("metrics have as many "+what+" as they may; those that come now count together as '"+Other+"'", "limit", most)
		},
	}
}

func (b *bounded[K, T]) get(key K) T {
	b.mu.RLock()
	v, ok := b.values[key]
	rest := b.rest
	b.mu.RUnlock()
	switch {
	case ok:
		return v
	case rest != nil:
		return *rest
	}
	return b.add(key)
}

func (b *bounded[K, T]) add(key K) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, ok := b.values[key]; ok {
		return v
	}
	if len(b.values) < b.most {
		v := b.make(key)
		b.values[key] = v
		return v
	}
	if b.rest == nil {
		b.rest = new(b.make(b.other))
	}
	b.once.Do(b.full)
	return *b.rest
}
