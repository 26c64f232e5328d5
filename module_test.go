package soniq_test

import (
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inFolder runs a command there and returns what it prints.
func inFolder(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := osexec.Command(name, args...)
	cmd.Dir = dir
	// A build must not depend on the version control of a copy, nor on where the copy is:
	// what is built once is then taken from the cache.
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -trimpath", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// checkoutCopy copies the checkout, without what git ignores by rule or habit.
func checkoutCopy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(".", func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.Name() == ".git" || entry.Name() == "dist" || entry.Name() == "node_modules":
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(dir, path), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // a file that another test has made and removed
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path), content, info.Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// 'make module' gives the module another path, under which everything builds.
func TestModule_renamed_builds(t *testing.T) {
	t.Parallel()
	const path = "example.com/you/soniq"
	dir := checkoutCopy(t)
	if _, err := osexec.LookPath("make"); err != nil {
		t.Log("there is no make: its script runs alone")
		inFolder(t, dir, ".ci/module", path)
	} else {
		for _, wrong := range []string{"", "soniq", "Example.com/soniq", "example.com/you/", "example.com/a b", "example.com/you/'soniq"} {
			cmd := osexec.Command("make", "module")
			if wrong != "" {
				cmd.Args = append(cmd.Args, "PATH="+wrong)
			}
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%s: passed:\n%s", cmd, out)
			}
		}
		inFolder(t, dir, "make", "module", "PATH="+path)
	}
	old := regexp.MustCompile(`(?m)^\s*(?:import |_ |)"soniq(?:/[a-z]+)*"$|"soniq/[a-z]|pkg: soniq/|^module(-path:)? soniq|=soniq[@=]|^replace soniq`)
	seen := 0
	err := filepath.WalkDir(dir, func(file string, entry os.DirEntry, err error) error {
		// JSON imports nothing, and has soniq as a word.
		if err != nil || !entry.Type().IsRegular() || entry.Name() == "module_test.go" || filepath.Ext(file) == ".json" {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		seen += strings.Count(string(content), path)
		if found := old.Find(content); found != nil {
			t.Errorf("%s has the old path: %s", file, found)
		}
		return nil
	})
	if err != nil || seen < 500 {
		t.Errorf("the new path stands in %d places, %v", seen, err)
	}
	inFolder(t, dir, "go", "build", "./...")
	// Of the tests, all imports are found: beside them nothing is renamed that compiles. CI vets them.
	inFolder(t, dir, "go", "list", "-test", "-deps", "./...")
	if was, is := inFolder(t, ".", "gofmt", "-l", "."), inFolder(t, dir, "gofmt", "-l", "."); is != was {
		t.Errorf("not formatted any more: %s", is)
	}
	if name := strings.TrimSpace(inFolder(t, filepath.Join(dir, "bench"), "go", "list", "-m")); name != path+"/bench" {
		t.Errorf("the module in bench/ is %s", name)
	}
	// The tests of the renamed module run, too: one that needs no database.
	inFolder(t, dir, "go", "test", "./internal/pg", "-run", "TestSchema_|TestNewSchema_")
}

// Another module uses a checkout by what README says, and its program has nothing
// of the command line in it, and nothing of the private PostgreSQL.
func TestModule_usedByAnother_linksTheEngineAlone(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^go mod edit -require=.*\n(?:.+\n)*?go mod tidy$`).FindString(string(readme))
	if commands == "" {
		t.Fatal("README.md doesn't say how another module uses a checkout: 'go mod edit -require=... -replace=...' and 'go mod tidy'")
	}
	checkout, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const program = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

func main() {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err)
	}
	registry := engine.NewRegistry()
	engine.Handle(registry, "greet", func(_ context.Context, args struct{ Name string }) error {
		fmt.Println("hello", args.Name)
		return nil
	})
	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: registry})
	if err != nil {
		panic(err)
	}
	if _, err := client.Enqueue(context.Background(), "greet", map[string]string{"name": "Ada"}); err != nil {
		panic(err)
	}
	worker, err := engine.NewWorker(pool, registry, engine.WorkerConfig{})
	if err != nil {
		panic(err)
	}
	if err := worker.Run(context.Background()); err != nil {
		panic(err)
	}
}
`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	inFolder(t, dir, "go", "mod", "init", "example.com/shop")
	inFolder(t, dir, "sh", "-ec", strings.ReplaceAll(commands, "/path/to/the/checkout", checkout))
	inFolder(t, dir, "go", "build", "-o", "shop", ".")
	packages := inFolder(t, dir, "go", "list", "-deps", ".")
	linked := inFolder(t, dir, "go", "version", "-m", "shop")
	// The standard library has some of golang.org's own.
	packages = regexp.MustCompile(`(?m)^vendor/.*\n`).ReplaceAllString(packages, "")
	if !strings.Contains(linked, "github.com/jackc/pgx/v5") || !strings.Contains(packages, "soniq/engine\n") {
		t.Fatalf("the program links\n%s\n%s", linked, packages)
	}
	for _, unwanted := range []string{
		"alecthomas/kong", "yaml", "embedded-postgres", "lib/pq", "lmittmann/tint", "ulikunitz/xz", "golang.org/x/crypto", "golang.org/x/term",
		"soniq/hooks", "soniq/cmd", "soniq/internal/cli", "soniq/internal/handler", "soniq/internal/workerfile", "soniq/internal/devdb", "soniq/internal/testdb",
	} {
		if strings.Contains(linked, unwanted) || strings.Contains(packages, unwanted) {
			t.Errorf("a program that uses the engine alone links %s", unwanted)
		}
	}
}
