import { readdirSync, readFileSync } from 'node:fs';

/** Of the clock in which Linux counts processor time; fixed for every architecture that Node runs on. */
const MILLISECONDS_A_TICK = 10;

/**
 * Milliseconds of processor time that a process has used, with those of its children where `family` is set. On a busy
 * machine rates fall and this stays, so it tells what a site could do alone. 0 where the system does not say.
 */
export function processorMilliseconds(processId: number, family = false): number {
  const own = statOf(processId);
  if (own === null) return 0;
  if (!family) return own.used * MILLISECONDS_A_TICK;
  let used = own.used + own.endedChildren;
  for (const name of readdirSync('/proc')) {
    const child = /^\d+$/.test(name) ? statOf(Number(name)) : null;
    if (child?.parent === processId) used += child.used;
  }
  return used * MILLISECONDS_A_TICK;
}

interface ProcessStat {
  readonly parent: number;
  readonly used: number;
  readonly endedChildren: number;
}

function statOf(processId: number): ProcessStat | null {
  let text: string;
  try {
    text = readFileSync(`/proc/${processId}/stat`, 'utf8');
  } catch {
    return null;
  }
  // The name of the program may hold spaces and brackets; the numbers begin after the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3] ?? 0);
  return { parent: field(4), used: field(14) + field(15), endedChildren: field(16) + field(17) };
}

/** Counts the processor time of several processes over a stretch of work. */
export class ProcessorMeter<Name extends string> {
  readonly #processes: Readonly<Record<Name, { readonly processId: number; readonly family?: boolean }>>;
  #start = new Map<string, number>();

  constructor(processes: Readonly<Record<Name, { readonly processId: number; readonly family?: boolean }>>) {
    this.#processes = processes;
  }

  start(): void {
    this.#start = this.#read();
  }

  /** Milliseconds since `start`, divided by `units` of work. */
  each(units: number): Readonly<Record<string, number>> {
    return Object.fromEntries(
      [...this.#read()].map(([name, now]) => [name, (now - (this.#start.get(name) ?? now)) / units]),
    );
  }

  #read(): Map<string, number> {
    return new Map(
      Object.entries<{ readonly processId: number; readonly family?: boolean }>(this.#processes).map(
        ([name, { processId, family }]) => [name, processorMilliseconds(processId, family)],
      ),
    );
  }
}
