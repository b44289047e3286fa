import { readdir, readFile } from 'node:fs/promises';
import type { Timer } from '../../agent/timing.js';
import { isZombie, parseProcessUids } from './inventory-parsers.js';

/** The living processes that run, really or effectively, as a user. Zombies hold nothing and are not counted. */
export async function processesOf(uid: number): Promise<number[]> {
  const entries = await readdir('/proc');
  const found: number[] = [];
  for (const entry of entries) {
    if (!/^\d+$/.test(entry)) continue;
    // A process that ends meanwhile has no status to read.
    const status = await readFile(`/proc/${entry}/status`, 'utf8').catch(() => '');
    if (parseProcessUids(status).includes(uid) && !isZombie(status)) found.push(Number(entry));
  }
  return found;
}

const ROUNDS = 20;
const PAUSE_MILLISECONDS = 50;

/**
 * Ends all processes of a user and returns those that survived. They are stopped before they are killed, so that none
 * can start another one to replace it while the list is worked off.
 */
export async function endProcessesOf(uid: number, timer: Timer): Promise<number[]> {
  if (uid < 1000) throw new Error(`refusing to end the processes of system account ${uid}`);
  let stopped = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const alive = await processesOf(uid);
    if (alive.length === 0) return [];
    // Stop until the number stays the same: then nobody is left who could still fork.
    const settled = alive.length === stopped;
    for (const pid of alive) signal(pid, settled ? 'SIGKILL' : 'SIGSTOP');
    stopped = settled ? 0 : alive.length;
    if (settled) await timer.sleep(PAUSE_MILLISECONDS);
  }
  for (const pid of await processesOf(uid)) signal(pid, 'SIGKILL');
  await timer.sleep(PAUSE_MILLISECONDS);
  return processesOf(uid);
}

function signal(pid: number, name: 'SIGSTOP' | 'SIGKILL'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It ended by itself; the next round tells.
  }
}
