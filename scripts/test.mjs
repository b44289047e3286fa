// `npm test`: installs, builds, and runs every test. Arguments go to the test runner.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensureBuilt, ensureInstalled, requireNode, root } from './prepare.mjs';

requireNode();
ensureInstalled();
ensureBuilt();
const chosen = process.argv.slice(2);
if (chosen.length === 0) rmSync(join(root, '.data', 'coverage'), { recursive: true, force: true });
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
const result = spawnSync(process.execPath, [vitest, 'run', ...chosen], { cwd: root, stdio: 'inherit' });
process.exit(result.status ?? 1);
