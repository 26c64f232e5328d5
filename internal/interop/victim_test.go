package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

// victimURL makes the test binary a worker on that database, to be killed.
const victimURL = "SONIQ_TEST_INTEROP_VICTIM_URL"

// victim runs 'shared.held' jobs, which never end, and tells which.
func victim(url string) int {
	ctx := context.Background()
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "shared.held", func(ctx context.Context, job *engine.Job) (any, error) {
		fmt.Println(job.ID)
		<-ctx.Done()
		return nil, ctx.Err()
	}, engine.Queue("shared"))
	err := func() error {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
		if err != nil {
			return err
		}
		return w.Run(ctx)
	}()
	fmt.Fprintln(os.Stderr, "the victim ended:", err)
	return 1
}

func startVictim(t *testing.T, pool *pgxpool.Pool) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimURL+"="+pool.Config().ConnString())
	return begin(t, cmd)
}
