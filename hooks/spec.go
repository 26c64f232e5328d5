package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/egress"
	"soniq/internal/suggest"
	"soniq/internal/webhook"
)

// Spec is a hook to be added or declared. Formatted by fmt, as JSON or in a log, it
// shows no secret: of URL the host, of Secrets, Headers and Command what
// soniq_hook_status shows.
type Spec struct {
	// Name is unique, and has at most 200 bytes. Required.
	Name string
	// Kind is one of [Kinds]. Required.
	Kind Kind
	// URL is where a webhook or Slack message is sent: an http or https address, or
	// env:NAME. Required for these.
	URL string
	// Secrets sign a webhook: 'whsec_' and base64 each, separated by spaces, or
	// env:NAME. Default none: requests are not signed.
	Secrets string
	// Headers are sent with a webhook. A value may be env:NAME. Default none.
	Headers map[string]string
	// Command is what an exec hook runs, by /bin/sh -c. It stands in the table in the
	// clear: keep secrets in the environment of the dispatcher. Required for exec.
	Command string
	// Args sends the job's arguments to a webhook or command. Default false.
	Args bool
	// Allow are private networks that the hook may reach, as CIDRs. Default none.
	Allow []string
	// BaseURL is where a Slack message links to; the dead letter's id is appended.
	// Default no link.
	BaseURL string
	// Events are the types of events that the hook receives. Default Dead.
	Events []EventType
	// Jobs are names, or globs with * and ?. Default all.
	Jobs []string
	// Queues are names. Default all.
	Queues []string
	// Reasons are those of the death. Default all.
	Reasons []classify.Reason
	// Tags are those that a dead letter must have. Default any.
	Tags map[string]string
}

// The limits of a hook. A row beyond them, which SQL can write, receives nothing or
// is not sent to.
const (
	maxName    = 200      // bytes
	maxText    = 1000     // bytes of a text in a filter
	maxURL     = 4 << 10  // bytes
	maxHeader  = 4 << 10  // bytes of a header's value
	maxHeaders = 50       // in number
	maxCommand = 16 << 10 // bytes
	maxFilter  = 200      // names in one list of a filter
	maxAllow   = 100      // networks
	// maxRow bounds what is read of each column. All of the above fits, sealed too.
	maxRow = 512 << 10
	// maxHooks is how many hooks receive a death, the oldest. soniq_hook_listeners in
	// schema.sql has it too.
	maxHooks = 1000
)

// Check returns what is wrong with s, without connecting. References to the
// environment are not looked up: the dispatcher may have another environment.
//
// Errors: for a person to read. They show no secret.
func (s *Spec) Check() error {
	if strings.TrimSpace(s.Name) == "" {
		return errors.New("the name is empty")
	}
	if len(s.Name) > maxName {
		return fmt.Errorf("the name is longer than %d bytes", maxName)
	}
	if err := checkOneOf(s.Kind, Kinds()); err != nil {
		return fmt.Errorf("the kind %w", err)
	}
	checks := []func(*Spec) error{kinds[s.Kind].check, checkCommand, checkReferences, checkSecrets, checkHeaders, checkBaseURL, checkFilter}
	for _, check := range checks {
		if check == nil {
			continue
		}
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

// checkEndpoint is the check of the kinds that send requests.
func checkEndpoint(s *Spec) error {
	if len(s.URL) > maxURL {
		return fmt.Errorf("the URL is longer than %d KB", maxURL>>10)
	}
	if !strings.HasPrefix(s.URL, referencePrefix) {
		if _, err := ParseURL(s.URL); err != nil {
			return err
		}
	}
	if len(s.Allow) > maxAllow {
		return fmt.Errorf("there are more than %d networks", maxAllow)
	}
	_, err := egress.ParseNetworks(s.Allow)
	return err
}

func checkCommand(s *Spec) error {
	if len(s.Command) > maxCommand {
		return fmt.Errorf("the command is longer than %d KB", maxCommand>>10)
	}
	return nil
}

func checkReferences(s *Spec) error {
	for _, value := range s.secrets().values() {
		name, ok := strings.CutPrefix(value, referencePrefix)
		switch {
		case !ok:
		case !variableName.MatchString(name):
			return fmt.Errorf("what stands after env: must be the name of a variable, not %q", cut(name, maxName))
		case slices.Contains(reserved, name):
			return CheckVariable(name)
		}
	}
	return nil
}

func checkSecrets(s *Spec) error {
	if strings.HasPrefix(s.Secrets, referencePrefix) {
		return nil
	}
	if len(s.Secrets) > maxURL {
		return fmt.Errorf("the secrets are longer than %d KB", maxURL>>10)
	}
	_, err := webhook.ParseSecrets(s.Secrets)
	return err
}

func checkHeaders(s *Spec) error {
	if len(s.Headers) > maxHeaders {
		return fmt.Errorf("there are more than %d headers", maxHeaders)
	}
	for name, value := range s.Headers {
		if err := CheckHeader(http.CanonicalHeaderKey(name), value); err != nil {
			return err
		}
	}
	return nil
}

func checkBaseURL(s *Spec) error {
	if s.BaseURL == "" || isBaseURL(s.BaseURL) {
		return nil
	}
	return errors.New("the base URL must be an address such as https://soniq.example.com/dead-letters")
}

// isBaseURL reports whether Slack messages may link to text: nothing in it can end
// the link in Slack's markup.
func isBaseURL(text string) bool {
	_, err := ParseURL(text)
	return err == nil && len(text) <= maxURL && !strings.ContainsAny(text, "|<>") && !strings.ContainsFunc(text, unicode.IsSpace)
}

func checkFilter(s *Spec) error {
	for _, e := range s.Events {
		if err := e.Check(); err != nil {
			return fmt.Errorf("an event %w", err)
		}
	}
	for _, reason := range s.Reasons {
		if err := checkReason(reason); err != nil {
			return err
		}
	}
	for _, list := range [][]string{
		texts(s.Events), s.Jobs, s.Queues, texts(s.Reasons), slices.Collect(maps.Keys(s.Tags)), slices.Collect(maps.Values(s.Tags)),
	} {
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

// checkReason refuses a reason that no dead letter has: the hook would hear of nothing.
func checkReason(reason classify.Reason) error {
	if _, err := classify.ParseReason(string(reason)); err != nil {
		return fmt.Errorf("%w%s", err, suggest.Question(reason, classify.Reasons()))
	}
	return nil
}

// Needs are the flags that a dispatcher must be started with to send to the hook
// once it is added, such as '--hook-env NAME'. Nil: none.
func (s *Spec) Needs() []string { return needs(s.Kind, s.secrets(), s.Allow) }

// Target is where the hook sends to, without secrets: the host of a URL, a
// reference, or a command. Empty for a log.
func (s *Spec) Target() string {
	if target := kinds[s.Kind].target; target != nil {
		return target(s)
	}
	return ""
}

func (s *Spec) secrets() secrets { return secrets{s.URL, s.Secrets, s.Headers} }

func (s *Spec) settings() settings {
	return settings{Headers: s.Headers, Args: s.Args, Allow: s.Allow, BaseURL: s.BaseURL, Command: s.Command}
}

// row has the values of the columns name to tags.
func (s *Spec) row() []any {
	events := s.Events
	if len(events) == 0 {
		events = []EventType{Dead}
	}
	var tags any
	if len(s.Tags) > 0 {
		tags = s.Tags
	}
	return []any{
		s.Name, s.Kind, s.URL, s.Secrets, s.settings(), texts(events),
		all(s.Jobs), all(s.Queues), all(texts(s.Reasons)), tags,
	}
}

// redacted returns s without secrets. A hook of a configuration has no more than
// this in the table.
func (s Spec) redacted() Spec {
	if origin := originOf(s.URL); origin != "" && !strings.HasPrefix(origin, referencePrefix) {
		s.URL = origin + "/..."
	} else if origin == "" && s.URL != "" {
		s.URL = unreadable
	}
	if s.Secrets != "" && !strings.HasPrefix(s.Secrets, referencePrefix) {
		s.Secrets = inConfiguration
	}
	headers := map[string]string{}
	for name, value := range s.Headers {
		if !strings.HasPrefix(value, referencePrefix) {
			value = Hidden
		}
		headers[name] = value
	}
	s.Headers = headers
	s.Command = deadletter.RedactText(s.Command)
	return s
}

// plainSpec is a Spec without its methods.
type plainSpec Spec

// Format implements [fmt.Formatter] without secrets.
func (s Spec) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), plainSpec(s.redacted()))
}

// MarshalJSON implements [json.Marshaler] without secrets.
func (s Spec) MarshalJSON() ([]byte, error) { return json.Marshal(plainSpec(s.redacted())) }

// LogValue implements [slog.LogValuer] without secrets.
func (s Spec) LogValue() slog.Value { return slog.AnyValue(plainSpec(s.redacted())) }

// inConfiguration stands in the table for the secrets of a hook that a configuration
// declares. The view soniq_hook_status knows it too.
const inConfiguration = "(configuration)"

// all is nil, which matches all, for an empty list.
func all(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

func texts[T ~string](list []T) []string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = string(item)
	}
	return texts
}
