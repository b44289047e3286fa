import { createHash, createPublicKey } from 'node:crypto';

const MAXIMUM_LENGTH = 16_384;
const MAXIMUM_COMMENT = 128;
const MINIMUM_RSA_BITS = 2048;
const MAXIMUM_RSA_BITS = 16_384;
const ED25519_BYTES = 32;

const CURVES = {
  nistp256: { jwk: 'P-256', bytes: 32 },
  nistp384: { jwk: 'P-384', bytes: 48 },
  nistp521: { jwk: 'P-521', bytes: 66 },
} as const;
type Curve = keyof typeof CURVES;

export type SshKeyProblem =
  | 'ssh_key_private'
  | 'ssh_key_not_one_line'
  | 'ssh_key_too_long'
  | 'ssh_key_type_unsupported'
  | 'ssh_key_options_refused'
  | 'ssh_key_malformed'
  | 'ssh_key_too_weak';

export type SshKeyDecision =
  | {
      readonly ok: true;
      readonly type: string;
      /** re-encoded from what was parsed: type, blob and a comment of printable ASCII; one line, no options */
      readonly publicKey: string;
      /** `SHA256:` and the unpadded base64 of the blob's hash, as ssh-keygen prints it */
      readonly fingerprint: string;
    }
  | { readonly ok: false; readonly reason: SshKeyProblem };

/** Reads the key material of one type behind its name; returns a problem or null. */
type BlobCheck = (blob: BlobReader) => SshKeyProblem | null;

const TYPES: Readonly<Record<string, BlobCheck>> = {
  'ssh-ed25519': (blob) => checkEd25519(blob.string()),
  'sk-ssh-ed25519@openssh.com': (blob) => checkEd25519(blob.string()) ?? checkApplication(blob.string()),
  'ecdsa-sha2-nistp256': (blob) => checkEcdsa(blob, 'nistp256'),
  'ecdsa-sha2-nistp384': (blob) => checkEcdsa(blob, 'nistp384'),
  'ecdsa-sha2-nistp521': (blob) => checkEcdsa(blob, 'nistp521'),
  'sk-ecdsa-sha2-nistp256@openssh.com': (blob) => checkEcdsa(blob, 'nistp256') ?? checkApplication(blob.string()),
  'ssh-rsa': checkRsa,
};

/**
 * Reads one public key line (RFC 4253, 6.6; sshd(8) AUTHORIZED_KEYS FILE FORMAT). The text ends up in an
 * authorized_keys file: options, further lines, unknown types and blobs that are not exactly one key are refused.
 */
export function parseSshPublicKey(text: string): SshKeyDecision {
  const refused = (reason: SshKeyProblem): SshKeyDecision => ({ ok: false, reason });
  if (/PRIVATE KEY/i.test(text)) return refused('ssh_key_private');
  if (text.length > MAXIMUM_LENGTH) return refused('ssh_key_too_long');
  // Anything that some program takes for the end of a line, and every other control character but the tab.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this refuses
  if (/[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u2028\u2029]/.test(text)) return refused('ssh_key_not_one_line');

  const [type = '', encoded = '', ...comment] = text.trim().split(/[ \t]+/);
  const check = Object.hasOwn(TYPES, type) ? TYPES[type] : undefined;
  if (check === undefined) {
    const laterType = comment.concat(encoded).some((part) => /^(ssh|ecdsa|sk)-/.test(part));
    return refused(laterType || /[="]/.test(type) ? 'ssh_key_options_refused' : 'ssh_key_type_unsupported');
  }
  const blob = Buffer.from(encoded, 'base64');
  if (encoded.length === 0 || blob.toString('base64') !== encoded) return refused('ssh_key_malformed');

  const reader = new BlobReader(blob);
  let problem: SshKeyProblem | null;
  try {
    problem = reader.text() === type ? check(reader) : 'ssh_key_malformed';
  } catch (error) {
    if (!(error instanceof MalformedBlob)) throw error;
    problem = 'ssh_key_malformed';
  }
  if (problem !== null) return refused(problem);
  if (!reader.atEnd) return refused('ssh_key_malformed');

  const note = comment.join(' ');
  const safeNote = /^[\x21-\x7e ]*$/.test(note) ? note.slice(0, MAXIMUM_COMMENT).trim() : '';
  return {
    ok: true,
    type,
    publicKey: [type, encoded, safeNote].filter((part) => part !== '').join(' '),
    fingerprint: `SHA256:${createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')}`,
  };
}

function checkEd25519(key: Buffer): SshKeyProblem | null {
  return key.length === ED25519_BYTES ? null : 'ssh_key_malformed';
}

/** The relying party of a security key: `ssh:` and printable text, as OpenSSH makes them. */
function checkApplication(application: Buffer): SshKeyProblem | null {
  return /^ssh:[\x21-\x7e]{0,255}$/.test(application.toString('latin1')) ? null : 'ssh_key_malformed';
}

function checkEcdsa(blob: BlobReader, curve: Curve): SshKeyProblem | null {
  const { jwk, bytes } = CURVES[curve];
  if (blob.text() !== curve) return 'ssh_key_malformed';
  const point = blob.string();
  if (point.length !== 1 + 2 * bytes || point[0] !== 0x04) return 'ssh_key_malformed';
  const x = point.subarray(1, 1 + bytes).toString('base64url');
  const y = point.subarray(1 + bytes).toString('base64url');
  try {
    // the import refuses coordinates that are not a point of the curve
    createPublicKey({ key: { kty: 'EC', crv: jwk, x, y }, format: 'jwk' });
    return null;
  } catch {
    return 'ssh_key_malformed';
  }
}

function checkRsa(blob: BlobReader): SshKeyProblem | null {
  const exponent = blob.positiveInteger();
  const modulus = blob.positiveInteger();
  const bits = bitLength(modulus);
  const odd = (number: Buffer) => ((number.at(-1) ?? 0) & 1) === 1;
  if (bits > MAXIMUM_RSA_BITS || !odd(modulus) || !odd(exponent) || exponent.length > 8) return 'ssh_key_malformed';
  if (bits < MINIMUM_RSA_BITS || bitLength(exponent) < 2) return 'ssh_key_too_weak';
  return null;
}

function bitLength(number: Buffer): number {
  const first = number[0];
  return first === undefined ? 0 : (number.length - 1) * 8 + (32 - Math.clz32(first));
}

class MalformedBlob extends Error {}

/** The length-prefixed fields of a key blob (RFC 4251, 5). */
class BlobReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  string(): Buffer {
    if (this.#at + 4 > this.#bytes.length) throw new MalformedBlob();
    const length = this.#bytes.readUInt32BE(this.#at);
    const start = this.#at + 4;
    if (length > this.#bytes.length - start) throw new MalformedBlob();
    this.#at = start + length;
    return this.#bytes.subarray(start, this.#at);
  }

  text(): string {
    return this.string().toString('latin1');
  }

  /** An mpint that is positive and in its shortest form; without the sign byte. */
  positiveInteger(): Buffer {
    const bytes = this.string();
    const [first, second] = bytes;
    if (first === undefined || first >= 0x80) throw new MalformedBlob();
    if (first !== 0) return bytes;
    if (second === undefined || second < 0x80) throw new MalformedBlob();
    return bytes.subarray(1);
  }
}
