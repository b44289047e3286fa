import { type Clock, type NodeId, sha256Hex } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import type { NodePrincipal } from '../../../spine/principal.js';
import { refuse } from '../../../spine/refusal.js';
import { type CertificateIdentity, findIdentities } from '../store/certificates.js';
import { Batch } from '../tasks/batch.js';

/** What a host shows of itself: a certificate that TLS has verified, a token, or nothing. */
export interface NodeCredentials {
  readonly certificate: {
    readonly serialNumber: string;
    /** SHA-256 of the DER form, hex with or without colons */
    readonly fingerprint256: string;
    readonly subjectCommonName: string;
  } | null;
  readonly bearerToken: string | null;
}

type Lookup = { readonly kind: 'fingerprint' | 'token'; readonly hash: string };

/**
 * Tells which node calls. The certificate must be one that this fleet issued, to that node, and not revoked since;
 * the internal token counts only where the settings accept it. Lookups that come together share one query.
 * Refuses: 401 token_missing, token_invalid, token_expired; 403 for a fenced node.
 */
export class NodeAuthenticator {
  readonly #clock: Clock;
  readonly #acceptsInternalTokens: boolean;
  readonly #lookups: Batch<Lookup, CertificateIdentity | null>;

  constructor(dependencies: {
    readonly database: Reader;
    readonly clock: Clock;
    readonly acceptsInternalTokens: boolean;
  }) {
    this.#clock = dependencies.clock;
    this.#acceptsInternalTokens = dependencies.acceptsInternalTokens;
    this.#lookups = new Batch((lookups) => lookUp(dependencies.database, lookups));
  }

  async authenticate(credentials: NodeCredentials): Promise<NodePrincipal> {
    const { certificate, bearerToken } = credentials;
    if (certificate !== null) {
      const hash = certificate.fingerprint256.replaceAll(':', '').toLowerCase();
      const identity = await this.#lookups.add({ kind: 'fingerprint', hash });
      if (identity === null || identity.nodeId !== certificate.subjectCommonName.toLowerCase()) {
        throw refuse('token_invalid', { reason: 'certificate_unknown' });
      }
      return this.#principal(identity, 'certificate');
    }
    if (bearerToken === null || !this.#acceptsInternalTokens) {
      throw refuse('token_missing', { reason: 'client_certificate_required' });
    }
    const identity = await this.#lookups.add({ kind: 'token', hash: sha256Hex(bearerToken) });
    if (identity === null) throw refuse('token_invalid');
    return this.#principal(identity, 'internal_token');
  }

  #principal(identity: CertificateIdentity, authentication: NodePrincipal['authentication']): NodePrincipal {
    if (identity.revokedAt !== null || identity.removedAt !== null) {
      throw refuse('token_invalid', { reason: 'certificate_revoked' });
    }
    if (identity.notAfter <= this.#clock.now()) throw refuse('token_expired', { reason: 'certificate_expired' });
    if (identity.fencedAt !== null && identity.nodeStatus !== 'removing') {
      throw refuse('insufficient_permissions', { reason: 'node_fenced', current_status: identity.nodeStatus });
    }
    return { kind: 'node', nodeId: identity.nodeId, authentication, certificateSerial: identity.serialNumber };
  }
}

async function lookUp(database: Reader, lookups: readonly Lookup[]): Promise<readonly (CertificateIdentity | null)[]> {
  const hashes = (kind: Lookup['kind']) =>
    lookups.filter((lookup) => lookup.kind === kind).map((lookup) => lookup.hash);
  const found = await findIdentities(database, { fingerprints: hashes('fingerprint'), tokenHashes: hashes('token') });
  const byFingerprint = new Map(found.map((identity) => [identity.fingerprintSha256, identity]));
  const byToken = new Map(found.map((identity) => [identity.internalTokenHash, identity]));
  return lookups.map((lookup) => (lookup.kind === 'fingerprint' ? byFingerprint : byToken).get(lookup.hash) ?? null);
}

/** Refuses (403) a caller who is not this node. */
export function requireNode(principal: { readonly kind: string; readonly nodeId?: NodeId }, nodeId: string): NodeId {
  if (principal.kind !== 'node' || principal.nodeId === undefined || principal.nodeId !== nodeId.toLowerCase()) {
    throw refuse('insufficient_permissions', { reason: 'another_node' });
  }
  return principal.nodeId;
}
