import 'reflect-metadata';
import { webcrypto, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import tls from 'node:tls';
import { ManualClock, newId, systemClock } from '@gpuaas/kernel';
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nodeOfCertificate, openCertificateAuthority } from '../../src/spine/certificate-authority.js';
import { createCustody, parseCustodyKeys } from '../../src/spine/custody.js';
import { ensureSigningKey, verificationKeys } from '../../src/spine/signing-keys.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

const custody = createCustody(parseCustodyKeys('c'.repeat(64)));
let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database.drop());

const open = () => openCertificateAuthority({ db: database.db, custody, clock: systemClock, environment: 'test' });

async function request(algorithm: webcrypto.EcKeyGenParams | webcrypto.RsaHashedKeyGenParams, subject = 'CN=root') {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    name: subject,
    keys,
    signingAlgorithm: 'namedCurve' in algorithm ? { name: 'ECDSA', hash: 'SHA-256' } : { name: 'RSASSA-PKCS1-v1_5' },
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return { csrPem: csr.toString('pem'), keyPem: `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n` };
}
const P256 = { name: 'ECDSA', namedCurve: 'P-256' };

describe('the certificate authority', () => {
  it('is one and the same for processes that start together, and after a restart', async () => {
    const bundles = (await Promise.all([open(), open(), open()])).map((authority) => authority.caBundlePem());
    expect(new Set([...bundles, (await open()).caBundlePem()]).size).toBe(1);
  });

  it('names the node itself, whatever the request says', async () => {
    const authority = await open();
    const nodeId = newId<'node'>();
    const { csrPem } = await request(P256, 'CN=admin,O=somebody else');
    const now = new Date();
    const issued = await authority.issueClientCertificate({ csrPem, nodeId, lifetimeSeconds: 86_400, now });
    const certificate = new X509Certificate(issued.chainPem);
    expect(certificate.subject).toBe(`CN=${nodeId}`);
    expect(certificate.subjectAltName).toBe(`URI:spiffe://gpuaas/test/node/${nodeId}`);
    expect(certificate.ca).toBe(false);
    expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
    expect(certificate.serialNumber.toLowerCase()).toBe(issued.serialNumber);
    expect(certificate.fingerprint256.replaceAll(':', '').toLowerCase()).toBe(issued.fingerprintSha256);
    expect(new Date(certificate.validTo)).toEqual(issued.notAfter);
    expect(certificate.checkIssued(new X509Certificate(authority.caBundlePem()))).toBe(true);
    expect(certificate.verify(new X509Certificate(authority.caBundlePem()).publicKey)).toBe(true);
    expect(nodeOfCertificate(certificate.raw, 'test')).toBe(nodeId);
    expect(nodeOfCertificate(certificate.raw, 'prod')).toBeNull();
  });

  it('refuses what nobody should sign', async () => {
    const authority = await open();
    const sign = (csrPem: string) =>
      authority.issueClientCertificate({ csrPem, nodeId: newId(), lifetimeSeconds: 60, now: new Date() });
    const weak = {
      name: 'RSASSA-PKCS1-v1_5',
      hash: 'SHA-256',
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
    };
    await expect(sign((await request(weak)).csrPem)).rejects.toThrow(/too weak/);
    await expect(sign('no certificate request')).rejects.toThrow(/not a certificate request/);
    await expect(
      sign('-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----'),
    ).rejects.toThrow();
    await expect(sign('x'.repeat(20_000))).rejects.toThrow(/too long/);
    const { csrPem } = await request(P256);
    const der = Buffer.from(csrPem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64');
    der[der.length - 3] = (der[der.length - 3] ?? 0) ^ 1;
    await expect(
      sign(`-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----`),
    ).rejects.toThrow(/not signed by its own key|cannot be used/);
  });

  it('issues what a TLS session on both ends accepts', async () => {
    const authority = await open();
    const nodeId = newId<'node'>();
    const { csrPem, keyPem } = await request(P256);
    const now = new Date();
    const client = await authority.issueClientCertificate({ csrPem, nodeId, lifetimeSeconds: 3_600, now });
    const server = await authority.issueServerCertificate({
      hosts: ['localhost', '127.0.0.1'],
      lifetimeSeconds: 3_600,
      now,
    });
    const listener = tls.createServer({
      cert: server.chainPem,
      key: server.privateKeyPem,
      ca: authority.caBundlePem(),
      requestCert: true,
      rejectUnauthorized: true,
    });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const address = listener.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const accepted = once(listener, 'secureConnection');
    const socket = tls.connect({
      host: '127.0.0.1',
      port: address.port,
      servername: 'localhost',
      ca: authority.caBundlePem(),
      cert: client.chainPem,
      key: keyPem,
    });
    await once(socket, 'secureConnect');
    const [peer] = await accepted;
    if (!(peer instanceof tls.TLSSocket)) throw new Error('no session');
    expect(nodeOfCertificate(peer.getPeerCertificate().raw, 'test')).toBe(nodeId);
    socket.destroy();
    listener.close();
  });

  it('never issues beyond its own end', async () => {
    const clock = new ManualClock(new Date('2026-01-01T00:00:00Z'));
    const own = await cloneDatabase();
    const authority = await openCertificateAuthority({ db: own.db, custody, clock, environment: 'test' });
    const { csrPem } = await request(P256);
    const issued = await authority.issueClientCertificate({
      csrPem,
      nodeId: newId(),
      lifetimeSeconds: 50 * 365 * 86_400,
      now: clock.now(),
    });
    expect(issued.notAfter).toEqual(new Date(new X509Certificate(authority.caBundlePem()).validTo));
    await own.drop();
  });
});

describe('a signing key', () => {
  it.each(['ES256', 'EdDSA'] as const)('for %s is made once and found again by its id', async (algorithm) => {
    const options = { db: database.db, custody, clock: systemClock };
    const keys = await Promise.all([1, 2, 3].map(() => ensureSigningKey(options, `test-${algorithm}`, algorithm)));
    expect(new Set(keys.map((key) => key.keyId)).size).toBe(1);
    const [verification] = await verificationKeys(database.db, `test-${algorithm}`);
    expect(verification?.keyId).toBe(keys[0]?.keyId);
    expect(verification?.publicKey.equals(keys[0]?.publicKey ?? verification.publicKey)).toBe(true);
  });

  it('is refused under another algorithm than its own', async () => {
    const options = { db: database.db, custody, clock: systemClock };
    await ensureSigningKey(options, 'fixed', 'ES256');
    await expect(ensureSigningKey(options, 'fixed', 'EdDSA')).rejects.toThrow(/is ES256/);
  });
});
