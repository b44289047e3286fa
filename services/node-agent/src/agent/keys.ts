import 'reflect-metadata';
import { createPublicKey, webcrypto } from 'node:crypto';
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509';

const P256 = { name: 'ECDSA', namedCurve: 'P-256' } as const;

/** A new P-256 private key in PKCS #8 PEM. It is made on the host and never leaves it. */
export async function newPrivateKeyPem(): Promise<string> {
  const pair = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', pair.privateKey));
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}

/** A PKCS #10 request in PEM that proves possession of the key; the issuer decides the names itself. */
export async function certificateRequest(privateKeyPem: string, nodeId: string): Promise<string> {
  const pkcs8 = Buffer.from(privateKeyPem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  const spki = createPublicKey(privateKeyPem).export({ format: 'der', type: 'spki' });
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [nodeId] }],
    keys: {
      privateKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, P256, true, ['sign']),
      publicKey: await webcrypto.subtle.importKey('spki', spki, P256, true, ['verify']),
    },
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
  });
  return request.toString('pem');
}
