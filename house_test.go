package soniq_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	// maxFunctionLines is from the signature to the closing brace.
	maxFunctionLines = 60
	// maxPackageLines is without tests.
	maxPackageLines = 5000
)

// makersOfErrors return an error that is no failure of theirs, or a method that an
// interface of the standard library asks for: they need no paragraph on errors.
var makersOfErrors = []string{
	"engine.Permanent", "engine.InvalidArguments", "engine.Snooze", "engine.RetryAfter", "engine.Registry.Err",
	"classify.Tree.Err",
}

// source is a file of the module that is no test.
type source struct {
	path string
	*ast.File
	files *token.FileSet
}

func sources(t *testing.T) (all []source) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != "." || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		all = append(all, source{path, file, files})
		return err
	})
	if err != nil || len(all) < 100 {
		t.Fatalf("%d files, %v", len(all), err)
	}
	return all
}

// public reports whether other modules can import the file's package.
func (s source) public() bool {
	path := filepath.ToSlash(s.path)
	return s.Name.Name != "main" && !strings.HasPrefix(path, "internal/") && !strings.HasPrefix(path, "bench/")
}

func (s source) functions() (functions []*ast.FuncDecl) {
	for _, declared := range s.Decls {
		if f, ok := declared.(*ast.FuncDecl); ok {
			functions = append(functions, f)
		}
	}
	return functions
}

// nameOf is 'package.Function' or 'package.Type.Method'. exported is false for what
// other packages can't call by its name.
func (s source) nameOf(f *ast.FuncDecl) (name string, exported bool) {
	exported = f.Name.IsExported()
	if f.Recv == nil {
		return s.Name.Name + "." + f.Name.Name, exported
	}
	receiver := f.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	if generic, ok := receiver.(*ast.IndexExpr); ok {
		receiver = generic.X
	}
	named, ok := receiver.(*ast.Ident)
	if !ok {
		return f.Name.Name, false
	}
	return s.Name.Name + "." + named.Name + "." + f.Name.Name, exported && named.IsExported()
}

// A function can be read on one screen, and a package in an afternoon.
func TestHouse_functionsAndPackages_areSmall(t *testing.T) {
	t.Parallel()
	lines := map[string]int{}
	for _, s := range sources(t) {
		content, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		lines[filepath.Dir(s.path)] += strings.Count(string(content), "\n")
		for _, f := range s.functions() {
			from, to := s.files.Position(f.Pos()), s.files.Position(f.End())
			if n := to.Line - from.Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", from, f.Name.Name, n, maxFunctionLines)
			}
		}
	}
	for dir, n := range lines {
		if n > maxPackageLines {
			t.Errorf("package %s has %d lines, more than %d: split it by its ideas", dir, n, maxPackageLines)
		}
	}
}

// Who calls an exported function learns from its comment which errors there are.
func TestHouse_exportedFunctions_describeTheirErrors(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !s.public() {
			continue
		}
		for _, f := range s.functions() {
			name, exported := s.nameOf(f)
			if !exported || f.Type.Results == nil || slices.Contains(makersOfErrors, name) ||
				slices.Contains([]string{"Unwrap", "MarshalJSON", "UnmarshalJSON", "UnmarshalText", "Write"}, f.Name.Name) {
				continue
			}
			results := f.Type.Results.List
			last, ok := results[len(results)-1].Type.(*ast.Ident)
			if ok && last.Name == "error" && !strings.Contains(f.Doc.Text(), "Errors:") {
				t.Errorf("%s: %s returns an error, and its comment has no paragraph 'Errors: ...'", s.files.Position(f.Pos()), name)
			}
		}
	}
}

// A variable that other packages can change is shared by all of a program: only
// sentinel errors are exported.
func TestHouse_exportedVariables_areErrors(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !s.public() {
			continue
		}
		for _, declared := range s.Decls {
			group, ok := declared.(*ast.GenDecl)
			if !ok || group.Tok != token.VAR {
				continue
			}
			for _, spec := range group.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if name.IsExported() && !strings.HasPrefix(name.Name, "Err") {
						t.Errorf("%s: %s.%s is a variable: make it a function or a constant", s.files.Position(name.Pos()), s.Name.Name, name.Name)
					}
				}
			}
		}
	}
}

// In a log record 'name' could be a job's, a hook's or a worker's: the key says whose it is.
func TestHouse_logRecords_sayWhoseNameItIs(t *testing.T) {
	t.Parallel()
	methods := []string{"Debug", "Info", "Warn", "Error", "Log", "DebugContext", "InfoContext", "WarnContext", "ErrorContext"}
	seen := 0
	for _, s := range sources(t) {
		ast.Inspect(s.File, func(n ast.Node) bool {
			var args []ast.Expr
			switch n := n.(type) {
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains(methods, f.Sel.Name) {
					return true
				}
				args = n.Args
			case *ast.CompositeLit: // attributes that are made before
				if array, ok := n.Type.(*ast.ArrayType); !ok || array.Len != nil {
					return true
				}
				if !keyed(n.Elts) {
					return true
				}
				args = n.Elts
			}
			for _, arg := range args {
				lit, ok := arg.(*ast.BasicLit)
				seen++
				if ok && lit.Value == `"name"` {
					t.Errorf("%s: a log record has a \"name\": say whose, such as job_name", s.files.Position(lit.Pos()))
				}
			}
			return true
		})
	}
	if seen < 300 {
		t.Errorf("only %d arguments were looked at", seen)
	}
}

// keyed reports whether a list is of log attributes: it begins with a job's id.
func keyed(list []ast.Expr) bool {
	if len(list) == 0 {
		return false
	}
	lit, ok := list[0].(*ast.BasicLit)
	return ok && (lit.Value == `"job"` || lit.Value == `"event"`)
}
