import { asId, type NodeId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { TokenFacts } from '../rules/enrollment.js';

export interface TokenRow extends TokenFacts {
  readonly id: string;
  readonly nodeId: NodeId;
  readonly kind: 'enrollment' | 'bootstrap';
  readonly scriptInputs: unknown;
  readonly certificateId: string | null;
  /** the node has left the fleet */
  readonly nodeGone: boolean;
}

export async function insertToken(
  tx: Tx,
  token: {
    readonly id: string;
    readonly nodeId: NodeId;
    readonly kind: 'enrollment' | 'bootstrap';
    readonly tokenHash: string;
    /** for a bootstrap token: what its script is made from */
    readonly scriptInputs: unknown;
    readonly createdAt: Date;
    readonly expiresAt: Date;
  },
): Promise<void> {
  await tx
    .insertInto('node_tokens')
    .values({
      id: token.id,
      node_id: token.nodeId,
      kind: token.kind,
      token_hash: token.tokenHash,
      script_inputs: token.kind === 'bootstrap' ? JSON.stringify(token.scriptInputs) : null,
      created_at: token.createdAt,
      expires_at: token.expiresAt,
    })
    .execute();
}

/** Ends the tokens that could still enrol the node. */
export async function revokeOpenTokens(tx: Tx, nodeId: NodeId, now: Date): Promise<void> {
  await tx
    .updateTable('node_tokens')
    .set({ revoked_at: now })
    .where('node_id', '=', nodeId)
    .where('consumed_at', 'is', null)
    .where('revoked_at', 'is', null)
    .execute();
}

/** Ends every token of a node, used or not: with the node goes what its first boot may still report. */
export async function revokeAllTokens(tx: Tx, nodeId: NodeId, now: Date): Promise<void> {
  await tx
    .updateTable('node_tokens')
    .set({ revoked_at: now })
    .where('node_id', '=', nodeId)
    .where('revoked_at', 'is', null)
    .execute();
}

export async function findToken(reader: Reader, tokenHash: string): Promise<TokenRow | null> {
  const row = await tokens(reader).where('node_tokens.token_hash', '=', tokenHash).executeTakeFirst();
  return row ? tokenOf(row) : null;
}

/** Locks the token until commit, so that only one of several enrolments uses it up. */
export async function lockToken(tx: Tx, tokenHash: string): Promise<TokenRow | null> {
  const row = await tokens(tx)
    .where('node_tokens.token_hash', '=', tokenHash)
    .forUpdate('node_tokens')
    .executeTakeFirst();
  return row ? tokenOf(row) : null;
}

export async function consumeToken(
  tx: Tx,
  tokenId: string,
  by: { readonly spkiSha256: string; readonly certificateId: string; readonly now: Date },
): Promise<void> {
  await tx
    .updateTable('node_tokens')
    .set({ consumed_at: by.now, csr_spki_sha256: by.spkiSha256, certificate_id: by.certificateId })
    .where('id', '=', tokenId)
    .where('consumed_at', 'is', null)
    .execute();
}

function tokens(reader: Reader) {
  return reader
    .selectFrom('node_tokens')
    .innerJoin('nodes', 'nodes.id', 'node_tokens.node_id')
    .select([
      'node_tokens.id',
      'node_tokens.node_id',
      'node_tokens.kind',
      'node_tokens.script_inputs',
      'node_tokens.expires_at',
      'node_tokens.consumed_at',
      'node_tokens.revoked_at',
      'node_tokens.csr_spki_sha256',
      'node_tokens.certificate_id',
      'nodes.removed_at',
    ]);
}

function tokenOf(row: {
  id: string;
  node_id: string;
  kind: 'enrollment' | 'bootstrap';
  script_inputs: unknown;
  expires_at: Date;
  consumed_at: Date | null;
  revoked_at: Date | null;
  csr_spki_sha256: string | null;
  certificate_id: string | null;
  removed_at: Date | null;
}): TokenRow {
  return {
    id: row.id,
    nodeId: asId(row.node_id),
    kind: row.kind,
    scriptInputs: row.script_inputs,
    expiresAt: row.expires_at,
    consumedAt: row.consumed_at,
    revokedAt: row.revoked_at,
    consumedByKey: row.csr_spki_sha256,
    certificateId: row.certificate_id,
    nodeGone: row.removed_at !== null,
  };
}
