import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/adapters/embedded-postgres/index.js';

export interface KillableDatabase {
  /** of the owner; the same after every restart */
  readonly url: string;
  readonly ready: boolean;
  /** SIGKILL to the server and everything it started; it is started again at once, and recovers. */
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** A durable server of the test's own: every commit is on disk before it is answered. */
export async function startKillableDatabase(directory: string, port: number): Promise<KillableDatabase> {
  const start = () =>
    startEmbeddedPostgres({
      directory,
      port,
      database: 'gpuaas',
      durability: 'durable',
      maxConnections: 150,
      sharedBuffersMegabytes: 64,
    });
  let server: EmbeddedPostgres = await start();
  let ready = true;
  let stopped = false;
  let killing: Promise<void> | null = null;

  const killAndStart = async (): Promise<void> => {
    if (stopped) return;
    ready = false;
    // Halted first, so that it starts nobody while its children are counted.
    process.kill(server.processId, 'SIGSTOP');
    const family = [server.processId, ...(await childrenOf(server.processId))];
    for (const processId of family) killQuietly(processId);
    // Survivors of the old server would keep the new one from its memory.
    for (const processId of family) while (await isAlive(processId)) await delay(5);
    // There is nothing left to stop; it gives back the directory.
    await server.stop();
    server = await start();
    ready = true;
  };

  return {
    url: server.url,
    get ready() {
      return ready;
    },
    kill: () => {
      killing ??= killAndStart().finally(() => {
        killing = null;
      });
      return killing;
    },
    async stop() {
      stopped = true;
      await killing?.catch(() => undefined);
      await server.stop();
    },
  };
}

/** Stops a server that still runs in `directory`; one that does not needs nothing but its files removed. */
export async function stopAbandonedDatabase(directory: string): Promise<void> {
  const pidFile = join(directory, 'postgres', 'data', 'postmaster.pid');
  if ((await readFile(pidFile, 'utf8').catch(() => null)) === null) return;
  // Taking it over is how to find it.
  const server = await startEmbeddedPostgres({ directory, sharedBuffersMegabytes: 16, patienceMilliseconds: 0 });
  await server.stop();
}

async function childrenOf(parent: number): Promise<number[]> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const parents = await Promise.all(processes.map(async (name) => (await statOf(name))?.parent));
  return processes.filter((_name, index) => parents[index] === parent).map(Number);
}

async function isAlive(processId: number): Promise<boolean> {
  const stat = await statOf(String(processId));
  return stat !== null && stat.state !== 'Z';
}

async function statOf(processId: string): Promise<{ state: string; parent: number } | null> {
  const text = await readFile(`/proc/${processId}/stat`, 'utf8').catch(() => null);
  // The second field is the program's name in brackets, which may itself hold spaces and brackets.
  const [state, parent] = text?.slice(text.lastIndexOf(')') + 2).split(' ') ?? [];
  return state === undefined || parent === undefined ? null : { state, parent: Number(parent) };
}

function killQuietly(processId: number): void {
  try {
    process.kill(processId, 'SIGKILL');
  } catch (error) {
    // It has ended by itself meanwhile.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}
