#!/usr/bin/env node
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { commitFacts, inputsDigest } from './package-inputs.mjs';
import { createTarball } from './tarball.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Where the tarball lies unless another place is named. */
export const PACKAGE_PATH = here('../dist/package/gpuaas-node-agent.tar.gz');

/**
 * Packs the agent for a host: one program file, launcher, service unit, facts of the build. It holds no machine code,
 * so one package serves every architecture; the host brings Node.js 20.19 or newer.
 * Returns the path, the version and the SHA-256 of the tarball.
 */
export async function packAgent(target = PACKAGE_PATH) {
  const { version } = JSON.parse(await readFile(here('../package.json'), 'utf8'));
  const work = await mkdtemp(join(tmpdir(), 'gpuaas-pack-'));
  try {
    // The bundler takes longer to load than it takes to see that there is nothing to do.
    const { bundleAgent } = await import('./bundle.mjs');
    const program = join(work, 'gpuaas-node-agent.mjs');
    await bundleAgent(program);
    const root = 'gpuaas-node-agent';
    const facts = { version, ...commitFacts() };
    const tarball = createTarball([
      { path: `${root}/lib/gpuaas-node-agent.mjs`, mode: 0o644, content: await readFile(program) },
      { path: `${root}/lib/build-info.json`, mode: 0o644, content: `${JSON.stringify(facts)}\n` },
      {
        path: `${root}/bin/gpuaas-node-agent`,
        mode: 0o755,
        content: await readFile(here('../packaging/gpuaas-node-agent')),
      },
      {
        path: `${root}/systemd/gpuaas-node-agent.service`,
        mode: 0o644,
        content: await readFile(here('../packaging/gpuaas-node-agent.service')),
      },
    ]);
    await mkdir(join(target, '..'), { recursive: true });
    // Whoever reads the package meanwhile gets the old one whole.
    const temporary = `${target}.${process.pid}.tmp`;
    await writeFile(temporary, tarball);
    await rename(temporary, target);
    return { path: target, version, sha256: createHash('sha256').update(tarball).digest('hex'), bytes: tarball.length };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Packs for this repository's own control plane, unless what lies there was made from the same inputs. */
async function packIfChanged() {
  const stamp = join(PACKAGE_PATH, '..', 'inputs.sha256');
  const wanted = inputsDigest();
  if (existsSync(PACKAGE_PATH) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  const { bytes, sha256 } = await packAgent();
  await writeFile(stamp, wanted);
  console.log(`node agent: package of ${bytes} bytes, sha256:${sha256}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === '--if-changed') {
    await packIfChanged();
  } else {
    const packed = await packAgent(process.argv[2]);
    console.log(`${packed.path}\n${packed.bytes} bytes, sha256:${packed.sha256}, version ${packed.version}`);
  }
}
