import { assertNever } from '@gpuaas/kernel';
import type { RestrictionState } from './restriction.js';

export const POSTURES = ['healthy', 'low_balance', 'auto_release_pending', 'depleted'] as const;
/** How far a wallet is from running dry. */
export type WalletPosture = (typeof POSTURES)[number];

export type DepletionAction = 'restrict' | 'force_release';

export interface WalletReading {
  /** balance and credit less everything used and not yet rated; minor units */
  readonly availableMinor: bigint;
  /** what everything that runs on the wallet costs an hour */
  readonly burnMinorPerHour: bigint;
}

export interface PostureLimits {
  readonly lowBalanceMinor: bigint;
  /** a depletion nearer than this is announced as one to come */
  readonly noticeMilliseconds: number;
}

export interface PostureDecision {
  readonly to: WalletPosture;
  /** null where nothing runs, so that nothing depletes */
  readonly projectedDepletionAt: Date | null;
}

/** One hour: what a launch needs at least, so that a wallet which just afforded one is told at once. */
export const DEPLETION_NOTICE_MILLISECONDS = 3_600_000;
const RELEASE_REPEAT_MILLISECONDS = 15 * 60_000;

/**
 * The posture that follows from the last one and a reading.
 *
 * Downwards it goes over the notice: a wallet is never depleted that was not announced as about to be, however late the
 * sweep comes, so that a forced release always follows a warning. Upwards any step may be skipped. Where nothing runs
 * nothing gets worse: a newcomer's empty wallet is no alarm.
 */
export function decidePosture(
  from: WalletPosture,
  reading: WalletReading,
  limits: PostureLimits,
  now: Date,
): PostureDecision {
  const projectedDepletionAt = projectDepletion(reading, now);
  if (projectedDepletionAt === null) return { to: idlePosture(from, reading, limits), projectedDepletionAt };
  if (reading.availableMinor <= 0n) {
    const announced = from === 'auto_release_pending' || from === 'depleted';
    return { to: announced ? 'depleted' : 'auto_release_pending', projectedDepletionAt };
  }
  if (projectedDepletionAt.getTime() - now.getTime() <= limits.noticeMilliseconds)
    return { to: 'auto_release_pending', projectedDepletionAt };
  return { to: reading.availableMinor <= limits.lowBalanceMinor ? 'low_balance' : 'healthy', projectedDepletionAt };
}

/** When the wallet reaches zero if nothing changes; `now` if it is there, null if nothing runs. */
export function projectDepletion(reading: WalletReading, now: Date): Date | null {
  if (reading.burnMinorPerHour <= 0n) return null;
  if (reading.availableMinor <= 0n) return now;
  const milliseconds = (reading.availableMinor * 3_600_000n) / reading.burnMinorPerHour;
  // Beyond a century it is a number for nobody, and beyond 8.64e15 ms it is no date.
  return new Date(now.getTime() + Math.min(Number(milliseconds), 3_155_760_000_000));
}

/** Prepaid money that is gone ends what runs; where the site lends credit, only new launches are barred. */
export function defaultDepletionAction(creditLimitMinor: bigint): DepletionAction {
  return creditLimitMinor > 0n ? 'restrict' : 'force_release';
}

/**
 * Whether the release of what runs on a depleted wallet is to be asked for (again): what was asked for may have failed
 * or met a host that was away.
 */
export function isReleaseDue(
  reading: WalletReading & { readonly releaseRequestedAt: Date | null },
  now: Date,
): boolean {
  if (reading.burnMinorPerHour <= 0n) return false;
  const asked = reading.releaseRequestedAt;
  return asked === null || now.getTime() - asked.getTime() >= RELEASE_REPEAT_MILLISECONDS;
}

/** What automation says of a person whose worst wallet is in this posture. */
export function restrictionOf(posture: WalletPosture): RestrictionState {
  switch (posture) {
    case 'healthy':
      return 'healthy';
    case 'low_balance':
    case 'auto_release_pending':
      return 'at_risk';
    case 'depleted':
      return 'restricted';
    default:
      return assertNever(posture);
  }
}

/** The worst of several postures; healthy where there is none. */
export function worstPosture(postures: readonly WalletPosture[]): WalletPosture {
  return POSTURES[Math.max(0, ...postures.map((posture) => POSTURES.indexOf(posture)))] ?? 'depleted';
}

function idlePosture(from: WalletPosture, reading: WalletReading, limits: PostureLimits): WalletPosture {
  if (reading.availableMinor > limits.lowBalanceMinor) return 'healthy';
  if (from === 'depleted') return reading.availableMinor <= 0n ? 'depleted' : 'low_balance';
  return from === 'auto_release_pending' ? 'low_balance' : from;
}
