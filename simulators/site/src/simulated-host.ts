import { type ChildProcess, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const AGENT = join(dirname(createRequire(import.meta.url).resolve('@gpuaas/node-agent')), 'main.js');
const RESTART_PAUSE_MILLISECONDS = 2000;
/** It has finished, or says that starting it again cannot help: what the agent's service unit excepts as well. */
const FINAL_EXIT_CODES: readonly (number | null)[] = [0, 64, 74, 77];

export interface HostSetup {
  readonly hostname: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** One host: the real agent program in a process of its own, started again when it dies, as an init system would. */
export class SimulatedHost {
  readonly hostname: string;
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | null = null;
  #exited: Promise<number | null> = Promise.resolve(null);
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
      child.once('exit', resolve);
      child.once('error', () => resolve(null));
    });
    void this.#exited.then(async (code) => {
      if (this.#stopping || FINAL_EXIT_CODES.includes(code)) return;
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
