// `npm test`: installs, builds, and runs every test. Arguments go to the test runner. The last line is
// `N passed, N failed`, with `, N skipped` where something was skipped; under GPUAAS_TESTS_MAY_SKIP=no that is a failure.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensureBuilt, ensureInstalled, requireNode, root } from './prepare.mjs';

requireNode();
ensureInstalled();
ensureBuilt();
const chosen = process.argv.slice(2);
if (chosen.length === 0) rmSync(join(root, '.data', 'coverage'), { recursive: true, force: true });

const directory = mkdtempSync(join(tmpdir(), 'gpuaas-test-report-'));
try {
  const reportFile = join(directory, 'report.json');
  const shown = chosen.some((argument) => argument.startsWith('--reporter')) ? [] : ['--reporter=default'];
  const { status } = spawnSync(
    process.execPath,
    [
      join(root, 'node_modules', 'vitest', 'vitest.mjs'),
      'run',
      ...shown,
      '--reporter=json',
      `--outputFile.json=${reportFile}`,
      ...chosen,
    ],
    { cwd: root, stdio: 'inherit' },
  );
  process.exitCode = conclude(status ?? 1, readReport(reportFile));
} finally {
  rmSync(directory, { recursive: true, force: true });
}

/** Prints what did not run and the totals; returns the exit code. */
function conclude(status, report) {
  const passed = report?.numPassedTests ?? 0;
  const skipped = (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0);
  // A file that could not be loaded, a failing hook or a stray error fails the run without a test of its own.
  const failed = Math.max(report?.numFailedTests ?? 0, status === 0 ? 0 : 1);
  const mustNotSkip = process.env.GPUAAS_TESTS_MAY_SKIP === 'no' && skipped > 0;
  if (mustNotSkip) {
    console.error('Under GPUAAS_TESTS_MAY_SKIP=no nothing may be skipped, but these were:');
    for (const name of skippedTests(report)) console.error(`  ${name}`);
  }
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  return status !== 0 ? status : mustNotSkip ? 1 : 0;
}

function skippedTests(report) {
  const ran = new Set(['passed', 'failed']);
  return report.testResults.flatMap(({ assertionResults }) =>
    assertionResults.filter(({ status }) => !ran.has(status)).map(({ fullName }) => fullName),
  );
}

/** Null where the runner did not get as far as a report. */
function readReport(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return null;
  }
}
