import { createHash, X509Certificate } from 'node:crypto';
import { asId, isUuid, type NodeId, newId, newSecretToken, sha256Hex } from '@gpuaas/kernel';
import { CERTIFICATE_LIFE_SECONDS, ENROLLMENT_RETRY_SECONDS, NODE_HEADERS } from '@gpuaas/node-protocol';
import { audit } from '../../../spine/audit.js';
import { CertificateRequestError } from '../../../spine/certificate-authority.js';
import { type CallContext, type OperationHandlers, preparedCommand, type Tx } from '../../../spine/operation.js';
import { badRequest, refuse } from '../../../spine/refusal.js';
import { requireNode } from '../identity/node-authenticator.js';
import type { IssuedCertificate } from '../ports.js';
import { decideEnrollment } from '../rules/enrollment.js';
import { advanceNode } from '../rules/node-state.js';
import type { FleetServices } from '../services.js';
import {
  findCertificate,
  findRecentCertificateOfKey,
  insertCertificate,
  replaceInternalToken,
} from '../store/certificates.js';
import { lockNodeIfThere } from '../store/nodes.js';
import { consumeToken, findToken, lockToken } from '../store/tokens.js';

interface Signed {
  readonly certificate: IssuedCertificate;
  /** SHA-256 of the public key that the host made */
  readonly spkiSha256: string;
}

/** How a host gets its certificate, and the next one. */
export function identityOperations(services: FleetServices): OperationHandlers {
  const { certificateAuthority, life } = services;

  /** Signs before anything is locked. What is not recorded afterwards identifies nobody. */
  const sign = async (csrPem: string, nodeId: NodeId, now: Date): Promise<Signed> => {
    try {
      const certificate = await certificateAuthority.issueClientCertificate({
        csrPem,
        nodeId,
        lifetimeSeconds: CERTIFICATE_LIFE_SECONDS,
        now,
      });
      return { certificate, spkiSha256: keyHash(certificate.chainPem) };
    } catch (error) {
      if (error instanceof CertificateRequestError) throw badRequest('csr_invalid', '/body/csr', error.message);
      throw error;
    }
  };

  const enroll = preparedCommand<'internalNodeEnroll', { signed: Signed; tokenHash: string }>({
    ignoresIdempotencyKey: true,
    async prepare({ db, ctx, body, headers }) {
      const secret = bearerOf(headers.authorization);
      if (secret === null) throw refuse('token_missing');
      const tokenHash = sha256Hex(secret);
      const token = await findToken(db, tokenHash);
      if (token === null || token.nodeGone) throw refuse('token_invalid');
      if (!isUuid(body.node_id) || token.nodeId !== body.node_id.toLowerCase()) {
        throw refuse('insufficient_permissions', { reason: 'another_node' });
      }
      return { signed: await sign(body.csr, token.nodeId, ctx.clock.now()), tokenHash };
    },
    async run({ tx, ctx, body, prepared: { signed, tokenHash } }) {
      const now = ctx.clock.now();
      const node = await lockNodeIfThere(tx, asId(body.node_id.toLowerCase()));
      const token = await lockToken(tx, tokenHash);
      if (node === null || token === null || token.nodeId !== node.id) throw refuse('token_invalid');
      const contact = advanceNode(node.status, 'first_contact');
      const decision = decideEnrollment(token, signed.spkiSha256, now);
      if (!contact.ok || decision.kind === 'refuse') throw refuse('token_invalid');

      const host = hostContext(ctx, node.id);
      const internalToken = newSecretToken();
      let chainPem = signed.certificate.chainPem;
      if (decision.kind === 'repeat') {
        const kept = token.certificateId === null ? null : await findCertificate(tx, token.certificateId);
        if (kept === null) throw refuse('token_invalid');
        await replaceInternalToken(tx, kept.id, sha256Hex(internalToken));
        chainPem = kept.certificatePem;
      } else {
        const certificateId = await record(tx, node.id, signed, internalToken, 'enrollment', now);
        await consumeToken(tx, token.id, { spkiSha256: signed.spkiSha256, certificateId, now });
        await life.move(tx, host, node, contact.to, 'first_contact');
      }
      await audit(tx, host, {
        action: 'node.enroll',
        targetType: 'node',
        targetId: node.id,
        metadata:
          decision.kind === 'repeat' ? { repeated: true } : { certificate_serial: signed.certificate.serialNumber },
      });
      return {
        status: 200,
        body: { certificate: chainPem, ca_bundle: await certificateAuthority.caBundlePem() },
        headers: { [NODE_HEADERS.internalToken]: internalToken, 'cache-control': 'no-store' },
      };
    },
  });

  const renew = preparedCommand<'internalNodeCertRenew', Signed>({
    ignoresIdempotencyKey: true,
    async prepare({ ctx, path, body }) {
      return sign(body.csr, requireNode(ctx.principal, path.node_id), ctx.clock.now());
    },
    async run({ tx, ctx, path, prepared: signed }) {
      const now = ctx.clock.now();
      const nodeId = requireNode(ctx.principal, path.node_id);
      const node = await lockNodeIfThere(tx, nodeId);
      if (node === null) throw refuse('token_invalid');
      // A node that is being removed has an identity for its farewell and for nothing more.
      if (node.fencedAt !== null)
        throw refuse('insufficient_permissions', { reason: 'node_fenced', current_status: node.status });

      const internalToken = newSecretToken();
      // A repeated request must not leave a trail of certificates that nobody holds.
      const since = new Date(now.getTime() - ENROLLMENT_RETRY_SECONDS * 1000);
      const kept = await findRecentCertificateOfKey(tx, node.id, signed.spkiSha256, since);
      if (kept === null) await record(tx, node.id, signed, internalToken, 'renewal', now);
      else await replaceInternalToken(tx, kept.id, sha256Hex(internalToken));
      await audit(tx, ctx, {
        action: 'node.certificate.renew',
        targetType: 'node',
        targetId: node.id,
        metadata: kept === null ? { certificate_serial: signed.certificate.serialNumber } : { repeated: true },
      });
      return {
        status: 200,
        body: { certificate: kept?.certificatePem ?? signed.certificate.chainPem },
        headers: { [NODE_HEADERS.internalToken]: internalToken, 'cache-control': 'no-store' },
      };
    },
  });

  return { internalNodeEnroll: enroll, internalNodeCertRenew: renew };
}

/** Keeps a new certificate, together with the hash of the token that lives and dies with it. */
async function record(
  tx: Tx,
  nodeId: NodeId,
  signed: Signed,
  internalToken: string,
  issuedBy: 'enrollment' | 'renewal',
  now: Date,
): Promise<string> {
  const id = newId();
  const { certificate } = signed;
  await insertCertificate(tx, {
    id,
    nodeId,
    serialNumber: certificate.serialNumber,
    fingerprintSha256: certificate.fingerprintSha256,
    spkiSha256: signed.spkiSha256,
    certificatePem: certificate.chainPem,
    internalTokenHash: sha256Hex(internalToken),
    issuedBy,
    issuedAt: now,
    notBefore: certificate.notBefore,
    notAfter: certificate.notAfter,
  });
  return id;
}

function keyHash(certificatePem: string): string {
  const key = new X509Certificate(certificatePem).publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(key).digest('hex');
}

function bearerOf(header: string | undefined): string | null {
  return /^Bearer +([^\s]{1,512})$/i.exec(header ?? '')?.[1] ?? null;
}

/** The host acts in its own name, though it has no certificate to prove it yet. */
function hostContext(ctx: CallContext, nodeId: NodeId): CallContext {
  return {
    ...ctx,
    principal: { kind: 'node', nodeId, authentication: 'internal_token', certificateSerial: null },
  };
}
