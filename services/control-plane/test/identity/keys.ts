import { randomBytes } from 'node:crypto';

function field(bytes: Uint8Array | string): Buffer {
  const data = Buffer.from(bytes);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
}

/** A well-formed public key that nobody has the private half of. */
export function publicKey(comment = 'test'): string {
  return `ssh-ed25519 ${Buffer.concat([field('ssh-ed25519'), field(randomBytes(32))]).toString('base64')} ${comment}`;
}
