package terminal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// ProgressEvery is the least time between two drawings of a bar.
const ProgressEvery = 100 * time.Millisecond

// ProgressBar is a line on a terminal that is drawn over and over, and taken
// away in the end:
//
//	enqueueing  30% |█████████                     | (3000/10000) [2s:5s]
//
// The last part is the time gone by and the time left. Several goroutines may
// use one. Errors are those of writing to the terminal.
type ProgressBar struct {
	out   io.Writer // nil draws nothing
	width int       // of the terminal; 0 is no limit
	now   func() time.Time

	mu             sync.Mutex
	doing          string
	done, of       int64
	started, drawn time.Time
	columns        int // of what stands there
}

// NewProgressBar draws on out, which is width columns wide; 0 is no limit. Where
// out is nil it draws nothing.
func NewProgressBar(out io.Writer, width int, now func() time.Time, doing string, of int64) *ProgressBar {
	return &ProgressBar{out: out, width: width, now: now, doing: doing, of: of, started: now()}
}

// Describe says what is being done from now on.
func (b *ProgressBar) Describe(doing string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doing = doing
}

// ChangeMax says how much there is to do.
func (b *ProgressBar) ChangeMax(of int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of = int64(of)
}

// Add says that so much more is done.
func (b *ProgressBar) Add(n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.update(b.done + int64(n))
}

// Set says how much is done.
func (b *ProgressBar) Set(done int) error { return b.Set64(int64(done)) }

// Set64 is Set.
func (b *ProgressBar) Set64(done int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.update(done)
}

// Finish takes the bar away.
func (b *ProgressBar) Finish() error { return b.Clear() }

// Clear takes the bar away. A further update draws it again.
func (b *ProgressBar) Clear() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.columns == 0 {
		return nil
	}
	_, err := fmt.Fprintf(b.out, "\r%*s\r", b.columns, "")
	b.columns, b.drawn = 0, time.Time{}
	return err
}

func (b *ProgressBar) update(done int64) error {
	b.done = done
	now := b.now()
	if b.out == nil || now.Sub(b.drawn) < ProgressEvery {
		return nil
	}
	b.drawn = now
	line := b.line(now)
	columns := TextWidth(line)
	// What a longer line left is painted over.
	_, err := fmt.Fprintf(b.out, "\r%s%*s", line, max(0, b.columns-columns), "")
	b.columns = columns
	return err
}

// line is the bar, without its middle where the terminal is too narrow for
// that: a line that is wrapped could not be drawn over.
func (b *ProgressBar) line(now time.Time) string {
	const length = 30
	// What is done can be more than was thought.
	of := max(b.of, 1)
	done := min(max(b.done, 0), of)
	gone := now.Sub(b.started)
	times := gone.Round(time.Second).String()
	if done > 0 {
		left := time.Duration(float64(gone) * float64(of-done) / float64(done))
		times += ":" + left.Round(time.Second).String()
	}
	full := int(float64(length) * float64(done) / float64(of))
	head := fmt.Sprintf("%s %3.0f%% ", b.doing, 100*float64(done)/float64(of))
	tail := fmt.Sprintf("(%d/%d) [%s]", b.done, of, times)
	bar := "|" + strings.Repeat("█", full) + strings.Repeat(" ", length-full) + "| "
	for _, line := range []string{head + bar + tail, head + tail, head} {
		if b.width == 0 || TextWidth(line) < b.width {
			return line
		}
	}
	return ""
}
