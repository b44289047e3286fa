import type { DomainModule } from '../../spine/domain.js';
import { type Migration, readMigrations } from '../../spine/migrations.js';
import type { Reader } from '../../spine/operation.js';
import { WORKFLOW_CONSUMER } from '../../spine/workflows.js';
import {
  adminDiscardOutboxEvent,
  adminListFailedOutboxEvents,
  adminRequeueOutboxEvent,
  type Consumer,
  createDeadLetterOperations,
  discardV3PlatformOpsOutboxEvent,
  listV3PlatformOpsFailedOutboxEvents,
  requeueV3PlatformOpsOutboxEvent,
} from './operations/event-queues.js';
import { createGetHealth } from './operations/health.js';
import { listV3PlatformTemporalWorkflows } from './operations/workflows.js';
import { removeExpired } from './store/retention.js';

export type { Consumer } from './operations/event-queues.js';
export { type QueueDepths, queueDepths } from './store/queue-depths.js';

export interface PlatformDependencies {
  /** the primary: what the probe asks is whether commands can run */
  readonly db: Reader;
  /** what this program expects the database to have; default: its own files */
  readonly migrations?: () => Promise<readonly Migration[]>;
  /** every consumer of events of every domain; asked at each call */
  readonly consumers: () => readonly Consumer[];
}

export type PlatformDomain = DomainModule;

const HOUR = 3_600_000;

export function createPlatformDomain(dependencies: PlatformDependencies): PlatformDomain {
  return {
    name: 'platform',
    operations: {
      getHealth: createGetHealth({ db: dependencies.db, migrations: dependencies.migrations ?? readMigrations }),
      adminListFailedOutboxEvents,
      adminRequeueOutboxEvent,
      adminDiscardOutboxEvent,
      listV3PlatformOpsFailedOutboxEvents,
      requeueV3PlatformOpsOutboxEvent,
      discardV3PlatformOpsOutboxEvent,
      ...createDeadLetterOperations(() => [...dependencies.consumers(), WORKFLOW_CONSUMER]),
      listV3PlatformTemporalWorkflows,
    },
    periodicJobs: [
      {
        name: 'platform.retention',
        everyMilliseconds: HOUR,
        async run(db, ctx, signal) {
          const removed = await removeExpired(db, ctx.clock.now(), signal);
          ctx.log.debug({ removed }, 'expired rows were removed');
        },
      },
    ],
  };
}
