import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** All that the package is made of, relative to the repository. */
const INPUTS = [
  'package-lock.json',
  'packages/kernel/package.json',
  'packages/kernel/src',
  'packages/node-protocol/package.json',
  'packages/node-protocol/src',
  'services/node-agent/package.json',
  'services/node-agent/packaging',
  'services/node-agent/scripts',
  'services/node-agent/src',
];

/**
 * Which commit the package is of and when that was made: the last one that touched what is in it, so that a commit
 * elsewhere gives the same bytes and hosts the same digest. Null outside of a repository: what is not known is not made up.
 */
export function commitFacts() {
  const log = git('log', '-1', '--format=%H %cI', '--', ...INPUTS);
  if (log === null || log === '') return { commit: null, builtAt: null };
  const [commit, builtAt] = log.split(' ');
  const changed = git('status', '--porcelain', '--', ...INPUTS) !== '';
  return { commit: changed ? `${commit}-dirty` : commit, builtAt };
}

/** SHA-256 of everything that decides what the package contains, lower-case hex. */
export function inputsDigest() {
  const hash = createHash('sha256').update(JSON.stringify(commitFacts()));
  for (const path of INPUTS.flatMap(filesBelow)) {
    hash
      .update(path)
      .update('\0')
      .update(readFileSync(join(ROOT, path)))
      .update('\0');
  }
  return hash.digest('hex');
}

function filesBelow(path) {
  if (statSync(join(ROOT, path)).isFile()) return [path];
  return readdirSync(join(ROOT, path), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.test.ts'))
    .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length))
    .sort();
}

/** Null where there is no repository or no git. */
function git(...args) {
  try {
    return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return null;
  }
}
