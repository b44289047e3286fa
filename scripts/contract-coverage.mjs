#!/usr/bin/env node
// How far the product keeps the contract: per domain the documented operations, those bound to a handler, and those
// that the tests saw succeed, with how many were seen refusing in each way.
//   npm run contract:coverage -- [--operations] [--domain NAME] [--json]
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    operations: { type: 'boolean', default: false },
    domain: { type: 'string' },
  },
});

const tableFile = join(root, 'packages/contract/generated/operations.json');
if (!existsSync(tableFile)) {
  const build = spawnSync(process.execPath, [join(root, 'packages/contract/scripts/build.mjs')], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (build.status !== 0) process.exit(1);
}
const table = JSON.parse(readFileSync(tableFile, 'utf8'));
const domains = [...new Set(table.map(({ domain }) => domain))];
if (options.domain !== undefined && !domains.includes(options.domain)) {
  console.error(`unknown domain ${options.domain}: one of ${domains.join(', ')}`);
  process.exit(2);
}

const bound = boundOperations();
const seen = seenStatuses();
const operations = table
  .filter(({ domain }) => options.domain === undefined || domain === options.domain)
  .map((entry) => {
    const statuses = [...(seen.get(entry.operationId) ?? [])].sort();
    return {
      operationId: entry.operationId,
      domain: entry.domain,
      // Every spelling that the contract states counts; spellings share the handler.
      count: entry.routes.filter(({ documented }) => documented).length,
      bound: bound.has(entry.operationId),
      exercised: statuses.some(isSuccess),
      statuses,
    };
  });

const summary = { domains: {}, ...totalsOf(operations) };
for (const domain of domains)
  if (options.domain === undefined || options.domain === domain)
    summary.domains[domain] = totalsOf(operations.filter((operation) => operation.domain === domain));

if (options.json) console.log(JSON.stringify(summary));
else {
  if (options.operations) printOperations();
  printDomains();
}

function totalsOf(some) {
  const sum = (chosen) => chosen.reduce((total, { count }) => total + count, 0);
  return {
    total: sum(some),
    bound: sum(some.filter((operation) => operation.bound)),
    exercised: sum(some.filter((operation) => operation.exercised)),
  };
}

/** Ids of the operations that the built control plane binds; none where it was not built. */
function boundOperations() {
  const program = join(root, 'services/control-plane/dist/app/print-bound-operations.js');
  if (!existsSync(program)) return new Set();
  const run = spawnSync(process.execPath, [program], { encoding: 'utf8', maxBuffer: 16 * 1024 * 1024 });
  if (run.status !== 0) {
    console.error(`the list of bound operations could not be read:\n${run.stderr}`);
    process.exit(1);
  }
  return new Set(JSON.parse(run.stdout));
}

/** Statuses that tests saw, by operation. A line that a killed test process left half-written is skipped. */
function seenStatuses() {
  const directory = join(root, '.data/coverage/operations');
  const statuses = new Map();
  if (!existsSync(directory)) return statuses;
  for (const name of readdirSync(directory).filter((file) => file.endsWith('.jsonl')))
    for (const line of readFileSync(join(directory, name), 'utf8').split('\n')) {
      const record = parseRecord(line);
      if (record === undefined) continue;
      const known = statuses.get(record.operationId) ?? new Set();
      statuses.set(record.operationId, known.add(record.status));
    }
  return statuses;
}

function parseRecord(line) {
  try {
    const record = JSON.parse(line);
    return typeof record?.operationId === 'string' && Number.isInteger(record.status) ? record : undefined;
  } catch {
    return undefined;
  }
}

function isSuccess(status) {
  return status >= 200 && status < 300;
}

function printOperations() {
  for (const operation of operations) printOperation(operation);
  const unproven = operations.filter((operation) => operation.bound && !operation.exercised);
  console.log(`\n${unproven.length} bound operations that no test saw succeed${unproven.length === 0 ? '' : ':'}`);
  for (const operation of unproven) printOperation(operation);
  console.log();
}

function printOperation({ operationId, domain, bound: isBound, statuses }) {
  console.log(
    `${domain.padEnd(9)} ${isBound ? 'bound  ' : 'unbound'} ${operationId.padEnd(58)} ${statuses.join(' ') || '-'}`,
  );
}

function printDomains() {
  const refusals = [
    ...new Set(operations.flatMap(({ statuses }) => statuses.filter((status) => !isSuccess(status)))),
  ].sort();
  const header = ['domain', 'total', 'bound', '2xx', ...refusals.map(String)];
  const rowOf = (name, some) => {
    const { total, bound: boundCount, exercised } = totalsOf(some);
    const refusing = refusals.map((status) => totalsOf(some.filter(({ statuses }) => statuses.includes(status))).total);
    return [name, total, boundCount, exercised, ...refusing].map(String);
  };
  const rows = [
    header,
    ...Object.keys(summary.domains).map((domain) =>
      rowOf(
        domain,
        operations.filter((operation) => operation.domain === domain),
      ),
    ),
    rowOf('all', operations),
  ];
  const widths = header.map((_title, column) => Math.max(...rows.map((row) => row[column].length)));
  for (const row of rows)
    console.log(
      row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join('  '),
    );
}
