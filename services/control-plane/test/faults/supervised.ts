import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface ProgramSetup {
  /** `control plane A`; stands in messages */
  readonly name: string;
  readonly script: string;
  readonly parameters?: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** it reports over IPC when it serves; without that it serves as soon as it runs */
  readonly announcesItself?: boolean;
}

/** An end of a program that nobody here asked for. */
export interface Mishap {
  readonly name: string;
  /** it had reported that it serves */
  readonly wasReady: boolean;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly lastWords: string;
}

/** However this process ends, the channel to it breaks; the channel itself keeps nobody alive. */
const ENDS_WITH_US = `data:text/javascript,${encodeURIComponent(
  "process.once('disconnect', () => process.exit(1)); process.channel?.unref();",
)}`;

const RESTART_PAUSE_MILLISECONDS = 200;
const PATIENCE_MILLISECONDS = 20_000;
const LAST_WORDS = 4_000;

/** One program in a process of its own, started again whenever it dies, as an init system would. */
export class Supervised {
  readonly name: string;
  readonly mishaps: Mishap[] = [];
  readonly #setup: ProgramSetup;
  #child: ChildProcess | null = null;
  #ready = false;
  #killed = false;
  #stopping = false;
  #output = '';
  #exited: Promise<number | null> = Promise.resolve(null);

  constructor(setup: ProgramSetup) {
    if (!existsSync(setup.script)) throw new Error(`${setup.script} is missing: run "npm run build" first`);
    this.name = setup.name;
    this.#setup = setup;
  }

  /** It runs and has said that it serves. */
  get ready(): boolean {
    return this.#ready;
  }

  get output(): string {
    return this.#output;
  }

  get processId(): number {
    if (this.#child?.pid === undefined) throw new Error(`${this.name} does not run`);
    return this.#child.pid;
  }

  start(): void {
    const { script, parameters = [], environment, announcesItself = false } = this.#setup;
    // Nothing of the test runner's own environment: what a program is told is what stands in its setup.
    const child = spawn(process.execPath, ['--import', ENDS_WITH_US, script, ...parameters], {
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#child = child;
    this.#ready = !announcesItself;
    this.#killed = false;
    let lastWords = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        lastWords = (lastWords + chunk.toString()).slice(-LAST_WORDS);
        this.#output = (this.#output + chunk.toString()).slice(-64 * LAST_WORDS);
      });
    }
    child.on('message', (message) => {
      if (message !== null && typeof message === 'object' && 'ready' in message) this.#ready = true;
    });
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve(null));
      child.once('exit', (code, signal) => {
        if (!this.#stopping && !this.#killed) {
          this.mishaps.push({ name: this.name, wasReady: this.#ready, code, signal, lastWords });
        }
        this.#ready = false;
        resolve(code);
      });
    });
    void this.#exited.then(async () => {
      if (this.#stopping || this.#child !== child) return;
      if (!this.#killed) await delay(RESTART_PAUSE_MILLISECONDS, undefined, { ref: false });
      if (!this.#stopping && this.#child === child) this.start();
    });
  }

  /** SIGKILL: no handler runs, nothing is finished. It is started again at once. */
  async kill(): Promise<void> {
    this.#killed = true;
    this.#ready = false;
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** SIGKILL, and it stays dead until `start`. */
  async killForGood(): Promise<void> {
    this.#stopping = true;
    await this.kill();
    this.#stopping = false;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** SIGTERM; resolves to the exit code once it has ended by itself, and to null where it had to be killed. */
  async stop(): Promise<number | null> {
    this.#stopping = true;
    const child = this.#child;
    child?.kill('SIGTERM');
    // One that was halted hears nothing before it goes on.
    child?.kill('SIGCONT');
    const patience = setTimeout(() => child?.kill('SIGKILL'), PATIENCE_MILLISECONDS);
    const code = await this.#exited;
    clearTimeout(patience);
    return code;
  }
}
