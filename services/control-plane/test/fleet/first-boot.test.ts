import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type FleetSite, startFleetSite } from './hosts.js';

const run = promisify(execFile);

let site: FleetSite;
let directory: string;
let packagePath: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'gpuaas-first-boot-'));
  packagePath = join(directory, 'package.tar.gz');
  await pack('the first build');
  site = await startFleetSite({ roles: ['api'], planes: 1, domains: { agentPackagePath: packagePath } });
});
afterAll(async () => {
  await site?.stop();
  await rm(directory, { recursive: true, force: true });
});

/** A package in the layout of the real one. */
async function pack(program: string): Promise<void> {
  const source = await mkdtemp(join(directory, 'source-'));
  for (const [path, content] of [
    ['gpuaas-node-agent/bin/gpuaas-node-agent', program],
    ['gpuaas-node-agent/systemd/gpuaas-node-agent.service', '[Unit]\n'],
  ] as const) {
    await mkdir(join(source, path, '..'), { recursive: true });
    await writeFile(join(source, path), content);
  }
  execFileSync('tar', ['--create', '--gzip', '--file', packagePath, '--directory', source, 'gpuaas-node-agent']);
}

/** Runs the script on a host whose directories lie in a folder and whose systemd only writes down what it is told. */
async function boot(script: string): Promise<{ root: string; code: number; output: string; told: string }> {
  const root = await mkdtemp(join(directory, 'host-'));
  const own = ['/etc/gpuaas', '/etc/systemd/system', '/opt/gpuaas', '/var/lib/gpuaas'];
  for (const path of own) await mkdir(join(root, path), { recursive: true });
  const bin = join(root, 'bin');
  await mkdir(bin);
  for (const [name, text] of [
    ['systemctl', `#!/bin/sh\necho "$@" >> '${root}/told'\n`],
    ['id', '#!/bin/sh\necho 0\n'],
  ] as const) {
    await writeFile(join(bin, name), text);
    await chmod(join(bin, name), 0o755);
  }
  const moved = own.reduce((text, path) => text.replaceAll(path, join(root, path)), script);
  const ended = await run('bash', ['-c', moved], { env: { ...process.env, PATH: `${bin}:${process.env.PATH}` } }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      output: error.stdout + error.stderr,
    }),
  );
  const told = await readFile(join(root, 'told'), 'utf8').catch(() => '');
  return { root, ...ended, told };
}

describe('the first-boot script on a host', () => {
  it('installs what was promised, over a connection it can trust, and starts it', async () => {
    const nodeId = await site.register();
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    const host = await boot(issued.body.script);
    expect([host.code, host.output]).toEqual([0, 'gpuaas: the node agent is installed and starting\n']);
    expect(host.told).toBe('daemon-reload\nenable gpuaas-node-agent.service\nrestart gpuaas-node-agent.service\n');
    const file = (path: string) => readFile(join(host.root, path), 'utf8');
    expect(await file('/opt/gpuaas/gpuaas-node-agent/bin/gpuaas-node-agent')).toBe('the first build');
    expect(await file('/etc/systemd/system/gpuaas-node-agent.service')).toBe('[Unit]\n');
    expect(await file('/etc/gpuaas/enrollment-token')).toBe(`${issued.body.bootstrap_token}\n`);
    expect(await file('/etc/gpuaas/node-agent.env')).toContain(`GPUAAS_NODE_ID=${nodeId}\n`);
    expect(await file('/etc/gpuaas/node-ca-bundle.pem')).toMatch(/^-----BEGIN CERTIFICATE-----/);
    expect(await site.statusOf(nodeId)).toBe('enrolling');
  });

  it('unpacks nothing that is not what was promised', async () => {
    const nodeId = await site.register();
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    await pack('another build');
    const host = await boot(issued.body.script);
    expect(host.code).toBe(1);
    expect(host.output).toContain('the package is not the one that was promised');
    expect(existsSync(join(host.root, '/opt/gpuaas/gpuaas-node-agent'))).toBe(false);
    expect(host.told).toBe('');
  });
});
