import type { Clock } from '@gpuaas/kernel';
import type { PeriodicJob } from '../../spine/periodic-jobs.js';
import { inTransaction } from '../../spine/transaction.js';
import type { SigningKeyRing } from './crypto/signing-keys.js';
import { REFRESH_GRACE_SECONDS } from './rules/refresh.js';
import type { SessionLifetimes } from './rules/session.js';
import { sweepAuthStates } from './store/federation.js';
import { sweepCredentials } from './store/sessions.js';

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

export function identityJobs({
  clock,
  ring,
  lifetimes,
}: {
  readonly clock: Clock;
  readonly ring: SigningKeyRing;
  readonly lifetimes: SessionLifetimes;
}): PeriodicJob[] {
  return [
    {
      name: 'identity.sweep-credentials',
      everyMilliseconds: MINUTE,
      async run(db) {
        const now = clock.now();
        // twice the grace: a request that is being answered still finds the successor
        const successorsBefore = new Date(now.getTime() - 2 * REFRESH_GRACE_SECONDS * 1000);
        const tokensBefore = new Date(now.getTime() - lifetimes.absoluteSeconds * 1000 - DAY);
        await sweepCredentials(db, { successorsBefore, tokensBefore, now });
        await sweepAuthStates(db, new Date(now.getTime() - DAY));
      },
    },
    {
      name: 'identity.rotate-signing-key',
      everyMilliseconds: 60 * MINUTE,
      async run(db) {
        await inTransaction(db, (tx) => ring.rotate(tx, clock.now()));
      },
    },
  ];
}
