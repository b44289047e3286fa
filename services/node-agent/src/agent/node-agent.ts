import { type Clock, errorChain, type Logger, systemClock } from '@gpuaas/kernel';
import { MAX_RUNNING_TASKS } from '@gpuaas/node-protocol';
import type { HostPort } from '../host/host-port.js';
import { type FinishedTask, Journal } from '../store/journal.js';
import type { StateStore } from '../store/state-store.js';
import { createHttpTransport } from '../transport/http-transport.js';
import type { Transport } from '../transport/transport.js';
import type { NodeAgentConfig } from './config.js';
import { type CallFailure, ControlPlaneClient } from './control-plane-client.js';
import { type AgentExit, AgentExitError } from './exit.js';
import { IdentityManager } from './identity-manager.js';
import { createIdentityStore } from './identity-store.js';
import { HELD_MILLISECONDS, PollRestraint } from './poll-restraint.js';
import { ResultSender } from './result-sender.js';
import { TaskRunner } from './task-runner.js';
import { backoffMilliseconds, systemTimer, type Timer } from './timing.js';

export interface NodeAgentDependencies {
  host: HostPort;
  store: StateStore;
  log: Logger;
  clock?: Clock;
  timer?: Timer;
  /** In 0..1; spreads retries. */
  random?: () => number;
  /** Shared by many agents of one process, and then closed by whoever made it. */
  transport?: Transport;
}

export interface NodeAgent {
  /** Resolves when the host is enrolled and polls. Rejects with an AgentExitError when it cannot be. */
  start(): Promise<void>;
  /**
   * Stops polling, lets running tasks end within the grace, tries once more to deliver results, and closes the state.
   * What is not done by then is taken up by the next start. May be called at any time, also twice.
   */
  stop(): Promise<void>;
  /** Resolves when the agent has ended, for whatever reason. */
  readonly ended: Promise<AgentExit>;
  /** Ids of the tasks that it has taken and not yet reported. */
  heldTasks(): string[];
}

/** Of the tasks in hand so many are named in a poll, those that run first; it is twice what may run. */
const MAX_NAMED_TASKS = 2 * MAX_RUNNING_TASKS;
/** Tasks that hear of the interruption leave at once; others are left behind. */
const INTERRUPT_GRACE_MILLISECONDS = 1000;
const DELIVERY_GRACE_MILLISECONDS = 5000;

/** One agent for one node. Any number of them may live in a process, each with a host and a store of its own. */
export function createNodeAgent(config: NodeAgentConfig, dependencies: NodeAgentDependencies): NodeAgent {
  return new Agent(config, dependencies);
}

class Agent implements NodeAgent {
  readonly ended: Promise<AgentExit>;
  readonly #config: NodeAgentConfig;
  readonly #host: HostPort;
  readonly #store: StateStore;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #timer: Timer;
  readonly #random: () => number;
  readonly #transport: Transport;
  readonly #ownTransport: boolean;
  readonly #client: ControlPlaneClient;
  readonly #identity: IdentityManager;
  /** Ends polls and waits; running tasks are told by the runner. */
  readonly #stopping = new AbortController();
  #parts: { journal: Journal; sender: ResultSender; runner: TaskRunner } | null = null;
  #opening: Promise<void> = Promise.resolve();
  #polling: Promise<void> = Promise.resolve();
  #shutdown: Promise<void> | null = null;
  #announceEnd: (exit: AgentExit) => void = () => undefined;

  constructor(config: NodeAgentConfig, dependencies: NodeAgentDependencies) {
    this.#config = config;
    this.#host = dependencies.host;
    this.#store = dependencies.store;
    this.#log = dependencies.log;
    this.#clock = dependencies.clock ?? systemClock;
    this.#timer = dependencies.timer ?? systemTimer;
    this.#random = dependencies.random ?? Math.random;
    this.#ownTransport = dependencies.transport === undefined;
    this.#transport = dependencies.transport ?? createHttpTransport({ apiUrl: config.apiUrl });
    this.#client = new ControlPlaneClient({ transport: this.#transport, nodeId: config.nodeId, build: config.build });
    this.#identity = new IdentityManager({
      config,
      store: createIdentityStore(this.#store),
      client: this.#client,
      transport: this.#transport,
      clock: this.#clock,
      timer: this.#timer,
      random: this.#random,
      log: this.#log,
    });
    this.ended = new Promise((resolve) => {
      this.#announceEnd = resolve;
    });
  }

  async start(): Promise<void> {
    try {
      this.#opening = this.#open();
      await this.#opening;
    } catch (error) {
      const exit =
        error instanceof AgentExitError
          ? error.exit
          : ({ reason: 'state_unusable', message: errorChain(error) } satisfies AgentExit);
      await this.#end(exit);
      throw error instanceof AgentExitError ? error : new AgentExitError(exit, { cause: error });
    }
  }

  async stop(): Promise<void> {
    await this.#end({ reason: 'stopped', message: 'the agent was told to stop' });
  }

  heldTasks(): string[] {
    return this.#parts?.runner.held() ?? [];
  }

  async #open(): Promise<void> {
    await this.#identity.load();
    const journal = await Journal.open(this.#store, this.#clock, this.#log);
    const shared = { journal, identity: this.#identity, clock: this.#clock, timer: this.#timer, log: this.#log };
    const sender = new ResultSender({
      ...shared,
      client: this.#client,
      random: this.#random,
      onDelivered: (task, accepted) => {
        if (accepted && isUninstall(task)) void this.#leave();
      },
    });
    const runner = new TaskRunner({
      ...shared,
      nodeId: this.#config.nodeId,
      host: this.#host,
      sender,
      control: {
        renewCertificate: () => this.#identity.renew(),
        updateTrust: (update) => this.#identity.updateTrust(update),
      },
      sshEndpoint: this.#config.sshEndpoint,
      stopping: this.#stopping.signal,
    });
    this.#parts = { journal, sender, runner };
    this.#refuseIfStopped();

    if (journal.finished().some((task) => task.accepted === true && isUninstall(task))) {
      await this.#removeState();
      throw new AgentExitError({ reason: 'uninstalled', message: 'this host was uninstalled' });
    }
    if (!this.#identity.isEnrolled() || this.#identity.isExpired()) await this.#enroll();
    for (const task of journal.finished()) if (task.accepted === null) sender.sendFinished(task);
    await runner.resume(journal.unfinished());
    this.#polling = this.#poll(runner).catch((error: unknown) => {
      const exit: AgentExit =
        error instanceof AgentExitError ? error.exit : { reason: 'state_unusable', message: errorChain(error) };
      this.#log.fatal({ err: error }, 'the agent cannot go on');
      // Not awaited: the end waits for this very loop.
      void this.#end(exit);
    });
  }

  /** The first enrolment, or a new one after the certificate ran out and the operator reissued the token. */
  async #enroll(): Promise<void> {
    if (this.#identity.isEnrolled() && !this.#identity.hasFreshToken()) {
      const message =
        'the certificate of this host has expired: reissue its enrolment token and start the agent with it';
      throw new AgentExitError({ reason: 'identity_expired', message });
    }
    await this.#identity.enroll(this.#stopping.signal);
    this.#refuseIfStopped();
  }

  #refuseIfStopped(): void {
    if (!this.#stopping.signal.aborted) return;
    throw new AgentExitError({ reason: 'stopped', message: 'the agent was stopped before it ran' });
  }

  async #poll(runner: TaskRunner): Promise<void> {
    const { signal } = this.#stopping;
    let failures = 0;
    const restraint = new PollRestraint();
    while (!signal.aborted) {
      if (this.#identity.isExpired()) await this.#enroll();
      await this.#identity.renewIfDue();
      const credentials = this.#identity.pollCredentials(failures);
      const heartbeat = {
        bootId: await this.#host.bootId().catch(() => null),
        heldTasks: runner.held().slice(0, MAX_NAMED_TASKS),
      };
      const askedAt = this.#clock.now().getTime();
      const answer = await this.#client.wait(credentials, heartbeat, signal);
      if (answer.kind === 'aborted' || signal.aborted) return;

      if (answer.kind === 'ok') {
        failures = 0;
        await this.#identity.polled(credentials);
        const unheld = this.#clock.now().getTime() - askedAt < HELD_MILLISECONDS;
        const got = answer.value === null ? null : await runner.accept(answer.value.task);
        const delay = restraint.after(got, unheld);
        if (delay > 0) await this.#pause(delay, 0);
        continue;
      }
      if (
        (answer.kind === 'unauthenticated' || answer.kind === 'forbidden') &&
        (await this.#identity.refused(credentials))
      ) {
        continue;
      }
      if (answer.kind === 'unauthenticated' && this.#identity.hasFreshToken()) {
        this.#log.warn({ reason: answer.message }, 'this identity is refused; the reissued token is tried');
        await this.#enroll();
        continue;
      }
      failures += 1;
      this.#logFailure(answer, failures);
      await this.#pause(failures, answer.kind === 'unavailable' ? answer.retryAfterMilliseconds : 0);
    }
  }

  #pause(failures: number, atLeast: number): Promise<void> {
    return this.#timer.sleep(Math.max(backoffMilliseconds(failures, this.#random()), atLeast), this.#stopping.signal);
  }

  #logFailure(failure: Exclude<CallFailure, { kind: 'aborted' }>, failures: number): void {
    const facts = { reason: failure.message, failures };
    switch (failure.kind) {
      case 'unauthenticated':
        this.#log.error(facts, 'the control plane does not know this host; its enrolment has to be reissued');
        return;
      case 'forbidden':
        this.#log.warn(facts, 'this node is out of service; the agent keeps asking');
        return;
      default:
        this.#log.warn(facts, 'the control plane gave no usable answer');
    }
  }

  /** The uninstall has been acknowledged: nothing of ours may stay. */
  async #leave(): Promise<void> {
    await this.#end({ reason: 'uninstalled', message: 'this host was uninstalled' }, () => this.#removeState());
  }

  async #removeState(): Promise<void> {
    await this.#identity.forget();
    await this.#store.purge();
  }

  #end(exit: AgentExit, last?: () => Promise<void>): Promise<void> {
    this.#shutdown ??= this.#close(last)
      .catch((error: unknown) => this.#log.error({ err: error }, 'the agent did not close cleanly'))
      .then(() => this.#announceEnd(exit));
    return this.#shutdown;
  }

  async #close(last?: () => Promise<void>): Promise<void> {
    this.#stopping.abort();
    await this.#opening.catch(() => undefined);
    await this.#polling;
    if (this.#parts !== null) {
      const { journal, sender, runner } = this.#parts;
      runner.dropWaiting();
      await this.#within(this.#config.shutdownGraceMilliseconds, runner.idle());
      runner.interrupt();
      await this.#within(INTERRUPT_GRACE_MILLISECONDS, runner.idle());
      await this.#within(DELIVERY_GRACE_MILLISECONDS, sender.idle());
      sender.stop();
      await last?.();
      await journal.close();
    }
    if (this.#ownTransport) this.#transport.close();
    await this.#store.close();
  }

  /** Waits for `work`, but no longer than `milliseconds`. */
  async #within(milliseconds: number, work: Promise<void>): Promise<void> {
    const enough = new AbortController();
    await Promise.race([work, this.#timer.sleep(milliseconds, enough.signal)]);
    enough.abort();
  }
}

function isUninstall(task: FinishedTask): boolean {
  return task.taskType === 'node.uninstall' && task.result.status === 'success';
}
