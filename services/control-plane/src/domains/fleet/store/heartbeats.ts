import type { NodeId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Tx } from '../../../spine/operation.js';

export interface Heartbeat {
  readonly nodeId: NodeId;
  readonly seenAt: Date;
  readonly agentVersion: string | null;
  readonly agentCommit: string | null;
  readonly agentBuiltAt: string | null;
  readonly bootId: string | null;
}

/** Writes one heartbeat a node, in the order given. What an agent does not say stays as it was; time never goes back. */
export async function upsertHeartbeats(tx: Tx, beats: readonly Heartbeat[]): Promise<void> {
  await sql`
    INSERT INTO node_heartbeats AS known (node_id, last_seen_at, agent_version, agent_commit, agent_built_at, boot_id)
    SELECT * FROM unnest(
      ${beats.map((beat) => beat.nodeId)}::uuid[],
      ${beats.map((beat) => beat.seenAt)}::timestamptz[],
      ${beats.map((beat) => beat.agentVersion)}::text[],
      ${beats.map((beat) => beat.agentCommit)}::text[],
      ${beats.map((beat) => beat.agentBuiltAt)}::text[],
      ${beats.map((beat) => beat.bootId)}::text[])
    ON CONFLICT (node_id) DO UPDATE SET
      last_seen_at = GREATEST(known.last_seen_at, EXCLUDED.last_seen_at),
      agent_version = COALESCE(EXCLUDED.agent_version, known.agent_version),
      agent_commit = COALESCE(EXCLUDED.agent_commit, known.agent_commit),
      agent_built_at = COALESCE(EXCLUDED.agent_built_at, known.agent_built_at),
      boot_id = COALESCE(EXCLUDED.boot_id, known.boot_id)`.execute(tx);
}
