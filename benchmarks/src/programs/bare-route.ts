import { readFileSync } from 'node:fs';
import { connectionConfig } from '@gpuaas/control-plane/spine/database';
import fastify from 'fastify';
import pg from 'pg';
import { announceReady } from '../harness/programs.js';
import type { Plan } from '../replay/plan.js';
import { replay } from '../replay/replayer.js';

/** What the program is told by its only argument, a file of JSON. */
export interface BareRoutes {
  readonly databaseUrl: string;
  readonly poolSize: number;
  /** by name of the route; caller n sends the header `x-caller: n` and gets plan n */
  readonly routes: Readonly<Record<string, readonly Plan[]>>;
}

/**
 * The measure that a route of the control plane is held against: nothing but Fastify, which runs the statements that
 * the route runs on a pool of the same size and answers JSON of the same size. No authentication, no validation, no
 * rule; what is left is what the work costs at least.
 */
const told: BareRoutes = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));

const pools = new Map<string, pg.Pool>();
/** One for each kind of connection that the control plane has: to write, and to read. */
function poolOf(options: string): pg.Pool {
  const known = pools.get(options);
  if (known) return known;
  const config = connectionConfig({ url: told.databaseUrl, poolSize: told.poolSize });
  const pool = new pg.Pool({ ...config, options });
  pools.set(options, pool);
  return pool;
}

const server = fastify({ logger: false });
// As in the control plane, so that a body costs the same to receive.
server.removeAllContentTypeParsers();
server.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

for (const [name, plans] of Object.entries(told.routes)) {
  const answers = plans.map((plan): unknown => JSON.parse(plan.body));
  server.route({
    method: ['GET', 'POST'],
    url: `/${name}`,
    handler: async (request, reply) => {
      const caller = Number(request.headers['x-caller']);
      const plan = plans[caller];
      if (plan === undefined) throw new Error(`no plan for caller ${request.headers['x-caller']}`);
      if (Buffer.isBuffer(request.body)) JSON.parse(request.body.toString('utf8'));
      await replay(plan, poolOf);
      return reply.code(plan.status).type('application/json; charset=utf-8').send(JSON.stringify(answers[caller]));
    },
  });
}

process.on('SIGTERM', () => process.exit(0));
announceReady({ url: await server.listen({ host: '127.0.0.1', port: 0 }) });
