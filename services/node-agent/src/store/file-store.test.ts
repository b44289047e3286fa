import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFileStore, StateDirectoryError } from './file-store.js';
import type { StateStore } from './state-store.js';

describe('a file store', () => {
  let directory: string;
  let store: StateStore;
  beforeEach(async () => {
    directory = join(await mkdtemp(join(tmpdir(), 'gpuaas-store-')), 'state');
    store = await openFileStore(directory);
  });
  afterEach(async () => {
    await store.close();
    await rm(join(directory, '..'), { recursive: true, force: true });
  });

  it('keeps texts that only the owner can read', async () => {
    await store.write('identity.json', 'secret');
    expect(await store.read('identity.json')).toBe('secret');
    expect((await stat(join(directory, 'identity.json'))).mode & 0o777).toBe(0o600);
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    await store.rename('identity.json', 'other.json');
    expect(await store.read('identity.json')).toBeNull();
    await store.remove('other.json');
    await store.remove('other.json');
    expect(await readdir(directory)).toEqual([]);
  });

  it('belongs to one process at a time', async () => {
    const alias = join(directory, '..', 'a'.repeat(200));
    await symlink(directory, alias);
    await expect(openFileStore(alias)).rejects.toBeInstanceOf(StateDirectoryError);
    await expect(openFileStore(alias)).rejects.toThrow('in use by another agent');
    await store.close();
    store = await openFileStore(directory);
  });

  it('sweeps what an interrupted write left', async () => {
    await store.close();
    await writeFile(join(directory, 'identity.json.tmp'), 'half');
    store = await openFileStore(directory);
    expect(await readdir(directory)).toEqual([]);
  });

  it('appends in order, also when many append at once, and goes on after a rewrite', async () => {
    const log = await store.openLog('log');
    await Promise.all(Array.from({ length: 200 }, (_, index) => log.append(`${index}\n`)));
    const lines = (await readFile(join(directory, 'log'), 'utf8')).split('\n');
    expect(lines.slice(0, -1)).toEqual(Array.from({ length: 200 }, (_, index) => String(index)));
    const [, , last] = await Promise.all([log.append('x\n'), log.rewrite('new\n'), log.append('after\n')]);
    expect(last).toBeUndefined();
    expect(log.size()).toBe('new\nafter\n'.length);
    await log.close();
    expect((await store.openLog('log')).content).toBe('new\nafter\n');
  });

  it('leaves nothing when it is purged', async () => {
    await store.write('a', '1');
    await (await store.openLog('log')).append('x\n');
    await store.purge();
    expect(await readdir(directory)).toEqual([]);
  });
});
