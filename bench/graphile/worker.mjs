// One graphile-worker with a local queue, for the benchmark. 'setup' makes its
// schema; 'work' runs jobs that do nothing and says on standard output how many
// have ended, a number a line, beginning with a 0 when it begins to look for
// them, until standard input closes.
import { runMigrations, run } from "graphile-worker";

const connectionString = process.env.BENCH_URL;
const silent = { log: () => {}, scope: () => silent };
silent.error = silent.warn = silent.info = silent.debug = () => {};
silent.scope = () => silent;

if (process.argv[2] === "setup") {
  await runMigrations({ connectionString, logger: silent });
} else {
  process.stdout.write("0\n");
  const runner = await run({
    taskList: { noop: async () => {} },
    logger: silent,
    noHandleSignals: true,
    preset: {
      worker: {
        connectionString,
        concurrentJobs: 24,
        maxPoolSize: 20,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
  });
  let ended = 0;
  runner.events.on("job:complete", () => {
    if (ended++ === 0) {
      setTimeout(() => {
        process.stdout.write(`${ended}\n`);
        ended = 0;
      }, 1);
    }
  });
  process.stdin.resume();
  process.stdin.on("end", async () => {
    await runner.stop();
    process.exit(0);
  });
}
