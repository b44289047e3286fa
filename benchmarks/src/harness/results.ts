import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Machine } from './machine.js';
import { median, rounded } from './statistics.js';

export interface Aim {
  readonly kind: 'at_least' | 'at_most';
  readonly value: number;
}

/** One number of a benchmark: the median of its rounds, and what it should be. */
export interface Measure {
  readonly title: string;
  readonly unit: string;
  readonly value: number;
  readonly rounds: readonly number[];
  readonly aim: Aim | null;
  /** what explains the number: latencies, counts, sizes */
  readonly details: Readonly<Record<string, number | string>>;
}

export interface BenchmarkResult {
  readonly name: string;
  readonly title: string;
  /** one paragraph: what is compared with what, and how */
  readonly method: string;
  readonly commit: string;
  readonly measuredAt: string;
  readonly tookSeconds: number;
  readonly machine: Machine;
  readonly parameters: Readonly<Record<string, number | string | boolean>>;
  readonly measures: readonly Measure[];
}

export const resultsDirectory = fileURLToPath(new URL('../../results/', import.meta.url));

export function measure(
  title: string,
  unit: string,
  rounds: readonly number[],
  aim: Aim | null = null,
  details: Measure['details'] = {},
): Measure {
  return { title, unit, value: rounded(median(rounds)), rounds: rounds.map(rounded), aim, details };
}

export const atLeast = (value: number): Aim => ({ kind: 'at_least', value });
export const atMost = (value: number): Aim => ({ kind: 'at_most', value });

export function meetsAim(measured: Pick<Measure, 'value' | 'aim'>): boolean | null {
  if (measured.aim === null) return null;
  return measured.aim.kind === 'at_least' ? measured.value >= measured.aim.value : measured.value <= measured.aim.value;
}

/** Writes `results/<name>.json`, whole or not at all. */
export async function writeResult(result: BenchmarkResult, directory = resultsDirectory): Promise<string> {
  await mkdir(directory, { recursive: true });
  const file = path.join(directory, `${result.name}.json`);
  await writeFile(`${file}.tmp`, `${JSON.stringify(result, null, 2)}\n`);
  await rename(`${file}.tmp`, file);
  return file;
}

/** Every result in the directory, by name. Throws for a file that is not one. */
export async function readResults(directory = resultsDirectory): Promise<readonly BenchmarkResult[]> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.json')).sort();
  return Promise.all(
    names.map(async (name) => {
      const value: unknown = JSON.parse(await readFile(path.join(directory, name), 'utf8'));
      if (!isResult(value)) throw new Error(`${name} is not a result of a benchmark`);
      return value;
    }),
  );
}

function isResult(value: unknown): value is BenchmarkResult {
  return (
    isRecord(value) &&
    ['name', 'title', 'method', 'commit', 'measuredAt'].every((key) => typeof value[key] === 'string') &&
    typeof value.tookSeconds === 'number' &&
    isRecord(value.machine) &&
    isRecord(value.parameters) &&
    Array.isArray(value.measures) &&
    value.measures.every(isMeasure)
  );
}

function isMeasure(value: unknown): value is Measure {
  return (
    isRecord(value) &&
    typeof value.title === 'string' &&
    typeof value.unit === 'string' &&
    typeof value.value === 'number' &&
    Array.isArray(value.rounds) &&
    value.rounds.every((round) => typeof round === 'number') &&
    (value.aim === null || (isRecord(value.aim) && typeof value.aim.value === 'number')) &&
    isRecord(value.details)
  );
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** The measure as lines for a terminal. */
export function printedMeasure(measured: Measure): string {
  const met = meetsAim(measured);
  const aim = measured.aim ? `, aim ${measured.aim.kind === 'at_least' ? '≥' : '≤'} ${measured.aim.value}` : '';
  const verdict = met === null ? '' : met ? ': met' : ': MISSED';
  const details = Object.entries(measured.details).map(([name, value]) => `${name} ${value}`);
  const explained = details.length > 0 ? `\n    ${details.join(', ')}` : '';
  return `${measured.title}: ${measured.value} ${measured.unit}${aim}${verdict}${explained}`;
}
