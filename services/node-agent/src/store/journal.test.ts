import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock } from '@gpuaas/kernel';
import type { TaskEnvelope, TaskResultRequest } from '@gpuaas/node-protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silentLog } from '../testing/fixtures.js';
import { openFileStore } from './file-store.js';
import { Journal, replay } from './journal.js';
import { createMemoryStore } from './memory-store.js';
import type { StateStore } from './state-store.js';

const start = new Date('2026-05-01T00:00:00Z');

const envelope = (task_id: string, expires_at = '2026-05-01T01:00:00Z'): TaskEnvelope => ({
  task_id,
  task_type: 'node.drain',
  node_id: 'node-1',
  correlation_id: 'c',
  issued_at: '2026-05-01T00:00:00Z',
  expires_at,
  params: { text: 'a line\nwith a break' },
  signature: 'k.s',
});
const result = (text: string): TaskResultRequest => ({
  status: 'success',
  completed_at: '2026-05-01T00:00:01Z',
  output: { text },
});
const open = (store: StateStore, clock = new ManualClock(start)) => Journal.open(store, clock, silentLog);

describe('the journal', () => {
  it('finds after a restart what was begun, noted, finished and answered', async () => {
    const store = createMemoryStore();
    const [begun, finished, answered] = [randomUUID(), randomUUID(), randomUUID()];
    const journal = await open(store);
    for (const id of [begun, finished, answered]) await journal.start(envelope(id));
    await journal.note(begun, 'boot_id', 'x');
    await journal.finish(envelope(finished), result('f'));
    await journal.finish(envelope(answered), result('a'));
    await journal.delivered(answered, true);
    await journal.close();

    const again = await open(store);
    expect(again.unfinished()).toMatchObject([{ envelope: envelope(begun), attempt: 1 }]);
    expect(again.unfinished()[0]?.notes).toEqual(new Map([['boot_id', 'x']]));
    expect(again.finished().map((task) => [task.taskId, task.accepted, task.result])).toEqual([
      [finished, null, result('f')],
      [answered, true, result('a')],
    ]);
    expect((await again.start(envelope(begun))).attempt).toBe(2);
  });

  it('is the same wherever its last line breaks off, less that line', async () => {
    const store = createMemoryStore();
    const journal = await open(store);
    const ids = Array.from({ length: 6 }, () => randomUUID());
    for (const id of ids) {
      await journal.start(envelope(id));
      await journal.finish(envelope(id), result(id));
      await journal.delivered(id, true);
    }
    const whole = (await store.read('journal.jsonl')) ?? '';
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.length }), fc.string(), async (length, garbage) => {
        const kept = whole.slice(0, length);
        // A line that lacks nothing but its end is whole.
        const complete = whole[length] === '\n' ? `${kept}\n` : kept.slice(0, kept.lastIndexOf('\n') + 1);
        const torn = createMemoryStore();
        await torn.write('journal.jsonl', kept + (kept === complete ? garbage.replaceAll('\n', ' ') : ''));
        const opened = await open(torn);
        expect([...replay((await torn.read('journal.jsonl')) ?? '').tasks]).toEqual([...replay(complete).tasks]);
        // What is appended now stands on a line of its own.
        const next = randomUUID();
        await opened.start(envelope(next));
        expect((await open(torn)).find(next)).toMatchObject({ state: 'started' });
      }),
      { numRuns: 60 },
    );
  });

  it('keeps lines that it cannot read aside', async () => {
    const store = createMemoryStore();
    await store.write('journal.jsonl', `{"event":"finis\n{"event":"other"}\n`);
    await open(store);
    expect(await store.read('journal.jsonl.damaged')).toBe(`{"event":"finis\n{"event":"other"}\n`);
    expect(await store.read('journal.jsonl')).toBe('');
  });

  it('forgets answered tasks an hour after they expired, and nothing else', async () => {
    const store = createMemoryStore();
    const clock = new ManualClock(start);
    const journal = await open(store, clock);
    const [old, recent, unanswered, begun] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
    await journal.finish(envelope(old), result('o'));
    await journal.delivered(old, true);
    await journal.finish(envelope(recent, '2026-05-01T01:30:00Z'), result('r'));
    await journal.delivered(recent, false);
    await journal.finish(envelope(unanswered), result('u'));
    await journal.start(envelope(begun));
    clock.advance(2 * 3_600_000 + 1);
    const again = await open(store, clock);
    expect([old, recent, unanswered, begun].map((id) => again.find(id)?.state)).toEqual([
      undefined,
      'finished',
      'finished',
      'started',
    ]);
  });

  it('loses no line that is written while it is compacted', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'gpuaas-journal-'));
    const store = await openFileStore(directory);
    const clock = new ManualClock(start);
    const journal = await open(store, clock);
    const ids = Array.from({ length: 8 * 40 }, () => randomUUID());
    const big = result('x'.repeat(20_000));
    for (let first = 0; first < ids.length; first += 8) {
      await Promise.all(
        ids.slice(first, first + 8).map(async (id) => {
          await journal.finish(envelope(id), big);
          await journal.delivered(id, true);
          await journal.finish(envelope(id), result('last'));
        }),
      );
    }
    await journal.close();
    const again = await open(store, clock);
    expect(
      again
        .finished()
        .map((task) => [task.taskId, task.result.output.text])
        .sort(),
    ).toEqual(ids.map((id) => [id, 'last']).sort());
    await again.close();
    await store.close();
    await rm(directory, { recursive: true });
  });

  it('does not grow with the number of tasks that it has forgotten', async () => {
    const store = createMemoryStore();
    const clock = new ManualClock(start);
    const journal = await open(store, clock);
    for (let number = 0; number < 3000; number += 1) {
      clock.advance(60_000);
      const expires = new Date(clock.now().getTime() + 60_000).toISOString();
      const task = envelope(randomUUID(), expires);
      await journal.start(task);
      await journal.finish(task, result('x'.repeat(100)));
      await journal.delivered(task.task_id, true);
    }
    expect(((await store.read('journal.jsonl')) ?? '').length).toBeLessThan(600 * 1024);
  });
});
