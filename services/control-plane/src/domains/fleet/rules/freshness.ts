import { HEARTBEAT_FRESH_SECONDS } from '@gpuaas/node-protocol';
import type { NodeStatus } from './node-state.js';

/** `never`: no poll was ever seen. Neither `stale` nor `never` is a node that can be relied on. */
export type Freshness = 'fresh' | 'stale' | 'never';

/** A heartbeat is fresh up to and including its 90th second. */
export function freshnessOf(lastSeenAt: Date | null, now: Date): Freshness {
  if (lastSeenAt === null) return 'never';
  return lastSeenAt >= freshSince(now) ? 'fresh' : 'stale';
}

/** The oldest heartbeat that still counts as fresh at `now`. */
export function freshSince(now: Date): Date {
  return new Date(now.getTime() - HEARTBEAT_FRESH_SECONDS * 1000);
}

/** Whether new work may be placed on the node as far as the fleet knows; unknown is no. */
export function isSchedulable(
  node: { readonly status: NodeStatus; readonly lastSeenAt: Date | null },
  now: Date,
): boolean {
  return node.status === 'active' && freshnessOf(node.lastSeenAt, now) === 'fresh';
}
