import type { OperationId } from '@gpuaas/contract';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { policyFor } from '../../src/edge/policy/index.js';
import { factsOf } from '../../src/edge/policy/matrix.js';
import { type Persona, personas } from '../../src/edge/policy/personas.js';
import { type AccessDecision, decide } from '../../src/edge/policy/rules.js';
import { startTestSite, type TestSite } from '../harness/site.js';
import { type Caller, createCallers } from './site-personas.js';
import { malformation, nameOf, refusalOf, type SweepVisit, sweep } from './sweep.js';

/** They end the caller's own session. */
const ENDS_SESSION: readonly OperationId[] = ['revokeOtherV3AccountSessions', 'logout'];

/**
 * Every operation in every spelling, on a whole site, by real callers. The operator of a shared runtime is not among them,
 * because no site issues its tokens yet: how the edge answers one is in edge.test.ts.
 */
describe('a site', () => {
  let site: TestSite;
  let callers: readonly Caller[];
  let named: Readonly<Record<string, string>>;

  beforeAll(async () => {
    site = await startTestSite({ domains: { pollHoldMilliseconds: 100 } });
    ({ callers, named } = await createCallers(site));
  });

  afterAll(async () => {
    await site?.stop();
  });

  it('answers a caller without a token with 401 on every operation that is not open, and never with 500', async () => {
    const visits = await sweep({ origin: site.url, token: null, named });
    const anonymous = personas.find(({ name }) => name === 'anonymous');
    if (anonymous === undefined) throw new Error('no anonymous persona');
    expect(visits.flatMap((visit) => wrongAnswer(visit, anonymous))).toEqual([]);
    expect(visits.length).toBeGreaterThan(750);
  });

  it.each([
    'tenant member',
    'viewer',
    'project admin',
    'tenant admin',
    'member of another tenant',
    'service account of another project',
    'platform_user',
    'node',
  ])('refuses %s as the policy decides, and never answers 500', async (name) => {
    const caller = callers.find(({ persona }) => persona.name === name);
    if (caller === undefined) throw new Error(`no caller ${name}`);
    const { persona, token } = caller;
    const visits = await sweep({ origin: site.url, token, named, last: ENDS_SESSION });
    expect(visits.flatMap((visit) => wrongAnswer(visit, persona))).toEqual([]);
  });
});

const decisionFor = (definition: SweepVisit['definition'], persona: Persona): AccessDecision =>
  decide(policyFor(definition.operationId), factsOf(definition, persona));

/** Empty where the answer is what the policy promises to this persona. */
function wrongAnswer(visit: SweepVisit, persona: Persona): readonly unknown[] {
  const decision = decisionFor(visit.definition, persona);
  const { status } = visit.answer;
  const { code, reason } = refusalOf(visit.answer);
  const flaw =
    malformation(visit) ?? (decision.allowed ? flawOfAllowed(visit) : flawOfRefused(visit, persona, decision));
  return flaw === null ? [] : [{ request: nameOf(visit), flaw, answered: { status, code, reason } }];
}

/** Reasons that the policy gives: a handler has others. */
const REASONS_OF_POLICY = /_(required|inaccessible|applicable|mismatch)$/;

function flawOfAllowed({ definition, answer }: SweepVisit): string | null {
  const rule = policyFor(definition.operationId);
  const { code, reason } = refusalOf(answer);
  if (rule.gate.kind === 'open') return null;
  if (answer.status === 401) return 'a live identity was refused';
  if (answer.status === 403 && rule.rowRule === null && REASONS_OF_POLICY.test(String(reason))) {
    return 'a right that the policy gives was refused';
  }
  // The number of terminal tokens is small on purpose and is not lifted for tests.
  if (code === 'rate_limit_exceeded' && definition.operationId !== 'createTerminalToken')
    return 'the sweep was slowed down';
  return null;
}

function flawOfRefused(
  { definition, answer }: SweepVisit,
  persona: Persona,
  decision: Extract<AccessDecision, { allowed: false }>,
): string | null {
  const { code } = refusalOf(answer);
  // Hosts and people prove themselves by different means: the proof of the one is none at all to the other.
  const ofOtherKind =
    (policyFor(definition.operationId).authentication === 'node') !== (persona.principal.kind === 'node');
  if (ofOtherKind && answer.status === 401 && code === 'token_invalid') return null;
  if (answer.status === decision.status && code === decision.code) return null;
  return `expected ${decision.status} ${decision.code}`;
}
