import { errorChain, type Logger, type SessionId } from '@gpuaas/kernel';
import type { Reader } from '../../spine/operation.js';
import { recordPresence } from './store/sessions.js';

/** Writes down which sessions are in use, behind the requests that showed it. */
export interface PresenceRecorder {
  /** Remembers for the next batch; never waits. */
  seen(sessionId: SessionId, at: Date): void;
  /** Writes what is remembered. Never throws: a lost note shortens the idle time by a minute at most. */
  flush(): Promise<void>;
}

const BATCH_MILLISECONDS = 500;
const BATCH_SIZE = 1000;

export function createPresenceRecorder(db: Reader, log: Logger): PresenceRecorder {
  let pending = new Map<SessionId, Date>();
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();

  async function write(batch: ReadonlyMap<SessionId, Date>): Promise<void> {
    const at = new Date(Math.max(...[...batch.values()].map((time) => time.getTime())));
    try {
      const ids = [...batch.keys()];
      for (let start = 0; start < ids.length; start += BATCH_SIZE) {
        await recordPresence(db, ids.slice(start, start + BATCH_SIZE), at);
      }
    } catch (error) {
      log.warn({ error: errorChain(error) }, 'the presence of sessions was not recorded');
    }
  }

  const flush = (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    if (pending.size > 0) {
      const batch = pending;
      pending = new Map();
      running = running.then(() => write(batch));
    }
    return running;
  };

  return {
    seen(sessionId, at) {
      pending.set(sessionId, at);
      // unref: a process that ends flushes by itself
      timer ??= setTimeout(flush, BATCH_MILLISECONDS).unref();
    },
    flush,
  };
}
