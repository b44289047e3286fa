import { describe, expect, it } from 'vitest';
import { pgbenchScripts } from './pgbench-script.js';
import { planOf } from './plan.js';
import type { RequestTrace, TracedStatement } from './trace.js';

const CALLER = '11111111-1111-4111-8111-111111111111';
const AT = Date.parse('2026-01-01T00:00:00.000Z');
const uuid = (digit: number) => `${String(digit).repeat(8)}-0000-4000-8000-000000000000`;

function statement(text: string, values: (string | null)[], rows: Record<string, string | null>[] = []) {
  return { text, values, rows };
}

function trace(
  statements: readonly ReturnType<typeof statement>[],
  change: (statement: TracedStatement, index: number) => Partial<TracedStatement> = () => ({}),
): RequestTrace {
  return {
    at: AT,
    status: 200,
    body: '{}',
    statements: statements.map((each, index) => {
      const plain: TracedStatement = {
        connection: 1,
        pool: '',
        name: null,
        ...each,
        startedAt: index * 2,
        endedAt: index * 2 + 1,
      };
      return { ...plain, ...change(plain, index) };
    }),
  };
}

/** A launch as two callers' requests would run it: the node differs, the id is fresh, the caller stays. */
const launch = (node: string, id: string, time: string) =>
  trace([
    statement('begin', []),
    statement('select node where sku = $1', ['h200'], [{ node_id: node, region: 'eu' }]),
    statement('insert into allocations values ($1, $2, $3, $4, $5)', [id, node, CALLER, time, null]),
    statement('insert into audit values ($1)', [`{"allocation":"${id}","user":"${CALLER}","node":"${node}"}`]),
    statement('commit', []),
  ]);

describe('a plan', () => {
  const plan = planOf(
    launch(uuid(1), uuid(2), '2026-01-01T00:00:00.000+00:00'),
    launch(uuid(3), uuid(4), '2026-01-01T00:30:00.000+00:00'),
  );

  it('takes a parameter from the statement that returned it', () => {
    expect(plan.statements[2]?.parameters[1]).toEqual([{ kind: 'result', statement: 1, row: 0, column: 'node_id' }]);
  });

  it('makes an id anew that nothing returned, and makes it once', () => {
    expect(plan.freshUuids).toBe(1);
    expect(plan.statements[2]?.parameters[0]).toEqual([{ kind: 'fresh_uuid', number: 0 }]);
  });

  it('keeps what two requests share, and NULL', () => {
    expect(plan.statements[1]?.parameters).toEqual([[{ kind: 'text', text: 'h200' }]]);
    expect(plan.statements[2]?.parameters[2]).toEqual([{ kind: 'text', text: CALLER }]);
    expect(plan.statements[2]?.parameters[4]).toBeNull();
  });

  it('lets a time move with the request', () => {
    expect(plan.statements[2]?.parameters[3]).toEqual([{ kind: 'time', offsetMilliseconds: 1_800_000 }]);
  });

  it('draws a large number anew that two requests drew differently', () => {
    const draw = (number: string) => trace([statement('select $1, $2', [number, '5'])]);
    const drawn = planOf(draw('200000000000000'), draw('1000000000'));
    expect(drawn.statements[0]?.parameters).toEqual([
      [{ kind: 'random_integer', below: 2 ** 48 }],
      [{ kind: 'text', text: '5' }],
    ]);
    expect(pgbenchScripts([drawn])[0]?.text).toContain(
      `\\set random0_0 random(0, ${2 ** 48 - 1})\nselect ':random0_0', '5';`,
    );
  });

  it('finds ids inside documents', () => {
    expect(plan.statements[3]?.parameters[0]).toEqual([
      { kind: 'text', text: '{"allocation":"' },
      { kind: 'fresh_uuid', number: 0 },
      { kind: 'text', text: `","user":"${CALLER}","node":"` },
      { kind: 'result', statement: 1, row: 0, column: 'node_id' },
      { kind: 'text', text: '"}' },
    ]);
  });

  it('runs together what ran together, and nothing else', () => {
    const parallel = (text: string) =>
      trace([statement('select 1', []), statement('select 2', []), statement(text, [])], (_each, index) =>
        index < 2
          ? { connection: index + 1, startedAt: index, endedAt: index + 2 }
          : { connection: 1, startedAt: 4, endedAt: 5 },
      );
    expect(planOf(parallel('select 3'), parallel('select 3')).statements.map(({ group }) => group)).toEqual([0, 0, 1]);
  });

  it('is refused where two requests ran different statements', () => {
    expect(() => planOf(trace([statement('select 1', [])]), trace([statement('select 2', [])]))).toThrow('different');
  });

  it('becomes a script for pgbench with the same flow of data', () => {
    const script = pgbenchScripts([plan, plan])[0]?.text ?? '';
    expect(script).toContain('\\if :client_id = 0\n\\set fresh0a random');
    expect(script).toContain("select node where sku = 'h200' \\gset s1_\n");
    expect(script).toContain(
      `insert into allocations values (':fresh0a-0000-4000-8000-:fresh0b', ':s1_node_id', '${CALLER}', ` +
        "(clock_timestamp() + interval '1800000 milliseconds'), NULL);",
    );
    expect(script).toContain('\\elif :client_id = 1\n');
    expect(script.trimEnd().endsWith('\\endif')).toBe(true);
  });

  it('is spread over several scripts where one would be too long for pgbench', () => {
    const scripts = pgbenchScripts(Array.from({ length: 64 }, () => plan));
    expect(scripts.reduce((sum, { clients }) => sum + clients, 0)).toBe(64);
    for (const { text } of scripts) expect(text.split('\n').length).toBeLessThan(128);
  });

  it('keeps variables of pgbench apart from a colon before them', () => {
    const named = (id: string) => trace([statement('select $1', [`allocation:${id}`])]);
    const script = pgbenchScripts([planOf(named(uuid(1)), named(uuid(2)))])[0]?.text;
    expect(script).toContain("select ('allocation:' || ':fresh0a-0000-4000-8000-:fresh0b');");
  });
});
