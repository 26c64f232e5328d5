package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"soniq/deadletter"
	"soniq/internal/redact"
	"soniq/internal/unit"
)

const (
	// How much of a text a section holds, in bytes after escaping. A section takes
	// 3,000 characters.
	maxSlackError   = 2000
	maxSlackExcerpt = 400
	maxSlackName    = 200
	// maxSlackGroups is how many groups one message names. Ten of them stay below the
	// 10,000 characters that Slack is known to take.
	maxSlackGroups = 10
)

var slackKind = kind{
	fields:      []Field{FieldURL, FieldAllow, FieldBaseURL},
	check:       checkEndpoint,
	target:      urlTarget,
	preemptible: true,
	digest:      digestLimits{rows: maxDigest, read: maxSlackGroups},
	open: func(_ *Dispatcher, p prepared) (Hook, *redact.Set, error) {
		known := secretsIn(p.secrets)
		hook, err := newSlack(p.secrets, p.settings, known)
		return hook, known, err
	},
}

// slack posts messages to an incoming webhook.
type slack struct {
	*endpoint
	base string // of links; empty: none
}

// newSlack takes secrets whose references are resolved.
func newSlack(of secrets, s settings, known *redact.Set) (*slack, error) {
	e, err := newEndpoint(of.url, s.Allow, known)
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(s.BaseURL, "/")
	if !isBaseURL(base) {
		base = "" // SQL wrote it, and it could break out of the link
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
	// Slack refuses the blocks. The text alone has what matters. If that is refused
	// too, it would be refused again.
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

// A slackMessage contains texts of jobs, which must mention nobody and make no link.
// They are escaped. Besides, verbatim (and for the text outside of blocks parse,
// mrkdwn and link_names) tells Slack to work on no plain text, and unfurl_* to
// preview nothing that looks like an address.
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

func section(text string) slackBlock { return slackBlock{Type: "section", Text: markdown(text)} }

// message shows one group in full, and many groups in a line and an excerpt each.
func (s *slack) message(d *Delivery) slackMessage {
	m := slackMessage{Parse: "none"}
	first := d.Groups[0]
	if len(d.Groups) == 1 {
		m.Text = title(first)
		m.Blocks = append(m.Blocks, section("*"+m.Text+"*"), section(s.details(first)))
	} else {
		total := 0
		for _, g := range d.Groups {
			total += g.Count
		}
		m.Text = fmt.Sprintf("%d dead letters of %d kinds", total, len(d.Groups))
		m.Blocks = append(m.Blocks, section("*"+m.Text+"*"))
		shown := 0
		for i, g := range d.Groups {
			if i == maxSlackGroups {
				m.Blocks = append(m.Blocks, section(fmt.Sprintf("and %d more of %d other kinds", total-shown, len(d.Groups)-i)))
				break
			}
			shown += g.Count
			m.Blocks = append(m.Blocks, section(title(g)+s.excerpt(g, maxSlackExcerpt)))
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

// title is a group in one line.
func title(g Group) string {
	what := map[EventType]string{Resurrected: "replayed", Resolved: "resolved"}[g.Event.Type]
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
	fmt.Fprintf(&b, "Queue `%s`, attempts: %d, died %s", fit(slackCode, plain(l.Queue), maxSlackName), l.Attempts, unit.FormatTime(l.MovedAt))
	if g.Count > 1 {
		fmt.Fprintf(&b, "; from %s to %s", unit.FormatTime(g.First), unit.FormatTime(g.Last))
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

// excerpt is the beginning of the error in a block of code.
func (s *slack) excerpt(g Group, limit int) string {
	text := deadletter.RedactText(g.Event.Letter.LastError)
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return "\n```" + fit(slackCode, lines(text), limit) + "```"
}

// fit returns as much of text as takes at most limit bytes after escaping.
func fit(escape func(string) string, text string, limit int) string {
	for room := limit; ; {
		escaped := escape(cut(text, room))
		if len(escaped) <= limit {
			return escaped
		}
		room = min(room-1, room*limit/len(escaped))
	}
}

// slackEscape keeps text from being markup. Mentions, links and channels need an
// angle bracket.
func slackEscape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "*", "∗", "`", "ˋ").Replace(text)
}

// slackCode escapes text between backticks, which the text must not end.
func slackCode(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "ˋ").Replace(text)
}

// lines replaces control and invisible characters with spaces. Line breaks stay.
func lines(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// plain is like lines, and replaces line breaks too.
func plain(text string) string { return strings.ReplaceAll(lines(text), "\n", " ") }
