import { type ChildProcess, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const AGENT = join(dirname(createRequire(import.meta.url).resolve('@gpuaas/node-agent')), 'main.js');
const RESTART_PAUSE_MILLISECONDS = 2000;

export interface HostSetup {
  readonly hostname: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** One host: the real agent program in a process of its own, started again when it dies, as an init system would. */
export class SimulatedHost {
  readonly hostname: string;
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();
  #stopping = false;

  constructor(setup: HostSetup) {
    this.hostname = setup.hostname;
    this.#environment = { ...process.env, ...setup.environment };
  }

  start(): void {
    const child = spawn(process.execPath, [AGENT, '--host', 'simulated'], {
      env: this.#environment,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      child.once('exit', () => resolve());
      child.once('error', () => resolve());
    });
    void this.#exited.then(async () => {
      if (this.#stopping) return;
      await delay(RESTART_PAUSE_MILLISECONDS, undefined, { ref: false });
      if (!this.#stopping) this.start();
    });
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#child?.kill('SIGTERM');
    await this.#exited;
  }
}
