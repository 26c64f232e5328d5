package hooks_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

type slackPost struct {
	Text   string
	Blocks []struct {
		Type string
		Text struct{ Text string }
	}
}

func (p slackPost) all() string {
	var b strings.Builder
	for _, block := range p.Blocks {
		b.WriteString(block.Text.Text + "\n")
	}
	return b.String()
}

func TestSlack_death_isToldWithItsReplay(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "slack", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "emails.send", "<!channel> ```x``` & \x1b[31m")
	eventually.True(t, "the message", func() bool { return len(rc.requests()) == 1 })
	p := decode[slackPost](t, rc.requests()[0].body)
	all := p.all()
	id := value[string](t, pool, `select id::text from soniq_dead_letter_jobs`)
	for _, want := range []string{"emails.send", "max_retries_exceeded", "soniq dead-letter replay " + id, "&lt;!channel&gt;", "attempts: 3"} {
		if !strings.Contains(all, want) {
			t.Errorf("the message lacks %q: %s", want, all)
		}
	}
	if strings.Contains(all, "<!") || strings.Contains(all, "\x1b") || strings.Count(all, "```") != 2 {
		t.Errorf("the error's text has an effect: %q", all)
	}
}

func TestSlack_storm_isAHandfulOfMessagesThatAddUp(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "slack", rc.URL)
	for range 3 {
		dispatch(t, pool, func(d *hooks.Dispatcher) { hooks.SetFirstDelay(d, 2*time.Second) })
	}
	for range 100 {
		die(t, pool, 10, "emails.send", "connection refused")
	}
	eventually.True(t, "all deliveries", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1000
	})
	total := 0
	for _, r := range rc.requests() {
		text := decode[slackPost](t, r.body).Text
		n, err := strconv.Atoi(strings.SplitN(text, " ", 2)[0])
		if err != nil {
			n = 1 // 'Dead letter: ...'
		}
		total += n
	}
	if n := len(rc.requests()); n > 5 || total != 1000 {
		t.Errorf("%d messages tell of %d deaths, want a handful and 1000", n, total)
	}
}

func TestSlack_blocksRefused_sendsTheTextAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	addHook(t, pool, "slack", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "emails.send", "boom")
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	p := decode[slackPost](t, rc.requests()[1].body)
	if len(p.Blocks) != 0 || !strings.Contains(p.Text, "emails.send") {
		t.Errorf("%+v", p)
	}
}

// Whatever the rows hold, Slack takes it: a section has 3,000 characters, and
// the blocks 10,000.
func TestSlack_longAndHostileTexts_stayWithinTheLimits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "slack", rc.URL)
	long := strings.Repeat("&<!channel>`*é", 3000)
	die(t, pool, 1, "&"+long, long)
	stop := dispatch(t, pool)
	eventually.True(t, "the message", func() bool { return len(rc.requests()) == 1 })
	stop()
	for i := range 15 {
		exec(t, pool, `
			insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
			values (gen_random_uuid(), $1 || $2, '{}', $2, 100, 3, 3, $2, $2, now(), now())`, strconv.Itoa(i), long)
	}
	dispatch(t, pool)
	eventually.True(t, "the digest", func() bool { return len(rc.requests()) == 2 })
	for _, r := range rc.requests() {
		p := decode[slackPost](t, r.body)
		total := 0
		for _, b := range p.Blocks {
			total += len(b.Text.Text)
			if len(b.Text.Text) > 3000 {
				t.Errorf("a block has %d bytes", len(b.Text.Text))
			}
		}
		if total > 10_000 || len(p.Blocks) > 50 || len(p.Text) > 3000 {
			t.Errorf("%d bytes in %d blocks, a text of %d", total, len(p.Blocks), len(p.Text))
		}
		if strings.Contains(string(r.body), "<!") {
			t.Errorf("a mention: %s", r.body)
		}
	}
}
