import {
  type AllocationId,
  createLogger,
  ManualClock,
  newId,
  type ProjectId,
  type TenantId,
  type UserId,
} from '@gpuaas/kernel';
import { createFinanceDomain, type FinanceDomain } from '../../src/domains/finance/index.js';
import type { Wallet } from '../../src/domains/finance/rules/journal.js';
import { walletEntry } from '../../src/domains/finance/rules/journal.js';
import { postEntries } from '../../src/domains/finance/store/journal.js';
import type { CallContext, Reader } from '../../src/spine/operation.js';
import { policies } from '../../src/spine/policy-registry.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

export interface Owner extends Wallet {
  readonly tenantId: TenantId;
  readonly userId: UserId;
  readonly projectId: ProjectId;
}

/** The finance domain as other domains use it, with a clock that the test moves. */
export interface Books {
  readonly db: Reader;
  readonly clock: ManualClock;
  readonly ctx: CallContext;
  readonly finance: FinanceDomain;
  newOwner(): Owner;
  credit(owner: Owner, amountMinor: bigint): Promise<void>;
  balanceOf(owner: Owner): Promise<bigint>;
  /** starts a usage of `units` at `unitPriceMinor` an hour now */
  start(
    owner: Owner,
    usage?: { allocationId?: AllocationId; units?: number; unitPriceMinor?: bigint },
  ): Promise<AllocationId>;
  stop(allocationId: AllocationId): Promise<void>;
  /** one run of the rater */
  rate(signal?: AbortSignal): Promise<void>;
  /** one run of the depletion sweep */
  sweep(): Promise<void>;
}

/** Shortly before the end of a month, and on no round number. */
export const TEST_TIME = new Date('2026-04-30T22:13:07.451Z');

/** The books on a database of their own. */
export async function openBooks(): Promise<Books & { readonly database: TestDatabase; close(): Promise<void> }> {
  const database = await cloneDatabase({ poolSize: 24 });
  return { ...booksOn(database.db, new ManualClock(TEST_TIME)), database, close: () => database.drop() };
}

/** The books of a database that somebody else has opened. */
export function booksOn(db: Reader, clock: ManualClock): Books {
  const finance = createFinanceDomain({ clock, policies });
  const ctx: CallContext = {
    principal: { kind: 'system', name: 'test' },
    requestId: 'request',
    correlationId: 'correlation',
    trace: { traceId: '1'.repeat(32), spanId: '2'.repeat(16), sampled: false },
    clock,
    log: createLogger({ program: 'test', level: 'silent' }),
    actorIp: null,
    userAgent: null,
  };
  const run = async (name: string, signal = new AbortController().signal) => {
    const job = finance.periodicJobs?.find((candidate) => candidate.name === name);
    if (!job) throw new Error(`no job ${name}`);
    await job.run(db, ctx, signal);
  };
  return {
    db,
    clock,
    ctx,
    finance,
    newOwner: () => ({ tenantId: newId(), userId: newId(), projectId: newId(), currency: 'USD' }),
    async credit(owner, amountMinor) {
      const entry = walletEntry({
        kind: 'admin_credit',
        wallet: { tenantId: owner.tenantId, userId: owner.userId, currency: owner.currency },
        amountMinor,
        idempotencyKey: `adjust:${newId()}`,
        referenceType: 'test',
        referenceId: owner.userId,
      });
      await inTransaction(db, (tx) => postEntries(tx, ctx, [entry]));
    },
    async balanceOf(owner) {
      const row = await db
        .selectFrom('wallet_balances')
        .select('balance_minor')
        .where('user_id', '=', owner.userId)
        .where('currency', '=', owner.currency)
        .executeTakeFirst();
      return row?.balance_minor ?? 0n;
    },
    async start(owner, { allocationId = newId<'allocation'>(), units = 1, unitPriceMinor = 250n } = {}) {
      await inTransaction(db, (tx) =>
        finance.metering.start(tx, ctx, {
          source: 'allocation',
          allocationId,
          tenantId: owner.tenantId,
          projectId: owner.projectId,
          userId: owner.userId,
          sku: 'h200',
          unit: 'gpu_hour',
          units,
          unitPriceMinor,
          currency: owner.currency,
          startedAt: clock.now(),
        }),
      );
      return allocationId;
    },
    stop: (allocationId) =>
      inTransaction(db, (tx) => finance.metering.stop(tx, ctx, { allocationId, endedAt: clock.now() })),
    rate: (signal) => run('finance.rater', signal),
    sweep: () => run('finance.depletion'),
  };
}
