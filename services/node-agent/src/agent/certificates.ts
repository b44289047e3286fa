import { createPublicKey, X509Certificate } from 'node:crypto';
import { CERTIFICATE_RENEW_AT } from '@gpuaas/node-protocol';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;
const MAX_CHAIN = 8;

/** The certificates of a PEM text in order; null when it holds none or one that cannot be read. */
export function parseCertificates(pem: string): X509Certificate[] | null {
  const blocks = pem.match(PEM_CERTIFICATE) ?? [];
  try {
    return blocks.length === 0 ? null : blocks.map((block) => new X509Certificate(block));
  } catch {
    return null;
  }
}

export interface CertificateLife {
  serialNumber: string;
  notAfter: Date;
  renewAt: Date;
}

/** When the first certificate of a chain ends and when it should be renewed. Throws for what is not a certificate. */
export function certificateLife(chainPem: string): CertificateLife {
  const leaf = parseCertificates(chainPem)?.[0];
  if (leaf === undefined) throw new Error('there is no certificate to read');
  const [notBefore, notAfter] = [Date.parse(leaf.validFrom), Date.parse(leaf.validTo)];
  const renewAt = new Date(notBefore + (notAfter - notBefore) * CERTIFICATE_RENEW_AT);
  return { serialNumber: leaf.serialNumber, notAfter: new Date(notAfter), renewAt };
}

/**
 * Why an issued chain cannot be used, or null when it can: it must be for our key and our node id, still valid, and
 * lead by real signatures to one of the anchors.
 */
export function problemWithChain(
  chainPem: string,
  expected: { privateKeyPem: string; nodeId: string; anchorsPem: string; now: Date },
): string | null {
  const chain = parseCertificates(chainPem);
  const anchors = parseCertificates(expected.anchorsPem);
  const leaf = chain?.[0];
  if (!chain || !leaf) return 'the answer holds no certificate';
  if (!anchors) return 'the bundle of the node authority holds no certificate';

  const ours = createPublicKey(expected.privateKeyPem).export({ format: 'der', type: 'spki' });
  if (!leaf.publicKey.export({ format: 'der', type: 'spki' }).equals(ours)) return 'the certificate is for another key';
  if (!leaf.subject.split('\n').includes(`CN=${expected.nodeId}`)) return 'the certificate is for another node';
  if (Date.parse(leaf.validTo) <= expected.now.getTime()) return 'the certificate has expired';

  let current = leaf;
  for (let step = 0; step < MAX_CHAIN; step += 1) {
    if (anchors.some((anchor) => anchor.raw.equals(current.raw) || signed(anchor, current))) return null;
    const issuer = chain.find((candidate) => candidate !== current && candidate.ca && signed(candidate, current));
    if (issuer === undefined) break;
    current = issuer;
  }
  return 'the certificate does not lead to the node authority';
}

function signed(issuer: X509Certificate, subject: X509Certificate): boolean {
  return subject.checkIssued(issuer) && subject.verify(issuer.publicKey);
}
