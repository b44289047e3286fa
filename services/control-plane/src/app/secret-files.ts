import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * Reads a secret that a first start made, or makes it: written whole under another name, forced to disk, then linked
 * into place, so that two starts at once and a crash in between leave exactly one complete file. Mode 0600.
 */
export function ensureSecretFile(
  directory: string,
  name: string,
  generate: () => string,
): { value: string; created: boolean } {
  const path = join(directory, name);
  const existing = readIfPresent(path);
  if (existing !== null) return { value: existing, created: false };

  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const temporary = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  const file = openSync(temporary, 'wx', 0o600);
  try {
    writeSync(file, `${generate()}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  let created = true;
  try {
    linkSync(temporary, path);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    created = false;
  } finally {
    unlinkSync(temporary);
  }
  return { value: readFileSync(path, 'utf8').trim(), created };
}

function readIfPresent(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
