package claim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
)

// queued is a job of the model.
type queued struct {
	queue, name string
	priority    int
	due         int
}

// oneList is the model: all jobs in one list, in their order, of which each may run that
// finds a free slot, room under its name and room in its queue.
type oneList struct {
	jobs          []queued
	queues, names map[string]int // the limits
	running       []queued
}

func (m *oneList) count(of func(queued) bool) (n int) {
	for _, j := range m.running {
		if of(j) {
			n++
		}
	}
	return n
}

// next takes the first job that may run.
func (m *oneList) next() (queued, bool) {
	for i, j := range m.jobs {
		queue, limitedQueue := m.queues[j.queue]
		name, limitedName := m.names[j.name]
		if limitedQueue && m.count(func(o queued) bool { return o.queue == j.queue }) >= queue ||
			limitedName && m.count(func(o queued) bool { return o.name == j.name }) >= name {
			continue
		}
		m.jobs = slices.Delete(m.jobs, i, i+1)
		m.running = append(m.running, j)
		return j, true
	}
	return queued{}, false
}

// randomList has jobs of some queues and names, of which some have limits: so many queues that
// they are surveyed, or a few. No priority is that of two queues, among which the oldest lane
// goes first.
func randomList(random *rand.Rand, many bool) *oneList {
	m := &oneList{queues: map[string]int{}, names: map[string]int{}}
	queues, names := 1+random.IntN(4), 1+random.IntN(5)
	if many {
		queues += fewQueues + random.IntN(fewQueues)
	}
	for i := range queues {
		if random.IntN(2) == 0 {
			m.queues[fmt.Sprint("q", i)] = 1 + random.IntN(4)
		}
	}
	for i := range names {
		// A name that has one is never surveyed.
		if random.IntN(3) > 0 && !many {
			m.names[fmt.Sprint("n", i)] = 1 + random.IntN(4)
		}
	}
	for _, due := range random.Perm(20 + random.IntN(100)) {
		q := random.IntN(queues)
		m.jobs = append(m.jobs, queued{fmt.Sprint("q", q), fmt.Sprint("n", random.IntN(names)), q + 100*random.IntN(3), due})
	}
	return m
}

func (m *oneList) fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, `truncate soniq_jobs`)
	yesterday := time.Now().Add(-24 * time.Hour)
	for _, j := range m.jobs {
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue, priority, created_at) values ($1, $2, '{}', $3, $4, $5)`,
			uuid.New(), j.name, j.queue, j.priority, yesterday.Add(time.Duration(j.due)*time.Second))
	}
	slices.SortFunc(m.jobs, func(a, b queued) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.due, b.due))
	})
}

// fetch claims as package fetch does, until there is no free slot or nothing more.
func fetch(t *testing.T, c *Claimer[Job], limits *Limits, free int) (got []queued, claims int) {
	t.Helper()
	for free > 0 {
		open, _ := limits.Open()
		if open.Empty() {
			break
		}
		claims++
		taken, err := c.Take(t.Context(), int64(claims), open, free)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range taken.Jobs {
			limits.Started(j.Queue, j.Name)
			got = append(got, queued{queue: j.Queue, name: j.Name, priority: j.Priority})
		}
		free -= len(taken.Jobs)
		if !taken.Full && !taken.Unfinished {
			break
		}
	}
	return got, claims
}

// Jobs start in the order of one list, whatever is limited, and limits are never exceeded.
// Each way to claim is used: now and then it is chosen at random. Of the jobs that are there
// a survey tells the order however old it is.
func TestLimits_anyOfThem_orderIsThatOfOneList(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	surveyed := 0
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		m := randomList(random, seed%4 == 0)
		m.fill(t, pool)
		const concurrency = 12
		// What nobody has, among what is served.
		queues, names := []string{"none"}, []string{"none"}
		for _, j := range m.jobs {
			queues, names = append(queues, j.queue), append(names, j.name)
		}
		if seed%4 < 2 {
			for i := range 2 * fewQueues {
				queues = append(queues, fmt.Sprint("q", i+99))
			}
		}
		slices.Sort(queues)
		slices.Sort(names)
		limits := NewLimits(concurrency, slices.Compact(queues), slices.Compact(names), m.queues, m.names)
		c := newLimited(pool, limits)
		c.slowFloors = 0
		for len(m.jobs)+len(m.running) > 0 {
			if s := c.survey; s != nil && !s.few && !s.until.IsZero() {
				surveyed++
				s.until = time.Now().Add(time.Duration(random.IntN(4)) * time.Hour)
			}
			if random.IntN(4) == 0 {
				// Another way to claim.
				c.expensive, c.cursor, c.floors = random.IntN(2) == 0, nil, &floors{tried: true}
			}
			// Known lanes are not all of them.
			c.known = nil
			free := concurrency - len(m.running)
			got, claims := fetch(t, c, limits, free)
			if most := 3 + len(m.queues) + len(m.names); claims > most {
				t.Errorf("seed %d: %d claims in one fetch, want at most %d", seed, claims, most)
			}
			for i := range free {
				want, ok := m.next()
				want.due = 0
				switch {
				case !ok && i < len(got):
					t.Fatalf("seed %d: it took %d jobs, want %d", seed, len(got), i)
				case ok && (i >= len(got) || got[i] != want):
					t.Fatalf("seed %d: of %v the %dth is not %v", seed, got, i+1, want)
				}
			}
			// Some end.
			for range 1 + random.IntN(len(m.running)) {
				i := random.IntN(len(m.running))
				limits.Ended(m.running[i].queue, m.running[i].name)
				m.running = slices.Delete(m.running, i, i+1)
			}
		}
	}
	if surveyed < 20 {
		t.Errorf("%d claims had a survey", surveyed)
	}
}
