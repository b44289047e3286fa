import { setTimeout as delay } from 'node:timers/promises';
import { errorChain, type Logger } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader } from './operation.js';

export type ComponentStatus = 'healthy' | 'degraded' | 'unhealthy';

export interface HeartbeatOptions {
  readonly db: Reader;
  /** `api`, `outbox-relay`, `provisioning-worker` …: each role reports for itself, also inside one process */
  readonly component: string;
  /** one a process */
  readonly instanceId: string;
  readonly applicationVersion: string;
  /** facts that operators see: commit, image digest, node version; no secrets */
  readonly detail?: Readonly<Record<string, unknown>>;
  /** asked at each beat; without it a running process is healthy */
  readonly status?: () => ComponentStatus;
  readonly everyMilliseconds?: number;
  readonly log: Logger;
}

/** Reports a component until stopped. A silent one is degraded after 30 s and unhealthy after 120 s. */
export function startHeartbeat(options: HeartbeatOptions): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const beatAndWait = async (): Promise<void> => {
    let failing = false;
    while (!stopping.signal.aborted) {
      try {
        await beat(options);
        failing = false;
      } catch (error) {
        if (!failing) options.log.warn({ component: options.component, error: errorChain(error) }, 'no heartbeat');
        failing = true;
      }
      await delay(options.everyMilliseconds ?? 10_000, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  };
  const loop = beatAndWait();
  return {
    async stop() {
      stopping.abort();
      await loop;
      // A clean end is no failure: the row goes, instead of turning unhealthy.
      await options.db
        .deleteFrom('component_heartbeats')
        .where('component', '=', options.component)
        .where('instance_id', '=', options.instanceId)
        .execute()
        .catch(() => undefined);
    },
  };
}

async function beat(options: HeartbeatOptions): Promise<void> {
  const status = options.status?.() ?? 'healthy';
  await sql`
    INSERT INTO component_heartbeats (component, instance_id, status, application_version, detail)
    VALUES (${options.component}, ${options.instanceId}, ${status}, ${options.applicationVersion},
            ${JSON.stringify(options.detail ?? {})})
    ON CONFLICT (component, instance_id) DO UPDATE
      SET status = excluded.status, application_version = excluded.application_version, detail = excluded.detail,
          checked_at = clock_timestamp()`.execute(options.db);
}
