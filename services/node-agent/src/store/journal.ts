import type { Clock, Logger } from '@gpuaas/kernel';
import { type TaskEnvelope, type TaskResultRequest, taskEnvelope, taskResultRequest } from '@gpuaas/node-protocol';
import { z } from 'zod';
import type { AppendLog, StateStore } from './state-store.js';

const NAME = 'journal.jsonl';
/** A finished task is remembered this long past its expiry, after which its envelope is refused as expired anyway. */
const REMEMBER_AFTER_EXPIRY_MS = 3_600_000;
const COMPACT_ABOVE_BYTES = 256 * 1024;
const COMPACT_WHEN_GROWN_BY = 4;

const entry = z.discriminatedUnion('event', [
  z.object({ event: z.literal('started'), envelope: taskEnvelope, attempt: z.int().positive() }),
  z.object({ event: z.literal('noted'), task_id: z.string(), key: z.string(), value: z.string() }),
  z.object({
    event: z.literal('finished'),
    task_id: z.string(),
    task_type: z.string(),
    expires_at: z.string(),
    result: taskResultRequest,
  }),
  z.object({ event: z.literal('delivered'), task_id: z.string(), accepted: z.boolean() }),
]);
type Entry = z.infer<typeof entry>;

export type JournalTask =
  | { state: 'started'; envelope: TaskEnvelope; attempt: number; notes: ReadonlyMap<string, string> }
  | {
      state: 'finished';
      taskId: string;
      taskType: string;
      expiresAt: string;
      result: TaskResultRequest;
      /** Null until the result was answered; then whether it was the one that counted. */
      accepted: boolean | null;
    };
export type StartedTask = Extract<JournalTask, { state: 'started' }>;
export type FinishedTask = Extract<JournalTask, { state: 'finished' }>;

/**
 * What this host did for the control plane, line by line, each on disk before the step that follows from it: a task is
 * `started` before its first effect, `finished` before its result is sent, `delivered` after it was answered.
 */
export class Journal {
  readonly #tasks: Map<string, JournalTask>;
  readonly #log: AppendLog;
  readonly #logger: Logger;
  readonly #clock: Clock;
  #sizeWhenCompact: number;
  readonly #appending = new Set<Promise<void>>();
  #compacting: Promise<void> | null = null;

  private constructor(log: AppendLog, tasks: Map<string, JournalTask>, clock: Clock, logger: Logger) {
    this.#logger = logger;
    this.#log = log;
    this.#tasks = tasks;
    this.#clock = clock;
    this.#sizeWhenCompact = log.size();
  }

  /** Reads what is there. A last line that a dying writer left incomplete is cut off: nothing followed from it. */
  static async open(store: StateStore, clock: Clock, log: Logger): Promise<Journal> {
    const file = await store.openLog(NAME);
    const { tasks, damaged } = replay(file.content);
    if (damaged.length > 0) {
      log.warn({ lines: damaged.length }, 'the journal has lines that cannot be read');
      await store.write(`${NAME}.damaged`, `${damaged.join('\n')}\n`);
    }
    const journal = new Journal(file, tasks, clock, log);
    if (file.content !== '') await journal.#compact();
    return journal;
  }

  find(taskId: string): JournalTask | undefined {
    return this.#tasks.get(taskId);
  }

  unfinished(): StartedTask[] {
    return [...this.#tasks.values()].filter((task) => task.state === 'started');
  }

  finished(): FinishedTask[] {
    return [...this.#tasks.values()].filter((task) => task.state === 'finished');
  }

  /** Records that the task's effects may begin. Returns its record, with the number of this attempt. */
  async start(envelope: TaskEnvelope): Promise<StartedTask> {
    const before = this.#tasks.get(envelope.task_id);
    const attempt = before?.state === 'started' ? before.attempt + 1 : 1;
    await this.#append({ event: 'started', envelope, attempt });
    const task = this.#tasks.get(envelope.task_id);
    if (task?.state !== 'started') throw new Error('a started task is not in the journal');
    return task;
  }

  /** Keeps a fact that a task must find again if it is interrupted and runs once more. */
  async note(taskId: string, key: string, value: string): Promise<void> {
    await this.#append({ event: 'noted', task_id: taskId, key, value });
  }

  async finish(
    task: { task_id: string; task_type: string; expires_at: string },
    result: TaskResultRequest,
  ): Promise<void> {
    const { task_id, task_type, expires_at } = task;
    await this.#append({ event: 'finished', task_id, task_type, expires_at, result });
  }

  async delivered(taskId: string, accepted: boolean): Promise<void> {
    await this.#append({ event: 'delivered', task_id: taskId, accepted });
    if (this.#log.size() > COMPACT_ABOVE_BYTES && this.#log.size() > COMPACT_WHEN_GROWN_BY * this.#sizeWhenCompact) {
      // A journal that cannot be shortened now is no worse as a journal; the next answer tries again.
      await this.#compact().catch((error: unknown) =>
        this.#logger.warn({ err: error }, 'the journal was not compacted'),
      );
    }
  }

  async close(): Promise<void> {
    await this.#log.close();
  }

  async #append(line: Entry): Promise<void> {
    while (this.#compacting !== null) await this.#compacting;
    const written = this.#log.append(`${JSON.stringify(line)}\n`).then(() => apply(this.#tasks, line));
    this.#appending.add(written);
    await written.finally(() => this.#appending.delete(written));
  }

  /** Rewrites the file from memory, while no line is on its way to either of them. */
  async #compact(): Promise<void> {
    while (this.#compacting !== null) await this.#compacting;
    this.#compacting = Promise.allSettled(this.#appending)
      .then(() => this.#rewrite())
      .finally(() => {
        this.#compacting = null;
      });
    await this.#compacting;
  }

  async #rewrite(): Promise<void> {
    const forgetBefore = this.#clock.now().getTime() - REMEMBER_AFTER_EXPIRY_MS;
    for (const [taskId, task] of this.#tasks) {
      if (task.state === 'finished' && task.accepted !== null && Date.parse(task.expiresAt) < forgetBefore) {
        this.#tasks.delete(taskId);
      }
    }
    await this.#log.rewrite(
      [...this.#tasks.values()]
        .flatMap(linesOf)
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    );
    this.#sizeWhenCompact = this.#log.size();
  }
}

/** The state that the lines of a journal add up to; lines that cannot be read are returned, not guessed. */
export function replay(content: string): { tasks: Map<string, JournalTask>; damaged: string[] } {
  const tasks = new Map<string, JournalTask>();
  const damaged: string[] = [];
  for (const line of content.split('\n')) {
    if (line === '') continue;
    const parsed = parseLine(line);
    if (parsed === null) damaged.push(line);
    else apply(tasks, parsed);
  }
  return { tasks, damaged };
}

function parseLine(line: string): Entry | null {
  try {
    const parsed = entry.safeParse(JSON.parse(line));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

function apply(tasks: Map<string, JournalTask>, line: Entry): void {
  switch (line.event) {
    case 'started': {
      const before = tasks.get(line.envelope.task_id);
      const notes = before?.state === 'started' ? before.notes : new Map<string, string>();
      tasks.set(line.envelope.task_id, { state: 'started', envelope: line.envelope, attempt: line.attempt, notes });
      return;
    }
    case 'noted': {
      const task = tasks.get(line.task_id);
      if (task?.state !== 'started') return;
      tasks.set(line.task_id, { ...task, notes: new Map([...task.notes, [line.key, line.value]]) });
      return;
    }
    case 'finished': {
      const { task_id: taskId, task_type: taskType, expires_at: expiresAt, result } = line;
      tasks.set(taskId, { state: 'finished', taskId, taskType, expiresAt, result, accepted: null });
      return;
    }
    case 'delivered': {
      const task = tasks.get(line.task_id);
      if (task?.state === 'finished') tasks.set(line.task_id, { ...task, accepted: line.accepted });
    }
  }
}

function linesOf(task: JournalTask): Entry[] {
  if (task.state === 'started') {
    const { envelope, attempt, notes } = task;
    const noted = [...notes].map(([key, value]): Entry => ({ event: 'noted', task_id: envelope.task_id, key, value }));
    return [{ event: 'started', envelope, attempt }, ...noted];
  }
  const { taskId: task_id, taskType: task_type, expiresAt: expires_at, result } = task;
  const lines: Entry[] = [{ event: 'finished', task_id, task_type, expires_at, result }];
  return task.accepted === null ? lines : [...lines, { event: 'delivered', task_id, accepted: task.accepted }];
}
