package hooks

import (
	"fmt"
	"slices"
	"strings"

	"soniq/internal/redact"
)

// Kind says how a hook sends.
type Kind string

const (
	// Webhook posts each event, signed after Standard Webhooks.
	Webhook Kind = "webhook"
	// Slack posts to an incoming webhook of Slack, and gathers events in digests.
	Slack Kind = "slack"
	// Log writes a log record for each event.
	Log Kind = "log"
	// Exec runs a command for each event.
	Exec Kind = "exec"
	// Own is a [Hook] that a program registers; see [Dispatcher.Register]. A [Spec]
	// can't have it.
	Own Kind = "go"
)

// Field is a field of [Spec] that only some kinds use, under its name in soniq.yaml.
type Field string

// The fields that not every kind uses.
const (
	FieldURL     Field = "url"
	FieldSecret  Field = "secret"
	FieldHeaders Field = "headers"
	FieldCommand Field = "command"
	FieldArgs    Field = "include_args"
	FieldAllow   Field = "allow"
	FieldBaseURL Field = "base_url"
)

// kind is a row of the table of kinds.
type kind struct {
	// fields are the fields that the kind uses.
	fields []Field
	// check returns what is wrong with the fields that the kind requires. Nil: it
	// requires none.
	check func(*Spec) error
	// target is where the hook sends to, without secrets. Nil: nowhere.
	target func(*Spec) string
	// exec: a row of soniq_hooks runs code of the table's writer, so it needs
	// Config.AllowExec.
	exec bool
	// preemptible deliveries are broken off when other hooks wait. A request may be
	// sent again; a command or a program's own code may not.
	preemptible bool
	// digest bounds one message. The zero value sends each event by itself.
	digest digestLimits
	// open makes the hook, and says what must not be kept of its answers.
	open func(*Dispatcher, prepared) (Hook, *redact.Set, error)
}

// digestLimits bound one message of a hook that gathers events.
type digestLimits struct {
	// rows is how many deliveries one message takes in.
	rows int
	// read is how many groups have their dead letter read, the largest first. The
	// others have what the outbox holds.
	read int
}

// maxDigest bounds the memory of one message: a row has some 500 bytes.
const maxDigest = 10_000

// kinds has every kind. A new kind is a constant above, a row here, and a file.
var kinds = map[Kind]kind{
	Webhook: webhookKind,
	Slack:   slackKind,
	Log:     logKind,
	Exec:    execKind,
	Own:     ownKind,
}

// Kinds returns the kinds that a [Spec] can have.
func Kinds() []Kind { return []Kind{Webhook, Slack, Log, Exec} }

// Uses reports whether hooks of this kind use the field.
func (k Kind) Uses(f Field) bool { return slices.Contains(kinds[k].fields, f) }

// KindsWith returns the kinds that use the field.
func KindsWith(f Field) []Kind {
	return slices.DeleteFunc(Kinds(), func(k Kind) bool { return !k.Uses(f) })
}

// checkOneOf returns an error 'must be a, b or c, not d' unless item is in the list.
func checkOneOf[T ~string](item T, list []T) error {
	if slices.Contains(list, item) {
		return nil
	}
	names := texts(list)
	last := len(names) - 1
	return fmt.Errorf("must be %s or %s, not %q", strings.Join(names[:last], ", "), names[last], item)
}
