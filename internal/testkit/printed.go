package testkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

// ExportedStructs returns the names of the struct types that the package under test
// exports.
func ExportedStructs(t testing.TB) (names []string) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				if _, ok := spec.Type.(*ast.StructType); ok {
					names = append(names, spec.Name.Name)
				}
			}
			return true
		})
	}
	return names
}

// Printed is a value in the forms in which a program prints it, by the form: with fmt's
// %v, %+v, %#v and further verbs, alone and in a list; in a log; and as JSON, if it can
// be that.
func Printed(v any, verbs ...string) map[string]string {
	printed := map[string]string{}
	for _, verb := range append([]string{"%v", "%+v", "%#v"}, verbs...) {
		printed[verb] = fmt.Sprintf(verb, v)
		printed[verb+" in a list"] = fmt.Sprintf(verb, []any{v})
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("here", "value", v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("here", "value", v)
	printed["slog"] = out.String()
	if encoded, err := json.Marshal(v); err == nil {
		printed["json"] = string(encoded)
	}
	return printed
}

// Shows reports whether text has the secret, as it is or as one of its bytes' numbers.
func Shows(text, secret string) bool {
	return strings.Contains(text, secret) || strings.Contains(text, fmt.Sprint([]byte(secret))) || strings.Contains(text, fmt.Sprintf("%x", secret))
}
