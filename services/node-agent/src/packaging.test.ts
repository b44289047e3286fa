import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const exec = promisify(execFile);
const PACK = fileURLToPath(new URL('../scripts/pack.mjs', import.meta.url));

describe('the package of the agent', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'gpuaas-pack-test-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('has the same bytes each time it is made, and is small', async () => {
    const [first, second] = [join(directory, '1.tar.gz'), join(directory, '2.tar.gz')];
    await exec(process.execPath, [PACK, first]);
    await exec(process.execPath, [PACK, second]);
    expect((await readFile(first)).equals(await readFile(second))).toBe(true);
    expect((await stat(first)).size).toBeLessThan(1024 * 1024);
  });

  it('runs where nothing of this repository is, with the Node.js of the host', async () => {
    const tarball = join(directory, 'agent.tar.gz');
    await exec(process.execPath, [PACK, tarball]);
    await exec('tar', ['-xzf', tarball, '-C', directory]);
    const program = join(directory, 'gpuaas-node-agent', 'bin', 'gpuaas-node-agent');
    const env = { PATH: '/usr/bin:/bin', GPUAAS_NODE_BIN: process.execPath };
    expect((await exec(program, ['--help'], { env, cwd: '/' })).stdout).toContain('usage: gpuaas-node-agent');
    // Without settings it says what is missing and ends as the service unit expects.
    await expect(exec(program, [], { env, cwd: '/' })).rejects.toMatchObject({
      code: 64,
      stderr: expect.stringContaining('GPUAAS_API_URL: must be set'),
    });
    await expect(exec(program, [], { env: { ...env, GPUAAS_NODE_BIN: '/bin/false' } })).rejects.toMatchObject({
      code: 64,
    });
  });
});
