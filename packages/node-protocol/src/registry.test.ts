import { describe, expect, it } from 'vitest';
import { formatRunningTasks, parseRunningTasks } from './constants.js';
import { parseTaskOutput, parseTaskParams } from './parse.js';
import { defaultTtlSeconds, mayNodeRun, NODE_STATUSES, NODE_TASK_TYPES, resourceKey } from './rules.js';
import { mountPath, pinnedImage, runtimeUid, runtimeUsername, sshPublicKey } from './shapes.js';

const ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3hG1OsFPuvLOtfSYFVbn5oHsGIPNB6c4QHLXmRzzmM';
const id = '0197a1b2-0000-7000-8000-000000000001';
const user = { allocation_id: id, username: 'ada', uid: 20_001 };

describe('the registry', () => {
  it('can read the params and outputs of every type it names', () => {
    for (const type of NODE_TASK_TYPES) {
      // An empty value fails by its own schema and not for want of one.
      const params = parseTaskParams(type, null);
      const output = parseTaskOutput(type, null);
      expect([type, params.ok || params.problems[0]]).toEqual([type, expect.stringMatching(/^\/params/)]);
      expect([type, output.ok || output.problems[0]]).toEqual([type, expect.stringMatching(/^\/output/)]);
      expect(defaultTtlSeconds(type)).toBeGreaterThan(0);
    }
  });

  it('knows thirty types', () => expect(NODE_TASK_TYPES).toHaveLength(30));

  it('gives all tasks that touch one account one key', () => {
    const provision = parseTaskParams('allocation.provision_user', {
      ...user,
      authorized_keys: [],
      key_set_version: 1,
    });
    const release = parseTaskParams('allocation.deprovision_user', { ...user, allocation_id: id.toUpperCase() });
    const bundle = parseTaskParams('runtime_bundle.apply', { allocation_id: id, slug: 'cuda', version: '1', env: {} });
    const found = [provision, release, bundle].map((parsed) => parsed.ok && resourceKey(parsed.value));
    expect(found).toEqual([`allocation:${id}`, `allocation:${id}`, `allocation:${id}`]);
  });

  it('asks nothing of a retired or fenced node, and of a removing one only to leave', () => {
    for (const type of NODE_TASK_TYPES) {
      for (const status of NODE_STATUSES) {
        const fenced = mayNodeRun(type, { status, fenced: true });
        expect(fenced).toBe(status === 'removing' && type === 'node.uninstall');
      }
      expect(mayNodeRun(type, { status: 'retired', fenced: false })).toBe(false);
      expect(mayNodeRun(type, { status: 'active', fenced: false })).toBe(type !== 'node.uninstall');
    }
    expect(mayNodeRun('allocation.provision_user', { status: 'quarantined', fenced: false })).toBe(false);
    expect(mayNodeRun('allocation.deprovision_user', { status: 'quarantined', fenced: false })).toBe(true);
    expect(mayNodeRun('slice.topology_discover', { status: 'enrolling', fenced: false })).toBe(true);
  });

  it('drops from an output what it does not know, and refuses one that lacks a part', () => {
    expect(parseTaskOutput('allocation.deprovision_user', { clean: true, leftovers: [], more: 1 })).toEqual({
      ok: true,
      value: { task_type: 'allocation.deprovision_user', output: { clean: true, leftovers: [] } },
    });
    expect(parseTaskOutput('allocation.deprovision_user', { leftovers: [] }).ok).toBe(false);
  });

  it('never repeats a value in a problem', () => {
    const parsed = parseTaskParams('runtime_bundle.apply', {
      allocation_id: id,
      slug: 'x',
      version: '1',
      env: { TOKEN: 'hunter2\n' },
    });
    expect(parsed.ok).toBe(false);
    expect(JSON.stringify(parsed)).not.toContain('hunter2');
  });
});

describe('values that reach a host', () => {
  it.each(['ada', 'a', 'ada_l-1'])('takes %j as an account name', (name) =>
    expect(runtimeUsername.safeParse(name).success).toBe(true),
  );
  it.each(['', 'root', 'Ada', '-ada', 'a/b', 'ada;rm', 'systemd-network', 'a'.repeat(33), 'ada\n', '../a', '1a'])(
    'refuses %j as an account name',
    (name) => expect(runtimeUsername.safeParse(name).success).toBe(false),
  );
  it.each([0, 999, 65_534, -1, 1.5])('refuses uid %d', (uid) => expect(runtimeUid.safeParse(uid).success).toBe(false));

  it.each([ED25519, `${ED25519} ada@laptop`, `${ED25519} with spaces`])('takes %j as a key', (key) =>
    expect(sshPublicKey.safeParse(key).success).toBe(true),
  );
  it.each([
    `command="id" ${ED25519}`,
    `${ED25519}\n${ED25519}`,
    `${ED25519} comment\r`,
    ED25519.replace('ssh-ed25519', 'ssh-rsa'),
    'ssh-ed25519 AAAA',
    'ssh-ed25519',
    '',
  ])('refuses %j as a key', (key) => expect(sshPublicKey.safeParse(key).success).toBe(false));

  it.each(['/mnt/data', '/home/ada/x', '/scratch'])('takes %j as a mount path', (path) =>
    expect(mountPath.safeParse(path).success).toBe(true),
  );
  it.each(['/', 'mnt', '/etc/x', '/lib64', '/mnt/../etc', '/mnt//a', '/mnt/', '/usr', '/mnt/a\nb'])(
    'refuses %j as a mount path',
    (path) => expect(mountPath.safeParse(path).success).toBe(false),
  );
  it('wants images by digest', () => {
    expect(pinnedImage.safeParse(`registry.example/app@sha256:${'a'.repeat(64)}`).success).toBe(true);
    expect(pinnedImage.safeParse('registry.example/app:latest').success).toBe(false);
  });
});

describe('the running-tasks header', () => {
  it('carries ids and nothing else', () => {
    const other = '0197a1b2-0000-7000-8000-000000000002';
    expect(parseRunningTasks(formatRunningTasks([id, other]))).toEqual([id, other]);
    expect(parseRunningTasks(` ${id} ,x,,${id.toUpperCase()}`)).toEqual([id]);
    expect(parseRunningTasks(undefined)).toEqual([]);
  });
});
