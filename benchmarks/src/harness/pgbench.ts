import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { endWithUs } from './programs.js';

const INSTALLED = '/usr/lib/postgresql';

/** pgbench as Debian installs it, or on the path; null where there is none. */
export function findPgbench(): string | null {
  const versions = existsSync(INSTALLED) ? readdirSync(INSTALLED).sort((a, b) => Number(b) - Number(a)) : [];
  const candidates = [
    ...versions.map((version) => path.join(INSTALLED, version, 'bin', 'pgbench')),
    ...(process.env.PATH ?? '').split(':').map((directory) => path.join(directory, 'pgbench')),
  ];
  return candidates.find((candidate) => existsSync(candidate)) ?? null;
}

export interface PgbenchResult {
  readonly transactionsPerSecond: number;
  readonly transactions: number;
  readonly averageMilliseconds: number;
}

/** Runs one pgbench a script, all at once, and adds their rates up. */
export async function runPgbenches(
  options: Omit<PgbenchOptions, 'script' | 'clients'>,
  scripts: readonly { readonly file: string; readonly clients: number }[],
): Promise<PgbenchResult> {
  const results = await Promise.all(
    scripts.map(({ file, clients }) => runPgbench({ ...options, script: file, clients })),
  );
  const sum = (pick: (result: PgbenchResult) => number) => results.reduce((total, result) => total + pick(result), 0);
  const transactions = sum((result) => result.transactions);
  return {
    transactions,
    transactionsPerSecond: sum((result) => result.transactionsPerSecond),
    averageMilliseconds: sum((result) => result.averageMilliseconds * result.transactions) / transactions,
  };
}

interface PgbenchOptions {
  readonly program: string;
  readonly databaseUrl: string;
  /** start-up options of the connections, as the application's are */
  readonly connectionOptions: string;
  readonly script: string;
  readonly clients: number;
  readonly seconds: number;
}

/** Runs a script. Throws where a transaction failed: what is compared has to have happened. */
async function runPgbench(options: PgbenchOptions): Promise<PgbenchResult> {
  const url = new URL(options.databaseUrl);
  const child = spawn(
    options.program,
    [
      '-n',
      '-M',
      'simple',
      '-c',
      `${options.clients}`,
      '-j',
      '2',
      '-T',
      `${Math.ceil(options.seconds)}`,
      '-f',
      options.script,
    ],
    {
      env: {
        PATH: process.env.PATH,
        PGHOST: url.hostname,
        PGPORT: url.port,
        PGUSER: url.username,
        PGPASSWORD: decodeURIComponent(url.password),
        PGDATABASE: url.pathname.slice(1),
        PGOPTIONS: options.connectionOptions,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: (options.seconds + 60) * 1000,
      killSignal: 'SIGKILL',
    },
  );
  endWithUs(child);
  let output = '';
  let problems = '';
  child.stdout.on('data', (data: Buffer) => {
    output += data.toString();
  });
  child.stderr.on('data', (data: Buffer) => {
    problems += data.toString();
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const number = (pattern: RegExp): number => Number(pattern.exec(output)?.[1] ?? Number.NaN);
  const transactions = number(/number of transactions actually processed: (\d+)/);
  const transactionsPerSecond = number(/tps = ([\d.]+)/);
  if (code !== 0 || !(transactions > 0) || number(/number of failed transactions: (\d+)/) !== 0) {
    throw new Error(`pgbench: exit ${code}\n${problems.slice(0, 2000)}\n${output.slice(0, 1000)}`);
  }
  return { transactionsPerSecond, transactions, averageMilliseconds: number(/latency average = ([\d.]+)/) };
}
