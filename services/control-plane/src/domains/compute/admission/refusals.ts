import { Refusal } from '../../../spine/refusal.js';
import type { FundsDecision } from '../ports.js';
import type { Gate, GateRefusal } from '../rules/admission.js';

/** A gate's "no" on its way out of a launch. */
export function refusalOf(gate: GateRefusal): Refusal {
  return new Refusal(gate.code, {
    ...(gate.status !== undefined && { status: gate.status }),
    details: { reason: gate.reason },
    message: gate.message,
  });
}

/** Lets an open gate pass and throws the refusal of a closed one. */
export function pass(gate: Gate): void {
  if (!gate.ok) throw refusalOf(gate);
}

/** What finance decided, as a gate of the launch. */
export function fundsGate(decision: FundsDecision): Gate {
  if (decision.allowed) return { ok: true };
  return {
    ok: false,
    check: fundsCheck(decision.reason),
    code: decision.code,
    reason: decision.reason,
    message:
      decision.code === 'insufficient_balance'
        ? 'the balance does not cover an hour of what was asked for'
        : `not now: ${decision.reason.replaceAll('_', ' ')}`,
  };
}

function fundsCheck(reason: string): 'balance' | 'budget' | 'financial_posture' {
  if (reason.startsWith('budget')) return 'budget';
  return reason === 'financial_restriction' ? 'financial_posture' : 'balance';
}
