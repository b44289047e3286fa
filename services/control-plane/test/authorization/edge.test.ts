import { randomBytes } from 'node:crypto';
import { createLogger, systemClock } from '@gpuaas/kernel';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DenialJournal } from '../../src/edge/denial-journal.js';
import { IdempotencyStore } from '../../src/edge/idempotency.js';
import { EdgeMetrics } from '../../src/edge/metrics.js';
import { policyFor } from '../../src/edge/policy/index.js';
import { factsOf } from '../../src/edge/policy/matrix.js';
import { namedInRequests, type Persona, personas } from '../../src/edge/policy/personas.js';
import { decide } from '../../src/edge/policy/rules.js';
import { RateLimiter } from '../../src/edge/rate-limit.js';
import { registerOperations } from '../../src/edge/router.js';
import { createHttpServer } from '../../src/edge/server.js';
import { CursorCodec } from '../../src/spine/cursors.js';
import { createCustody } from '../../src/spine/custody.js';
import type { Principal } from '../../src/spine/principal.js';
import { refuse } from '../../src/spine/refusal.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';
import { malformation, nameOf, refusalOf, sweep } from './sweep.js';

/**
 * The edge alone, with no handler bound and callers who are what the fixture says: each spelling of each operation is
 * behind its rule, and answers as the rule decides. Whether real tokens give these principals is the subject of the
 * sweep over a whole site.
 */
describe('the edge with no handler bound', () => {
  let database: TestDatabase;
  let server: FastifyInstance;
  let origin: string;
  const closing = new AbortController();

  beforeAll(async () => {
    database = await cloneDatabase({ poolSize: 2 });
    const log = createLogger({ program: 'test', level: 'silent' });
    server = createHttpServer({ log, trustedProxies: [] });
    registerOperations(server, 'api', {
      primary: database.db,
      replica: database.db,
      operations: {},
      clock: systemClock,
      log,
      cursors: new CursorCodec(randomBytes(32)),
      idempotency: new IdempotencyStore(createCustody([{ id: 'test', bytes: randomBytes(32) }])),
      denials: new DenialJournal(async () => undefined),
      metrics: new EdgeMetrics('test'),
      rateLimiter: new RateLimiter(),
      rateLimitOf: async () => null,
      authenticateBearer: async (_db, token) => principalOf(token),
      authenticateNode: async ({ bearerToken }) => {
        if (bearerToken === null) throw refuse('token_missing');
        return principalOf(bearerToken);
      },
      projectScopeOf: async (_db, principal, projectId) => scopeOf(principal, projectId),
      validatesResponses: true,
      closing: closing.signal,
    });
    origin = await server.listen({ host: '127.0.0.1', port: 0 });
  });

  afterAll(async () => {
    closing.abort();
    await server.close();
    await database.drop();
  });

  it.each(personas)('answers $name as the policy decides, in every spelling', async (persona) => {
    const visits = await sweep({ origin, token: tokenOf(persona), named: NAMED });
    const wrong = visits.flatMap((visit) => {
      const rule = policyFor(visit.definition.operationId);
      const decision = decide(rule, factsOf(visit.definition, persona));
      const { status } = visit.answer;
      const { code, reason } = refusalOf(visit.answer);
      const expected = decision.allowed
        ? { status: 501, code: 'service_unavailable', reason: 'not_implemented' }
        : // Without a token the edge refuses before it knows the request, and so in words of its own.
          {
            status: decision.status,
            code: decision.code,
            reason: persona.name === 'anonymous' ? reason : decision.reason,
          };
      const flaw = malformation(visit);
      const asExpected = status === expected.status && code === expected.code && reason === expected.reason;
      return asExpected && flaw === null
        ? []
        : [{ request: nameOf(visit), expected, answered: { status, code, reason }, flaw }];
    });
    expect(wrong).toEqual([]);
    expect(visits.length).toBeGreaterThan(750);
  });
});

const NAMED = {
  project_id: namedInRequests.projectId,
  org_id: namedInRequests.tenantId,
  tenant_id: namedInRequests.tenantId,
  node_id: namedInRequests.nodeId,
  shared_runtime_id: namedInRequests.sharedRuntimeId,
  'x-project-id': namedInRequests.projectId,
  'x-tenant-id': namedInRequests.tenantId,
};

const tokenOf = (persona: Persona) => (persona.name === 'anonymous' ? null : encodeURIComponent(persona.name));

function principalOf(token: string): Principal {
  const persona = personas.find((one) => tokenOf(one) === token);
  if (persona === undefined) throw refuse('token_invalid');
  return persona.principal;
}

async function scopeOf(principal: Principal, projectId: string) {
  const persona = personas.find((one) => one.principal === principal);
  if (persona === undefined || persona.project === 'inaccessible' || projectId !== namedInRequests.projectId)
    return null;
  return persona.project;
}
