// Package deploy_test checks the files that run Soniq in production. What needs a program
// that the machine lacks is left out, and the log of the test names it.
package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.yaml.in/yaml/v3"

	"soniq/internal/cli/clitest"
	"soniq/internal/roles"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { clitest.Main(m) }

// shutdown is the longest that a worker takes to stop by default, as its help says.
const shutdown = 28 * time.Second

// tool finds a program, or logs that what it checks is left out.
func tool(t *testing.T, name, from string) (path string, ok bool) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Logf("LEFT OUT: %s is not installed (%s)", name, from)
	}
	return path, err == nil
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// setting returns the value of a key of the unit.
func setting(t *testing.T, unit, key string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatalf("the unit has no %s", key)
	}
	return m[1]
}

// units are those of systemd, the worker's first.
var units = []string{"systemd/soniq-worker.service", "systemd/soniq-hooks.service"}

func TestUnit_letsJobsEnd_andIsFedByTheHeart(t *testing.T) {
	t.Parallel()
	for _, name := range units {
		for key, want := range map[string]string{"Type": "notify", "KillMode": "mixed", "NotifyAccess": "main", "RestartPreventExitStatus": "2", "DynamicUser": "yes"} {
			if got := setting(t, read(t, name), key); got != want {
				t.Errorf("%s: %s=%s, want %s", name, key, got, want)
			}
		}
		// The command line is one of this program.
		line := strings.Fields(setting(t, read(t, name), "ExecStart"))
		clitest.NewShell(t, "").OK(append(line[1:], "--help")...)
	}
	unit := read(t, units[0])
	for key, least := range map[string]time.Duration{
		"TimeoutStopSec": shutdown,
		// A heart that stands still is noticed after half a minute, and told by its silence.
		"WatchdogSec": 60 * time.Second,
	} {
		if d, err := time.ParseDuration(setting(t, unit, key)); err != nil || d <= least {
			t.Errorf("%s=%s, want more than %s", key, setting(t, unit, key), least)
		}
	}
	// The command line is one of this program.
	line := strings.Fields(setting(t, unit, "ExecStart"))
	config := filepath.Join(t.TempDir(), "soniq.yaml")
	if err := os.WriteFile(config, []byte("jobs:\n  a: {exec: \"true\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields(strings.ReplaceAll(strings.Join(line[1:], " "), "/etc/soniq/soniq.yaml", config)), "--check-config")
	clitest.NewShell(t, "").OK(args...)
}

func TestUnit_isWhatSystemdReads(t *testing.T) {
	t.Parallel()
	analyze, ok := tool(t, "systemd-analyze", "Debian package systemd")
	if !ok {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range units {
		unit := filepath.Join(t.TempDir(), filepath.Base(name))
		text := strings.ReplaceAll(read(t, name), "/usr/local/bin/soniq", self)
		if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
		if err != nil || strings.Contains(string(out), unit) {
			t.Errorf("systemd-analyze verify: %v: %s", err, out)
		}
		// 0 is a service that may do nothing, 100 one that may do everything.
		out, err = exec.Command(analyze, "security", "--offline=yes", "--threshold=25", "--no-pager", unit).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze security: %v: %s", err, out)
		}
	}
}

func TestContainerfile_isANumericUserOnScratch(t *testing.T) {
	t.Parallel()
	text := read(t, "container/Containerfile")
	last := text[strings.LastIndex(text, "\nFROM "):]
	for _, want := range []string{"FROM scratch\n", "USER 65532:65532\n", "STOPSIGNAL SIGTERM\n", `CMD ["/soniq", "health", "--live"]`, `ENTRYPOINT ["/soniq"]`, "CGO_ENABLED=0 go build"} {
		if !strings.Contains(last, want) && !strings.Contains(text, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))[1]
	if !strings.Contains(text, "GO_VERSION="+version+"\n") {
		t.Errorf("go.mod is of Go %s, and the image of another", version)
	}
	// It runs where nothing is beside it.
	deps, err := exec.Command("go", "list", "-deps", "../cmd/soniq").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"golang.org/x/crypto/x509roots/fallback", "time/tzdata"} {
		if !slices.Contains(strings.Fields(string(deps)), want) {
			t.Errorf("the program lacks %s", want)
		}
	}
}

// base is the image that the Containerfile begins with.
func base(t *testing.T) string {
	t.Helper()
	text := read(t, "container/Containerfile")
	part := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("the Containerfile has no %s", pattern)
		}
		return m[1]
	}
	return strings.ReplaceAll(part(`(?m)^FROM (.*) AS build$`), "${GO_VERSION}", part(`(?m)^ARG GO_VERSION=(.*)$`))
}

func TestContainerfile_builtAndRun(t *testing.T) {
	t.Parallel()
	engine := ""
	for _, name := range []string{"podman", "docker"} {
		if path, ok := tool(t, name, "a container engine"); ok && exec.Command(path, "info").Run() == nil {
			engine = path
			break
		}
	}
	if engine == "" {
		t.Log("LEFT OUT: no container engine runs here, so the image is not built")
		return
	}
	base := base(t)
	patience, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(patience, engine, "pull", "-q", base).CombinedOutput(); err != nil {
		t.Logf("LEFT OUT: %s can't be pulled, so the image is not built: %s", base, out)
		return
	}
	tag := "soniq-test:" + uuid.NewString()
	if out, err := exec.Command(engine, "build", "-f", "container/Containerfile", "-t", tag, "..").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command(engine, "rmi", "-f", tag).Run() })
	if out, err := exec.Command(engine, "run", "--rm", "--read-only", "--cap-drop=ALL", tag, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "soniq") {
		t.Errorf("run: %v: %s", err, out)
	}
}

// documents are those of a YAML file.
func documents(t *testing.T, path string) (all []map[string]any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, path)))
	for {
		var one map[string]any
		if err := decoder.Decode(&one); err != nil {
			if len(all) == 0 {
				t.Fatalf("%s: %v", path, err)
			}
			return all
		}
		all = append(all, one)
	}
}

// at follows keys and positions into a document.
func at(t *testing.T, doc any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			doc = doc.(map[string]any)[step]
		case int:
			doc = doc.([]any)[step]
		}
		if doc == nil {
			t.Fatalf("there is nothing at %v", path)
		}
	}
	return doc
}

func kind(t *testing.T, path, name string) map[string]any {
	t.Helper()
	for _, d := range documents(t, path) {
		if d["kind"] == name {
			return d
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return nil
}

func TestManifests_letJobsEnd_andProbeWhatIsServed(t *testing.T) {
	t.Parallel()
	const file = "kubernetes/worker.yaml"
	pod := at(t, kind(t, file, "Deployment"), "spec", "template", "spec")
	if grace := at(t, pod, "terminationGracePeriodSeconds").(int); time.Duration(grace)*time.Second <= shutdown {
		t.Errorf("a grace of %d s is less than a worker takes", grace)
	}
	if at(t, pod, "securityContext", "runAsNonRoot") != true {
		t.Error("it may run as root")
	}
	worker := at(t, pod, "containers", 0)
	for probe, path := range map[string]string{"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/readyz"} {
		if got := at(t, worker, probe, "httpGet", "path"); got != path {
			t.Errorf("%s asks %s", probe, got)
		}
	}
	if at(t, worker, "env", 1, "name") != "SONIQ_HEALTH_LISTEN" || at(t, worker, "env", 1, "value") != fmt.Sprint("0.0.0.0:", at(t, worker, "ports", 0, "containerPort")) {
		t.Errorf("the probes ask another port than the worker serves: %v", at(t, worker, "env"))
	}
	// The monitor scrapes what the worker serves.
	port := at(t, worker, "ports", 1)
	endpoint := at(t, kind(t, "kubernetes/podmonitor.yaml", "PodMonitor"), "spec", "podMetricsEndpoints", 0)
	if at(t, worker, "env", 2, "name") != "SONIQ_METRICS_LISTEN" || at(t, worker, "env", 2, "value") != fmt.Sprint("0.0.0.0:", at(t, port, "containerPort")) ||
		at(t, endpoint, "port") != at(t, port, "name") || at(t, endpoint, "path") != "/metrics" {
		t.Errorf("the monitor scrapes %v, and the worker serves %v", endpoint, at(t, worker, "env"))
	}
	// The endpoint beside it is there until the worker has stopped.
	if sleep := at(t, pod, "containers", 1, "lifecycle", "preStop", "sleep", "seconds").(int); time.Duration(sleep)*time.Second < shutdown {
		t.Errorf("the endpoint ends after %d s, while jobs may call it", sleep)
	}
	labels := at(t, kind(t, file, "Deployment"), "spec", "template", "metadata", "labels")
	for _, of := range []struct{ file, kind string }{{file, "PodDisruptionBudget"}, {"kubernetes/podmonitor.yaml", "PodMonitor"}} {
		if got := at(t, kind(t, of.file, of.kind), "spec", "selector", "matchLabels"); fmt.Sprint(got) != fmt.Sprint(labels) {
			t.Errorf("the %s is of other pods: %v", of.kind, got)
		}
	}
	config := filepath.Join(t.TempDir(), "soniq.yaml")
	if err := os.WriteFile(config, []byte(at(t, kind(t, file, "ConfigMap"), "data", "soniq.yaml").(string)), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, a := range at(t, worker, "args").([]any) {
		args = append(args, strings.ReplaceAll(a.(string), "/etc/soniq/soniq.yaml", config))
	}
	clitest.NewShell(t, "").OK(append(args, "--check-config")...)
}

// scaler is a connection of KEDA's role, which has the rights of 'soniq grants --scaler'.
func scaler(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	name := "soniq_keda_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	execute := func(sql string) {
		if _, err := pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	}
	execute(fmt.Sprintf("create role %s login password '%[1]s'", name))
	t.Cleanup(func() { execute("drop owned by " + name + "; drop role " + name) })
	clitest.NewShell(t, pool.Config().ConnString()).OK("grants", "--"+string(roles.Scaler), name, "--run")
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, name)
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// KEDA's query counts what is due and what runs, of its queue alone, as a role that can read
// nothing else, and walks the indexes of the claim.
func TestKEDA_query_countsDueAndRunningJobs(t *testing.T) {
	t.Parallel()
	trigger := at(t, kind(t, "kubernetes/keda.yaml", "ScaledObject"), "spec", "triggers", 0, "metadata")
	query := at(t, trigger, "query").(string)
	if _, err := strconv.Atoi(at(t, trigger, "targetQueryValue").(string)); err != nil {
		t.Error(err)
	}
	pool := testdb.New(t)
	keda := scaler(t, pool)
	insert := func(n int, columns, values string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), fmt.Sprintf(`insert into soniq_jobs (id, job_name, args, %s) select gen_random_uuid(), 'j', '{}', %s from generate_series(1, %d)`, columns, values, n)); err != nil {
			t.Fatal(err)
		}
	}
	count := func(what string, want int) {
		t.Helper()
		var got float64 // as KEDA reads it
		if err := keda.QueryRow(t.Context(), query, pgx.QueryExecModeSimpleProtocol).Scan(&got); err != nil || got != float64(want) {
			t.Errorf("%s: %v, want %d: %v", what, got, want, err)
		}
	}
	count("an empty queue", 0)
	insert(3, "queue", "'default'")
	insert(2, "queue, scheduled_at", "null, now() - interval '1 second'")
	insert(4, "queue, scheduled_at", "'default', now() + interval '1 hour'")
	insert(5, "queue", "'other'")
	insert(6, "status", "'done'")
	count("due jobs", 5)
	insert(2, "status, worker_id", "'processing', gen_random_uuid()")
	insert(2, "status, worker_id, queue", "'processing', gen_random_uuid(), 'other'")
	count("due and running jobs", 7)
	insert(2000, "queue", "'default'")
	count("very many jobs", 1002)
	clitest.NewShell(t, pool.Config().ConnString()).OK("queue", "pause", "default")
	count("a paused queue", 2)

	insert(20_000, "status", "'done'")
	if _, err := pool.Exec(t.Context(), "analyze soniq_jobs"); err != nil {
		t.Fatal(err)
	}
	rows, _ := pool.Query(t.Context(), "explain "+query)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || strings.Contains(strings.Join(plan, "\n"), "Seq Scan on soniq_jobs") {
		t.Errorf("%v: it reads the whole table:\n%s", err, strings.Join(plan, "\n"))
	}
}

var metricName = regexp.MustCompile(`\bsoniq_[a-z_]+`)

// Rules and dashboard ask for metrics that there are.
func TestMetrics_ofRulesAndDashboard_areDocumented(t *testing.T) {
	t.Parallel()
	documented := metricName.FindAllString(read(t, "../docs/metrics.md"), -1)
	for _, path := range []string{"prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/soniq.json"} {
		names := metricName.FindAllString(read(t, path), -1)
		if len(names) < 10 {
			t.Errorf("%s names %d metrics", path, len(names))
		}
		for _, name := range names {
			if !slices.Contains(documented, name) {
				t.Errorf("%s asks for %s, which docs/metrics.md does not have", path, name)
			}
		}
	}
}

func TestRules_eachAlertHasACase(t *testing.T) {
	t.Parallel()
	cases := read(t, "prometheus/rules_test.yml")
	for _, group := range at(t, documents(t, "prometheus/rules.yml")[0], "groups").([]any) {
		for _, rule := range at(t, group, "rules").([]any) {
			if name := at(t, rule, "alert").(string); !strings.Contains(cases, "alertname: "+name) {
				t.Errorf("rules_test.yml has no case for %s", name)
			}
			at(t, rule, "labels", "severity")
			at(t, rule, "annotations", "description")
		}
	}
	promtool, ok := tool(t, "promtool", "Debian package prometheus")
	if !ok {
		return
	}
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v: %s", args, err, out)
		}
	}
}

func TestDashboard_isOneThatGrafanaReads(t *testing.T) {
	t.Parallel()
	var board struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/soniq.json")), &board); err != nil {
		t.Fatal(err)
	}
	if board.Title == "" || board.UID == "" || board.SchemaVersion == 0 || len(board.Panels) < 10 {
		t.Errorf("%+v", board)
	}
	ids := map[int]bool{}
	var exprs []string
	for _, p := range board.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", p.ID, p)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			exprs = append(exprs, strings.ReplaceAll(target.Expr, "$queue", ".*"))
		}
	}
	promtool, ok := tool(t, "promtool", "Debian package prometheus")
	if !ok {
		return
	}
	// Prometheus reads each expression: as a rule, since promtool has no other check.
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range exprs {
		fmt.Fprintf(&rules, "  - {record: 'panel:%d', expr: %q}\n", i, expr)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v: %s", err, out)
	}
}

var shellFence = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")

// What docs/operate.md shows runs as it is written, from an empty database on: with the names
// of roles and the host of the machine that it runs on.
func TestOperate_commands_run(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	text := read(t, "../docs/operate.md")
	suffix := strings.ReplaceAll(uuid.NewString(), "-", "")
	role := regexp.MustCompile(`\b(soniq_worker|soniq_app|oncall|monitor|keda)\b`)
	for _, name := range []string{"soniq_worker", "soniq_app", "oncall", "monitor", "keda"} {
		name += "_" + suffix
		execute := func(sql string) {
			if _, err := pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Error(err)
			}
		}
		execute("create role " + name)
		t.Cleanup(func() { execute("drop owned by " + name + "; drop role " + name) })
	}
	ran := 0
	for _, block := range shellFence.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
			args, ok := strings.CutPrefix(line, "soniq ")
			if !ok {
				continue
			}
			if strings.HasPrefix(args, "worker ") {
				args = strings.ReplaceAll(args, "--config /etc/soniq/soniq.yaml", "--handle a=exec:true --check-config")
			}
			ran++
			sh.OK(strings.Fields(role.ReplaceAllString(args, "${1}_"+suffix))...)
		}
	}
	if ran < 8 {
		t.Errorf("%d commands were found", ran)
	}
	// The commands in the text are some of this program.
	for _, command := range regexp.MustCompile("`soniq ((?:[a-z-]+)(?: [a-z][a-z-]*)*)").FindAllStringSubmatch(text, -1) {
		sh.OK(append(strings.Fields(command[1]), "--help")...)
	}
}
