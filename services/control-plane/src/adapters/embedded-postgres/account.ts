import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** The unprivileged account that the server runs under when we are root. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

const NAME = 'postgres';

/** Null where we are not root and the server runs as ourselves. Makes the account where it is missing. */
export async function accountFor(): Promise<Account | null> {
  if (process.getuid?.() !== 0) return null;
  const known = await findAccount();
  if (known) return known;
  try {
    await execute('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', NAME]);
  } catch (error) {
    // Another process may have made it at the same moment; then it is there now.
    const made = await findAccount();
    if (made) return made;
    throw new Error(`PostgreSQL does not run as root, and no account ${NAME} could be made`, { cause: error });
  }
  const made = await findAccount();
  if (made) return made;
  throw new Error(`the account ${NAME} was made and cannot be found`);
}

async function findAccount(): Promise<Account | null> {
  const line = (await readFile('/etc/passwd', 'utf8')).split('\n').find((entry) => entry.startsWith(`${NAME}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  if (uid !== undefined && gid !== undefined) return { uid: Number(uid), gid: Number(gid) };
  // Not in the file: the account may come from a directory service.
  try {
    const { stdout } = await execute('getent', ['passwd', NAME]);
    const [, , remoteUid, remoteGid] = stdout.split(':');
    return remoteUid === undefined || remoteGid === undefined
      ? null
      : { uid: Number(remoteUid), gid: Number(remoteGid) };
  } catch {
    return null;
  }
}

/** Whether the account gets through every folder on the way to `target` and may read it. */
export async function canRead(target: string, account: Account): Promise<boolean> {
  try {
    await execute('/bin/sh', ['-c', 'test -r "$0"', target], { uid: account.uid, gid: account.gid, cwd: '/' });
    return true;
  } catch {
    return false;
  }
}
