import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  cp,
  lchown,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  statfs,
  writeFile,
} from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { errorChain } from '@gpuaas/kernel';
import { systemTimer, type Timer } from '../../agent/timing.js';
import type { StateStore } from '../../store/state-store.js';
import { type HealthCheck, HostError, type HostPort, type KeySet, type RuntimeUser } from '../host-port.js';
import { Mutex } from '../mutex.js';
import { assembleTopology, withoutGuests } from '../topology.js';
import {
  decideKeySet,
  describeKeySet,
  type RegistryUser,
  renderAuthorizedKeys,
  UserRegistry,
} from '../user-registry.js';
import { type CommandResult, type RunCommand, runCommand } from './command.js';
import {
  type Account,
  mountsBelow,
  parseAccount,
  parseIpcIds,
  parseMemoryMib,
  parseMountInfo,
} from './inventory-parsers.js';
import { readRawFacts } from './linux-inventory.js';
import { endProcessesOf, processesOf } from './processes.js';
import { inDirectory, lstatOrNull, writeAuthorizedKeys } from './secure-files.js';

export interface LinuxHostOptions {
  store: StateStore;
  /** Where homes are made; must belong to root. */
  homeRoot?: string;
  /** Where the environment files of allocations lie. */
  runtimeDirectory?: string;
  /** The port of the login service that tenants reach, for the health check. */
  sshPort: number;
  /** The directory whose file system must not run full. */
  stateDirectory: string;
  /** What restarts the machine. */
  rebootCommand?: readonly [program: string, ...args: string[]];
  run?: RunCommand;
  timer?: Timer;
}

const SERVICE_UNIT = 'gpuaas-node-agent.service';
const SERVICE_UNIT_PATH = `/etc/systemd/system/${SERVICE_UNIT}`;
const SKELETON = '/etc/skel';
/** Directories in which every user may leave files. */
const SHARED_DIRECTORIES = ['/tmp', '/var/tmp', '/dev/shm', '/run/lock'];
/** useradd and its kin: the password file is locked by somebody else just now. */
const ACCOUNT_DATABASE_BUSY = [1, 10];
const ACCOUNT_ATTEMPTS = 10;

/**
 * The machine that this process runs on as root. Accounts are made with the distribution's own tools, one change at a
 * time; what the agent owns is told from its root-only registry and from the comment field of the account.
 */
export function createLinuxHost(options: LinuxHostOptions): HostPort {
  const run = options.run ?? runCommand;
  const timer = options.timer ?? systemTimer;
  const homeRoot = options.homeRoot ?? '/home';
  const runtimeDirectory = options.runtimeDirectory ?? '/etc/gpuaas/runtime';
  const [rebootProgram, ...rebootArguments] = options.rebootCommand ?? ['systemctl', 'reboot'];
  const registry = new UserRegistry(options.store);
  const mutex = new Mutex();

  const homeOf = (username: string) => join(homeRoot, username);
  const bundlesOf = (allocationId: string) => join(runtimeDirectory, allocationId);

  const findAccount = async (nameOrUid: string): Promise<Account | null> => {
    const result = await run('getent', ['passwd', nameOrUid]);
    if (result.exitCode === 2) return null;
    const account = result.exitCode === 0 ? parseAccount(result.stdout) : null;
    if (account === null) throw failed('getent', result);
    return account;
  };

  /** Runs a tool of the account database, patiently: another program may hold its lock for a moment. */
  const changeAccounts = async (program: string, args: readonly string[], accepted: readonly number[] = []) => {
    for (let attempt = 1; ; attempt += 1) {
      const result = await run(program, args);
      if (result.exitCode === 0 || (result.exitCode !== null && accepted.includes(result.exitCode))) return;
      const busy = result.exitCode !== null && ACCOUNT_DATABASE_BUSY.includes(result.exitCode);
      if (!busy || attempt === ACCOUNT_ATTEMPTS) throw failed(program, result);
      await timer.sleep(200);
    }
  };

  /** The account of this allocation, or null when there is none. Refuses an account that is somebody else's. */
  const ownAccount = async (user: RuntimeUser): Promise<Account | null> => {
    const [byName, byUid] = [await findAccount(user.username), await findAccount(String(user.uid))];
    for (const account of [byName, byUid]) {
      if (account !== null && !isOwn(account, user)) {
        throw new HostError('account_taken', `account ${account.username} (uid ${account.uid}) belongs to this host`);
      }
    }
    return byName;
  };

  const ensureAccount = async (user: RuntimeUser, entry: RegistryUser | undefined): Promise<void> => {
    const home = homeOf(user.username);
    const known = await ownAccount(user);
    if (entry === undefined) {
      // Nothing of ours is here yet. Data of an earlier account of this name must not pass to this one.
      if ((await lstatOrNull(home)) !== null) throw new HostError('home_not_empty', `${home} exists already`);
      await registry.put({ ...identify(user), state: 'creating', key_set: null });
    }
    if (known === null) {
      await changeAccounts('useradd', [
        '--uid',
        String(user.uid),
        '--user-group',
        '--no-create-home',
        '--home-dir',
        home,
        '--shell',
        '/bin/bash',
        // No password fits; unlike a locked account, it may still log in with a key.
        '--password',
        '*',
        '--comment',
        commentFor(user),
        user.username,
      ]);
    }
    const account = await ownAccount(user);
    if (account === null) throw new HostError('command_failed', `useradd left no account ${user.username}`);
    await ensureHome(account, entry?.state === 'present');
  };

  /** A home that is complete is left as it is; one that an interrupted attempt left behind is made anew. */
  const ensureHome = async (account: Account, inUse: boolean): Promise<void> => {
    const home = homeOf(account.username);
    const existing = await lstatOrNull(home);
    if (inUse && existing?.isDirectory() && existing.uid === account.uid) return;
    if (existing !== null) await removeTree(home);
    await mkdir(home, { mode: 0o700 });
    if ((await lstatOrNull(SKELETON))?.isDirectory()) {
      await cp(SKELETON, home, { recursive: true, verbatimSymlinks: true, force: true });
    }
    for (const entry of await readdir(home, { recursive: true }))
      await lchown(join(home, entry), account.uid, account.gid);
    await chmod(home, 0o700);
    await chown(home, account.uid, account.gid);
  };

  const installKeys = async (user: RuntimeUser, entry: RegistryUser, keySet: KeySet) => {
    const account = await ownAccount(user);
    if (account === null) throw new HostError('allocation_not_provisioned', `there is no account ${user.username}`);
    // First the record, then the file: after a crash the record still keeps older sets out.
    await registry.put({ ...entry, key_set: { version: keySet.version, keys: [...keySet.keys] } });
    await writeAuthorizedKeys(homeOf(user.username), account, renderAuthorizedKeys(keySet));
    return describeKeySet(keySet);
  };

  /** Removes a tree, but never what is mounted in it: a tenant's shared storage is not the home's to delete. */
  const removeTree = async (path: string): Promise<void> => {
    const mounted = mountsBelow(parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')), path);
    if (mounted.length > 0) throw new MountedError(mounted);
    await rm(path, { recursive: true, force: true });
  };

  const removeHome = async (username: string): Promise<string[]> => {
    const home = homeOf(username);
    const trash = await readdir(homeRoot).then((names) =>
      names.filter((name) => name.startsWith(trashPrefix(username))),
    );
    try {
      const stat = await lstatOrNull(home);
      if (stat !== null) {
        const mounted = mountsBelow(parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')), home);
        if (mounted.length > 0) throw new MountedError(mounted);
        // Out of reach first: a removal of millions of files may be interrupted.
        const aside = `${trashPrefix(username)}${randomBytes(6).toString('hex')}`;
        await rename(home, join(homeRoot, aside));
        trash.push(aside);
      }
      for (const name of trash) await removeTree(join(homeRoot, name));
      return [];
    } catch (error) {
      if (error instanceof MountedError) return error.mountPoints.map((point) => `mount:${point}`);
      return [`home:${home} could not be removed: ${errorChain(error)}`];
    }
  };

  const removeTraces = async (user: RuntimeUser): Promise<void> => {
    for (const path of [
      `/var/spool/cron/crontabs/${user.username}`,
      `/var/spool/cron/${user.username}`,
      `/var/lib/systemd/linger/${user.username}`,
      `/var/mail/${user.username}`,
      bundlesOf(user.allocationId),
    ]) {
      await rm(path, { recursive: true, force: true });
    }
    for (const directory of SHARED_DIRECTORIES) {
      for (const path of (await ownedBelow(run, directory, user.uid)).paths)
        await rm(path, { recursive: true, force: true });
    }
    for (const [table, flag] of IPC_TABLES) {
      for (const id of parseIpcIds(await readFile(`/proc/sysvipc/${table}`, 'utf8').catch(() => ''), user.uid)) {
        await run('ipcrm', [flag, String(id)]);
      }
    }
  };

  /** Looks with fresh eyes: what is listed here is what keeps a teardown from being clean. */
  const findLeftovers = async (user: RuntimeUser): Promise<string[]> => {
    const found: string[] = [];
    if ((await findAccount(user.username)) !== null) found.push(`account:${user.username}`);
    for (const pid of await processesOf(user.uid)) found.push(`process:${pid}`);
    for (const path of [
      homeOf(user.username),
      bundlesOf(user.allocationId),
      `/var/spool/cron/crontabs/${user.username}`,
    ]) {
      if ((await lstatOrNull(path)) !== null) found.push(`path:${path}`);
    }
    for (const directory of SHARED_DIRECTORIES) {
      const scan = await ownedBelow(run, directory, user.uid);
      found.push(...scan.paths.map((path) => `path:${path}`));
      if (!scan.complete) found.push(`scan:${directory} could not be searched`);
    }
    for (const [table] of IPC_TABLES) {
      const ids = parseIpcIds(await readFile(`/proc/sysvipc/${table}`, 'utf8').catch(() => ''), user.uid);
      found.push(...ids.map((id) => `${table}:${id}`));
    }
    return found.slice(0, 100);
  };

  return {
    kind: 'linux',
    bootId: async () => (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim(),
    reboot: async () => {
      const result = await run(rebootProgram, rebootArguments);
      if (result.exitCode !== 0) throw failed(rebootProgram, result);
    },

    ensureUser: (user, wanted) =>
      mutex.run(async () => {
        const entry = await registry.claim(user);
        const keySet = decideKeySet(entry?.key_set ?? null, wanted);
        await ensureAccount(user, entry);
        const installed = await installKeys(
          user,
          { ...identify(user), state: entry?.state ?? 'creating', key_set: null },
          keySet,
        );
        await registry.put({
          ...identify(user),
          state: 'present',
          key_set: { version: keySet.version, keys: [...keySet.keys] },
        });
        return installed;
      }),

    ensureAuthorizedKeys: (user, wanted) =>
      mutex.run(async () => {
        const entry = await registry.present(user);
        return installKeys(user, entry, decideKeySet(entry.key_set, wanted));
      }),

    ensureUserAbsent: (user) =>
      mutex.run(async () => {
        const entry = await registry.find(user.allocationId);
        if (entry !== undefined && (entry.username !== user.username || entry.uid !== user.uid)) {
          return [`account:${entry.username} is registered for this allocation`];
        }
        const account = await findAccount(user.username);
        if (account !== null && !isOwn(account, user))
          return [`account:${user.username} does not belong to this allocation`];
        const byUid = await findAccount(String(user.uid));
        if (byUid !== null && !isOwn(byUid, user)) return [`account:${byUid.username} has the user id ${user.uid}`];

        await registry.put({ ...identify(user), state: 'leaving', key_set: entry?.key_set ?? null });
        if (account !== null)
          await changeAccounts('usermod', ['--expiredate', '1', '--shell', '/usr/sbin/nologin', user.username]);
        const surviving = await endProcessesOf(user.uid, timer);
        const home = await removeHome(user.username);
        if (surviving.length > 0 || home.length > 0) return [...surviving.map((pid) => `process:${pid}`), ...home];
        // Exit 6: it is gone already; 8: somebody of that name is still noted as logged in.
        if (account !== null) await changeAccounts('userdel', ['--force', user.username], [6]);
        await changeAccounts('groupdel', [user.username], [6]).catch(() => undefined);
        await removeTraces(user);
        const leftovers = await findLeftovers(user);
        if (leftovers.length === 0) await registry.release(user.allocationId);
        return leftovers;
      }),

    runtimeUsers: () =>
      mutex.run(async () =>
        (await registry.users()).map(({ allocation_id, username, uid }) => ({
          allocationId: allocation_id,
          username,
          uid,
        })),
      ),

    ensureRuntimeBundle: (bundle) =>
      mutex.run(async () => {
        const entry = (await registry.users()).find((user) => user.allocation_id === bundle.allocationId);
        const account = entry?.state === 'present' ? await findAccount(entry.username) : null;
        if (account === null)
          throw new HostError('allocation_not_provisioned', 'the allocation has no account on this host');
        const directory = bundlesOf(bundle.allocationId);
        await mkdir(runtimeDirectory, { recursive: true, mode: 0o755 });
        await mkdir(directory, { mode: 0o750 }).catch(() => undefined);
        return inDirectory(directory, async (handle) => {
          await handle.chmod(0o750);
          await handle.chown(0, account.gid);
          const path = join(directory, `${bundle.slug}.env`);
          const temporary = join(directory, `.${randomBytes(6).toString('hex')}`);
          await writeFile(temporary, renderEnvironment(bundle.slug, bundle.version, bundle.env), {
            mode: 0o640,
            flag: 'wx',
            flush: true,
          });
          await chown(temporary, 0, account.gid);
          await rename(temporary, path);
          await handle.sync();
          return path;
        });
      }),

    topology: async () => withoutGuests(assembleTopology(await readRawFacts(run))),

    healthChecks: async (allocationId) => {
      const checks = [
        await gpuCheck(run),
        await diskCheck(options.stateDirectory),
        await memoryCheck(),
        await sshCheck(options.sshPort),
      ];
      if (allocationId === null) return checks;
      const entry = await mutex.run(() => registry.find(allocationId));
      const account = entry?.state === 'present' ? await findAccount(entry.username) : null;
      const there = account !== null;
      return [
        ...checks,
        {
          name: 'runtime_user',
          status: there ? 'ok' : 'failed',
          detail: there ? 'the account exists' : 'there is no account',
        },
      ];
    },

    ensureUninstalled: () =>
      mutex.run(async () => {
        const removed: string[] = [];
        if ((await lstatOrNull(runtimeDirectory)) !== null) {
          await rm(runtimeDirectory, { recursive: true, force: true });
          removed.push(runtimeDirectory);
          // Its parent holds the configuration too; it goes only when it is empty.
          await rmdir(join(runtimeDirectory, '..')).catch(() => undefined);
        }
        if ((await lstatOrNull(SERVICE_UNIT_PATH)) !== null) {
          const result = await run('systemctl', ['disable', SERVICE_UNIT]);
          if (result.exitCode !== 0) throw failed('systemctl', result);
          removed.push(`service:${SERVICE_UNIT}`);
        }
        return removed;
      }),
  };
}

const IPC_TABLES = [
  ['shm', '--shmem-id'],
  ['sem', '--semaphore-id'],
  ['msg', '--queue-id'],
] as const;

class MountedError extends Error {
  constructor(readonly mountPoints: readonly string[]) {
    super(`mounted: ${mountPoints.join(', ')}`);
  }
}

const commentFor = (user: RuntimeUser) => `gpuaas-allocation ${user.allocationId}`;
const trashPrefix = (username: string) => `.gpuaas-removed-${username}-`;
const identify = (user: RuntimeUser) => ({ allocation_id: user.allocationId, username: user.username, uid: user.uid });

function isOwn(account: Account, user: RuntimeUser): boolean {
  return account.username === user.username && account.uid === user.uid && account.comment === commentFor(user);
}

function failed(program: string, result: CommandResult): HostError {
  const why = result.absent
    ? 'is not installed'
    : `failed with ${result.exitCode ?? 'a signal'}: ${result.stderr.trim().slice(0, 300)}`;
  return new HostError('command_failed', `${program} ${why}`);
}

/** Values in single quotes, as a shell and a service manager both read them. */
export function renderEnvironment(slug: string, version: string, env: Readonly<Record<string, string>>): string {
  const lines = Object.entries(env)
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([name, value]) => `${name}='${value.replaceAll("'", `'\\''`)}'\n`);
  return `# Managed by gpuaas-node-agent: ${slug} ${JSON.stringify(version)}\n${lines.join('')}`;
}

/**
 * Topmost entries of a user below a directory that all may write, without leaving its file system. `find` walks some
 * thirty times faster than this process could, and a teardown must not depend on how much others keep there.
 */
async function ownedBelow(
  run: RunCommand,
  directory: string,
  uid: number,
): Promise<{ paths: string[]; complete: boolean }> {
  const root = await lstatOrNull(directory);
  if (root === null || !root.isDirectory()) return { paths: [], complete: true };
  const found = await run('find', [
    ...[directory, '-mindepth', '1', '-xdev', '-ignore_readdir_race'],
    ...['-uid', String(uid), '-prune', '-print0'],
  ]);
  const paths: string[] = [];
  for (const path of found.stdout.split('\0').slice(0, -1)) {
    // The root of another file system that is mounted here is shown too, though not walked.
    if ((await lstatOrNull(path))?.dev === root.dev) paths.push(path);
  }
  // What vanishes while it looks, which it also tells as an error, is nobody's leftover.
  const complaints = found.stderr.split('\n').filter((line) => line !== '');
  const vanished = complaints.length > 0 && complaints.every((line) => line.endsWith(': No such file or directory'));
  return { paths, complete: found.exitCode === 0 || (found.exitCode === 1 && vanished) };
}

async function gpuCheck(run: RunCommand): Promise<HealthCheck> {
  const result = await run('nvidia-smi', ['--query-gpu=index', '--format=csv,noheader']);
  if (result.absent) return { name: 'gpus', status: 'unknown', detail: 'nvidia-smi is not installed' };
  if (result.exitCode !== 0) return { name: 'gpus', status: 'failed', detail: 'the GPU driver does not answer' };
  const answering = result.stdout.split('\n').filter((line) => /^\d+$/.test(line.trim())).length;
  return answering > 0
    ? { name: 'gpus', status: 'ok', detail: `${answering} answer` }
    : { name: 'gpus', status: 'failed', detail: 'the GPU driver reports no GPU' };
}

async function diskCheck(directory: string): Promise<HealthCheck> {
  const stats = await statfs(directory).catch(() => null);
  if (stats === null || stats.blocks === 0)
    return { name: 'disk', status: 'unknown', detail: 'the file system gives no size' };
  const free = Math.floor((100 * stats.bavail) / stats.blocks);
  return {
    name: 'disk',
    status: free < 2 ? 'failed' : free < 10 ? 'degraded' : 'ok',
    detail: `${free} % free for state`,
  };
}

async function memoryCheck(): Promise<HealthCheck> {
  const available = parseMemoryMib(await readFile('/proc/meminfo', 'utf8').catch(() => ''), 'MemAvailable');
  if (available === null) return { name: 'memory', status: 'unknown', detail: 'the kernel gives no figure' };
  return { name: 'memory', status: available < 512 ? 'degraded' : 'ok', detail: `${available} MiB available` };
}

function sshCheck(port: number): Promise<HealthCheck> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, timeout: 3000 });
    const answer = (status: HealthCheck['status'], detail: string) => {
      socket.destroy();
      resolve({ name: 'ssh', status, detail });
    };
    socket.once('connect', () => answer('ok', `port ${port} answers`));
    socket.once('timeout', () => answer('failed', `port ${port} does not answer`));
    socket.once('error', () => answer('failed', `port ${port} refuses connections`));
  });
}
