import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fchmodSync,
  fstatSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
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
  const existing = readSecret(path);
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

/**
 * The secret in a file; null where there is none. Takes the file back from readers other than its owner. Throws where it
 * is empty: no secret at all would pass for one.
 */
function readSecret(path: string): string | null {
  try {
    const file = openSync(path, 'r');
    try {
      if ((fstatSync(file).mode & 0o077) !== 0) fchmodSync(file, 0o600);
      const value = readFileSync(file, 'utf8').trim();
      if (value === '') throw new Error(`the secret file ${path} is empty`);
      return value;
    } finally {
      closeSync(file);
    }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
