package terminal_test

import (
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
)

func lettersTable() *terminal.Table {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "ID"},
		{Title: "JOB", Min: 6},
		{Title: "N", Right: true},
		{Title: "STATE", Drop: 1},
		{Title: "ERROR", Min: 8, Drop: 2},
	}}
	t.Add("id-1", "emails.send_welcome", "3/3", "dead", "connection refused by the server")
	t.Add("id-22", "日本語のジョブ", "10/10", "dead", "")
	return t
}

func TestTable_fitsTheTerminal(t *testing.T) {
	t.Parallel()
	for room := 20; room <= 90; room++ {
		var out strings.Builder
		if err := lettersTable().Write(&out, room); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if w := terminal.TextWidth(strings.TrimSuffix(line, "\n")); w > room {
				t.Errorf("%d columns, room for %d: %s", w, room, line)
			}
		}
	}
}

func TestTable_piped_cutsNothing(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := lettersTable().Write(&out, 0); err != nil {
		t.Fatal(err)
	}
	want := `ID     JOB                      N  STATE  ERROR
id-1   emails.send_welcome    3/3  dead   connection refused by the server
id-22  日本語のジョブ       10/10  dead
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}

func TestTable_narrow_dropsTheErrorFirst(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := lettersTable().Write(&out, 30); err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(out.String(), "\n")
	if strings.Join(strings.Fields(header), " ") != "ID JOB N STATE" {
		t.Errorf("header %q", header)
	}
	clitest.WantIn(t, "table", out.String(), "id-22", "…")
}
