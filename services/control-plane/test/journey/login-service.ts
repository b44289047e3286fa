import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Schema } from '@gpuaas/contract';
import { findProgram } from '../harness/prerequisites.js';
import { startCommand } from '../harness/program.js';
import { until } from '../harness/waiting.js';

const exec = promisify(execFile);
const ATTEMPTS = 5;

/** sshd of this machine on a port of the test's own, with nothing of the machine's own configuration. */
export interface LoginService {
  readonly port: number;
  /** what a client's known_hosts says about it */
  readonly knownHost: string;
  /** what it has logged so far */
  output(): string;
  stop(): Promise<void>;
}

export async function startLoginService(): Promise<LoginService> {
  const program = findProgram('sshd');
  if (program === null) throw new Error('sshd is not installed');
  // Where sshd drops its rights; Debian's service unit makes it, and here there is no unit.
  await mkdir('/run/sshd', { mode: 0o755, recursive: true });
  const directory = await mkdtemp(join(tmpdir(), 'gpuaas-sshd-'));
  const hostKey = join(directory, 'host_key');
  await exec('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', hostKey]);

  for (let attempt = 1; ; attempt += 1) {
    const port = await freePort();
    const configuration = join(directory, 'sshd_config');
    await writeFile(configuration, await configurationFor(program, port, hostKey));
    const daemon = startCommand(program, ['-D', '-e', '-f', configuration], { PATH: process.env.PATH });
    const ended = daemon.ended.then(() => 'ended' as const);
    const state = await Promise.race([ended, until(() => answers(port), { what: 'sshd to answer' })]);
    if (state === 'ended') {
      // Another program may have taken the port since it was found free.
      if (attempt < ATTEMPTS) continue;
      await rm(directory, { recursive: true, force: true });
      throw new Error(`sshd does not start: ${daemon.output()}`);
    }
    return {
      port,
      knownHost: `[127.0.0.1]:${port} ${(await readFile(`${hostKey}.pub`, 'utf8')).trim()}\n`,
      output: daemon.output,
      async stop() {
        daemon.signal('SIGTERM');
        await daemon.ended;
        await rm(directory, { recursive: true, force: true });
      },
    };
  }
}

async function configurationFor(program: string, port: number, hostKey: string): Promise<string> {
  const lines = [
    'ListenAddress 127.0.0.1',
    `Port ${port}`,
    `HostKey ${hostKey}`,
    'PidFile none',
    'StrictModes yes',
    'PubkeyAuthentication yes',
    'PasswordAuthentication no',
    'KbdInteractiveAuthentication no',
    'PermitRootLogin no',
    // The machine's PAM rules write to logs and session records that a container does not have.
    'UsePAM no',
    'UseDNS no',
  ];
  // Newer versions shut out an address after some refused logins, which this address will have many of.
  const supportsPenalties = await exec(program, [
    '-T',
    '-h',
    hostKey,
    '-f',
    '/dev/null',
    '-o',
    'PerSourcePenalties=no',
  ]).then(
    () => true,
    () => false,
  );
  return `${[...lines, ...(supportsPenalties ? ['PerSourcePenalties no'] : [])].join('\n')}\n`;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}

/** Whether something that calls itself an SSH server greets us there. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('data', (greeting: Buffer) => {
      socket.destroy();
      resolve(greeting.toString().startsWith('SSH-2.0-'));
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}

/** Someone's key pair in a directory of the test. */
export interface Key {
  readonly file: string;
  readonly publicKey: string;
}

export async function newKey(directory: string, name: string): Promise<Key> {
  const file = join(directory, name);
  await exec('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', file]);
  return { file, publicKey: (await readFile(`${file}.pub`, 'utf8')).trim() };
}

/** Where to log in, as an allocation says it. */
export type SshTarget = Pick<Schema<'AllocationConnection'>, 'host' | 'port' | 'username_on_node'>;

/** Arguments of the client: this key, this server, nothing of the caller's own configuration or agent. */
export function sshArguments(target: SshTarget, key: Key, knownHostsFile: string, command: string): string[] {
  return [
    ...['-F', 'none', '-i', key.file, '-p', String(target.port), '-l', target.username_on_node],
    ...['BatchMode=yes', 'IdentitiesOnly=yes', 'IdentityAgent=none', 'StrictHostKeyChecking=yes', 'ConnectTimeout=10']
      .concat([`UserKnownHostsFile=${knownHostsFile}`, 'GlobalKnownHostsFile=/dev/null', 'LogLevel=ERROR'])
      .flatMap((option) => ['-o', option]),
    target.host,
    command,
  ];
}

export interface SshOutcome {
  /** 255: the client or the server refused */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command over ssh, to its end. */
export function ssh(target: SshTarget, key: Key, knownHostsFile: string, command: string): Promise<SshOutcome> {
  return new Promise((resolve, reject) => {
    execFile(
      'ssh',
      sshArguments(target, key, knownHostsFile, command),
      { timeout: 30_000 },
      (error, stdout, stderr) => {
        if (error && typeof error.code !== 'number') reject(error);
        else resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
      },
    );
  });
}
