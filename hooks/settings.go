package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// settings are the column of that name.
type settings struct {
	// Headers are sent with a webhook. A value may be env:NAME, or sealed.
	Headers map[string]string `json:"headers,omitempty"`
	// Args sends the job's arguments to a webhook or command.
	Args bool `json:"args,omitempty"`
	// Allow are private networks, as CIDRs, that a request may reach.
	Allow []string `json:"allow,omitempty"`
	// BaseURL is where Slack messages link to.
	BaseURL string `json:"base_url,omitempty"`
	// Command is what an exec hook runs.
	Command string `json:"command,omitempty"`
}

func readSettings(raw []byte) (settings, error) {
	var s settings
	if len(raw) == 0 {
		return s, errTooLarge
	}
	if json.Unmarshal(raw, &s) != nil {
		// The error would show what stands there.
		return settings{}, errors.New("the hook's settings can't be read: a part of them has the wrong type")
	}
	return s, nil
}

// errTooLarge is about a row that only SQL can have written.
var errTooLarge = fmt.Errorf("the hook's URL, secrets or settings are larger than %d KB", maxRow>>10)

// secrets are the parts of a hook that may be secret: a value, a reference to the
// environment, or a sealed value each.
type secrets struct {
	url     string
	signing string // Spec.Secrets
	headers map[string]string
}

// values are the parts in one list.
func (s secrets) values() []string {
	values := []string{s.url, s.signing}
	for _, value := range s.headers {
		values = append(values, value)
	}
	return values
}

// What is shown in the place of a value.
const (
	// Hidden is a header's value that stands in the table in the clear.
	Hidden = "(hidden)"
	// Sealed is a header's value that is sealed in the table.
	Sealed = "(sealed)"
	// unreadable is an address that is none.
	unreadable = "(unreadable)"
)

// urlTarget is the target of the kinds that send requests.
func urlTarget(s *Spec) string {
	origin := originOf(s.URL)
	switch {
	case s.URL == "" || strings.HasPrefix(origin, referencePrefix):
		return origin
	case origin == "":
		return unreadable
	default:
		return origin + "/…"
	}
}

// originOf is what may be shown of an address: its scheme and host, or the whole
// reference. The rest may be secret: Slack's URLs are. Empty for what can't be read.
func originOf(address string) string {
	if strings.HasPrefix(address, referencePrefix) {
		return address
	}
	u, err := ParseURL(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
