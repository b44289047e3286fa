import type { Clock, Logger } from '@gpuaas/kernel';
import type { NodeTaskOutput, NodeTaskType } from '@gpuaas/node-protocol';
import type { Timer } from '../agent/timing.js';
import type { HostPort } from '../host/host-port.js';

/** What a task may ask of the agent that runs it. */
export interface AgentControl {
  /** Gets a new certificate now; the next poll uses it. */
  renewCertificate(): Promise<{ serialNumber: string; notAfter: Date }>;
  /**
   * Replaces what this host trusts, once the control plane has been reached under it.
   * Throws a TaskRefused for a bundle that would cut the host off.
   */
  updateTrust(update: TrustUpdate): Promise<{ version: number; signingKeyIds: string[] }>;
  /** The types of the other tasks in hand, waiting or running. */
  otherTasks(taskId: string): NodeTaskType[];
}

export interface TrustUpdate {
  version: number;
  caPem: string | undefined;
  nodeCaPem: string | undefined;
  signingKeys: string | undefined;
  /** The key that signed the order; a new list has to hold it. */
  signedBy: string;
}

export interface TaskContext {
  taskId: string;
  signingKeyId: string;
  host: HostPort;
  agent: AgentControl;
  /** What tenants dial to reach this host. */
  sshEndpoint: { host: string; port: number };
  clock: Clock;
  timer: Timer;
  log: Logger;
  /** Aborts as soon as the agent is told to stop. What works goes on; what merely waits should leave. */
  stopping: AbortSignal;
  /** Aborts when the time for that is over: an interrupted task runs again, so leave at once. */
  signal: AbortSignal;
  /** Finds what an earlier, interrupted run of this task noted, or notes it durably now. */
  remember(key: string, make: () => Promise<string>): Promise<string>;
}

/** A task that ended well, or that did what it could and failed with something to report. */
export type TaskOutcome =
  | ({ status: 'success' } & NodeTaskOutput)
  | { status: 'failed'; reason: string; message: string; output: Record<string, unknown> }
  | { status: 'rejected'; reason: string; message: string };

/** The task cannot be done as asked; `reason` is in snake case for the control plane. */
export class TaskRefused extends Error {
  constructor(
    readonly reason: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'TaskRefused';
  }
}

/** The agent stops before the task is over. It has no outcome: the journal runs it again. */
export class TaskInterrupted extends Error {}
