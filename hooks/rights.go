package hooks

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"soniq/internal/egress"
	"soniq/internal/tracecontext"
)

// OwnPrefix begins the names of variables that every hook may use.
const OwnPrefix = "SONIQ_HOOK_"

// referencePrefix begins a reference to a variable of the dispatcher's environment.
const referencePrefix = "env:"

// reserved are Soniq's own variables with OwnPrefix. No hook may use them: a row
// could have the key sent anywhere.
var reserved = []string{"SONIQ_HOOK_KEY", "SONIQ_HOOK_ENV", "SONIQ_HOOK_ALLOW"}

// rights are what rows of soniq_hooks may use of this process: whoever may write to
// the table gets no more. They don't bind hooks that a configuration or a program
// declares.
type rights struct {
	env    []string // Config.Env
	allow  []netip.Prefix
	exec   bool
	keys   *Keyring
	getenv func(string) string
}

// NeedsError says what a dispatcher must be started with to send to a hook of the
// table. The hook's deliveries wait for such a dispatcher.
type NeedsError struct {
	// Flags are those of 'soniq worker' and 'soniq hooks run'. '--hook-env
	// ORDERS_TOKEN' stands for ORDERS_TOKEN in [Config].Env, for instance.
	Flags []string
}

func (e *NeedsError) Error() string {
	return "it needs a dispatcher that was started with " + strings.Join(e.Flags, " ")
}

// variableName is what a shell can set.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`)

// CheckVariable returns what is wrong with a name for [Config].Env.
//
// Errors: for a person to read.
func CheckVariable(name string) error {
	switch {
	case !variableName.MatchString(name):
		return fmt.Errorf("%q can't be the name of a variable", name)
	case slices.Contains(reserved, name):
		return fmt.Errorf("%s is Soniq's own: no hook may use it", name)
	}
	return nil
}

// reference returns the variable that text refers to.
func reference(text string) (name string, ok bool) {
	if isSealed(text) {
		return "", false
	}
	return strings.CutPrefix(text, referencePrefix)
}

// needs are the flags that a dispatcher must have for a row.
func needs(k Kind, of secrets, allow []string) []string {
	var needs *NeedsError
	switch {
	case kinds[k].exec:
		return []string{"--allow-exec-hooks"}
	case k.Uses(FieldURL) && errors.As((&rights{}).check(of, allow), &needs):
		return needs.Flags
	default:
		return nil
	}
}

// check returns a [*NeedsError] for a row that asks for more than r grants.
func (r *rights) check(s secrets, allow []string) error {
	var flags []string
	for _, value := range s.values() {
		name, ok := reference(value)
		if !ok || !variableName.MatchString(name) {
			continue // resolve refuses it
		}
		if slices.Contains(reserved, name) {
			return CheckVariable(name)
		}
		if !strings.HasPrefix(name, OwnPrefix) && !slices.Contains(r.env, name) {
			flags = append(flags, "--hook-env "+name)
		}
	}
	networks, err := egress.ParseNetworks(allow)
	if err != nil {
		return err
	}
	for _, p := range networks {
		if !egress.AllPublic(p) && !slices.ContainsFunc(r.allow, func(ours netip.Prefix) bool { return within(ours, p) }) {
			flags = append(flags, "--hook-allow "+p.String())
		}
	}
	if len(flags) == 0 {
		return nil
	}
	slices.Sort(flags)
	return &NeedsError{slices.Compact(flags)}
}

// within reports whether outer contains all of inner.
func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Unterminated returns a value of the environment without the line break at its end, which
// a file of secrets often has. Neither a URL, a header nor a secret can have one.
func Unterminated(value string) string { return strings.TrimRight(value, "\r\n") }

// resolve returns s with the values that its references name.
func (r *rights) resolve(s secrets) (secrets, error) {
	var failed error
	one := func(text string) string {
		name, ok := reference(text)
		if !ok {
			return text
		}
		value := Unterminated(r.getenv(name))
		if value == "" && failed == nil {
			failed = &notSetError{cut(name, maxName)}
		}
		return value
	}
	resolved := secrets{url: one(s.url), signing: one(s.signing)}
	if len(s.headers) > 0 {
		resolved.headers = map[string]string{}
	}
	for name, value := range s.headers {
		resolved.headers[name] = one(value)
	}
	return resolved, failed
}

// notSetError names a variable that another dispatcher may have.
type notSetError struct{ name string }

func (e *notSetError) Error() string { return "the variable " + e.name + " is not set" }

// isUnavailable reports whether a hook can't be sent to for a reason that lies in
// this process, so that another dispatcher may be able to.
func isUnavailable(err error) bool {
	var missing *notSetError
	var needs *NeedsError
	return errors.As(err, &missing) || errors.As(err, &needs) || errors.Is(err, ErrExecNotAllowed) || errors.Is(err, ErrSealed)
}

// withheld are variables that commands don't get: the keys of sealed secrets, what systemd tells
// this process alone, so that no command speaks for it, and a trace that is not the event's.
var withheld = []string{"SONIQ_HOOK_KEY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", tracecontext.ParentVariable, tracecontext.StateVariable}

// commandEnviron is the environment of commands: that of this process without what is withheld.
func commandEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains(withheld, name)
	})
}
