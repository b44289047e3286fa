import type { Schema } from '@gpuaas/contract';

export const CONCURRENCY_POLICY = 'allocation.max_concurrent_per_user' as const;

/** A user's limit as callers see it; a lowered limit leaves no room but takes nothing away. */
export function limitsOf(maximum: number, current: number): Schema<'AllocationLimits'> {
  return {
    max_concurrent_allocations: maximum,
    current_concurrent_allocations: current,
    available_allocation_slots: Math.max(0, maximum - current),
  };
}
