package roles_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"soniq/internal/roles"
)

var (
	sqlBlock = regexp.MustCompile("(?ms)^```sql\n(.*?)^```$")
	grantSQL = regexp.MustCompile(`(?s)grant ([a-z_, ()]+?) on ([a-z_,\s]+?) to soniq_(\w+)`)
	rightSQL = regexp.MustCompile(`(\w+)(?: \(([^)]*)\))?`)
)

// shown are the rights that the SQL of docs/security.md gives to each kind of role.
func shown(t *testing.T) map[roles.Kind][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[roles.Kind][]string{}
	for _, section := range strings.Split(string(text), "\n### ") {
		for i, block := range sqlBlock.FindAllStringSubmatch(section, -1) {
			for _, g := range grantSQL.FindAllStringSubmatch(block[1], -1) {
				kind := roles.Kind(g[3])
				if i > 0 {
					kind = "unique-" + kind // what it needs for more
				}
				if strings.TrimSpace(g[1]) == "usage" {
					continue
				}
				for _, right := range rightSQL.FindAllStringSubmatch(g[1], -1) {
					for _, r := range (roles.Grant{Rights: right[1:2], Tables: list(g[2]), Columns: list(right[2])}).Each() {
						all[kind] = append(all[kind], fmt.Sprint(r))
					}
				}
			}
		}
	}
	all[roles.UniqueProducer] = append(all[roles.UniqueProducer], all[roles.Producer]...)
	return all
}

func list(text string) (parts []string) {
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// The page and the code have one list.
func TestSecurityPage_grants_areThoseOfTheCode(t *testing.T) {
	t.Parallel()
	page := shown(t)
	for _, kind := range roles.Kinds() {
		var want []string
		for _, g := range roles.Of(kind) {
			for _, r := range g.Each() {
				want = append(want, fmt.Sprint(r))
			}
		}
		got := page[kind]
		slices.Sort(want)
		slices.Sort(got)
		if len(want) == 0 || !slices.Equal(want, got) {
			t.Errorf("%s: docs/security.md grants\n%v\nand the code\n%v", kind, got, want)
		}
	}
}

func TestHaving_kinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		table, rights, kinds string
	}{
		{"soniq_jobs", "insert", "producer unique-producer operator"},
		{"soniq_jobs", "select insert", "producer unique-producer operator"},
		{"soniq_jobs", "select", "viewer operator worker"},
		{"soniq_jobs", "select delete", "operator worker"},
		{"soniq_hooks", "select update", "dispatcher"},
		{"soniq_migrations", "insert", ""},
		{"soniq_nothing", "select", ""},
	} {
		var got []string
		for _, kind := range roles.Having(c.table, strings.Fields(c.rights)...) {
			got = append(got, string(kind))
		}
		if strings.Join(got, " ") != c.kinds {
			t.Errorf("%s on %s: %v, want %s", c.rights, c.table, got, c.kinds)
		}
	}
}

func TestSQL_namesSchemaAndRole_inEachStatement(t *testing.T) {
	t.Parallel()
	for _, kind := range roles.Kinds() {
		for _, sql := range append(roles.SQL(kind, `"s s"`, `"r r"`)[1:], roles.RevokeSQL(kind, `"s s"`, `"r r"`)...) {
			if strings.Count(sql, `"s s".soniq_`) != strings.Count(sql, "soniq_") || !strings.HasSuffix(sql, `"r r"`) {
				t.Errorf("%s: %s", kind, sql)
			}
		}
	}
}
