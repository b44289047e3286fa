import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, rename, unlink } from 'node:fs/promises';
import { HostError } from '../host-port.js';

/**
 * Files in a directory whose owner may be hostile. Root walks by open directories: a name is always resolved relative
 * to a directory that is already held open (through /proc/self/fd, Linux's way to say openat), and never through a
 * symbolic link. Whatever the owner swaps meanwhile, nothing outside of the home is touched.
 */

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const ATTEMPTS = 5;

export interface Owner {
  uid: number;
  gid: number;
}

/**
 * Writes `<home>/.ssh/authorized_keys`, 0600 in a 0700 directory, both owned by the user. A `.ssh` or a file that is a
 * link, of another kind, or of another owner is moved aside. Throws a HostError when the home itself is not the
 * user's or when the user keeps interfering.
 */
export async function writeAuthorizedKeys(home: string, owner: Owner, content: string): Promise<void> {
  await inDirectory(home, async (homeHandle, homePath) => {
    const stat = await homeHandle.stat();
    if (stat.uid !== owner.uid) throw new HostError('home_not_safe', `${home} does not belong to its user`);
    // A login service that is strict refuses keys below a directory that others can write.
    await homeHandle.chmod(0o700);
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const written = await tryWrite(homePath, owner, content);
      if (written) return;
    }
    throw new HostError('home_not_safe', `${home}/.ssh changes while it is written`);
  });
}

async function tryWrite(homePath: string, owner: Owner, content: string): Promise<boolean> {
  const sshPath = `${homePath}/.ssh`;
  if (!(await ensureOwnDirectory(sshPath, owner))) return false;
  return inDirectory(sshPath, async (handle, path) => {
    if ((await handle.stat()).uid !== owner.uid) return false;
    await handle.chmod(0o700);
    const target = `${path}/authorized_keys`;
    const existing = await lstatOrNull(target);
    if (existing?.isDirectory()) await rename(target, aside(target));
    const inode = await writeFresh(path, owner, content, target);
    const now = await lstatOrNull(target);
    await handle.sync();
    return now?.isFile() === true && now.ino === inode;
  }).catch((error: unknown) => {
    // The directory went away or became something else between two steps: look again.
    if (isSystemError(error, ['ENOENT', 'ENOTDIR', 'ELOOP', 'EEXIST', 'EISDIR', 'ENOTEMPTY'])) return false;
    throw error;
  });
}

/** Writes a new file beside `target` and puts it in its place; returns its inode. */
async function writeFresh(path: string, owner: Owner, content: string, target: string): Promise<number> {
  const temporary = `${path}/.gpuaas-${randomBytes(8).toString('hex')}`;
  const file = await open(temporary, NEW_FILE, 0o600);
  try {
    await file.writeFile(content);
    await file.chmod(0o600);
    await file.chown(owner.uid, owner.gid);
    await file.sync();
    const { ino } = await file.stat();
    await rename(temporary, target);
    return ino;
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  } finally {
    await file.close();
  }
}

/** Makes the directory, or moves away what stands in its place and is not the user's own. */
async function ensureOwnDirectory(path: string, owner: Owner): Promise<boolean> {
  const existing = await lstatOrNull(path);
  if (existing?.isDirectory() && existing.uid === owner.uid) return true;
  if (existing !== null) await rename(path, aside(path));
  await mkdir(path, { mode: 0o700 });
  await inDirectory(path, async (handle) => {
    // Whatever was swapped in here that root does not own is left alone; the caller looks again.
    if ((await handle.stat()).uid === 0) await handle.chown(owner.uid, owner.gid);
  });
  return true;
}

/**
 * Holds a directory open while `work` runs; the path given to it leads through the open handle.
 * Refuses a path whose last part is a symbolic link.
 */
export async function inDirectory<Value>(
  path: string,
  work: (handle: FileHandle, path: string) => Promise<Value>,
): Promise<Value> {
  const handle = await open(path, DIRECTORY);
  try {
    return await work(handle, `/proc/self/fd/${handle.fd}`);
  } finally {
    await handle.close();
  }
}

export async function lstatOrNull(path: string) {
  return lstat(path).catch((error: unknown) => {
    if (isSystemError(error, ['ENOENT', 'ENOTDIR'])) return null;
    throw error;
  });
}

export function isSystemError(error: unknown, codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code);
}

function aside(path: string): string {
  return `${path}.replaced-${randomBytes(4).toString('hex')}`;
}
