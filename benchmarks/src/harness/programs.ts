import { type ChildProcess, type Serializable, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where compiled benchmark programs lie. */
export const distribution = fileURLToPath(new URL('../', import.meta.url));
export const repository = fileURLToPath(new URL('../../../', import.meta.url));
export const controlPlaneProgram = path.join(repository, 'services/control-plane/dist/main.js');

export interface ProgramOptions {
  readonly script: string;
  readonly arguments?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** modules that the program loads before its own */
  readonly preload?: readonly string[];
  /** a folder that receives the CPU profile of the program when it ends */
  readonly profileDirectory?: string | null;
  /** open files that the program may have; raised by a shell where ours are fewer */
  readonly openFiles?: number;
}

export interface Program {
  readonly child: ChildProcess;
  readonly processId: number;
  /** what the program says once it can be used; rejects where it ends before */
  readonly ready: Promise<unknown>;
  /** Sends a message and resolves with the next one that `accept` takes. */
  ask<Answer>(message: Serializable, accept: (answer: unknown) => Answer | undefined): Promise<Answer>;
  /** Asks the program to end, and makes it end after 20 s. May be repeated. */
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();
const PATIENCE_MILLISECONDS = 20_000;

// Whatever ends this program must not leave others behind.
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Lets `child` end with this program, if it has not ended before. */
export function endWithUs(child: ChildProcess): void {
  running.add(child);
  const ended = () => running.delete(child);
  child.once('exit', ended);
  child.once('error', ended);
}

/** Starts a Node program of ours that says `{ ready: … }` over its channel once it can be used. */
export function startProgram(options: ProgramOptions): Program {
  const nodeArguments = [
    '--enable-source-maps',
    ...(options.preload ?? []).flatMap((module) => ['--import', module]),
    ...(options.profileDirectory ? ['--cpu-prof', `--cpu-prof-dir=${options.profileDirectory}`] : []),
    options.script,
    ...(options.arguments ?? []),
  ];
  const command = options.openFiles
    ? ['/bin/sh', '-c', `ulimit -n ${options.openFiles} && exec "$@"`, 'sh', process.execPath, ...nodeArguments]
    : [process.execPath, ...nodeArguments];
  const child = spawn(command[0] ?? process.execPath, command.slice(1), {
    cwd: repository,
    env: { ...process.env, ...options.environment },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  endWithUs(child);
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `exit ${code}`));
    child.once('error', (error) => resolve(error.message));
  });
  const name = path.basename(options.script);

  const nextMessage = <Answer>(accept: (message: unknown) => Answer | undefined): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const listen = (message: unknown) => {
        try {
          const answer = accept(message);
          if (answer === undefined) return;
          resolve(answer);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
        child.off('message', listen);
      };
      child.on('message', listen);
      void exited.then((how) => reject(new Error(`${name} ended (${how}) before it answered`)));
    });

  const ready = nextMessage(readinessOf);
  // Whoever never asks must not be ended by an unhandled rejection.
  ready.catch(() => undefined);
  return {
    child,
    processId: child.pid ?? -1,
    ready,
    ask(message, accept) {
      const answer = nextMessage(accept);
      child.send(message);
      return answer;
    },
    async stop() {
      if (!running.has(child)) return;
      child.kill('SIGTERM');
      const impatient = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MILLISECONDS);
      await exited;
      clearTimeout(impatient);
    },
  };
}

function readinessOf(message: unknown): unknown {
  return typeof message === 'object' && message !== null && 'ready' in message ? message.ready : undefined;
}

/** What a program reports when it has done what it was asked: numbers by name. */
export type Report<Name extends string> = Readonly<Record<Name, number>>;

/** Asks a program for a report with these numbers. Throws where it had a problem, or leaves one out. */
export function askForReport<const Name extends string>(
  program: Program,
  request: Serializable,
  names: readonly Name[],
): Promise<Report<Name>> {
  return program.ask(request, (answer) => {
    if (typeof answer !== 'object' || answer === null) return undefined;
    if ('problem' in answer) throw new Error(String(answer.problem));
    if (!('report' in answer)) return undefined;
    const { report } = answer;
    if (!holds(report, names)) throw new Error(`a report without ${names.join(', ')}`);
    return report;
  });
}

function holds<Name extends string>(report: unknown, names: readonly Name[]): report is Report<Name> {
  if (typeof report !== 'object' || report === null) return false;
  const values = new Map<string, unknown>(Object.entries(report));
  return names.every((name) => typeof values.get(name) === 'number');
}

/** In a started program: answers each request that `answer` knows; what it does not know gets undefined. */
export function serveReports(answer: (request: object) => Promise<Report<string>> | undefined): void {
  process.on('message', (message: unknown) => {
    if (typeof message !== 'object' || message === null) return;
    answer(message)?.then(
      (report) => process.send?.({ report }),
      (error: unknown) => process.send?.({ problem: error instanceof Error ? error.stack : String(error) }),
    );
  });
  process.on('SIGTERM', () => process.exit(0));
}

/** In a started program: tells who started it, and ends with it. */
export function announceReady(ready: unknown): void {
  process.on('disconnect', () => process.exit(1));
  process.send?.({ ready });
}
