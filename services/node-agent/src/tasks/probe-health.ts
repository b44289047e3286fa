import type { HealthReport } from '@gpuaas/node-protocol';
import type { TaskContext, TaskOutcome } from './task-context.js';

/** From best to worst: what is not known counts for worse than what is known to be merely degraded. */
const SEVERITY: readonly HealthReport['status'][] = ['ok', 'degraded', 'unknown', 'failed'];

/** Looks at the host and, if asked, at one allocation. The worst check is the state of the whole; none is unknown. */
export async function probeHealth(allocationId: string | null, context: TaskContext): Promise<TaskOutcome> {
  const checks = await context.host.healthChecks(allocationId);
  return { status: 'success', task_type: 'diag.health_probe', output: { status: worst(checks), checks } };
}

export function worst(checks: HealthReport['checks']): HealthReport['status'] {
  if (checks.length === 0) return 'unknown';
  return SEVERITY[Math.max(...checks.map((check) => SEVERITY.indexOf(check.status)))] ?? 'unknown';
}
