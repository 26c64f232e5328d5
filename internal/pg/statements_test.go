package pg

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// bare finds one of our tables or functions without a schema before it.
var bare = regexp.MustCompile(`(?:\b(?:from|join|into|update|table|only|lock)|\\n(?:from|join|update))\s+soniq_[a-z_]+\b[^.:]|'soniq_[a-z_]+'::regclass|[^.\w^']soniq_[a-z_]+\(`)

// A statement without the schema finds whatever the session's search_path leads
// to, and nothing where the tables have a schema of their own.
func TestStatements_nameTheSchema(t *testing.T) {
	t.Parallel()
	const root = "../.."
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "docs" || path == filepath.Join(root, "bench")) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			text, ok := n.(*ast.BasicLit)
			if !ok || text.Kind != token.STRING {
				return true
			}
			seen += strings.Count(text.Value, "public.soniq_")
			if found := bare.FindString(text.Value + " "); found != "" {
				t.Errorf("%s: %q has no schema: write public.soniq_..., which pg.Schema replaces", files.Position(text.Pos()), strings.TrimSpace(found))
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("only %d names with a schema were seen: the test looks at the wrong files", seen)
	}
}
