import { setTimeout as delay } from 'node:timers/promises';
import { announceReady } from '../harness/programs.js';
import { LeanHost } from '../load/hosts.js';

/** Arguments: address of the API, number of the first host, number of hosts. */
const [url = '', first = '1', count = '0'] = process.argv.slice(2);

/** Connected at once; more would wait in the server's queue for new connections. */
const TOGETHER = 100;
const PAUSE_MILLISECONDS = 50;

/**
 * Hosts that hold their polls and answer what they are asked. Says of each task when it came, in milliseconds since
 * 1970, in batches `{ received: [[taskId, at], …] }`, and how many problems there were in `{ problems }`.
 */
let received: [string, number][] = [];
let problems = 0;

const hosts = Array.from(
  { length: Number(count) },
  (_, index) =>
    new LeanHost({
      url,
      number: Number(first) + index,
      work(task) {
        received.push([task.taskId, task.at]);
        return { status: 'ok', checks: [] };
      },
      problem(text) {
        problems += 1;
        if (problems <= 3) process.stderr.write(`a host: ${text.slice(0, 300)}\n`);
      },
    }),
);

process.on('message', (message: unknown) => {
  if (message !== 'flush') return;
  process.send?.({ received, problems });
  received = [];
});
process.on('SIGTERM', () => process.exit(0));

for (const [index, host] of hosts.entries()) {
  host.start();
  if (index % TOGETHER === TOGETHER - 1) await delay(PAUSE_MILLISECONDS);
}
announceReady(true);
