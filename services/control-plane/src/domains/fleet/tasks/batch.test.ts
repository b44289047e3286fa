import { describe, expect, it } from 'vitest';
import { Batch } from './batch.js';

/** A run that ends when the test says so. */
function controlled() {
  const runs: { items: readonly number[]; end: (error?: Error) => void }[] = [];
  const run = (items: readonly number[]) =>
    new Promise<readonly number[]>((resolve, reject) => {
      runs.push({ items, end: (error) => (error ? reject(error) : resolve(items.map((item) => item * 10))) });
    });
  return { runs, run };
}

describe('a batch', () => {
  it('starts at once and gathers what comes meanwhile', async () => {
    const { runs, run } = controlled();
    const batch = new Batch(run);
    const first = batch.add(1);
    const others = [batch.add(2), batch.add(3)];
    expect(runs.map((one) => one.items)).toEqual([[1]]);
    runs[0]?.end();
    expect(await first).toBe(10);
    await Promise.resolve();
    expect(runs.map((one) => one.items)).toEqual([[1], [2, 3]]);
    runs[1]?.end();
    expect(await Promise.all(others)).toEqual([20, 30]);
  });

  it('fails those of one run together and goes on with the next', async () => {
    const { runs, run } = controlled();
    const batch = new Batch(run);
    const first = batch.add(1);
    const second = batch.add(2);
    runs[0]?.end(new Error('the database is away'));
    await expect(first).rejects.toThrow('the database is away');
    await Promise.resolve();
    runs[1]?.end();
    expect(await second).toBe(20);
  });

  it('never makes a run larger than it may', async () => {
    const sizes: number[] = [];
    const batch = new Batch<number, number>(
      async (items) => {
        sizes.push(items.length);
        return items;
      },
      { largest: 3 },
    );
    const answers = await Promise.all(Array.from({ length: 10 }, (_unused, index) => batch.add(index)));
    expect(answers).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(Math.max(...sizes)).toBe(3);
  });
});
