import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, realpath, rename, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join, resolve } from 'node:path';
import type { AppendLog, StateStore } from './state-store.js';

const OWNER_ONLY = 0o600;
const TEMPORARY = '.tmp';

/** The directory is already used by another agent, or cannot be used at all. */
export class StateDirectoryError extends Error {}

/**
 * Keeps state in files of a directory that only the owner can read. One process at a time may use a directory: two
 * agents with one identity would run every task twice. The claim ends with the process, however it dies.
 * Throws a StateDirectoryError.
 */
export async function openFileStore(directory: string): Promise<StateStore> {
  const root = resolve(directory);
  await mkdir(root, { recursive: true, mode: 0o700 }).catch((cause: unknown) => {
    throw new StateDirectoryError(`state directory ${root} cannot be made`, { cause });
  });
  const claim = await claimDirectory(root);
  const path = (name: string) => join(root, name);

  for (const name of await readdir(root)) {
    if (name.endsWith(TEMPORARY)) await rm(path(name), { force: true });
  }

  return {
    read: (name) =>
      readFile(path(name), 'utf8').catch((error: unknown) => {
        if (isMissing(error)) return null;
        throw error;
      }),
    write: (name, text) => writeWhole(root, name, text),
    rename: async (from, to) => {
      await rename(path(from), path(to));
      await flushDirectory(root);
    },
    remove: async (name) => {
      await rm(path(name), { force: true });
      await flushDirectory(root);
    },
    openLog: (name) => openFileLog(root, name),
    purge: async () => {
      for (const name of await readdir(root)) await rm(path(name), { recursive: true, force: true });
      await flushDirectory(root);
    },
    close: () => new Promise((done) => claim.close(() => done())),
  };
}

/** A socket in Linux's abstract namespace: the kernel frees the name with the process, so no stale lock remains. */
async function claimDirectory(root: string): Promise<Server> {
  // Names of sockets are short; the directory may be known under several names and may be deep.
  const name = createHash('sha256')
    .update(await realpath(root))
    .digest('hex');
  return new Promise((claimed, refused) => {
    const server = createServer((connection) => connection.destroy());
    server.unref();
    server.once('error', (cause) => {
      const taken = 'code' in cause && cause.code === 'EADDRINUSE';
      const why = taken ? 'is in use by another agent' : 'cannot be claimed';
      refused(new StateDirectoryError(`state directory ${root} ${why}`, { cause }));
    });
    server.listen(`\0gpuaas-node-agent:${name}`, () => claimed(server));
  });
}

async function writeWhole(root: string, name: string, text: string): Promise<void> {
  const temporary = join(root, `${name}${TEMPORARY}`);
  const handle = await open(temporary, 'w', OWNER_ONLY);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, join(root, name));
  await flushDirectory(root);
}

async function flushDirectory(root: string): Promise<void> {
  const handle = await open(root, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

interface Waiting {
  text: string;
  done: () => void;
  failed: (error: unknown) => void;
}

async function openFileLog(root: string, name: string): Promise<AppendLog> {
  const path = join(root, name);
  let handle: FileHandle = await open(path, 'a+', OWNER_ONLY);
  await flushDirectory(root);
  const content = (await handle.readFile('utf8')).toString();
  let size = Buffer.byteLength(content);

  // One writer at a time, in the order of the calls. Appends that arrive while another writes share the next flush;
  // a rewrite closes the open batch, so what is appended after it goes into the new content.
  let gathering: Waiting[] | null = null;
  let turn: Promise<void> = Promise.resolve();
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    const mine = turn.then(work);
    turn = mine.catch(() => undefined);
    return mine;
  };
  const flush = async (batch: readonly Waiting[]) => {
    const text = batch.map((entry) => entry.text).join('');
    try {
      await handle.appendFile(text);
      await handle.datasync();
      size += Buffer.byteLength(text);
      for (const entry of batch) entry.done();
    } catch (error) {
      // A part of the batch may be on disk. Cut it off, or the next append would begin in the middle of a line.
      await handle.truncate(size).catch(() => undefined);
      for (const entry of batch) entry.failed(error);
    }
  };

  return {
    content,
    size: () => size,
    append: (text) =>
      new Promise((done, failed) => {
        const entry = { text, done, failed };
        if (gathering !== null) {
          gathering.push(entry);
          return;
        }
        const batch = [entry];
        gathering = batch;
        void inTurn(() => {
          if (gathering === batch) gathering = null;
          return flush(batch);
        });
      }),
    rewrite: (text) => {
      gathering = null;
      return inTurn(async () => {
        const temporary = `${path}${TEMPORARY}`;
        await rm(temporary, { force: true });
        const fresh = await open(temporary, 'a', OWNER_ONLY);
        try {
          await fresh.appendFile(text);
          await fresh.sync();
          await rename(temporary, path);
        } catch (error) {
          await fresh.close();
          throw error;
        }
        // From here on the open file is the named one; nothing may go to the old one any more.
        const old = handle;
        handle = fresh;
        size = Buffer.byteLength(text);
        await old.close();
        await flushDirectory(root);
      });
    },
    close: () => inTurn(() => handle.close()),
  };
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
