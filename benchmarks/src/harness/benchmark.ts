import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { currentCommit, describeMachine } from './machine.js';
import { repository } from './programs.js';
import { type BenchmarkResult, type Measure, printedMeasure, writeResult } from './results.js';

export interface BenchmarkRun {
  /** for databases and files; removed at the end */
  readonly directory: string;
  /** where CPU profiles of the measured programs go; null without --profile */
  readonly profileDirectory: string | null;
  /** Registers what must be stopped at the end; the last one first. */
  cleanUp(undo: () => Promise<unknown>): void;
  /** Adds a number to the result. */
  add(measure: Measure): void;
  say(text: string): void;
}

export interface Benchmark {
  readonly name: string;
  readonly title: string;
  readonly method: string;
  readonly parameters: Readonly<Record<string, number | string | boolean>>;
  /** the program ends itself with an error when it takes longer */
  readonly deadlineSeconds: number;
  /** keep CPU profiles of the measured programs */
  readonly profile?: boolean;
  run(run: BenchmarkRun): Promise<void>;
}

/** Runs a benchmark from its first file to its result, and stops everything that it has started. */
export async function runBenchmark(benchmark: Benchmark): Promise<void> {
  const started = performance.now();
  const data = path.join(repository, '.data', 'benchmarks');
  await mkdir(data, { recursive: true });
  const directory = await mkdtemp(path.join(data, `${benchmark.name}-`));
  const profileDirectory = benchmark.profile ? path.join(data, `profiles-${benchmark.name}`) : null;
  const undo: (() => Promise<unknown>)[] = [];
  const measures: Measure[] = [];

  let finished: Promise<void> | null = null;
  const finish = (): Promise<void> => {
    finished ??= (async () => {
      for (const step of undo.reverse()) {
        await step().catch((error: unknown) => process.stderr.write(`${benchmark.name}: ${String(error)}\n`));
      }
      await rm(directory, { recursive: true, force: true });
    })();
    return finished;
  };
  const abandon = (why: string) => {
    process.stderr.write(`${benchmark.name}: ${why}\n`);
    const hard = setTimeout(() => process.exit(1), 30_000);
    hard.unref();
    void finish().finally(() => process.exit(1));
  };
  const deadline = setTimeout(
    () => abandon(`took longer than ${benchmark.deadlineSeconds} s`),
    benchmark.deadlineSeconds * 1000,
  );
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => abandon(`${signal}`));

  process.stdout.write(`${benchmark.title}\n`);
  try {
    const machine = describeMachine(directory);
    await benchmark.run({
      directory,
      profileDirectory,
      cleanUp: (step) => void undo.push(step),
      add: (each) => {
        measures.push(each);
        process.stdout.write(`  ${printedMeasure(each)}\n`);
      },
      say: (text) => void process.stderr.write(`  … ${text}\n`),
    });
    const result: BenchmarkResult = {
      name: benchmark.name,
      title: benchmark.title,
      method: benchmark.method,
      commit: currentCommit(),
      measuredAt: new Date().toISOString(),
      tookSeconds: Math.round((performance.now() - started) / 1000),
      machine,
      parameters: benchmark.parameters,
      measures,
    };
    const file = await writeResult(result);
    process.stdout.write(
      `${benchmark.title}: ${result.tookSeconds} s, written to ${path.relative(repository, file)}\n`,
    );
  } catch (error) {
    process.exitCode = 1;
    process.stderr.write(
      `${benchmark.name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
    if (error instanceof Error && error.cause !== undefined) process.stderr.write(`  cause: ${String(error.cause)}\n`);
  } finally {
    clearTimeout(deadline);
    await finish();
  }
}
