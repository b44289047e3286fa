#!/usr/bin/env node
// Writes docs/authorization-matrix.md from the policy table of the edge; with --check only compares and fails on a
// difference. Compiles the control plane first, so that the matrix is that of the sources.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const document = join(root, 'docs', 'authorization-matrix.md');
const compiled = join(root, 'services', 'control-plane', 'dist', 'edge', 'policy', 'matrix.js');

const build = spawnSync(join(root, 'node_modules', '.bin', 'tsc'), ['-b', 'services/control-plane'], {
  cwd: root,
  encoding: 'utf8',
});
// Errors elsewhere in the control plane are the type check's to report; here only the policy counts.
const policyErrors = `${build.stdout}`.split('\n').filter((line) => line.includes('src/edge/policy/'));
if (policyErrors.length > 0 || !existsSync(compiled)) {
  console.error(policyErrors.join('\n') || build.stdout || build.stderr || 'the control plane did not compile');
  process.exit(1);
}

const { renderAuthorizationMatrix } = await import(pathToFileURL(compiled).href);
const rendered = renderAuthorizationMatrix();
const current = existsSync(document) ? readFileSync(document, 'utf8') : '';
const name = relative(root, document);

if (rendered === current) {
  console.log(`${name} is current`);
} else if (process.argv.includes('--check')) {
  const [wanted, found] = [rendered.split('\n'), current.split('\n')];
  const changed = wanted.filter((line) => !found.includes(line));
  console.error(`${name} is not what the policy says; run \`npm run authz:matrix\` and review the change:`);
  console.error(changed.slice(0, 20).join('\n'));
  process.exit(1);
} else {
  writeFileSync(document, rendered);
  console.log(`${name} written`);
}
