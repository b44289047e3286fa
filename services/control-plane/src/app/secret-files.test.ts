import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ensureSecretFile } from './secret-files.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'secret-files-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const modeOf = (name: string) => statSync(join(directory, name)).mode & 0o777;

describe('a secret file', () => {
  it('is made once, readable by its owner alone, and read from then on', () => {
    expect(ensureSecretFile(directory, 'key', () => 'first')).toEqual({ value: 'first', created: true });
    expect(ensureSecretFile(directory, 'key', () => 'second')).toEqual({ value: 'first', created: false });
    expect(modeOf('key')).toBe(0o600);
  });

  it('that others could read is taken back from them', () => {
    writeFileSync(join(directory, 'key'), 'copied\n');
    chmodSync(join(directory, 'key'), 0o644);
    expect(ensureSecretFile(directory, 'key', () => 'other').value).toBe('copied');
    expect(modeOf('key')).toBe(0o600);
  });

  it('that is empty opens nothing', () => {
    writeFileSync(join(directory, 'key'), '\n', { mode: 0o600 });
    expect(() => ensureSecretFile(directory, 'key', () => 'other')).toThrow(/key.*empty/);
  });
});
