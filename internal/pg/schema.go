// Package pg has what the other packages need to know of PostgreSQL: the schema
// that the tables are in, the interfaces of whatever runs a statement, and the
// wrappers that write the schema's name into each statement.
package pg

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// DefaultSchema is the schema whose channel names are the public contract.
const DefaultSchema = "public"

// Limits of PostgreSQL: a name and a channel have at most 63 bytes (NAMEDATALEN
// less the terminator).
const (
	maxName = 63
	// maxPrefix is what a channel name leaves for the schema: 63 bytes, less a
	// dot, less the 17 of soniq_dead_letter, the longest channel.
	maxPrefix = maxName - 1 - len("soniq_dead_letter")
)

// Schema is the schema of Soniq's tables. Statements say 'public.soniq_jobs';
// [Schema.SQL] puts this schema's name in the place of 'public'. The zero value
// is [DefaultSchema].
type Schema struct{ in *schema }

// schema is nil in a Schema for public.
type schema struct {
	name, quoted, prefix string
	lockSalt             int64
	// statements are those rewritten so far, at most maxStatements.
	statements sync.Map
	count      atomic.Int64
}

// maxStatements bounds the statements that are kept rewritten. The program's own
// are some hundreds, and filters make some thousands of forms.
const maxStatements = 4096

// ErrSchemaName is wrapped by every error of [NewSchema].
var ErrSchemaName = errors.New("invalid schema name")

// NewSchema returns the schema with this name, spelled as the catalog has it: it
// is quoted where SQL needs that, so case counts. The empty name is
// [DefaultSchema].
//
// Errors: [ErrSchemaName] for a name that PostgreSQL or Soniq can't use.
func NewSchema(name string) (Schema, error) {
	reason := ""
	switch {
	case name == "" || name == DefaultSchema:
		return Schema{}, nil
	case len(name) > maxName:
		reason = fmt.Sprintf("it has %d bytes, and PostgreSQL cuts names to %d", len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		reason = "it is not valid UTF-8 text"
	case strings.HasPrefix(name, "pg_") || name == "information_schema":
		reason = "PostgreSQL reserves it for itself"
	case strings.Contains(name, "$$"):
		// The only text that can end a function's body early.
		reason = "it contains $$, which ends the body of a function"
	case strings.ContainsAny(name, "\n\r"):
		// Where a comment names it, a line break would end the comment.
		reason = "it contains a line break"
	}
	if reason != "" {
		return Schema{}, fmt.Errorf("%w %q: %s", ErrSchemaName, name, reason)
	}
	digest := md5.Sum([]byte(name))
	prefix := name
	if len(prefix) > maxPrefix {
		prefix = hex.EncodeToString(digest[:])
	}
	return Schema{&schema{
		name:     name,
		quoted:   pgx.Identifier{name}.Sanitize(),
		prefix:   prefix,
		lockSalt: int64(binary.BigEndian.Uint64(digest[:])),
	}}, nil
}

// Name is the schema's name as the catalog has it.
func (s Schema) Name() string {
	if s.in == nil {
		return DefaultSchema
	}
	return s.in.name
}

func (s Schema) String() string { return s.Name() }

// Quoted is the schema's name as SQL writes it.
func (s Schema) Quoted() string {
	if s.in == nil {
		return DefaultSchema
	}
	return s.in.quoted
}

// Channel is the name of a channel of Soniq's in this schema: the name itself for
// public, else '<schema>.<name>'. Where that is longer than PostgreSQL allows,
// the prefix is the MD5 of the schema's name, in hex.
func (s Schema) Channel(name string) string {
	if s.in == nil {
		return name
	}
	return s.in.prefix + "." + name
}

// LockKey is the key of an advisory lock in this schema: the key itself for
// public. Advisory locks belong to the database, and two Soniqs in two schemas of
// one must not wait for each other.
func (s Schema) LockKey(key int64) int64 {
	if s.in == nil {
		return key
	}
	return key ^ s.in.lockSalt
}

// tokens finds what SQL replaces, and what it must step over: a comment, where an
// apostrophe begins no literal, and a literal.
var tokens = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'|\bpublic\.`)

// channels are the literals that SQL replaces as a whole.
var channels = map[string]bool{
	"'soniq_new_job'": true, "'soniq_dead_letter'": true, "'soniq_control'": true, "'soniq_hook'": true,
}

// SQL is a statement, or many, that says 'public.' before Soniq's names, with
// this schema in its place. A literal changes if it begins with 'public.', as
// 'public.soniq_jobs'::regclass does, or if it is the name of a channel. Comments
// stay as they are.
func (s Schema) SQL(statement string) string {
	if s.in == nil {
		return statement
	}
	if rewritten, ok := s.in.statements.Load(statement); ok {
		return rewritten.(string)
	}
	rewritten := s.rewrite(statement)
	if s.in.count.Load() < maxStatements {
		if _, was := s.in.statements.LoadOrStore(statement, rewritten); !was {
			s.in.count.Add(1)
		}
	}
	return rewritten
}

func (s Schema) rewrite(statement string) string {
	name := s.in.quoted + "."
	literal := "'" + strings.ReplaceAll(name, "'", "''")
	return tokens.ReplaceAllStringFunc(statement, func(token string) string {
		switch {
		case token == "public.":
			return name
		case channels[token]:
			return "'" + strings.ReplaceAll(s.Channel(strings.Trim(token, "'")), "'", "''") + "'"
		}
		if rest, ok := strings.CutPrefix(token, "'public."); ok {
			return literal + rest
		}
		return token
	})
}
