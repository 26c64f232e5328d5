package soniq_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A promise that names a test which is gone promises nothing.
func TestReliability_everyTestItNames_exists(t *testing.T) {
	t.Parallel()
	reliability, err := os.ReadFile("docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, promises, ok := strings.Cut(string(reliability), "| promise | shown by |")
	if promises, _, _ = strings.Cut(promises, "\n\n"); !ok || strings.Count(promises, "\n|") < 25 {
		t.Errorf("docs/reliability.md has no table of promises, or a short one:\n%s", promises)
	}
	security, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, trust, ok := strings.Cut(string(security), "\n## The promises\n")
	if trust, _, _ = strings.Cut(trust, "\n## "); !ok || strings.Count(trust, "\n|") < 20 {
		t.Errorf("docs/security.md has no table of promises, or a short one:\n%s", trust)
	}
	text := trust + "\n" + string(reliability)
	declared := map[string]map[string]bool{} // by folder
	defect := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.Contains(line, "---") || strings.Contains(line, "shown by") {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(cells[0])); err == nil {
			if defect++; n != defect {
				t.Errorf("defect %d follows %d", n, defect-1)
			}
		}
		names := testName.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(names) == 0 && !strings.Contains(line, "Does not apply") {
			t.Errorf("no test shows: %s", strings.TrimSpace(line))
		}
		for _, name := range names {
			folder := name[1]
			if folder == "soniq" {
				folder = "."
			}
			if declared[folder] == nil {
				declared[folder] = testsOf(t, folder)
			}
			if !declared[folder][name[2]] {
				t.Errorf("%s has no test called %s", folder, name[2])
			}
		}
	}
	if defect != 28 {
		t.Errorf("%d defects are listed, want 28", defect)
	}
}

var testName = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")

// testsOf returns the names of a folder's tests.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
