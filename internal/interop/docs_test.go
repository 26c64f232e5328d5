package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/python.md says which test shows what. None of them may be missing.
func TestDocs_eachTestThatPythonMdNames_isThere(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/python.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(source)
	}
	named := regexp.MustCompile("`(Test[A-Za-z_]+)`").FindAllStringSubmatch(string(doc), -1)
	if len(named) == 0 {
		t.Error("docs/python.md names no test")
	}
	for _, n := range named {
		if !strings.Contains(tests.String(), "func "+n[1]+"(") {
			t.Errorf("docs/python.md names %s, which is not there", n[1])
		}
	}
}
