import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY_MS = 24 * 3600 * 1000;

/** A certificate authority that lives as long as the test. */
export interface TestAuthority {
  certificatePem: string;
  /** A server certificate for loopback, with its key. */
  issueServer(): Promise<{ certificatePem: string; keyPem: string }>;
  /** Signs a request the way the control plane does: names come from the issuer, not from the request. */
  issueClient(csrPem: string, nodeId: string, life?: { notBefore: Date; notAfter: Date }): Promise<X509Certificate>;
}

export async function createTestAuthority(name: string): Promise<TestAuthority> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
  const validity = { notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + 3650 * DAY_MS) };
  const root = await X509CertificateGenerator.createSelfSigned({
    name: `CN=${name}`,
    keys,
    ...validity,
    serialNumber: '01',
    signingAlgorithm: P256,
    extensions: [
      new BasicConstraintsExtension(true, 1, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    ],
  });
  let serial = 1;
  const nextSerial = () => {
    serial += 1;
    return serial.toString(16).padStart(4, '0');
  };

  return {
    certificatePem: root.toString('pem'),
    issueServer: async () => {
      const own = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
      const certificate = await X509CertificateGenerator.create({
        subject: 'CN=localhost',
        issuer: root.subject,
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: P256,
        serialNumber: nextSerial(),
        ...validity,
        extensions: [
          new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
          new SubjectAlternativeNameExtension([
            { type: 'dns', value: 'localhost' },
            { type: 'ip', value: '127.0.0.1' },
          ]),
        ],
      });
      const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', own.privateKey)).toString('base64');
      return {
        certificatePem: certificate.toString('pem'),
        keyPem: `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`,
      };
    },
    issueClient: async (csrPem, nodeId, life) => {
      const request = new Pkcs10CertificateRequest(csrPem);
      if (!(await request.verify())) throw new Error('the request is not signed by its key');
      return X509CertificateGenerator.create({
        subject: [{ CN: [nodeId] }],
        issuer: root.subject,
        publicKey: request.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: P256,
        serialNumber: nextSerial(),
        notBefore: life?.notBefore ?? new Date(Date.now() - 1000),
        notAfter: life?.notAfter ?? new Date(Date.now() + 7 * DAY_MS),
        extensions: [
          new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth]),
          new SubjectAlternativeNameExtension([{ type: 'url', value: `spiffe://gpuaas/test/node/${nodeId}` }]),
        ],
      });
    },
  };
}

/** The key that a request asks a certificate for; repeated requests differ in their signatures only. */
export function requestedKey(csrPem: string): string {
  return Buffer.from(new Pkcs10CertificateRequest(csrPem).publicKey.rawData).toString('base64');
}
