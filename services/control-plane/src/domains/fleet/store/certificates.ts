import { asId, type NodeId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { NodeStatus } from '../rules/node-state.js';

export interface NewCertificate {
  readonly id: string;
  readonly nodeId: NodeId;
  readonly serialNumber: string;
  readonly fingerprintSha256: string;
  readonly spkiSha256: string;
  readonly certificatePem: string;
  readonly internalTokenHash: string;
  readonly issuedBy: 'enrollment' | 'renewal';
  readonly issuedAt: Date;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export async function insertCertificate(tx: Tx, certificate: NewCertificate): Promise<void> {
  await tx
    .insertInto('node_certificates')
    .values({
      id: certificate.id,
      node_id: certificate.nodeId,
      serial_number: certificate.serialNumber,
      fingerprint_sha256: certificate.fingerprintSha256,
      spki_sha256: certificate.spkiSha256,
      certificate_pem: certificate.certificatePem,
      internal_token_hash: certificate.internalTokenHash,
      issued_by: certificate.issuedBy,
      issued_at: certificate.issuedAt,
      not_before: certificate.notBefore,
      not_after: certificate.notAfter,
    })
    .execute();
}

export interface KeptCertificate {
  readonly id: string;
  readonly certificatePem: string;
}

export async function findCertificate(reader: Reader, id: string): Promise<KeptCertificate | null> {
  const row = await reader
    .selectFrom('node_certificates')
    .select(['id', 'certificate_pem'])
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .executeTakeFirst();
  return row ? { id: row.id, certificatePem: row.certificate_pem } : null;
}

/** The newest certificate that a node got for this key since `since` and that still stands. */
export async function findRecentCertificateOfKey(
  reader: Reader,
  nodeId: NodeId,
  spkiSha256: string,
  since: Date,
): Promise<KeptCertificate | null> {
  const row = await reader
    .selectFrom('node_certificates')
    .select(['id', 'certificate_pem'])
    .where('node_id', '=', nodeId)
    .where('spki_sha256', '=', spkiSha256)
    .where('issued_at', '>=', since)
    .where('revoked_at', 'is', null)
    .orderBy('issued_at', 'desc')
    .limit(1)
    .executeTakeFirst();
  return row ? { id: row.id, certificatePem: row.certificate_pem } : null;
}

/** Gives a certificate another internal token; the former one is worthless from then on. */
export async function replaceInternalToken(tx: Tx, id: string, tokenHash: string): Promise<void> {
  await tx.updateTable('node_certificates').set({ internal_token_hash: tokenHash }).where('id', '=', id).execute();
}

/**
 * Notes the first poll with each of these certificates and revokes the older ones of its node: a host that has shown
 * the new one has no use for them.
 */
export async function markCertificatesUsed(tx: Tx, serials: readonly string[], now: Date): Promise<void> {
  const used = await sql<{ id: string; node_id: string; issued_at: Date }>`
    WITH unused AS (
      SELECT id FROM node_certificates
      WHERE serial_number = ANY(${serials}::text[]) AND first_used_at IS NULL
      ORDER BY id FOR UPDATE
    )
    UPDATE node_certificates SET first_used_at = ${now} FROM unused WHERE node_certificates.id = unused.id
    RETURNING node_certificates.id, node_certificates.node_id, node_certificates.issued_at`.execute(tx);
  if (used.rows.length === 0) return;
  await sql`
    WITH older AS (
      SELECT c.id FROM node_certificates c
      JOIN unnest(
        ${used.rows.map((row) => row.id)}::uuid[],
        ${used.rows.map((row) => row.node_id)}::uuid[],
        ${used.rows.map((row) => row.issued_at)}::timestamptz[]
      ) AS shown (id, node_id, issued_at) ON shown.node_id = c.node_id
      WHERE (c.issued_at, c.id) < (shown.issued_at, shown.id) AND c.revoked_at IS NULL
      ORDER BY c.id FOR UPDATE OF c
    )
    UPDATE node_certificates SET revoked_at = ${now} FROM older WHERE node_certificates.id = older.id`.execute(tx);
}

export async function revokeCertificates(tx: Tx, nodeId: NodeId, now: Date): Promise<void> {
  await tx
    .updateTable('node_certificates')
    .set({ revoked_at: now })
    .where('node_id', '=', nodeId)
    .where('revoked_at', 'is', null)
    .execute();
}

/** A node's identity as the authenticator judges it. */
export interface CertificateIdentity {
  readonly nodeId: NodeId;
  readonly serialNumber: string;
  readonly fingerprintSha256: string;
  readonly internalTokenHash: string;
  readonly notAfter: Date;
  readonly revokedAt: Date | null;
  readonly nodeStatus: NodeStatus;
  readonly fencedAt: Date | null;
  readonly removedAt: Date | null;
}

/** The identities behind fingerprints and hashes of internal tokens; what is unknown has no row. */
export async function findIdentities(
  reader: Reader,
  by: { readonly fingerprints: readonly string[]; readonly tokenHashes: readonly string[] },
): Promise<readonly CertificateIdentity[]> {
  const rows = await reader
    .selectFrom('node_certificates')
    .innerJoin('nodes', 'nodes.id', 'node_certificates.node_id')
    .select([
      'node_certificates.node_id',
      'node_certificates.serial_number',
      'node_certificates.fingerprint_sha256',
      'node_certificates.internal_token_hash',
      'node_certificates.not_after',
      'node_certificates.revoked_at',
      'nodes.status',
      'nodes.fenced_at',
      'nodes.removed_at',
    ])
    .where((eb) =>
      eb.or([
        eb('node_certificates.fingerprint_sha256', '=', sql<string>`ANY(${by.fingerprints}::text[])`),
        eb('node_certificates.internal_token_hash', '=', sql<string>`ANY(${by.tokenHashes}::text[])`),
      ]),
    )
    .execute();
  return rows.map((row) => ({
    nodeId: asId(row.node_id),
    serialNumber: row.serial_number,
    fingerprintSha256: row.fingerprint_sha256,
    internalTokenHash: row.internal_token_hash,
    notAfter: row.not_after,
    revokedAt: row.revoked_at,
    nodeStatus: row.status,
    fencedAt: row.fenced_at,
    removedAt: row.removed_at,
  }));
}
