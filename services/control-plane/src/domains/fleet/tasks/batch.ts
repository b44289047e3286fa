/**
 * Gathers calls that come close together into one run. A call that finds nothing under way starts at once; those that
 * come meanwhile make the next run together, no sooner than `gapMilliseconds` after the start of the last one.
 */
export class Batch<Item, Result> {
  readonly #run: (items: readonly Item[]) => Promise<readonly Result[]>;
  readonly #gapMilliseconds: number;
  readonly #largest: number;
  #waiting: Waiting<Item, Result>[] = [];
  #busy = false;

  /** `run` answers one result an item, in the order of the items; its failure is the failure of each of them. */
  constructor(
    run: (items: readonly Item[]) => Promise<readonly Result[]>,
    options: { readonly gapMilliseconds?: number; readonly largest?: number } = {},
  ) {
    this.#run = run;
    this.#gapMilliseconds = options.gapMilliseconds ?? 0;
    this.#largest = options.largest ?? 1000;
  }

  add(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      if (!this.#busy) void this.#drain();
    });
  }

  async #drain(): Promise<void> {
    this.#busy = true;
    try {
      while (this.#waiting.length > 0) {
        const started = performance.now();
        const batch = this.#waiting.slice(0, this.#largest);
        this.#waiting = this.#waiting.slice(this.#largest);
        await this.#settle(batch);
        const rest = this.#gapMilliseconds - (performance.now() - started);
        if (rest > 0) await new Promise((resolve) => setTimeout(resolve, rest));
      }
    } finally {
      this.#busy = false;
    }
  }

  async #settle(batch: readonly Waiting<Item, Result>[]): Promise<void> {
    try {
      const results = await this.#run(batch.map((waiting) => waiting.item));
      batch.forEach((waiting, index) => {
        const result = results[index];
        if (result === undefined) waiting.reject(new Error('a batch answered fewer results than it has items'));
        else waiting.resolve(result);
      });
    } catch (error) {
      for (const waiting of batch) waiting.reject(error);
    }
  }
}

interface Waiting<Item, Result> {
  readonly item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}
