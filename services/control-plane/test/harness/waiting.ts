import { setTimeout as delay } from 'node:timers/promises';

/** Waits until `condition` answers something other than false, null or undefined; fails loudly after `timeout`. */
export async function until<Result>(
  condition: () => Promise<Result> | Result,
  options: { readonly timeoutMilliseconds?: number; readonly what?: string } = {},
): Promise<NonNullable<Exclude<Result, false>>> {
  const deadline = performance.now() + (options.timeoutMilliseconds ?? 20_000);
  for (;;) {
    const result = await condition();
    if (result !== false && result !== null && result !== undefined) {
      return result as NonNullable<Exclude<Result, false>>;
    }
    if (performance.now() > deadline) throw new Error(`waited in vain for ${options.what ?? condition.toString()}`);
    await delay(10);
  }
}
