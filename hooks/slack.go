package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"soniq/deadletter"
	"soniq/internal/redact"
)

const (
	// What a section may hold of a text, after escaping: it takes 3,000
	// characters in all.
	maxSlackError   = 2000
	maxSlackExcerpt = 400
	maxSlackName    = 200
	// maxSlackGroups is how many kinds of death one message names: ten of them
	// stay below the 10,000 characters that Slack takes for sure.
	maxSlackGroups = 10
)

// slack posts messages to an incoming webhook. It gets digests.
type slack struct {
	*endpoint
	base string
}

// newSlack takes what references stand for.
func newSlack(of secretsOf, s settings, known *redact.Set) (*slack, error) {
	e, err := newEndpoint(of.url, s.Allow, known)
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(s.BaseURL, "/")
	if checkBaseURL(base) != nil {
		base = "" // written by SQL: no link is better than a mention
	}
	return &slack{e, base}, nil
}

// Deliver implements Hook.
func (s *slack) Deliver(ctx context.Context, d *Delivery) error {
	b, err := json.Marshal(s.message(d))
	if err != nil {
		return fmt.Errorf("write the Slack message: %w", err)
	}
	err = s.post(ctx, d, http.Header{}, b)
	var refused *AnswerError
	if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest {
		return err
	}
	// Slack doesn't like the blocks: the text alone tells what matters. If that
	// is refused as well, it always would be.
	plain := s.message(d)
	plain.Blocks = nil
	if b, err = json.Marshal(plain); err != nil {
		return fmt.Errorf("write the Slack message: %w", err)
	}
	err = s.post(ctx, d, http.Header{}, b)
	if errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
		refused.Useless = true
	}
	return err
}

// A slackMessage has texts of jobs in it. Nothing in them may mention anybody
// or make a link: they are escaped, Slack is told to leave plain text alone
// (verbatim, and its likes for the text outside of blocks), and to show no
// preview of what looks like an address all the same.
type slackMessage struct {
	Text        string       `json:"text"`
	Blocks      []slackBlock `json:"blocks,omitempty"`
	Markdown    bool         `json:"mrkdwn"`
	Parse       string       `json:"parse"`
	LinkNames   bool         `json:"link_names"`
	UnfurlLinks bool         `json:"unfurl_links"`
	UnfurlMedia bool         `json:"unfurl_media"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

type slackText struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Verbatim bool   `json:"verbatim"`
}

func markdown(text string) *slackText { return &slackText{"mrkdwn", text, true} }

// message tells of one event in full, of one group with its count, and of many
// groups in a line each.
func (s *slack) message(d *Delivery) slackMessage {
	total := 0
	for _, g := range d.Groups {
		total += g.Count
	}
	m := slackMessage{Parse: "none"}
	first := d.Groups[0]
	if len(d.Groups) == 1 {
		m.Text = title(first)
		m.Blocks = append(m.Blocks, slackBlock{Type: "section", Text: markdown("*" + m.Text + "*")})
		m.Blocks = append(m.Blocks, slackBlock{Type: "section", Text: markdown(s.details(first))})
	} else {
		m.Text = fmt.Sprintf("%d dead letters of %d kinds", total, len(d.Groups))
		m.Blocks = append(m.Blocks, slackBlock{Type: "section", Text: markdown("*" + m.Text + "*")})
		shown := 0
		for i, g := range d.Groups {
			if i == maxSlackGroups {
				m.Blocks = append(m.Blocks, slackBlock{
					Type: "section",
					Text: markdown(fmt.Sprintf("and %d more of %d other kinds", total-shown, len(d.Groups)-i)),
				})
				break
			}
			shown += g.Count
			m.Blocks = append(m.Blocks, slackBlock{Type: "section", Text: markdown(title(g) + s.excerpt(g, maxSlackExcerpt))})
		}
	}
	foot := "delivery " + d.ID.String()
	if first.Event.Sample {
		m.Text = "[sample] " + m.Text
		foot = "This is a sample of 'soniq hooks test': no job has died. " + foot
	}
	m.Blocks = append(m.Blocks, slackBlock{Type: "context", Elements: []slackText{*markdown(foot)}})
	return m
}

// title is a group in a line.
func title(g Group) string {
	what := map[string]string{Resurrected: "replayed", Resolved: "resolved"}[g.Event.Type]
	l := g.Event.Letter
	name := fit(slackEscape, plain(l.JobName), maxSlackName)
	reason := fit(slackEscape, plain(string(l.Reason)), maxSlackName)
	switch {
	case what == "" && g.Count == 1:
		return fmt.Sprintf("Dead letter: %s (%s)", name, reason)
	case what == "":
		return fmt.Sprintf("%d dead letters: %s (%s)", g.Count, name, reason)
	case g.Count == 1:
		return fmt.Sprintf("Dead letter %s: %s", what, name)
	default:
		return fmt.Sprintf("%d dead letters %s: %s", g.Count, what, name)
	}
}

func (s *slack) details(g Group) string {
	l := g.Event.Letter
	var b strings.Builder
	fmt.Fprintf(&b, "Queue `%s`, attempts: %d, died %s", fit(slackCode, plain(l.Queue), maxSlackName), l.Attempts, l.MovedAt.UTC().Format(time.DateTime+" MST"))
	if g.Count > 1 {
		fmt.Fprintf(&b, "; from %s to %s", g.First.UTC().Format(time.TimeOnly), g.Last.UTC().Format(time.TimeOnly))
	}
	b.WriteString(s.excerpt(g, maxSlackError))
	if g.Event.Type == Dead {
		command := "soniq dead-letter replay " + l.ID.String()
		if g.Count > 1 {
			fmt.Fprintf(&b, "\nReplay the first: `%s`", command)
		} else {
			fmt.Fprintf(&b, "\nReplay: `%s`", command)
		}
	}
	if s.base != "" {
		fmt.Fprintf(&b, "\n<%s/%s|Open>", s.base, l.ID)
	}
	return b.String()
}

// excerpt is the error in a block of code.
func (s *slack) excerpt(g Group, limit int) string {
	text := deadletter.RedactText(g.Event.Letter.LastError)
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return "\n```" + fit(slackCode, lines(text), limit) + "```"
}

// fit is as much of text as takes at most limit bytes once it is escaped.
func fit(escape func(string) string, text string, limit int) string {
	for room := limit; ; {
		escaped := escape(cut(text, room))
		if len(escaped) <= limit {
			return escaped
		}
		room = min(room-1, room*limit/len(escaped))
	}
}

// slackEscape keeps text from being markup: no mention, link or channel can be
// made without an angle bracket.
func slackEscape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "*", "∗", "`", "ˋ").Replace(text)
}

// slackCode is for text between backticks, which it must not end.
func slackCode(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "ˋ").Replace(text)
}

// lines drops control and invisible characters; line breaks stay.
func lines(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// plain is lines on one line.
func plain(text string) string { return strings.ReplaceAll(lines(text), "\n", " ") }
