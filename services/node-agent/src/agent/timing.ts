import { POLL_BACKOFF_MAXIMUM_SECONDS, POLL_BACKOFF_MINIMUM_SECONDS } from '@gpuaas/node-protocol';

/** The only way this program waits; tests put one in its place that does not. */
export interface Timer {
  /** Resolves after `milliseconds`, or as soon as `signal` aborts. Never rejects. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
}

export const systemTimer: Timer = {
  sleep: (milliseconds, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const done = () => {
        clearTimeout(timeout);
        signal?.removeEventListener('abort', done);
        resolve();
      };
      const timeout = setTimeout(done, milliseconds);
      signal?.addEventListener('abort', done, { once: true });
    }),
};

/**
 * How long to wait after the `failures`-th failure in a row: 1, 2, 4 … 60 seconds, of which a random half, so that
 * hosts that failed together do not return together. `random` lies in 0..1.
 */
export function backoffMilliseconds(failures: number, random: number): number {
  const ceiling = Math.min(
    POLL_BACKOFF_MAXIMUM_SECONDS,
    POLL_BACKOFF_MINIMUM_SECONDS * 2 ** Math.min(Math.max(failures - 1, 0), 30),
  );
  return Math.round(ceiling * 1000 * (0.5 + random / 2));
}
