#!/usr/bin/env node
// Audits what is derived from the contract, and tells whether the generated files and the committed summary are
// current. With CONTRACT_FACTS_CHECK set to a program that compares the served document with the stated facts, runs
// that too: PROGRAM DOCUMENT.json CHANGED-FACTS.json.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { auditDocument } from './lib/audit.mjs';
import { deriveContract, generatedDirectory, summaryFile } from './lib/contract.mjs';
import { operationsOf } from './lib/document.mjs';
import { buildOperationTable } from './lib/operation-table.mjs';
import { summaryOf } from './lib/summary.mjs';

const derived = deriveContract();
const documented = operationsOf(derived.source).map(({ operation }) => operation.operationId);
const table = buildOperationTable(derived.document, new Set(documented));
const findings = auditDocument(derived.document);

const generated = join(generatedDirectory, 'openapi.json');
if (!existsSync(generated) || readFileSync(generated, 'utf8') !== JSON.stringify(derived.document))
  findings.push('the generated document is not current: run npm run contract:build');
if (!existsSync(summaryFile) || readFileSync(summaryFile, 'utf8') !== summaryOf(derived, table))
  findings.push('contract/derivation.summary.md is not current: run npm run contract:build and commit it');

const factsCheck = process.env.CONTRACT_FACTS_CHECK;
if (factsCheck && existsSync(factsCheck)) {
  const run = spawnSync(process.execPath, [factsCheck, generated, join(generatedDirectory, 'changed-facts.json')], {
    encoding: 'utf8',
  });
  if (run.status !== 0) findings.push(`the document does not hold the facts:\n${run.stdout}${run.stderr}`);
}

for (const finding of findings) console.error(finding);
const schemas = Object.keys(derived.document.components.schemas).length;
console.log(`contract: ${table.length} operations, ${schemas} schemas, ${findings.length} findings`);
process.exit(findings.length === 0 ? 0 : 1);
