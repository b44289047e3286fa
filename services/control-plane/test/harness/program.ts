import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export interface Program {
  readonly processId: number;
  /** everything it has written so far, both streams */
  output(): string;
  /** SIGKILL: no handler runs, nothing is finished */
  kill(): Promise<void>;
  signal(signal: NodeJS.Signals): void;
  readonly ended: Promise<void>;
}

const RUNNER = fileURLToPath(new URL('run-typescript.mjs', import.meta.url));

/** Starts a TypeScript module as a process of its own; it ends with the test's process at the latest. */
export function startProgram(file: URL, environment: Readonly<Record<string, string>>): Program {
  return startCommand(process.execPath, [RUNNER, fileURLToPath(file)], { ...process.env, ...environment });
}

/** Starts an installed or built program with exactly this environment; it ends with the test's process at the latest. */
export function startCommand(command: string, args: readonly string[], environment: NodeJS.ProcessEnv): Program {
  const child: ChildProcess = spawn(command, [...args], { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const ended = once(child, 'exit').then(() => undefined);
  const end = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', end);
  void ended.then(() => process.off('exit', end));
  if (child.pid === undefined) throw new Error(`${command} could not be started`);
  return {
    processId: child.pid,
    output: () => output,
    async kill() {
      child.kill('SIGKILL');
      await ended;
    },
    signal: (signal) => {
      child.kill(signal);
    },
    ended,
  };
}
