import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseSshPublicKey } from './ssh-public-key.js';

const field = (bytes: Uint8Array | string) => {
  const data = Buffer.from(bytes);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
};
const line = (type: string, ...fields: (Uint8Array | string)[]) =>
  `${type} ${Buffer.concat([field(type), ...fields.map(field)]).toString('base64')}`;
const mpint = (base64url: string) => {
  const bytes = Buffer.from(base64url, 'base64url');
  return (bytes[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.of(0), bytes]) : bytes;
};
const rsa = (bits: number) => {
  const jwk = generateKeyPairSync('rsa', { modulusLength: bits }).publicKey.export({ format: 'jwk' });
  return line('ssh-rsa', mpint(String(jwk.e)), mpint(String(jwk.n)));
};
const point = (curve: 'P-256' | 'P-384' | 'P-521') => {
  const jwk = generateKeyPairSync('ec', { namedCurve: curve }).publicKey.export({ format: 'jwk' });
  return Buffer.concat([
    Buffer.of(4),
    Buffer.from(String(jwk.x), 'base64url'),
    Buffer.from(String(jwk.y), 'base64url'),
  ]);
};
const ed25519 = () => line('ssh-ed25519', randomBytes(32));

describe('parseSshPublicKey', () => {
  it('accepts each supported type and computes the fingerprint from the blob', () => {
    const p256 = point('P-256');
    const keys = [
      ed25519(),
      rsa(2048),
      line('ecdsa-sha2-nistp256', 'nistp256', p256),
      line('ecdsa-sha2-nistp384', 'nistp384', point('P-384')),
      line('ecdsa-sha2-nistp521', 'nistp521', point('P-521')),
      line('sk-ssh-ed25519@openssh.com', randomBytes(32), 'ssh:'),
      line('sk-ecdsa-sha2-nistp256@openssh.com', 'nistp256', p256, 'ssh:laptop'),
    ];
    for (const key of keys) {
      const blob = Buffer.from(key.split(' ')[1] ?? '', 'base64');
      const fingerprint = `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`;
      expect(parseSshPublicKey(`${key} ann@laptop`)).toEqual({
        ok: true,
        type: key.split(' ')[0],
        publicKey: `${key} ann@laptop`,
        fingerprint,
      });
    }
  });

  it('agrees with a known fingerprint of ssh-keygen', () => {
    const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl';
    // GitHub's published host key and its published fingerprint
    expect(parseSshPublicKey(key)).toMatchObject({ fingerprint: 'SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU' });
  });

  it.each([
    ['a second line', `${ed25519()}\nssh-ed25519 AAAA`, 'ssh_key_not_one_line'],
    ['a trailing newline', `${ed25519()}\n`, 'ssh_key_not_one_line'],
    ['a carriage return', `${ed25519()}\rx`, 'ssh_key_not_one_line'],
    ['a line separator', `${ed25519()} a\u2028b`, 'ssh_key_not_one_line'],
    ['a NUL', `${ed25519()} a\u0000b`, 'ssh_key_not_one_line'],
    ['a forced command', `command="rm -rf /" ${ed25519()}`, 'ssh_key_options_refused'],
    ['an option without a value', `no-pty ${ed25519()}`, 'ssh_key_options_refused'],
    ['a certificate authority mark', `cert-authority ${ed25519()}`, 'ssh_key_options_refused'],
    ['DSA', line('ssh-dss', randomBytes(64)), 'ssh_key_type_unsupported'],
    ['a certificate', line('ssh-ed25519-cert-v01@openssh.com', randomBytes(64)), 'ssh_key_type_unsupported'],
    ['a property of every object', `constructor ${randomBytes(32).toString('base64')}`, 'ssh_key_type_unsupported'],
    ['a private key', '-----BEGIN OPENSSH PRIVATE KEY-----', 'ssh_key_private'],
    ['a short RSA key', rsa(1024), 'ssh_key_too_weak'],
    ['a key of the wrong length', line('ssh-ed25519', randomBytes(31)), 'ssh_key_malformed'],
    ['bytes behind the key', line('ssh-ed25519', randomBytes(32), 'x'), 'ssh_key_malformed'],
    ['a type that disagrees with its blob', ed25519().replace('ssh-ed25519', 'ssh-rsa'), 'ssh_key_malformed'],
    [
      'a point off the curve',
      line('ecdsa-sha2-nistp256', 'nistp256', Buffer.concat([Buffer.of(4), randomBytes(64)])),
      'ssh_key_malformed',
    ],
    [
      'a curve that disagrees with the type',
      line('ecdsa-sha2-nistp256', 'nistp384', point('P-384')),
      'ssh_key_malformed',
    ],
    [
      'a foreign application of a security key',
      line('sk-ssh-ed25519@openssh.com', randomBytes(32), 'https://evil.example'),
      'ssh_key_malformed',
    ],
    ['text that is not base64', 'ssh-ed25519 !!!!notbase64!!!!', 'ssh_key_malformed'],
    ['a type alone', 'ssh-ed25519', 'ssh_key_malformed'],
    [
      'a length beyond the blob',
      `ssh-ed25519 ${Buffer.concat([field('ssh-ed25519'), Buffer.from('ffffffff', 'hex')]).toString('base64')}`,
      'ssh_key_malformed',
    ],
  ])('refuses %s', (_name, text, reason) => {
    expect(parseSshPublicKey(text)).toEqual({ ok: false, reason });
  });

  it('leaves out a comment that is not printable ASCII', () => {
    const key = ed25519();
    expect(parseSshPublicKey(`${key} Änne`)).toMatchObject({ ok: true, publicKey: key });
  });

  it('never lets anything through but one option-free line of a known key', () => {
    const piece = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('ssh-ed25519', 'ssh-rsa', 'command="x"', '\n', ' ', '\t', ed25519(), 'AAAAC3NzaC1lZDI1NTE5'),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 6 }), (pieces) => {
        const decision = parseSshPublicKey(pieces.join(''));
        if (!decision.ok) return;
        expect(decision.publicKey).toMatch(/^(ssh-ed25519|ssh-rsa) [A-Za-z0-9+/]+=*( [\x21-\x7e ]*)?$/);
        expect(parseSshPublicKey(decision.publicKey)).toEqual(decision);
      }),
      { numRuns: 2000 },
    );
  });

  it('refuses every key of which one byte was cut off or added', () => {
    const blob = Buffer.from(ed25519().split(' ')[1] ?? '', 'base64');
    fc.assert(
      fc.property(fc.integer({ min: 0, max: blob.length - 1 }), (cut) => {
        expect(parseSshPublicKey(`ssh-ed25519 ${blob.subarray(0, cut).toString('base64')}`).ok).toBe(false);
      }),
    );
  });
});
