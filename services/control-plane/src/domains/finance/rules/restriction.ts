import type { Schema } from '@gpuaas/contract';

export type RestrictionState = Schema<'FinancialRestriction'>['state'];
export type RestrictionScopeType = Schema<'FinancialRestriction'>['scope_type'];
/** who set it; a source changes only its own */
export type RestrictionSource = 'operator' | 'depletion' | 'chargeback';

export interface Restriction {
  readonly scopeType: RestrictionScopeType;
  readonly source: RestrictionSource;
  readonly state: RestrictionState;
  readonly reason: string;
}

/** What a state bars. Nothing here ever stops what runs, nor bars a release or a top-up. */
export interface RestrictionEffects {
  readonly warn: boolean;
  readonly launch_blocked: boolean;
  readonly start_blocked: boolean;
  readonly scale_blocked: boolean;
  readonly new_credentials_blocked: boolean;
  readonly refunds_blocked: boolean;
}

/** In order of severity, and each with all that the ones before it bar. */
const EFFECTS: Record<RestrictionState, RestrictionEffects> = {
  healthy: effects([]),
  at_risk: effects(['warn']),
  restricted: effects(['warn', 'launch_blocked']),
  suspended: effects(['warn', 'launch_blocked', 'start_blocked', 'scale_blocked', 'new_credentials_blocked']),
  collections_hold: effects([
    'warn',
    'launch_blocked',
    'start_blocked',
    'scale_blocked',
    'new_credentials_blocked',
    'refunds_blocked',
  ]),
};

const SEVERITY: Record<RestrictionState, number> = {
  healthy: 0,
  at_risk: 1,
  restricted: 2,
  suspended: 3,
  collections_hold: 4,
};

export function effectsOf(state: RestrictionState): RestrictionEffects {
  return EFFECTS[state];
}

/** The most severe over all scopes and sources; null where nothing is set. The first wins among equals. */
export function effectiveRestriction<Found extends Restriction>(restrictions: readonly Found[]): Found | null {
  return restrictions.reduce<Found | null>(
    (worst, next) => (worst === null || SEVERITY[next.state] > SEVERITY[worst.state] ? next : worst),
    null,
  );
}

/**
 * The restriction that bars a launch, or null. Depletion is left out: it is a sweep's opinion of a minute ago, while
 * whoever asks holds the wallet's lock and knows its funds.
 */
export function launchBar<Found extends Restriction>(restrictions: readonly Found[]): Found | null {
  const worst = effectiveRestriction(restrictions.filter((restriction) => restriction.source !== 'depletion'));
  return worst !== null && effectsOf(worst.state).launch_blocked ? worst : null;
}

function effects(barred: readonly (keyof RestrictionEffects)[]): RestrictionEffects {
  return {
    warn: barred.includes('warn'),
    launch_blocked: barred.includes('launch_blocked'),
    start_blocked: barred.includes('start_blocked'),
    scale_blocked: barred.includes('scale_blocked'),
    new_credentials_blocked: barred.includes('new_credentials_blocked'),
    refunds_blocked: barred.includes('refunds_blocked'),
  };
}
