package hooks

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
)

// A message's only markup of its own: the link that 'base_url' makes.
var ownLink = regexp.MustCompile(`(?m)^<https://soniq\.example\.com/d/[0-9a-f-]{36}\|Open>$`)

// entity is how '&' may stand in Slack's text.
var entity = regexp.MustCompile(`&(amp|lt|gt);`)

func slackOf(t *testing.T, job, queue, reason, text string, groups int) slackMessage {
	t.Helper()
	s, err := newSlack(secrets{url: "https://hooks.slack.com/services/x"}, settings{BaseURL: "https://soniq.example.com/d/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &Delivery{ID: uuid.New()}
	for range groups {
		e := Event{Type: Dead, At: time.Now(), Letter: deadletter.Job{
			ID: uuid.New(), JobName: job, Queue: queue, Reason: classify.Reason(reason), LastError: text,
		}}
		d.Groups = append(d.Groups, Group{Event: e, Count: groups, First: e.At, Last: e.At})
	}
	d.Event = d.Groups[0].Event
	return s.message(d)
}

// checkSlack fails for a message in which a job's text does something.
func checkSlack(t *testing.T, m slackMessage) {
	t.Helper()
	if m.Markdown || m.Parse != "none" || m.LinkNames || m.UnfurlLinks || m.UnfurlMedia {
		t.Fatalf("Slack may work on the text: %+v", m)
	}
	plain := m.Text
	for _, b := range m.Blocks {
		texts := b.Elements
		if b.Text != nil {
			texts = append(texts, *b.Text)
		}
		for _, text := range texts {
			if text.Type != "mrkdwn" || !text.Verbatim {
				t.Fatalf("a text is not verbatim: %+v", text)
			}
			plain += "\n" + ownLink.ReplaceAllString(text.Text, "")
			// What is opened is closed, by us: a job's text has no backtick.
			if fences := strings.Count(text.Text, "```"); fences%2 != 0 || (strings.Count(text.Text, "`")-3*fences)%2 != 0 {
				t.Fatalf("a block of code is broken: %q", text.Text)
			}
			if n := len(text.Text); n == 0 || n > 3000 {
				t.Fatalf("a text has %d bytes", n)
			}
		}
	}
	if strings.ContainsAny(plain, "<>") || strings.Contains(entity.ReplaceAllString(plain, ""), "&") {
		t.Fatalf("there is markup in %q", plain)
	}
	if strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' && r != '\n' || r == '\u202e' || r == '\u200b' }) {
		t.Fatalf("there are invisible characters in %q", plain)
	}
}

func TestSlack_textOfAJob_mentionsNobodyAndMakesNoLink(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"<!channel>", "<!here> @channel", "<@U012AB3CD>", "<#C024BE7LR>", "<!subteam^SAZ94GDB8>", "<https://evil.example.com|Replay>",
		"https://evil.example.com", "mailto:x@example.com", "&lt;!channel&gt;", "&amp;lt;!here&amp;gt;", "```\n<!channel>\n```", "`x` ``` `",
		"*bold* _it_ ~no~", "> quote\n>>> more", "a\u202eb\u200bc\x1b[31m\x00", strings.Repeat("&<`", 2000), "<!date^1392734382^{date}^https://evil|x>",
	} {
		for _, groups := range []int{1, 2, 12} {
			checkSlack(t, slackOf(t, text, text, text, text, groups))
		}
	}
	// A row that SQL has written can't bring markup in as its link either.
	for _, base := range []string{"https://x.example.com/|y> <!channel>", "https://x.example.com/ <!here>", "javascript:alert(1)", "https://a:b@example.com"} {
		s, err := newSlack(secrets{url: "https://hooks.slack.com/services/x"}, settings{BaseURL: base}, nil)
		if err != nil || s.base != "" {
			t.Errorf("%q, %v", s.base, err)
		}
	}
}

func FuzzSlack_textOfAJob(f *testing.F) {
	f.Add("<!channel>", "&", "`", "```")
	f.Add("a&lt;b", "<@U1>", "\u202e", "https://example.com")
	f.Fuzz(func(t *testing.T, job, queue, reason, text string) {
		for _, groups := range []int{1, 3} {
			m := slackOf(t, job, queue, reason, text, groups)
			checkSlack(t, m)
			if b, err := json.Marshal(m); err != nil || !strings.Contains(string(b), `"verbatim":true`) {
				t.Fatalf("%s, %v", b, err)
			}
		}
	})
}
