import { execFile } from 'node:child_process';

export interface CommandResult {
  /** Null when the program is not there or was ended by a signal. */
  exitCode: number | null;
  /** The program is not installed. */
  absent: boolean;
  stdout: string;
  stderr: string;
}

/** Runs one program without a shell; arguments reach it as they are. */
export type RunCommand = (program: string, args: readonly string[]) => Promise<CommandResult>;

const TIMEOUT_MILLISECONDS = 60_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export const runCommand: RunCommand = (program, args) =>
  new Promise((resolve) => {
    execFile(
      program,
      [...args],
      {
        timeout: TIMEOUT_MILLISECONDS,
        maxBuffer: MAX_OUTPUT_BYTES,
        env: { PATH: SEARCH_PATH, LC_ALL: 'C' },
        cwd: '/',
      },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : error.code;
        resolve({ exitCode: typeof code === 'number' ? code : null, absent: code === 'ENOENT', stdout, stderr });
      },
    );
  });
