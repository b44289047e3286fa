#!/usr/bin/env node
// Derives everything generated from contract/: the served document, the operation table, the types and the summary
// of what was corrected. Does nothing when neither the contract nor the derivation changed. `--force` always builds.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import {
  clientDirectory,
  correctionsFile,
  deriveContract,
  generatedDirectory,
  openapiDirectory,
  packageDirectory,
  sourceDirectory,
  summaryFile,
} from './lib/contract.mjs';
import { operationsOf } from './lib/document.mjs';
import { contractFiles } from './lib/load.mjs';
import { buildOperationTable } from './lib/operation-table.mjs';
import { summaryOf } from './lib/summary.mjs';
import { clientRoutesSource, errorCodesSource, idsSource, tableSource, typesOf } from './lib/typescript.mjs';

const scriptFiles = readdirSync(join(packageDirectory, 'scripts'), { recursive: true })
  .filter((name) => name.endsWith('.mjs') && !name.endsWith('.test.mjs'))
  .sort()
  .map((name) => join(packageDirectory, 'scripts', name));
const inputs = [
  ...contractFiles(openapiDirectory),
  correctionsFile,
  ...scriptFiles,
  join(packageDirectory, 'package.json'),
];
const hash = createHash('sha256');
for (const file of inputs)
  hash.update(relative(packageDirectory, file)).update('\0').update(readFileSync(file)).update('\0');
const inputsHash = hash.digest('hex');

const stamp = join(generatedDirectory, 'inputs.sha256');
const outputs = [
  join(generatedDirectory, 'openapi.json'),
  join(generatedDirectory, 'operations.json'),
  join(generatedDirectory, 'changed-facts.json'),
  join(sourceDirectory, 'openapi.ts'),
  join(sourceDirectory, 'operation-table.ts'),
  join(sourceDirectory, 'operation-ids.ts'),
  join(sourceDirectory, 'error-codes.ts'),
  join(clientDirectory, 'routes.ts'),
  summaryFile,
];
const isCurrent = outputs.every(existsSync) && existsSync(stamp) && readFileSync(stamp, 'utf8') === inputsHash;
if (isCurrent && !process.argv.includes('--force')) process.exit(0);

const started = performance.now();
const derived = deriveContract();
const { document } = derived;
const table = buildOperationTable(
  document,
  new Set(operationsOf(derived.source).map(({ operation }) => operation.operationId)),
);
mkdirSync(generatedDirectory, { recursive: true });
mkdirSync(sourceDirectory, { recursive: true });
mkdirSync(clientDirectory, { recursive: true });
const contents = [
  JSON.stringify(document),
  JSON.stringify(table),
  `${JSON.stringify(derived.changedFacts, null, 2)}\n`,
  await typesOf(document),
  tableSource(table),
  idsSource(document, table),
  errorCodesSource(document),
  clientRoutesSource(table),
  summaryOf(derived, table),
];
for (const [index, file] of outputs.entries()) replaceFile(file, contents[index]);
replaceFile(stamp, inputsHash);
console.log(
  `contract: ${table.length} operations on ${table.reduce((sum, { routes }) => sum + routes.length, 0)} routes, ${Math.round(performance.now() - started)} ms`,
);

/** A reader never sees half a file, and an unchanged file keeps its time so that nothing is compiled again. */
function replaceFile(file, text) {
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return;
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, file);
}
