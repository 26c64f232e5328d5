package interop

import (
	"context"
	"fmt"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The clients that only 'make snippets' runs, in the versions that docs/clients was written for.
var (
	psycopg    = pythonPackage("psycopg", "3.3.9", "psycopg[binary]==3.3.9")
	postgresJS = nodePackage("postgres", "3.4.9")
	libPQ      = goModule("github.com/lib/pq", "v1.12.3")
	pgJDBC     = mavenJar("org.postgresql", "postgresql", "42.7.7")
	sqlx       = crate("sqlx", "0.9.0")
)

func pythonPackage(name, version, requirement string) *environment {
	return &environment{
		what: "Python's " + name,
		folder: func(ctx context.Context) (string, error) {
			tag, err := output(ctx, "", "python3", "-c",
				"import sys, venv, ensurepip; print(sys.implementation.cache_tag)")
			return "python-" + name + "-" + version + "-" + tag, err
		},
		install: func(ctx context.Context, folder string) error {
			if _, err := output(ctx, "", "python3", "-m", "venv", folder); err != nil {
				return err
			}
			_, err := output(ctx, "", filepath.Join(folder, "bin", "python"), "-m", "pip", "install", "--quiet",
				"--no-input", "--disable-pip-version-check", "--only-binary", ":all:", requirement)
			return err
		},
	}
}

// goModule makes a module that requires another.
func goModule(module, version string) *environment {
	return &environment{
		what: "Go's " + module,
		folder: func(context.Context) (string, error) {
			return "go-" + filepath.Base(module) + "-" + version, nil
		},
		install: func(ctx context.Context, folder string) error {
			if _, err := output(ctx, folder, "go", "mod", "init", "follow"); err != nil {
				return err
			}
			_, err := output(ctx, folder, "go", "get", module+"@"+version)
			return err
		},
	}
}

func mavenJar(group, artifact, version string) *environment {
	return &environment{
		what: "Java's " + artifact,
		folder: func(ctx context.Context) (string, error) {
			_, err := output(ctx, "", "java", "--version")
			return "java-" + artifact + "-" + version, err
		},
		install: func(ctx context.Context, folder string) error {
			_, err := output(ctx, folder, "mvn", "-B", "-q", "dependency:copy",
				"-Dartifact="+group+":"+artifact+":"+version, "-DoutputDirectory="+folder, "-Dmdep.stripVersion=true")
			return err
		},
	}
}

// crate makes a package whose dependencies are built.
func crate(name, version string) *environment {
	return &environment{
		what: "Rust's " + name,
		folder: func(ctx context.Context) (string, error) {
			_, err := output(ctx, "", "cargo", "--version")
			return "rust-" + name + "-" + version, err
		},
		// Building takes some minutes on a busy machine.
		patience: 15 * time.Minute,
		install: func(ctx context.Context, folder string) error {
			for _, args := range [][]string{
				{"init", "--quiet", "--name", "follow", "--vcs", "none", "."},
				{"add", "--quiet", name + "@" + version, "--no-default-features", "--features", "runtime-tokio,postgres"},
				{"add", "--quiet", "tokio@1", "--features", "macros,rt-multi-thread,time"},
				{"build", "--quiet"},
			} {
				if _, err := output(ctx, folder, "cargo", args...); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// A builder makes a command of a snippet in a file; folder is the environment's.
type builder func(t *testing.T, file, folder string) []string

func built(t *testing.T, dir, binary string, command ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := output(ctx, dir, command[0], command[1:]...); err != nil {
		t.Fatalf("build: %v", err)
	}
	return []string{binary}
}

// withThisModule builds Go with the modules of Soniq.
func withThisModule(t *testing.T, file, _ string) []string {
	t.Helper()
	binary := file + ".bin"
	return built(t, "", binary, "go", "build", "-o", binary, file)
}

func withGoModule(t *testing.T, file, folder string) []string {
	t.Helper()
	binary := file + ".bin"
	return built(t, folder, binary, "go", "build", "-mod=mod", "-o", binary, file)
}

func withVenv(_ *testing.T, file, folder string) []string {
	return []string{filepath.Join(folder, "bin", "python"), "-u", file}
}

func withNode(_ *testing.T, file, folder string) []string {
	return []string{"env", "NODE_PATH=" + filepath.Join(folder, "node_modules"), "node", file}
}

func withJar(_ *testing.T, file, folder string) []string {
	return []string{"java", "-cp", filepath.Join(folder, "postgresql.jar"), file}
}

func withShell(_ *testing.T, file, _ string) []string {
	return []string{"sh", file}
}

func withCargo(t *testing.T, file, folder string) []string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{
		filepath.Join(folder, "Cargo.toml"): "Cargo.toml", filepath.Join(folder, "Cargo.lock"): "Cargo.lock",
		file: "src/main.rs",
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(folder, "target")
	return built(t, dir, filepath.Join(target, "debug", "follow"),
		"cargo", "build", "--quiet", "--offline", "--target-dir", target)
}

// jdbcURL is a database's URL as pgjdbc reads it.
func jdbcURL(t *testing.T, url string) string {
	t.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return fmt.Sprintf("jdbc:postgresql://%s%s?user=%s&password=%s", u.Host, u.Path, u.User.Username(), password)
}

func runnable(command []string, environ ...string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), environ...)
	return cmd
}
