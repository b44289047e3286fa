import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const PAUSE_MILLISECONDS = 50;

export interface DirectoryLock {
  release(): Promise<void>;
}

/**
 * Keeps every other process of this machine away from a directory until it is released or this process ends, however
 * it ends: the lock is a name in the kernel, so that nothing is left behind. Waits for a holder that is about to stop,
 * then throws. Elsewhere than on Linux, whose names these are, it locks nothing.
 */
export async function lockDirectory(directory: string, patienceMilliseconds: number): Promise<DirectoryLock> {
  if (process.platform !== 'linux') return { release: async () => undefined };
  const digest = createHash('sha256')
    .update(await realpath(directory))
    .digest('hex');
  const deadline = performance.now() + patienceMilliseconds;
  for (;;) {
    const server = await listen(`\0gpuaas-${digest.slice(0, 40)}`);
    if (server !== null) {
      server.unref();
      return { release: () => new Promise((resolve) => server.close(() => resolve())) };
    }
    if (performance.now() > deadline) throw new Error(`${directory} is in use by another process`);
    await delay(PAUSE_MILLISECONDS);
  }
}

/** Null where somebody else listens. */
function listen(name: string): Promise<Server | null> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(null);
      else reject(error);
    });
    server.listen(name, () => resolve(server));
  });
}
