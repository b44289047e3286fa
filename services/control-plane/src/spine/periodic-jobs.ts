import type { CallContext, Reader } from './operation.js';

/** Work that one elected worker repeats: sweeps, raters, retention. A run may be cut short and is then repeated. */
export interface PeriodicJob {
  /** stable: lock, metrics and audit carry it */
  readonly name: string;
  readonly everyMilliseconds: number;
  /** opens its own transactions; `db` is the read-write pool */
  run(db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void>;
}
