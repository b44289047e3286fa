import type { Clock } from '@gpuaas/kernel';
import type { PeriodicJob } from '../../spine/periodic-jobs.js';
import { inTransaction } from '../../spine/transaction.js';
import type { SigningKeyRing } from './crypto/signing-keys.js';
import { REFRESH_GRACE_SECONDS } from './rules/refresh.js';
import { sweepCredentials } from './store/sessions.js';

const MINUTE = 60_000;

export function identityJobs({ clock, ring }: { readonly clock: Clock; readonly ring: SigningKeyRing }): PeriodicJob[] {
  return [
    {
      name: 'identity.sweep-credentials',
      everyMilliseconds: MINUTE,
      async run(db) {
        const now = clock.now();
        // twice the grace: a request that is being answered still finds the successor
        const successorsBefore = new Date(now.getTime() - 2 * REFRESH_GRACE_SECONDS * 1000);
        await sweepCredentials(db, { successorsBefore, now });
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
