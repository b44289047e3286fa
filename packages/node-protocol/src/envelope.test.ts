import { generateKeyPairSync } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { signTask, verifyTask } from './envelope.js';
import type { UnsignedTask } from './messages.js';
import { formatSigningKeys, parseSigningKeys, type SigningKeys } from './signing-keys.js';

const signer = { keyId: 'k-2026', privateKey: generateKeyPairSync('ed25519').privateKey };
const stranger = { keyId: 'k-2026', privateKey: generateKeyPairSync('ed25519').privateKey };
const keys = keysOf(formatSigningKeys([[signer.keyId, signer.privateKey]]));
const now = new Date('2026-05-01T12:00:00Z');
const host = { nodeId: 'node-1', now };

const drain: UnsignedTask = {
  task_id: '0197a1b2-0000-7000-8000-000000000001',
  task_type: 'node.drain',
  node_id: 'node-1',
  correlation_id: 'c-1',
  issued_at: '2026-05-01T11:59:00Z',
  expires_at: '2026-05-01T12:01:00Z',
  params: { reason: 'kernel update', intent: 'maintenance' },
};

describe('verifyTask', () => {
  it('accepts what was signed, whatever the order of the keys on the wire', () => {
    const wire: unknown = JSON.parse(
      JSON.stringify(Object.fromEntries(Object.entries(signTask(drain, signer)).reverse())),
    );
    const verified = verifyTask(wire, keys, host);
    expect(verified).toMatchObject({ ok: true, task: { task_type: 'node.drain', params: { intent: 'maintenance' } } });
  });

  it.each([
    ['another signer under the same key id', signTask(drain, stranger), 'bad_signature'],
    ['an unknown key id', signTask(drain, { ...signer, keyId: 'other' }), 'unknown_signing_key'],
    ['a signature without key id', { ...signTask(drain, signer), signature: 'abc' }, 'unknown_signing_key'],
    ['another node', signTask({ ...drain, node_id: 'node-2' }, signer), 'wrong_node'],
    ['a task that expires this instant', signTask({ ...drain, expires_at: now.toISOString() }, signer), 'expired'],
    ['an unknown type', signTask({ ...drain, task_type: 'node.format_disks' }, signer), 'unknown_task_type'],
    ['a type named like an object member', signTask({ ...drain, task_type: 'toString' }, signer), 'unknown_task_type'],
    ['params of another type', signTask({ ...drain, task_type: 'allocation.restart' }, signer), 'invalid_params'],
    ['an unknown param', signTask({ ...drain, params: { ...drain.params, force: true } }, signer), 'invalid_params'],
  ])('refuses %s', (_case, wire, reason) => {
    expect(verifyTask(wire, keys, host)).toMatchObject({ ok: false, reason, taskId: drain.task_id });
  });

  it.each([null, [], 'task', {}, { ...drain }, { ...signTask(drain, signer), extra: 1 }])(
    'calls %j malformed',
    (wire) => expect(verifyTask(wire, keys, host)).toMatchObject({ ok: false, reason: 'malformed_task' }),
  );

  it('says that a good signature was seen only when it was', () => {
    expect(verifyTask(signTask({ ...drain, node_id: 'node-2' }, signer), keys, host)).toMatchObject({
      authentic: true,
    });
    expect(verifyTask(signTask(drain, stranger), keys, host)).toMatchObject({ authentic: false });
  });

  it('notices any change of any signed field, hidden keys included', () => {
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(drain)), fc.jsonValue(), (field, value) => {
        const signed = signTask(drain, signer);
        const altered = { ...signed, [field]: value };
        fc.pre(JSON.stringify(altered) !== JSON.stringify(signed));
        expect(verifyTask(altered, keys, host).ok).toBe(false);
      }),
    );
    const hidden = JSON.parse(
      JSON.stringify(signTask(drain, signer)).replace('"params":{', '"params":{"__proto__":{"a":1},'),
    );
    expect(verifyTask(hidden, keys, host)).toMatchObject({ ok: false, reason: 'bad_signature' });
  });

  it('signs and verifies any params that JSON can carry', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (params) => {
        const wire: unknown = JSON.parse(JSON.stringify(signTask({ ...drain, params }, signer)));
        const verified = verifyTask(wire, keys, host);
        if (!verified.ok) expect(verified.reason).toBe('invalid_params');
      }),
    );
  });

  it('does not sign under a key id that cannot stand in a signature', () => {
    expect(() => signTask(drain, { ...signer, keyId: 'a.b' })).toThrow(TypeError);
  });
});

describe('the list of signing keys', () => {
  it('comes back as it was written', () => {
    const pairs = ['a', 'b_2', 'C-3'].map((id) => [id, generateKeyPairSync('ed25519').publicKey] as const);
    const text = formatSigningKeys(pairs);
    expect(formatSigningKeys(keysOf(text))).toBe(text);
    expect(keysOf(`${text},`).size).toBe(3);
  });

  it.each(['', ',', 'a', ':AAAA', 'a:', 'a:AAAA', `a:${'A'.repeat(44)}`, `a.b:${'A'.repeat(43)}=`, 'a:*'])(
    'refuses %j as a whole',
    (text) => expect(parseSigningKeys(text).ok).toBe(false),
  );

  it('refuses one id for two keys', () => {
    const [first, second] = [generateKeyPairSync('ed25519').publicKey, generateKeyPairSync('ed25519').publicKey];
    expect(
      parseSigningKeys(
        formatSigningKeys([
          ['a', first],
          ['a', second],
        ]),
      ).ok,
    ).toBe(false);
  });

  it('is not written with a key of another kind', () => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    expect(() => formatSigningKeys([['a', publicKey]])).toThrow(TypeError);
  });
});

function keysOf(text: string): SigningKeys {
  const parsed = parseSigningKeys(text);
  if (!parsed.ok) throw new Error(parsed.problem);
  return parsed.keys;
}
