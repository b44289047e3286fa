import { execFileSync } from 'node:child_process';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { median, rounded } from './statistics.js';

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly memoryGibibytes: number;
  readonly system: string;
  readonly node: string;
  /** median of fdatasync after a write of 8 KiB, where the database lies: what a lone commit waits for */
  readonly syncMilliseconds: number;
  /** programs that wanted a core, on average over the minute before the run: well below the cores on a quiet machine */
  readonly loadBefore: number;
}

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** What a result depends on beside the program. `directory` is where the database will lie. */
export function describeMachine(directory: string): Machine {
  const processors = os.cpus();
  return {
    processor: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryGibibytes: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    syncMilliseconds: rounded(measureSync(directory)),
    loadBefore: rounded(os.loadavg()[0] ?? 0),
  };
}

function measureSync(directory: string): number {
  const folder = mkdtempSync(path.join(directory, 'sync-'));
  const file = openSync(path.join(folder, 'probe'), 'w');
  const page = Buffer.alloc(8192, 1);
  try {
    const times = Array.from({ length: 50 }, () => {
      const start = performance.now();
      writeSync(file, page);
      fdatasyncSync(file);
      return performance.now() - start;
    });
    return median(times);
  } finally {
    closeSync(file);
    rmSync(folder, { recursive: true });
  }
}

/** The commit that is checked out, with `+` where tracked files differ from it. */
export function currentCommit(): string {
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim();
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!benchmarks/results') !== '';
    return git('rev-parse', 'HEAD') + (changed ? '+' : '');
  } catch {
    return 'unknown';
  }
}
