import { describe, expect, it } from 'vitest';
import { createLogger } from './log.js';

function linesOf(write: (log: ReturnType<typeof createLogger>) => void): Record<string, unknown>[] {
  const lines: Record<string, unknown>[] = [];
  write(
    createLogger({
      program: 'test',
      level: 'info',
      destination: { write: (line) => void lines.push(JSON.parse(line)) },
    }),
  );
  return lines;
}

describe('a line about an error', () => {
  it('has its words, those of its causes, its code and where it came from', () => {
    const error = Object.assign(new TypeError('no answer', { cause: new Error('refused') }), { code: 'ECONNREFUSED' });
    const [line] = linesOf((log) => log.error({ err: error }, 'failed'));
    expect(line?.err).toEqual({
      type: 'TypeError',
      message: 'no answer: refused',
      code: 'ECONNREFUSED',
      stack: expect.stringContaining('log.test.ts'),
    });
  });

  it('leaves out what a library has hung on the error', () => {
    const error = Object.assign(new Error('terminated'), { client: { secretKey: -1558783854, password: 'hunter22' } });
    const [line] = linesOf((log) => log.warn({ err: error }, 'broke'));
    expect(JSON.stringify(line)).not.toMatch(/1558783854|hunter22|client/);
  });

  it('shows no secret that stands in its words', () => {
    const error = new Error('connect postgresql://user:hunter22@host/db');
    const [line] = linesOf((log) => log.warn({ err: error }, 'broke'));
    expect(JSON.stringify(line)).not.toContain('hunter22');
  });
});

describe('the fields of a line', () => {
  const token = `eyJhbGciOiJFUzI1NiJ9.${'p'.repeat(40)}.${'s'.repeat(40)}`;

  it('show no secret, whatever they are called and however deep they lie', () => {
    const [line] = linesOf((log) =>
      log.child({ operation: 'login' }).error(
        {
          chain: `failed: connect postgresql://user:hunter22@host/db, Bearer ${token}`,
          client_secret: 'c-secret',
          refresh_token: 'r-secret',
          deep: { a: [{ private_key: 'k-secret' }, token] },
        },
        'failed',
      ),
    );
    const text = JSON.stringify(line);
    for (const secret of ['hunter22', token, 'c-secret', 'r-secret', 'k-secret']) expect(text).not.toContain(secret);
    expect(line).toMatchObject({ operation: 'login', msg: 'failed' });
  });

  it('are otherwise as they were given', () => {
    const at = new Date('2026-01-31T12:00:00Z');
    const [line] = linesOf((log) => log.info({ count: 3, ready: true, none: null, at, list: ['a'] }, 'x'));
    expect(line).toMatchObject({
      count: 3,
      ready: true,
      none: null,
      at: at.toISOString(),
      list: ['a'],
    });
  });
});
