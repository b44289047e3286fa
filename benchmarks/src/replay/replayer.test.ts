import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@gpuaas/control-plane/adapters/embedded-postgres/index';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { planOf } from './plan.js';
import { replay } from './replayer.js';
import type { RequestTrace } from './trace.js';

let directory: string;
let server: EmbeddedPostgres;
let pool: pg.Pool;
const closed: Promise<unknown>[] = [];

beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'gpuaas-replay-'));
  server = await startEmbeddedPostgres({ directory, durability: 'disposable', sharedBuffersMegabytes: 16 });
  pool = new pg.Pool({ connectionString: server.url, max: 4 });
  // Connections close after the pool says so, and a server that stops in between would fail them.
  pool.on('connect', (client) => {
    client.on('error', () => undefined);
    closed.push(new Promise((resolve) => client.once('end', resolve)));
  });
  await pool.query('CREATE TABLE parents (id serial PRIMARY KEY, tag uuid NOT NULL)');
  await pool.query(
    'CREATE TABLE children (id uuid PRIMARY KEY, parent integer NOT NULL REFERENCES parents, at timestamptz)',
  );
});

afterAll(async () => {
  await pool?.end();
  await Promise.all(closed);
  await server?.stop();
  await rm(directory, { recursive: true, force: true });
});

const tag = (digit: number) => `${String(digit).repeat(8)}-1111-4111-8111-111111111111`;

function trace(parent: string, child: string, last = 'commit'): RequestTrace {
  const at = Date.parse('2026-01-01T00:00:00Z');
  const statements = [
    { text: 'begin', values: [], rows: [] },
    { text: 'INSERT INTO parents (tag) VALUES ($1) RETURNING id', values: [child], rows: [{ id: parent }] },
    {
      text: 'INSERT INTO children VALUES ($1, $2, $3)',
      values: [child, parent, new Date(at + Number(parent)).toISOString()],
      rows: [],
    },
    { text: last, values: [], rows: [] },
  ];
  return {
    at,
    status: 200,
    body: '{}',
    statements: statements.map((each, index) => ({
      ...each,
      connection: 1,
      pool: '',
      name: null,
      startedAt: index * 2,
      endedAt: index * 2 + 1,
    })),
  };
}

it('runs a transaction again with values of its own each time', async () => {
  const plan = planOf(trace('900', tag(1)), trace('901', tag(2)));
  await Promise.all(Array.from({ length: 20 }, () => replay(plan, () => pool)));
  const { rows } = await pool.query(`
    SELECT count(*)::int AS children, count(DISTINCT parent)::int AS parents, bool_and(p.tag = c.id) AS same_id,
           bool_and(abs(extract(epoch FROM now() - at)) < 60) AS now
    FROM children c JOIN parents p ON p.id = c.parent`);
  expect(rows).toEqual([{ children: 20, parents: 20, same_id: true, now: true }]);
});

it('leaves nothing behind where a statement fails', async () => {
  const before = await pool.query('SELECT count(*)::int AS count FROM children');
  const plan = planOf(trace('900', tag(1), 'SELECT 1/0'), trace('901', tag(2), 'SELECT 1/0'));
  await expect(replay(plan, () => pool)).rejects.toThrow('division by zero');
  const after = await pool.query('SELECT count(*)::int AS count FROM children');
  expect(after.rows).toEqual(before.rows);
  expect(pool.waitingCount).toBe(0);
});
