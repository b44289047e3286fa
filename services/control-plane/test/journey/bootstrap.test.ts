import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type ComputeSite, SKU, startComputeSite } from '../compute/site-with-hosts.js';
import { requirePrograms } from '../harness/prerequisites.js';
import { type Program, startCommand } from '../harness/program.js';
import { untilInService } from './real-agent.js';

const PACKAGE = fileURLToPath(new URL('../../../node-agent/dist/package/gpuaas-node-agent.tar.gz', import.meta.url));
const able = requirePrograms(['bash', 'curl', 'sha256sum', 'tar', 'install'], {
  suite: 'the first boot of a real host',
  root: true,
});
const sha256 = (content: string | Uint8Array) => createHash('sha256').update(content).digest('hex');

describe.skipIf(!able)('the first boot of a host', { timeout: 120_000 }, () => {
  let site: ComputeSite;
  let directory: string;
  /** what the control plane hands out; a test may exchange it */
  let offered: string;
  beforeAll(async () => {
    if (!existsSync(PACKAGE)) throw new Error(`${PACKAGE} is not there: run \`npm run build\``);
    directory = await mkdtemp(join(tmpdir(), 'gpuaas-bootstrap-'));
    offered = join(directory, 'offered.tar.gz');
    await copyFile(PACKAGE, offered);
    site = await startComputeSite({ nodeAuthentication: 'mtls', domains: { agentPackagePath: offered } });
  });
  afterAll(async () => {
    await site?.stop();
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  let agent: Program | null = null;
  /** stands for `/` of the host, since the machine that runs the test must stay as it is */
  let root: string;
  let nodeId: string;
  let issued: {
    bootstrap_token: string;
    script_sha256: string;
    metadata: { package_digest: string; package_download_url: string };
  };
  let nodes = 0;
  beforeEach(async () => {
    nodes += 1;
    root = join(directory, `host-${nodes}`);
    await mkdir(join(root, 'etc', 'systemd', 'system'), { recursive: true });
    await mkdir(join(root, 'bin'));
    // The service manager of this host keeps a list of what it was told and starts nothing.
    const systemctl = `#!/bin/sh\necho "$*" >>'${join(root, 'systemctl.log')}'\n`;
    await writeFile(join(root, 'bin', 'systemctl'), systemctl, { mode: 0o755 });

    const registered = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host: `bootstrap-${nodes}.test`,
      sku: SKU,
      gpus_total: 8,
      probe: false,
    });
    nodeId = registered.body.id;
    const answer = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    expect(answer.status).toBe(201);
    issued = answer.body;
  });
  afterEach(async () => {
    await agent?.kill();
    agent = null;
  });

  const fetchScript = () => site.call({ path: `/api/v1/bootstrap/nodes/${issued.bootstrap_token}/script` });

  /** Runs the script as the host would, with every path of the system below `root`. */
  const runScript = (script: string): Promise<{ exitCode: number; stdout: string; stderr: string }> => {
    const moved = script.replace(/(?<![\w.$}/])\/(?=(?:opt|etc|var\/lib)\/)/g, `${root}/`);
    const path = [join(root, 'bin'), dirname(process.execPath), process.env.PATH].join(':');
    return new Promise((resolve) => {
      const child = execFile('bash', [], { env: { PATH: path }, timeout: 30_000 }, (error, stdout, stderr) =>
        resolve({ exitCode: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr }),
      );
      child.stdin?.end(moved);
    });
  };

  it('installs the promised package and brings the node into service, by what the script alone knows', async () => {
    const fetched = await fetchScript();
    expect(fetched.status).toBe(200);
    expect(sha256(fetched.body)).toBe(issued.script_sha256);
    expect(issued.metadata.package_digest).toBe(`sha256:${sha256(await readFile(PACKAGE))}`);

    expect(await runScript(fetched.body)).toEqual({
      exitCode: 0,
      stdout: 'gpuaas: the node agent is installed and starting\n',
      stderr: '',
    });
    const told = await readFile(join(root, 'systemctl.log'), 'utf8');
    expect(told.trim().split('\n')).toEqual([
      'daemon-reload',
      'enable gpuaas-node-agent.service',
      'restart gpuaas-node-agent.service',
    ]);
    expect(await readdir(join(root, 'opt', 'gpuaas'))).toEqual(['gpuaas-node-agent']);
    const secret = ['etc/gpuaas/enrollment-token', 'etc/gpuaas/node-agent.env'];
    const modes = await Promise.all(secret.map(async (name) => (await stat(join(root, name))).mode & 0o777));
    expect(modes).toEqual([0o600, 0o600]);

    agent = await startAsService(root);
    await untilInService(site, nodeId, agent);

    // The token is used up: nobody else gets the script, the package, or a certificate by it.
    expect((await fetchScript()).status).toBe(401);
    const download = await fetch(`${site.url}/api/v1/bootstrap/nodes/${issued.bootstrap_token}/package`);
    expect(download.status).toBe(401);
  });

  it('may be repeated on a host where it was cut off', async () => {
    const { body: script } = await fetchScript();
    const half = script.slice(0, script.indexOf('systemctl daemon-reload'));
    expect((await runScript(half)).exitCode).toBe(0);
    expect((await runScript(script)).exitCode).toBe(0);
    agent = await startAsService(root);
    await untilInService(site, nodeId, agent);
  });

  it('installs nothing that is not the promised package', async () => {
    const { body: script } = await fetchScript();
    await writeFile(offered, 'something else');
    try {
      const run = await runScript(script);
      expect(run).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('not the one that was promised') });
    } finally {
      await copyFile(PACKAGE, offered);
    }
    expect(await readdir(join(root, 'opt', 'gpuaas'))).toEqual([]);
    expect(existsSync(join(root, 'systemctl.log'))).toBe(false);
    expect(existsSync(join(root, 'etc/systemd/system/gpuaas-node-agent.service'))).toBe(false);
  });

  it('serves the package by its address alone, byte for byte', async () => {
    const download = await fetch(`${site.url}${new URL(issued.metadata.package_download_url).pathname}`);
    expect(download.status).toBe(200);
    expect(`sha256:${sha256(new Uint8Array(await download.arrayBuffer()))}`).toBe(issued.metadata.package_digest);
  });
});

/** Starts what the installed unit names, with the environment that it names, as the service manager would. */
async function startAsService(root: string): Promise<Program> {
  const unit = await readFile(join(root, 'etc/systemd/system/gpuaas-node-agent.service'), 'utf8');
  const named = (key: string): string => {
    const value = new RegExp(`^${key}=(.+)$`, 'm').exec(unit)?.[1];
    if (value === undefined) throw new Error(`the unit has no ${key}`);
    return join(root, value);
  };
  const lines = (await readFile(named('EnvironmentFile'), 'utf8')).split('\n').filter((line) => line !== '');
  const environment = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  );
  const path = [dirname(process.execPath), process.env.PATH].join(':');
  return startCommand(named('ExecStart'), [], { PATH: path, GPUAAS_LOG_LEVEL: 'warn', ...environment });
}
