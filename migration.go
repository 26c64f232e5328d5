package soniq

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// A Migration is one numbered step of the schema. Its SQL says 'public.' before each name of
// Soniq's; for other schemas use [WriteMigrations].
type Migration struct {
	// Version is four digits. 0001 and 0002 are Python Soniq's core migrations; those of Soniq for Go
	// are 0150 to 0299, in the range that Python leaves to plugins.
	Version string
	// Name is the rest of its file's name, such as 'soniq_go_hooks'.
	Name string
	// Up applies it and Down takes it back. Down is empty where Soniq can't take it back: for Python's.
	Up, Down string
	// Loses says what data Down loses. Empty where it loses none.
	Loses string
}

// String is the name of its files without their ending, such as '0154_soniq_go_hooks'.
func (m Migration) String() string { return m.Version + "_" + m.Name }

// Checksum is the SHA-256 of Up in hexadecimal digits, which soniq_migrations keeps.
func (m Migration) Checksum() string {
	sum := sha256.Sum256([]byte(m.Up))
	return hex.EncodeToString(sum[:])
}

// Migrations returns all migrations of this release, the oldest first.
func Migrations() []Migration { return slices.Clone(migrations()) }

const (
	// lastShared is the newest migration that belongs to Python Soniq too: nothing below it is undone.
	lastShared = "0002"
	// firstOwn is the first migration of Soniq for Go, and rangeEnd the first version past its range.
	firstOwn = "0150"
	rangeEnd = "0300"
	// trustMigration takes the right to execute our functions from PUBLIC.
	trustMigration = "0161"
)

// isOwn reports whether a version is in the range of Soniq for Go.
func isOwn(version string) bool {
	return len(version) == len(firstOwn) && version >= firstOwn && version < rangeEnd
}

var losesComment = regexp.MustCompile(`^-- Loses: ((?:[^\n]|\n-- )*)\n`)

// migrations reads the embedded files, which a test checks.
var migrations = sync.OnceValue(func() []Migration {
	read := func(name string) string {
		text, err := migrationFiles.ReadFile("migrations/" + name)
		if err != nil {
			return ""
		}
		return string(text)
	}
	files, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		panic(fmt.Sprintf("read embedded migrations: %v", err))
	}
	var all []Migration
	for _, file := range files { // sorted by name
		base, ok := strings.CutSuffix(file.Name(), ".up.sql")
		if !ok {
			continue
		}
		version, name, _ := strings.Cut(base, "_")
		m := Migration{Version: version, Name: name, Up: read(file.Name()), Down: read(base + ".down.sql")}
		if found := losesComment.FindStringSubmatch(m.Down); found != nil {
			m.Loses = strings.ReplaceAll(found[1], "\n-- ", " ")
		}
		all = append(all, m)
	}
	return all
})

// newestMigration is the version that [Setup] migrates to.
func newestMigration() string {
	all := migrations()
	return all[len(all)-1].Version
}

// allUp is the text of all migrations.
var allUp = sync.OnceValue(func() string {
	var text strings.Builder
	for _, m := range migrations() {
		text.WriteString(m.Up)
	}
	return text.String()
})

// schemaStatements are those of schema.sql that make something: a transaction of our own is around them, under its
// own search_path, and it records the migrations with their checksums.
var schemaStatements = sync.OnceValue(func() []string {
	return slices.DeleteFunc(statements(schemaSQL), func(s string) bool {
		return s == "begin" || s == "commit" || strings.HasPrefix(s, "select pg_catalog.set_config('search_path'") ||
			strings.HasPrefix(s, "insert into public.soniq_migrations ")
	})
})

// statementTokens finds what may hold a semicolon that ends no statement, and the semicolons.
var statementTokens = regexp.MustCompile(`(?s)--[^\n]*|'(?:[^']|'')*'|\$\$.*?\$\$|;`)

// statements splits SQL of ours. Each statement begins with its first word: comments before it are
// left out.
func statements(sql string) (list []string) {
	start := 0
	add := func(text string) {
		if text = leadingComments.ReplaceAllString(text, ""); text != "" {
			list = append(list, strings.TrimRight(text, " \n"))
		}
	}
	for _, at := range statementTokens.FindAllStringIndex(sql, -1) {
		if sql[at[0]] == ';' {
			add(sql[start:at[0]])
			start = at[1]
		}
	}
	add(sql[start:])
	return list
}

var leadingComments = regexp.MustCompile(`^(?:\s+|--[^\n]*(?:\n|$))+`)

// A statement that changes a table. The names of what it makes are there where it only adds.
var (
	addColumnsSQL  = regexp.MustCompile(`^alter table public\.(\w+)\s+add column if not exists `)
	columnNameSQL  = regexp.MustCompile(`add column if not exists (\w+)`)
	createIndexSQL = regexp.MustCompile(`^create (?:unique )?index if not exists (\w+)\s+on public\.(\w+)`)
	renameSQL      = regexp.MustCompile(`^alter (?:table|index) public\.(\w+) rename to (\w+)$`)
	namedSQL       = regexp.MustCompile(`\bpublic\.(\w+)`)
	bodySQL        = regexp.MustCompile(`(?s)\$\$.*?\$\$`)
)
