import 'reflect-metadata';
import { createHash, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { type Clock, isUuid } from '@gpuaas/kernel';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  X509Certificate as ParsedCertificate,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { sql } from 'kysely';
import type { Custody } from './custody.js';
import type { Reader } from './operation.js';
import { inTransaction } from './transaction.js';

export interface IssuedCertificate {
  /** the certificate, then those that lead to the authority, as PEM */
  readonly chainPem: string;
  /** lower-case hex without leading zeros */
  readonly serialNumber: string;
  /** SHA-256 of the certificate in DER, lower-case hex */
  readonly fingerprintSha256: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface ServerIdentity extends IssuedCertificate {
  /** PKCS #8, PEM; made here and kept nowhere */
  readonly privateKeyPem: string;
}

export interface CertificateAuthority {
  /** The anchors that prove a node's certificate, as PEM: the signing one and those that still count. */
  caBundlePem(): string;
  /**
   * A client certificate for one node: the subject and the names of the request are ignored, its key is taken.
   * Throws a CertificateRequestError for a request that is malformed, not signed by its own key, or has a weak key.
   */
  issueClientCertificate(request: {
    readonly csrPem: string;
    readonly nodeId: string;
    readonly lifetimeSeconds: number;
    readonly now: Date;
  }): Promise<IssuedCertificate>;
  /** A certificate with a fresh key for a listener of ours, good for these host names and addresses. */
  issueServerCertificate(request: {
    readonly hosts: readonly string[];
    readonly lifetimeSeconds: number;
    readonly now: Date;
  }): Promise<ServerIdentity>;
}

/** A certificate request that nobody should sign; the message may be shown to whoever sent it. */
export class CertificateRequestError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'CertificateRequestError';
  }
}

const PURPOSE = 'node_certificate';
const SIGNATURE = { name: 'ECDSA', hash: 'SHA-256' } as const;
const KEY = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const AUTHORITY_LIFETIME_MILLISECONDS = 10 * 365 * 86_400_000;
/** Hosts whose clocks are a little behind must accept what was issued just now. */
const CLOCK_TOLERANCE_MILLISECONDS = 300_000;
const MAXIMUM_REQUEST_CHARACTERS = 16_384;

interface Authority {
  readonly certificate: ParsedCertificate;
  readonly key: webcrypto.CryptoKey;
}

/**
 * The embedded authority for nodes: a P-256 key that the custody seals, made on first use. Processes that start
 * together agree on one. `environment` becomes part of every node's name (`spiffe://gpuaas/<environment>/node/<id>`).
 */
export async function openCertificateAuthority(options: {
  readonly db: Reader;
  readonly custody: Custody;
  readonly clock: Clock;
  readonly environment: string;
}): Promise<CertificateAuthority> {
  const { db, custody, environment } = options;
  if (!/^[a-z0-9-]{1,40}$/.test(environment)) throw new Error('the environment must be lower-case letters and digits');
  await ensureAuthority(options);
  const rows = await db
    .selectFrom('signing_keys')
    .select(['certificate_pem', 'private_sealed', 'status'])
    .where('purpose', '=', PURPOSE)
    .where('status', 'in', ['staged', 'active', 'grace'])
    .orderBy('created_at')
    .execute();
  const active = rows.find((row) => row.status === 'active');
  if (!active?.certificate_pem) throw new Error('the certificate authority has no certificate');
  const authority: Authority = {
    certificate: new ParsedCertificate(active.certificate_pem),
    key: await importKey(custody.openInlineBytes(PURPOSE, active.private_sealed)),
  };
  const bundle = rows.flatMap((row) => (row.certificate_pem === null ? [] : [row.certificate_pem.trim()])).join('\n');

  return {
    caBundlePem: () => `${bundle}\n`,
    async issueClientCertificate({ csrPem, nodeId, lifetimeSeconds, now }) {
      if (!isUuid(nodeId)) throw new Error('a node is named by its id');
      const publicKey = await keyOfRequest(csrPem);
      return issue(authority, {
        publicKey,
        subject: [{ CN: [nodeId] }],
        names: [{ type: 'url', value: `spiffe://gpuaas/${environment}/node/${nodeId}` }],
        usage: ExtendedKeyUsage.clientAuth,
        lifetimeSeconds,
        now,
      });
    },
    async issueServerCertificate({ hosts, lifetimeSeconds, now }) {
      const [first] = hosts;
      if (first === undefined) throw new Error('a server certificate needs a host');
      const keys = await webcrypto.subtle.generateKey(KEY, true, ['sign', 'verify']);
      const issued = await issue(authority, {
        publicKey: keys.publicKey,
        subject: [{ CN: [first] }],
        names: hosts.map((host) => ({ type: /^[0-9.]+$|:/.test(host) ? 'ip' : 'dns', value: host })),
        usage: ExtendedKeyUsage.serverAuth,
        lifetimeSeconds,
        now,
      });
      const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
      return { ...issued, privateKeyPem: pemOf('PRIVATE KEY', der) };
    },
  };
}

async function ensureAuthority(options: {
  readonly db: Reader;
  readonly custody: Custody;
  readonly clock: Clock;
  readonly environment: string;
}): Promise<void> {
  const { db, custody, clock, environment } = options;
  await inTransaction(db, async (tx) => {
    await sql`SELECT pg_advisory_xact_lock(hashtextextended('ensure_certificate_authority', 0))`.execute(tx);
    const found = await tx
      .selectFrom('signing_keys')
      .select('key_id')
      .where('purpose', '=', PURPOSE)
      .where('status', '=', 'active')
      .executeTakeFirst();
    if (found) return;
    const keys = await webcrypto.subtle.generateKey(KEY, true, ['sign', 'verify']);
    const now = clock.now();
    const certificate = await X509CertificateGenerator.createSelfSigned({
      serialNumber: newSerialNumber(),
      name: [{ CN: [`GPUaaS node authority (${environment})`] }],
      notBefore: new Date(now.getTime() - CLOCK_TOLERANCE_MILLISECONDS),
      notAfter: new Date(now.getTime() + AUTHORITY_LIFETIME_MILLISECONDS),
      signingAlgorithm: SIGNATURE,
      keys,
      extensions: [
        // Path length 0: it signs hosts and listeners, and no further authority.
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
        await SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    const privateKey = new Uint8Array(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
    await tx
      .insertInto('signing_keys')
      .values({
        key_id: `${PURPOSE}-${certificate.serialNumber}`,
        purpose: PURPOSE,
        algorithm: 'ES256',
        certificate_pem: certificate.toString('pem'),
        private_sealed: custody.sealInline(PURPOSE, privateKey),
        status: 'active',
        activated_at: now,
      })
      .execute();
  });
}

async function keyOfRequest(csrPem: string): Promise<webcrypto.CryptoKey> {
  if (csrPem.length > MAXIMUM_REQUEST_CHARACTERS) throw new CertificateRequestError('the request is too long');
  let request: Pkcs10CertificateRequest;
  try {
    request = new Pkcs10CertificateRequest(csrPem);
  } catch (error) {
    throw new CertificateRequestError('this is not a certificate request (PKCS #10, PEM)', { cause: error });
  }
  let publicKey: webcrypto.CryptoKey;
  let proven: boolean;
  try {
    publicKey = await request.publicKey.export();
    proven = await request.verify();
  } catch (error) {
    throw new CertificateRequestError('the key of the request cannot be used', { cause: error });
  }
  if (!proven) throw new CertificateRequestError('the request is not signed by its own key');
  if (!isStrong(publicKey.algorithm)) {
    throw new CertificateRequestError('the key of the request is too weak: P-256 or better, or RSA of 3072 bits');
  }
  return publicKey;
}

function isStrong(algorithm: webcrypto.KeyAlgorithm): boolean {
  if ('namedCurve' in algorithm) {
    return typeof algorithm.namedCurve === 'string' && ['P-256', 'P-384', 'P-521'].includes(algorithm.namedCurve);
  }
  return (
    algorithm.name.startsWith('RSA') &&
    'modulusLength' in algorithm &&
    typeof algorithm.modulusLength === 'number' &&
    algorithm.modulusLength >= 3072
  );
}

async function issue(
  authority: Authority,
  request: {
    readonly publicKey: webcrypto.CryptoKey;
    readonly subject: { readonly CN: string[] }[];
    readonly names: { readonly type: 'dns' | 'ip' | 'url'; readonly value: string }[];
    readonly usage: ExtendedKeyUsage;
    readonly lifetimeSeconds: number;
    readonly now: Date;
  },
): Promise<IssuedCertificate> {
  const end = request.now.getTime() + request.lifetimeSeconds * 1000;
  // A certificate that outlives its authority would fail one day without anybody having done anything.
  const notAfter = new Date(Math.min(end, authority.certificate.notAfter.getTime()));
  // X.509 counts in seconds; what is stored must be what the certificate says.
  notAfter.setMilliseconds(0);
  const notBefore = new Date(request.now.getTime() - CLOCK_TOLERANCE_MILLISECONDS);
  notBefore.setMilliseconds(0);
  const serialNumber = newSerialNumber();
  const certificate = await X509CertificateGenerator.create({
    serialNumber,
    subject: request.subject,
    issuer: authority.certificate.subject,
    notBefore,
    notAfter,
    signingAlgorithm: SIGNATURE,
    publicKey: request.publicKey,
    signingKey: authority.key,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([request.usage]),
      new SubjectAlternativeNameExtension(request.names),
      await SubjectKeyIdentifierExtension.create(request.publicKey),
      await AuthorityKeyIdentifierExtension.create(authority.certificate.publicKey),
    ],
  });
  const der = Buffer.from(certificate.rawData);
  return {
    chainPem: `${[certificate, authority.certificate].map((each) => each.toString('pem').trim()).join('\n')}\n`,
    serialNumber,
    fingerprintSha256: createHash('sha256').update(der).digest('hex'),
    notBefore,
    notAfter,
  };
}

/** 128 random bits, positive, and without a leading zero in hex, so that every tool writes it the same way. */
function newSerialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = 0x10 | ((bytes[0] ?? 0) & 0x6f);
  return bytes.toString('hex');
}

function importKey(pkcs8: Uint8Array): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey('pkcs8', pkcs8, KEY, false, ['sign']);
}

function pemOf(label: string, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** The id of the node that a verified client certificate names, or null when it is not one of this environment's. */
export function nodeOfCertificate(der: Uint8Array, environment: string): string | null {
  const names = new X509Certificate(der).subjectAltName ?? '';
  const prefix = `URI:spiffe://gpuaas/${environment}/node/`;
  const found = names
    .split(', ')
    .filter((name) => name.startsWith(prefix))
    .map((name) => name.slice(prefix.length));
  const [only, ...more] = found;
  return only !== undefined && more.length === 0 && isUuid(only) ? only : null;
}
