import { execFile, spawn } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chown, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { requirePrograms } from '../../../../control-plane/test/harness/prerequisites.js';
import { createMemoryStore } from '../../store/memory-store.js';
import { KEYS } from '../../testing/fixtures.js';
import { describeHostDriver, type HostUnderTest } from '../host-driver.suite.js';
import type { RuntimeUser } from '../host-port.js';
import { runCommand } from './command.js';
import { createLinuxHost, renderEnvironment } from './linux-host.js';
import { processesOf } from './processes.js';

const exec = promisify(execFile);
const able = requirePrograms(['useradd', 'usermod', 'userdel', 'groupdel', 'getent'], {
  suite: 'the linux host',
  root: true,
});

interface LinuxUnderTest extends HostUnderTest {
  homeRoot: string;
  runtimeDirectory: string;
}

/** Accounts are real; their homes lie in a directory of the test, and none survives it. */
async function makeLinux(): Promise<LinuxUnderTest> {
  const base = await mkdtemp(join(tmpdir(), 'gpuaas-linux-'));
  await exec('chmod', ['755', base]);
  const [homeRoot, runtimeDirectory] = [join(base, 'home'), join(base, 'etc', 'runtime')];
  await mkdir(homeRoot);
  const store = createMemoryStore();
  const make = () => createLinuxHost({ store, homeRoot, runtimeDirectory, sshPort: 22, stateDirectory: base });
  const users: RuntimeUser[] = [];
  return {
    host: make(),
    homeRoot,
    runtimeDirectory,
    newUser: () => {
      const number = randomInt(100_000, 1_000_000);
      const user = { allocationId: randomUUID(), username: `gpuaas-t${number}`, uid: 1_500_000_000 + number };
      users.push(user);
      return user;
    },
    restart: async () => make(),
    authorizedKeys: async (user) => {
      const account = await exec('getent', ['passwd', user.username]).catch(() => null);
      return account === null ? null : readFile(join(homeRoot, user.username, '.ssh', 'authorized_keys'), 'utf8');
    },
    cleanUp: async () => {
      for (const user of users) await exec('userdel', ['--force', user.username]).catch(() => undefined);
      await rm(base, { recursive: true, force: true });
    },
  };
}

if (able) describeHostDriver('linux', makeLinux);

describe.skipIf(!able)('a linux host', () => {
  let machine: LinuxUnderTest;
  let user: RuntimeUser;
  beforeEach(async () => {
    machine = await makeLinux();
    user = machine.newUser();
    await machine.host.ensureUser(user, { version: 1, keys: KEYS });
  });
  afterEach(() => machine.cleanUp());

  const home = () => join(machine.homeRoot, user.username);
  const keysFile = () => join(home(), '.ssh', 'authorized_keys');
  const install = () => machine.host.ensureAuthorizedKeys(user, { version: 2, keys: KEYS.slice(0, 1) });

  it('makes an account without password, with a home that only its owner enters', async () => {
    const { stdout } = await exec('getent', ['shadow', user.username]);
    expect(stdout.split(':')[1]).toBe('*');
    const modes = await Promise.all([home(), join(home(), '.ssh'), keysFile()].map((path) => lstat(path)));
    expect(modes.map((stat) => [stat.uid, stat.mode & 0o777])).toEqual([
      [user.uid, 0o700],
      [user.uid, 0o700],
      [user.uid, 0o600],
    ]);
    expect((await readdir(home())).sort()).toEqual(expect.arrayContaining((await readdir('/etc/skel')).sort()));
  });

  it('does not follow a link that a tenant puts in the place of .ssh', async () => {
    const target = join(machine.homeRoot, '..', 'target');
    await mkdir(target);
    await rename(join(home(), '.ssh'), join(home(), 'moved'));
    await symlink(target, join(home(), '.ssh'));
    await install();
    expect(await readdir(target)).toEqual([]);
    expect((await lstat(join(home(), '.ssh'))).isDirectory()).toBe(true);
    expect(await machine.authorizedKeys(user)).toContain(KEYS[0]?.public_key);
  });

  it('does not follow a link that a tenant puts in the place of the file', async () => {
    const target = join(machine.homeRoot, '..', 'precious');
    await writeFile(target, 'precious');
    await rm(keysFile());
    await symlink(target, keysFile());
    await install();
    expect(await readFile(target, 'utf8')).toBe('precious');
    expect((await lstat(target)).uid).toBe(0);
    expect((await lstat(keysFile())).isFile()).toBe(true);
  });

  it.each([
    [
      'a file for .ssh',
      async () => {
        await rm(join(home(), '.ssh'), { recursive: true });
        await writeFile(join(home(), '.ssh'), 'x');
      },
    ],
    [
      'a directory for the file',
      async () => {
        await rm(keysFile());
        await mkdir(join(keysFile(), 'deep'), { recursive: true });
      },
    ],
    ['a directory of another owner', async () => chown(join(home(), '.ssh'), 0, 0)],
    ['an unwritable directory', async () => void (await exec('chmod', ['000', join(home(), '.ssh')]))],
    ['a world-writable home', async () => void (await exec('chmod', ['777', home()]))],
  ])('installs keys in spite of %s', async (_case, sabotage) => {
    await sabotage();
    await install();
    const file = await lstat(keysFile());
    expect([file.isFile(), file.uid, file.mode & 0o777]).toEqual([true, user.uid, 0o600]);
    expect((await lstat(home())).mode & 0o777).toBe(0o700);
    expect(await machine.authorizedKeys(user)).not.toContain(KEYS[1]?.public_key);
  });

  it('ends what the account runs, also what resists, and takes what it left in shared places', async () => {
    const stubborn = spawn(
      '/bin/sh',
      ['-c', 'trap "" TERM HUP INT; (while :; do sleep 1; done) & while :; do sleep 1; done'],
      {
        uid: user.uid,
        gid: user.uid,
        cwd: '/',
        stdio: 'ignore',
      },
    );
    await new Promise((resolve) => stubborn.once('spawn', resolve));
    const left = join('/var/tmp', `gpuaas-t-${user.uid}`);
    await mkdir(join(left, 'deep'), { recursive: true });
    await exec('chown', ['-R', String(user.uid), left]);
    expect((await processesOf(user.uid)).length).toBeGreaterThan(0);
    expect(await machine.host.ensureUserAbsent(user)).toEqual([]);
    expect(await processesOf(user.uid)).toEqual([]);
    expect(existsSync(left)).toBe(false);
    expect(existsSync(home())).toBe(false);
    expect(await readdir(machine.homeRoot)).toEqual([]);
  });

  it('does not delete what is mounted in a home, and says what stands', async ({ skip }) => {
    const point = join(home(), 'data');
    await mkdir(point);
    const mounted = await exec('mount', ['-t', 'tmpfs', 'gpuaas-test', point]).then(
      () => true,
      () => false,
    );
    if (!mounted) {
      console.warn('SKIPPED a mount in a home: this machine does not let root mount');
      skip();
    }
    try {
      await writeFile(join(point, 'shared'), 'of many');
      expect(await machine.host.ensureUserAbsent(user)).toEqual([`mount:${point}`]);
      expect(await readFile(join(point, 'shared'), 'utf8')).toBe('of many');
    } finally {
      await exec('umount', [point]);
    }
    expect(await machine.host.ensureUserAbsent(user)).toEqual([]);
  });

  it('leaves accounts alone that it did not make', async () => {
    const stranger = machine.newUser();
    await exec('useradd', [
      '--uid',
      String(stranger.uid),
      '--no-create-home',
      '--comment',
      'a person',
      stranger.username,
    ]);
    await expect(machine.host.ensureUser(stranger, { version: 1, keys: KEYS })).rejects.toMatchObject({
      code: 'account_taken',
    });
    expect(await machine.host.ensureUserAbsent(stranger)).toEqual([
      `account:${stranger.username} does not belong to this allocation`,
    ]);
    expect((await exec('getent', ['passwd', stranger.username])).stdout).toContain('a person');
  });

  it('gives nobody the files of an earlier account of the same name', async () => {
    const next = machine.newUser();
    await mkdir(join(machine.homeRoot, next.username));
    await writeFile(join(machine.homeRoot, next.username, 'secret'), 'x');
    await expect(machine.host.ensureUser(next, { version: 1, keys: KEYS })).rejects.toMatchObject({
      code: 'home_not_empty',
    });
  });

  it('takes up an account that was made before the agent died', async () => {
    const next = machine.newUser();
    // As far as an attempt came whose process was killed after useradd: the record says "creating".
    const store = createMemoryStore();
    const entry = {
      allocation_id: next.allocationId,
      username: next.username,
      uid: next.uid,
      state: 'creating',
      key_set: null,
    };
    await store.write('host-users.json', JSON.stringify({ users: [entry], released: [] }));
    const comment = `gpuaas-allocation ${next.allocationId}`;
    await exec('useradd', [
      '--uid',
      String(next.uid),
      '--user-group',
      '--no-create-home',
      '--home-dir',
      join(machine.homeRoot, next.username),
      '--comment',
      comment,
      next.username,
    ]);
    await mkdir(join(machine.homeRoot, next.username));
    const host = createLinuxHost({
      store,
      homeRoot: machine.homeRoot,
      runtimeDirectory: machine.runtimeDirectory,
      sshPort: 22,
      stateDirectory: machine.homeRoot,
    });
    expect(await host.ensureUser(next, { version: 1, keys: KEYS })).toMatchObject({ count: 2 });
    expect((await lstat(join(machine.homeRoot, next.username))).uid).toBe(next.uid);
    expect(await host.ensureUserAbsent(next)).toEqual([]);
  });

  it('waits for the lock of the account database', async () => {
    let refusals = 2;
    const host = createLinuxHost({
      store: createMemoryStore(),
      homeRoot: machine.homeRoot,
      runtimeDirectory: machine.runtimeDirectory,
      sshPort: 22,
      stateDirectory: machine.homeRoot,
      timer: { sleep: async () => undefined },
      run: async (program, args) => {
        if (program === 'useradd' && refusals > 0) {
          refusals -= 1;
          return { exitCode: 1, absent: false, stdout: '', stderr: 'cannot lock /etc/passwd; try again later.' };
        }
        return runCommand(program, args);
      },
    });
    expect(await host.ensureUser(machine.newUser(), { version: 1, keys: KEYS })).toMatchObject({ count: 2 });
  });

  it('writes a bundle that its account can read and nobody else can', async () => {
    const path = await machine.host.ensureRuntimeBundle({
      allocationId: user.allocationId,
      slug: 'cuda',
      version: '12.8',
      env: { NAME: "it's", PATH_EXTRA: '$HOME `id`' },
    });
    const stat = await lstat(path);
    expect([stat.uid, stat.mode & 0o777]).toEqual([0, 0o640]);
    const read = await exec('/bin/sh', ['-c', '. "$1"; printf "%s|%s" "$NAME" "$PATH_EXTRA"', 'sh', path], {
      uid: user.uid,
      gid: stat.gid,
    });
    expect(read.stdout).toBe("it's|$HOME `id`");
    const stranger = exec('/bin/cat', [path], { uid: user.uid + 1, gid: user.uid + 1 });
    await expect(stranger).rejects.toThrow(/Permission denied/);
  });

  it('restarts the machine by the command it was given', async () => {
    const mark = join(machine.homeRoot, 'rebooted');
    const options = { store: createMemoryStore(), sshPort: 22, stateDirectory: machine.homeRoot };
    await createLinuxHost({ ...options, rebootCommand: ['touch', mark] }).reboot();
    expect(existsSync(mark)).toBe(true);
    await expect(createLinuxHost({ ...options, rebootCommand: ['false'] }).reboot()).rejects.toMatchObject({
      code: 'command_failed',
    });
  });
});

describe('an environment file', () => {
  it('holds any value as one quoted word', () => {
    expect(renderEnvironment('cuda', '1', { B: "a'b", A: 'x y' })).toBe(
      `# Managed by gpuaas-node-agent: cuda "1"\nA='x y'\nB='a'\\''b'\n`,
    );
  });
});
