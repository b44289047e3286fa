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
