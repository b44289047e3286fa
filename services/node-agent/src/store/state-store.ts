/**
 * Where an agent keeps what must survive it. Every write is durable when its promise resolves and is seen whole or not
 * at all; a process that is killed at any point finds one of the two versions.
 */
export interface StateStore {
  read(name: string): Promise<string | null>;
  write(name: string, text: string): Promise<void>;
  /** Puts `from` in the place of `to` in one step. */
  rename(from: string, to: string): Promise<void>;
  /** Absent is fine. */
  remove(name: string): Promise<void>;
  openLog(name: string): Promise<AppendLog>;
  /** Removes everything that was kept, the log included. */
  purge(): Promise<void>;
  /** Lets another process have the store. */
  close(): Promise<void>;
}

/** A text that grows at its end. */
export interface AppendLog {
  /** What was there when the log was opened. A writer that died may have left its last line incomplete. */
  readonly content: string;
  /** Bytes now in the log. */
  size(): number;
  /** Durable when resolved; calls made meanwhile share one flush, in order. */
  append(text: string): Promise<void>;
  /** Replaces what was appended before this call, in one step. */
  rewrite(text: string): Promise<void>;
  close(): Promise<void>;
}
