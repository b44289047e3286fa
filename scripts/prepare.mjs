// Brings a clone to the point where its programs can run: dependencies installed as locked, everything built.
// Both steps find out by themselves whether there is anything to do.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

const OLDEST_NODE = [20, 19];

export function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return;
  console.error(`Node ${OLDEST_NODE.join('.')} or newer is needed; this is ${process.version}`);
  process.exit(1);
}

/** Runs a program to its end; its output is shown only when it fails, unless `loud`. */
export function run(command, args, { loud = false } = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: loud ? 'inherit' : 'pipe', encoding: 'utf8' });
  if (result.status === 0) return;
  if (!loud) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
  console.error(`${command} ${args.join(' ')} failed${result.error ? `: ${result.error.message}` : ''}`);
  process.exit(result.status ?? 1);
}

/** Installs the locked dependencies where they are not the installed ones. */
export function ensureInstalled() {
  const lock = join(root, 'package-lock.json');
  const installed = join(root, 'node_modules', '.package-lock.json');
  const stamp = join(root, 'node_modules', '.installed-from');
  const wanted = createHash('sha256').update(readFileSync(lock)).digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  const upToDate = existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs;
  if (!upToDate) {
    console.log('installing dependencies …');
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  }
  writeFileSync(stamp, wanted);
}

export function ensureBuilt() {
  run('npm', ['run', '--silent', 'build']);
}
