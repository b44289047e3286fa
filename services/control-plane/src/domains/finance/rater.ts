import type { CallContext, Reader } from '../../spine/operation.js';
import type { PeriodicJob } from '../../spine/periodic-jobs.js';
import { inTransaction } from '../../spine/transaction.js';
import { chargeRatings, type Rating } from './charging.js';
import { type Wallet, walletKey } from './rules/journal.js';
import { lastWindowEnd, type RatedWindow, rateUsage, windowEndAfter } from './rules/rating.js';
import { type DueUsage, findDueUsage, type MeteredUsage, tryLockDueUsage } from './store/usage.js';
import { ensureWallets, lockWallet, tryLockWallets } from './store/wallets.js';

const RECORDS_A_TRANSACTION = 500;
/** Bounds a transaction after the rater was away for long; the rest of a record comes with the next one. */
const WINDOWS_A_RECORD = 24;
const RATER_PERIOD_MILLISECONDS = 5_000;

export interface RaterDependencies {
  /** seconds that a rating window lasts; divides an hour */
  windowSeconds(reader: Reader): Promise<number>;
}

/** Charges every window that is over, for all that runs. */
export function createRater(dependencies: RaterDependencies): PeriodicJob {
  return {
    name: 'finance.rater',
    everyMilliseconds: RATER_PERIOD_MILLISECONDS,
    run: (db, ctx, signal) => rateDueUsage(dependencies, db, ctx, signal),
  };
}

/**
 * Rates until nothing is due. Two raters at once share the work; a crash between two transactions loses nothing, since
 * what a transaction charged and how far it got are written together.
 *
 * Inside a transaction the rater never waits: it takes only wallets and records that nobody holds. So it can be part of
 * no deadlock, although it locks wallets first and a release locks its records first. What was busy is tried again in
 * the end, one wallet a transaction, and there it waits for the wallet while it holds nothing else.
 */
async function rateDueUsage(
  dependencies: RaterDependencies,
  db: Reader,
  ctx: CallContext,
  signal: AbortSignal,
): Promise<void> {
  const windowSeconds = await dependencies.windowSeconds(db);
  const busy = new Map<string, DueUsage>();
  let records = 0;
  while (!signal.aborted) {
    const due = await findDueUsage(db, ctx.clock.now(), [...busy.keys()], RECORDS_A_TRANSACTION);
    if (due.length === 0) break;
    const rated = await inTransaction(db, async (tx) => {
      const wallets = distinctWallets(due);
      await ensureWallets(tx, wallets);
      const free = new Set((await tryLockWallets(tx, wallets)).map(walletKey));
      const ids = due.filter((usage) => free.has(walletKey(usage))).map((usage) => usage.id);
      return rateLocked(tx, ctx, ids, windowSeconds);
    });
    records += rated.size;
    for (const usage of due) if (!rated.has(usage.id)) busy.set(usage.id, usage);
  }
  for (const wallet of distinctWallets([...busy.values()])) {
    if (signal.aborted) break;
    const ids = [...busy.values()].filter((usage) => walletKey(usage) === walletKey(wallet)).map(({ id }) => id);
    const rated = await inTransaction(db, async (tx) => {
      await lockWallet(tx, wallet);
      return rateLocked(tx, ctx, ids, windowSeconds);
    });
    records += rated.size;
  }
  if (records > 0) ctx.log.debug({ records, busy: busy.size }, 'usage rated');
}

/** Rates what is still due and free of `ids`, whose wallets the caller holds. Returns the ids it has handled. */
async function rateLocked(
  tx: Parameters<typeof chargeRatings>[0],
  ctx: CallContext,
  ids: readonly string[],
  windowSeconds: number,
): Promise<ReadonlySet<string>> {
  const now = ctx.clock.now();
  const usages = await tryLockDueUsage(tx, ids, now);
  await chargeRatings(
    tx,
    ctx,
    usages.map((usage) => rateOne(usage, now, windowSeconds)),
  );
  return new Set(usages.map((usage) => usage.id));
}

function rateOne(usage: MeteredUsage, now: Date, windowSeconds: number): Rating {
  const until = usage.endTime ?? lastWindowEnd(now, windowSeconds);
  const windows = rateUsage(usage, until).slice(0, WINDOWS_A_RECORD);
  return { usage, windows, endTime: usage.endTime, nextRateAt: nextRating(usage, windows, until, windowSeconds) };
}

/** At once where windows were left over, never again where the record is closed and rated, else when a window ends. */
function nextRating(
  usage: MeteredUsage,
  windows: readonly RatedWindow[],
  until: Date,
  windowSeconds: number,
): Date | null {
  const billedUntil = windows.at(-1)?.to ?? usage.lastBilledAt ?? usage.startTime;
  if (billedUntil < until) return billedUntil;
  return usage.endTime !== null ? null : windowEndAfter(billedUntil, windowSeconds);
}

function distinctWallets(due: readonly Wallet[]): readonly Wallet[] {
  const wallets = new Map(
    due.map(({ tenantId, userId, currency }) => [
      walletKey({ tenantId, userId, currency }),
      { tenantId, userId, currency },
    ]),
  );
  return [...wallets.entries()].sort(([left], [right]) => (left < right ? -1 : 1)).map(([, wallet]) => wallet);
}
