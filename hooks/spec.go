package hooks

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"soniq/deadletter"
	"soniq/internal/webhook"
)

// Spec is a hook to be added.
type Spec struct {
	// Name is unique. Required.
	Name string
	// Kind is webhook, slack, log or exec. Required.
	Kind string
	// URL is where a webhook or Slack message goes, or env:NAME.
	URL string
	// Secrets sign a webhook: whsec_..., separated by spaces, or env:NAME.
	Secrets string
	// Headers are sent with a webhook. Values may be env:NAME.
	Headers map[string]string
	// Command is what an exec hook runs, by /bin/sh -c. It stands in the table in
	// the clear: a secret belongs into the environment of the dispatcher.
	Command string
	// Args says that a webhook or command gets the job's arguments.
	Args bool
	// Allow are private networks that the hook may reach, as CIDRs.
	Allow []string
	// BaseURL is where a Slack message links to.
	BaseURL string
	// Events the hook hears of. Default Dead alone.
	Events []string
	// Jobs are names, or globs with * and ?. Empty is all, as for the others.
	Jobs, Queues, Reasons []string
	// Tags that a dead letter must have.
	Tags map[string]string
}

// The bounds of a hook. A row that SQL has written beyond them is told of
// nothing, or not sent to.
const (
	maxName    = 200      // bytes
	maxText    = 1000     // bytes of what a filter has
	maxURL     = 4 << 10  // bytes
	maxHeader  = 4 << 10  // bytes of a header's value
	maxHeaders = 50       // in number
	maxCommand = 16 << 10 // bytes
	maxFilter  = 200      // names in one list of a filter
	maxAllow   = 100      // networks
	// maxRow bounds what is read of a row, a column. All of the above fits,
	// sealed too.
	maxRow = 512 << 10
	// maxHooks is how many hooks are told of a death, the oldest; soniq_hook_listeners
	// in schema.sql has it too.
	maxHooks = 1000
)

// Check returns what is wrong with s, without connecting. A reference to the environment is not
// looked up: it may be set where the dispatcher runs only.
func (s *Spec) Check() error {
	if strings.TrimSpace(s.Name) == "" {
		return errors.New("the name is empty")
	}
	if len(s.Name) > maxName {
		return fmt.Errorf("the name is longer than %d bytes", maxName)
	}
	if !slices.Contains([]string{"webhook", "slack", "log", "exec"}, s.Kind) {
		return fmt.Errorf("the kind must be webhook, slack, log or exec, not %q", s.Kind)
	}
	if s.Kind == "exec" && strings.TrimSpace(s.Command) == "" {
		return errors.New("the command is empty")
	}
	if len(s.Command) > maxCommand {
		return fmt.Errorf("the command is longer than %d KB", maxCommand>>10)
	}
	for _, value := range (secretsOf{s.URL, s.Secrets, s.Headers}).values() {
		name, ok := strings.CutPrefix(value, "env:")
		switch {
		case !ok:
		case !variableName.MatchString(name):
			return fmt.Errorf("what stands after env: must be the name of a variable, not %q", cut(name, maxName))
		case slices.Contains(reserved, name):
			return CheckVariable(name)
		}
	}
	if s.Kind == "webhook" || s.Kind == "slack" {
		if len(s.URL) > maxURL {
			return fmt.Errorf("the URL is longer than %d KB", maxURL>>10)
		}
		if !strings.HasPrefix(s.URL, "env:") {
			if _, err := ParseURL(s.URL); err != nil {
				return err
			}
		}
		if len(s.Allow) > maxAllow {
			return fmt.Errorf("there are more than %d networks", maxAllow)
		}
		if _, err := newGuard(s.Allow); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(s.Secrets, "env:") {
		if len(s.Secrets) > maxURL {
			return fmt.Errorf("the secrets are longer than %d KB", maxURL>>10)
		}
		if _, err := webhook.ParseSecrets(s.Secrets); err != nil {
			return err
		}
	}
	if len(s.Headers) > maxHeaders {
		return fmt.Errorf("there are more than %d headers", maxHeaders)
	}
	for name, value := range s.Headers {
		if err := CheckHeader(http.CanonicalHeaderKey(name), value); err != nil {
			return err
		}
	}
	if s.BaseURL != "" {
		if err := checkBaseURL(s.BaseURL); err != nil {
			return err
		}
	}
	for _, list := range [][]string{s.Events, s.Jobs, s.Queues, s.Reasons, slices.Collect(maps.Keys(s.Tags)), slices.Collect(maps.Values(s.Tags))} {
		if len(list) > maxFilter {
			return fmt.Errorf("the filter has more than %d names in a list", maxFilter)
		}
		for _, name := range list {
			if len(name) > maxText {
				return fmt.Errorf("%q, of the filter, is longer than %d bytes", cut(name, 40), maxText)
			}
		}
	}
	return nil
}

// checkBaseURL returns what is wrong with where Slack messages link to: what
// could end the link in Slack's markup.
func checkBaseURL(text string) error {
	if _, err := ParseURL(text); err != nil || len(text) > maxURL || strings.ContainsAny(text, "|<>") || strings.ContainsFunc(text, unicode.IsSpace) {
		return errors.New("the base URL must be an address such as https://soniq.example.com/dead-letters")
	}
	return nil
}

// Needs are the flags that a dispatcher must be started with to send to the
// hook once it is added.
func (s *Spec) Needs() []string {
	return needs(s.Kind, secretsOf{s.URL, s.Secrets, s.Headers}, s.Allow)
}

func needs(kind string, of secretsOf, allow []string) []string {
	var needs *NeedsError
	switch {
	case kind == "exec":
		return []string{"--allow-exec-hooks"}
	case kind != "webhook" && kind != "slack":
		return nil
	case errors.As((&rights{}).check(of, allow), &needs):
		return needs.Flags
	default:
		return nil
	}
}

// row has the values of the columns name to tags.
func (s *Spec) row() []any {
	events := s.Events
	if len(events) == 0 {
		events = []string{Dead}
	}
	var tags any
	if len(s.Tags) > 0 {
		tags = s.Tags
	}
	return []any{s.Name, s.Kind, s.URL, s.Secrets, s.settings(), events, all(s.Jobs), all(s.Queues), all(s.Reasons), tags}
}

func (s *Spec) settings() settings {
	return settings{Headers: s.Headers, Args: s.Args, Allow: s.Allow, BaseURL: s.BaseURL, Command: s.Command}
}

// shown is row for a hook that is sent to as it was declared: the table needs
// no more of it than may be shown.
func (s Spec) shown() []any {
	if origin := Origin(s.URL); origin != "" && !strings.HasPrefix(origin, "env:") {
		s.URL = origin + "/..."
	}
	if s.Secrets != "" && !strings.HasPrefix(s.Secrets, "env:") {
		s.Secrets = inConfiguration
	}
	headers := map[string]string{}
	for name, value := range s.Headers {
		if !strings.HasPrefix(value, "env:") {
			value = Hidden
		}
		headers[name] = value
	}
	s.Headers = headers
	s.Command = deadletter.RedactText(s.Command)
	return s.row()
}

// inConfiguration stands in the table for the secrets of a hook that its
// configuration has; the view soniq_hook_status has it too.
const inConfiguration = "(configuration)"

// all is nil, which matches all, for an empty list.
func all(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}
