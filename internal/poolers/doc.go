// Package poolers has the tests of Soniq behind a real pooler: PgBouncer in each of its
// pool modes, with each of pgx's ways to send a statement; and with servers that are
// read-only, down, of another encoding, or that end idle sessions.
package poolers
