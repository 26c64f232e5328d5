package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// unmade are the alerts whose fault the test with a real Prometheus does not make, and why.
// promtool has a case for them, as for all.
var unmade = map[string]string{
	"SoniqProcessRestarts": "a process would have to start five times at one address",
}

// field is a database with a worker, a second one, and an exporter, each in a process of its
// own and as a role of its own, and a Prometheus that scrapes them.
type field struct {
	t          *testing.T
	pool       *pgxpool.Pool
	owner      *clitest.Shell
	roles      map[string]string
	worker     *clitest.Program
	other      *clitest.Program
	exporter   *clitest.Program
	prometheus string
	// fired are the alerts that were seen firing.
	fired map[string]bool
}

// A real Prometheus loads the rules, scrapes real processes, and each alert fires when its
// fault is there; the times that alerts and rates take are shortened. It answers each panel of
// the dashboard.
func TestPrometheus_faults_fireTheAlerts(t *testing.T) {
	t.Parallel()
	program, ok := tool(t, "prometheus", "Debian package prometheus")
	if !ok {
		return
	}
	f := newField(t, program)
	f.isQuiet()
	f.database()
	f.dashboard()
	f.processes()
	f.ends()
	f.all()
}

func newField(t *testing.T, program string) *field {
	f := &field{t: t, pool: testdb.New(t), roles: map[string]string{}, fired: map[string]bool{}}
	f.owner = clitest.NewShell(t, f.pool.Config().ConnString())
	f.owner.OK("hooks", "add", "log", "--name", "off", "--job", "none")
	f.owner.OK("hooks", "add", "webhook", "http://"+testkit.ClosedAddress(t), "--name", "broken", "--job", "bad", "--allow", "127.0.0.0/8")
	slow := "slow=exec:echo > begun; sleep 2"
	f.worker = f.start(f.login("worker", "--worker", "--dispatcher"), f.login("ear"), "worker",
		"--handle", "bad=exec:exit 78", "--handle", slow, "--handle", "endless=exec:sleep 300", "--metrics-listen", "0", "--log-format", "json")
	f.other = f.start(f.login("other", "--worker"), "", "worker", "--no-hooks", "--queues", "spare", "--handle", "none=exec:true", "--metrics-listen", "0", "--log-format", "json")
	f.exporter = f.start(f.login("exporter", "--metrics"), "", "metrics", "--listen", "0", "--interval", "1s", "--log-format", "json")
	f.scrape(program, map[string]string{"soniq-worker": f.address(f.worker), "soniq-spare": f.address(f.other), "soniq": f.address(f.exporter)})
	return f
}

// login makes a role with the rights of flags of 'soniq grants', and returns its URL.
func (f *field) login(what string, kinds ...string) string {
	f.t.Helper()
	name := "soniq_" + what + "_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	f.exec(fmt.Sprintf("create role %s login password '%[1]s'", name))
	f.t.Cleanup(func() { f.exec("drop owned by " + name + "; drop role " + name) })
	for _, kind := range kinds {
		f.owner.OK("grants", kind, name, "--run")
	}
	u, err := url.Parse(f.pool.Config().ConnString())
	if err != nil {
		f.t.Fatal(err)
	}
	u.User = url.UserPassword(name, name)
	f.roles[what] = name
	return u.String()
}

func (f *field) exec(sql string) {
	f.t.Helper()
	if _, err := f.pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		f.t.Errorf("%s: %v", sql, err)
	}
}

func (f *field) start(databaseURL, listenURL string, args ...string) *clitest.Program {
	p := clitest.NewProgram(f.t, f.t.TempDir(), databaseURL, args...)
	p.Env = append(p.Env, "SONIQ_LISTEN_URL="+listenURL)
	p.Begin(f.t)
	return p
}

// address is where a process says that it serves metrics.
func (f *field) address(p *clitest.Program) (addr string) {
	f.t.Helper()
	eventually.True(f.t, "the address of the metrics", func() bool {
		for line := range strings.Lines(p.Err.String()) {
			var record struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &record) == nil && strings.Contains(record.Msg, "/metrics") {
				addr = record.Address
			}
		}
		return addr != ""
	})
	return addr
}

var (
	waits  = regexp.MustCompile(`(?m)^(\s+for: ).*$`)
	ranges = regexp.MustCompile(`(\[|offset )\d+[mh]`)
	bound  = regexp.MustCompile(`msg="Listening on" address=(\S+)`)
)

// scrape starts Prometheus, with the rules as they are but for their times.
func (f *field) scrape(program string, targets map[string]string) {
	f.t.Helper()
	dir := f.t.TempDir()
	rules := ranges.ReplaceAllString(waits.ReplaceAllString(read(f.t, "prometheus/rules.yml"), "${1}0s"), "${1}8s")
	config := "global: {scrape_interval: 1s, evaluation_interval: 250ms}\nrule_files: [rules.yml]\nscrape_configs:\n"
	for name, target := range targets {
		config += fmt.Sprintf("- job_name: %s\n  static_configs: [{targets: [%q]}]\n", name, target)
	}
	for name, text := range map[string]string{"rules.yml": rules, "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	p := &clitest.Program{Cmd: exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")}
	p.Stdout, p.Stderr = &p.Out, &p.Err
	p.Begin(f.t)
	eventually.True(f.t, "Prometheus's address", func() bool {
		m := bound.FindStringSubmatch(p.Err.String())
		if m == nil {
			return false
		}
		f.prometheus = "http://" + m[1]
		var ready any
		return f.ask("/api/v1/status/runtimeinfo", nil, &ready)
	})
}

// ask asks Prometheus's API, and reports whether it answered.
func (f *field) ask(path string, query url.Values, data any) bool {
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.prometheus+path+"?"+query.Encode(), http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		return false
	}
	return true
}

// series are the answers to a query.
func (f *field) series(query string) (result []struct{ Metric map[string]string }) {
	f.t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	if !f.ask("/api/v1/query", url.Values{"query": {query}}, &data) {
		f.t.Errorf("Prometheus does not answer %s", query)
	}
	return data.Result
}

// look notes which alerts are firing, and returns them.
func (f *field) look() (now []string) {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	f.ask("/api/v1/alerts", nil, &data)
	for _, alert := range data.Alerts {
		if alert.State == "firing" {
			name := alert.Labels["alertname"]
			f.fired[name] = true
			now = append(now, name)
		}
	}
	return now
}

// want waits until each of the alerts was seen firing. again makes a fault that lasts a moment.
func (f *field) want(again func(), names ...string) {
	f.t.Helper()
	f.wait(func() bool {
		if again != nil {
			again()
		}
		f.look()
		return !slices.ContainsFunc(names, func(name string) bool { return !f.fired[name] })
	}, func() string { return fmt.Sprintf("%v to fire; so far %v", names, f.fired) })
}

// wait is eventually.True that asks less often, with a text that is made at the end.
func (f *field) wait(ok func() bool, what func() string) {
	f.t.Helper()
	defer func() {
		if f.t.Failed() {
			f.t.Log("it waited for " + what())
		}
	}()
	eventually.True(f.t, "Prometheus", func() bool {
		f.exec("select pg_sleep(0.1)")
		return ok()
	})
}

// isQuiet waits until everything is scraped and every rule was evaluated, and no alert fires.
func (f *field) isQuiet() {
	f.t.Helper()
	var last string
	f.wait(func() bool {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if !f.ask("/api/v1/rules", nil, &data) {
			return false
		}
		rules := 0
		for _, group := range data.Groups {
			for _, rule := range group.Rules {
				if rules++; rule.Health != "ok" {
					last = rule.Name + " is " + rule.Health + ": " + rule.LastError
					return false
				}
			}
		}
		firing := f.look()
		up := len(f.series("up == 1"))
		last = fmt.Sprintf("%d rules, %d targets, %v are firing", rules, up, firing)
		return rules > 15 && up == 3 && len(firing) == 0 && len(f.series(`soniq_database_up`)) == 3
	}, func() string { return "a quiet start: " + last })
	f.fired = map[string]bool{}
}

// database makes the faults that a reading of the database shows.
func (f *field) database() {
	f.t.Helper()
	f.owner.OK("hooks", "disable", "off")
	f.owner.OK("queue", "pause", "held")
	f.exec(`
		insert into soniq_jobs (id, job_name, args, queue, scheduled_at) values (gen_random_uuid(), 'j', '{}', 'late', now() - interval '1 hour');
		insert into soniq_jobs (id, job_name, args, queue) select gen_random_uuid(), 'j', '{}', 'full' from generate_series(1, 1000);
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, created_at)
		select id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g', now() - interval '1 hour' from soniq_hooks where name = 'off';
		-- After the fifth failure in a row the next try is a minute later.
		update soniq_hooks set failures = 5, dropped = 3 where name = 'broken'`)
	clitest.Seed(f.t, f.pool, clitest.Letter{Age: 48 * time.Hour})
	for range 11 {
		f.owner.OK("enqueue", "bad")
	}
	f.want(nil, "SoniqQueueLate", "SoniqQueueFull", "SoniqQueuePaused", "SoniqDeadLettersInflow", "SoniqDeadLettersOld",
		"SoniqHookDisabled", "SoniqHookLate", "SoniqHookFails", "SoniqHookDrops")
}

// dashboard asks Prometheus what each panel asks, while there is something of each kind.
func (f *field) dashboard() {
	f.t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text := read(f.t, "grafana/soniq.json")
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		f.t.Fatal(err)
	}
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			f.wait(func() bool { return len(f.series(strings.ReplaceAll(target.Expr, "$queue", ".*"))) > 0 },
				func() string { return fmt.Sprintf("an answer for panel %q: %s", panel.Title, target.Expr) })
		}
	}
	var queues []string
	if f.ask("/api/v1/label/queue/values", url.Values{"match[]": {"soniq_queue_jobs"}}, &queues); !slices.Contains(queues, "late") {
		f.t.Errorf("the variable of the dashboard has the queues %v", queues)
	}
	var names []string
	f.ask("/api/v1/label/__name__/values", nil, &names)
	for _, name := range metricName.FindAllString(text+read(f.t, "prometheus/rules.yml"), -1) {
		// Nothing was recovered yet.
		if !slices.Contains(names, name) && name != "soniq_jobs_recovered_total" {
			f.t.Errorf("no process has %s", name)
		}
	}
}

// running is how many jobs of a name are running.
func (f *field) running(name string) int {
	return testkit.Count(f.t, f.pool, "select count(*) from soniq_jobs where status = 'processing' and job_name = $1", name)
}

// processes makes the faults of a worker.
func (f *field) processes() {
	f.t.Helper()
	// Others hold a table of the reading.
	f.want(func() {
		f.exec("begin; lock table soniq_hook_deliveries in access exclusive mode; select pg_sleep(1.2); commit")
	}, "SoniqReadingSlow")

	f.exec("alter role " + f.roles["ear"] + " nologin; select pg_terminate_backend(pid) from pg_stat_activity where usename = '" + f.roles["ear"] + "'")
	f.owner.OK("enqueue", "slow")
	eventually.True(f.t, "the job to start", func() bool { return f.running("slow") == 1 })
	f.exec("delete from soniq_jobs where job_name = 'slow'")
	f.want(nil, "SoniqListenerLost", "SoniqClaimsLost")

	// The other one listens, and hears of jobs that there are not.
	f.want(func() {
		for range 20 {
			f.exec("select pg_notify('soniq_new_job', 'spare'), pg_sleep(0.003)")
		}
	}, "SoniqSpuriousWakes")

	f.owner.OK("enqueue", "slow")
	eventually.True(f.t, "the job to start", func() bool { return f.running("slow") == 1 })
	f.exec("revoke update on soniq_jobs from " + f.roles["worker"])
	f.want(nil, "SoniqClaimsFail", "SoniqOutcomesNotWritten")
	f.exec("grant update on soniq_jobs to " + f.roles["worker"])
}

// ends ends one process after the other.
func (f *field) ends() {
	f.t.Helper()
	f.owner.OK("enqueue", "endless")
	eventually.True(f.t, "the job to start", func() bool { return f.running("endless") == 1 })
	f.fired["SoniqProcessGone"] = false // a scrape may have been late before
	f.end(f.worker, syscall.SIGKILL)
	f.want(nil, "SoniqProcessGone", "SoniqJobsRecovered")
	f.end(f.other, syscall.SIGTERM)
	f.want(nil, "SoniqNoWorker")
	f.exec("revoke select (status) on soniq_jobs from " + f.roles["exporter"])
	f.want(nil, "SoniqDatabaseUnreadable")
	f.end(f.exporter, syscall.SIGTERM)
	f.want(nil, "SoniqMetricsAbsent")
}

func (f *field) end(p *clitest.Program, signal syscall.Signal) {
	f.t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		f.t.Fatal(err)
	}
	_ = p.Wait()
}

// all checks that no alert was forgotten.
func (f *field) all() {
	f.t.Helper()
	for _, group := range at(f.t, documents(f.t, "prometheus/rules.yml")[0], "groups").([]any) {
		for _, rule := range at(f.t, group, "rules").([]any) {
			if name := at(f.t, rule, "alert").(string); f.fired[name] == (unmade[name] != "") {
				f.t.Errorf("%s: fired %t", name, f.fired[name])
			}
		}
	}
}
