package main

import (
	"strings"
	"testing"
)

func lettersTable() *table {
	t := &table{columns: []column{
		{title: "ID"},
		{title: "JOB", min: 6},
		{title: "N", right: true},
		{title: "STATE", drop: 1},
		{title: "ERROR", min: 8, drop: 2},
	}}
	t.add("id-1", "emails.send_welcome", "3/3", "dead", "connection refused by the server")
	t.add("id-22", "日本語のジョブ", "10/10", "dead", "")
	return t
}

func TestTable_fitsTheTerminal(t *testing.T) {
	t.Parallel()
	for room := 20; room <= 90; room++ {
		var out strings.Builder
		if err := lettersTable().write(&out, room); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if w := textWidth(strings.TrimSuffix(line, "\n")); w > room {
				t.Errorf("%d columns, room for %d: %s", w, room, line)
			}
		}
	}
}

func TestTable_piped_cutsNothing(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := lettersTable().write(&out, 0); err != nil {
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
	if err := lettersTable().write(&out, 30); err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(out.String(), "\n")
	if strings.Join(strings.Fields(header), " ") != "ID JOB N STATE" {
		t.Errorf("header %q", header)
	}
	wantIn(t, "table", out.String(), "id-22", "…")
}
