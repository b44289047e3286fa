import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where administrators' programs lie, which is not on everybody's search path. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** The full path of a program of this machine, or null where it is not installed. */
export function findProgram(name: string): string | null {
  for (const directory of [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_DIRECTORIES]) {
    if (directory === '') continue;
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Perhaps in the next one.
    }
  }
  return null;
}

/**
 * Whether a suite can run on this machine: as root, if it has to be, with these programs installed. Where it cannot,
 * says aloud what is missing; under GPUAAS_TESTS_MAY_SKIP=no it throws instead, so that the file fails.
 */
export function requirePrograms(
  programs: readonly string[],
  options: { readonly suite: string; readonly root?: boolean },
): boolean {
  const missing = programs.filter((program) => findProgram(program) === null);
  if (options.root === true && process.getuid?.() !== 0) missing.unshift('root');
  if (missing.length === 0) return true;
  const message = `${options.suite}: this machine lacks ${missing.join(', ')}`;
  if (process.env.GPUAAS_TESTS_MAY_SKIP === 'no') throw new Error(message);
  console.warn(`SKIPPED ${message}`);
  return false;
}
