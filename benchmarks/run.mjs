// `npm run bench:<name> -- --flag=value`: builds what is not built yet and runs one benchmark.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ensureBuilt, ensureInstalled, requireNode, root } from '../scripts/prepare.mjs';

const [name, ...flags] = process.argv.slice(2);
requireNode();
ensureInstalled();
ensureBuilt();
const child = spawn(process.execPath, [join(root, 'benchmarks', 'dist', `${name}.js`), ...flags], { stdio: 'inherit' });
// A terminal's Ctrl-C reaches the benchmark as well; it stops what it has started, and then we end with it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.once('exit', (code) => process.exit(code ?? 1));
