import type { RequestBody } from '@gpuaas/contract';
import { command, type OperationHandlers, query, type Reader, type RequestContext } from '../../../spine/operation.js';
import { badRequest } from '../../../spine/refusal.js';
import { type AdmissionIntent, type AdmissionServices, admit } from '../admission/admit.js';
import { precheckLaunch } from '../admission/precheck.js';
import { shapeOf } from '../rules/sku.js';
import { findSku, skuFacts } from '../store/skus.js';
import { auditCreate, boundedRequest } from './allocations.js';
import { projectOf, requesterOf } from './caller.js';
import { launchGroup } from './groups.js';

const MAXIMUM_UNITS = 20;

type LaunchBody = RequestBody<'submitV3ComputeLaunch'> | RequestBody<'precheckV3ComputeLaunch'>;

/** The launch as the console makes it: asked for beforehand, then answered with a task to follow. */
export function launchOperations(services: AdmissionServices) {
  return {
    precheckV3ComputeLaunch: query<'precheckV3ComputeLaunch'>(async ({ db, ctx, body }) => {
      const intent = await intentOf(db, ctx, body);
      return {
        status: 200,
        body: await precheckLaunch(db, ctx, services, projectOf(ctx), intent, {
          storageBucketIds: body.storage_bucket_ids ?? [],
          networkPolicyId: body.network_policy_id ?? null,
        }),
      };
    }),

    submitV3ComputeLaunch: command<'submitV3ComputeLaunch'>(async ({ tx, ctx, body }) => {
      if (body.network_policy_id) {
        throw badRequest('network_policy_not_found', '/body/network_policy_id', 'there is no such network policy');
      }
      if ((body.storage_bucket_ids ?? []).length > 0) {
        throw badRequest('storage_bucket_not_found', '/body/storage_bucket_ids', 'there is no such bucket');
      }
      const intent = await intentOf(tx, ctx, body);
      if (intent.count > MAXIMUM_UNITS) {
        throw badRequest('unit_count_too_high', '/body/unit_count', `must not exceed ${MAXIMUM_UNITS}`);
      }
      const [first] =
        intent.count === 1
          ? await launchOne(intent)
          : (
              await launchGroup(tx, ctx, services, {
                kind: 'batch',
                displayName: intent.name ?? intent.sku,
                members: Array.from({ length: intent.count }, () => ({ role: null, required: true })),
                intent,
              })
            ).allocations;
      if (first === undefined) throw new Error('a launch without allocations');
      return {
        status: 202,
        body: {
          task_id: first.operationId,
          task_href: `/tasks/${first.operationId}`,
          workload_id: first.id,
          workload_href: `/workloads/${first.id}`,
          resource_kind: 'workload',
          status: 'queued',
          message: intent.count === 1 ? 'launch accepted' : `launch of ${intent.count} accepted as one group`,
        },
      };

      async function launchOne(wish: AdmissionIntent) {
        const admission = await admit(tx, ctx, services, wish);
        await auditCreate(tx, ctx, wish, admission);
        return admission.allocations;
      }
    }),
  } satisfies OperationHandlers;
}

/** `unit_count` counts the GPUs of one slice, and otherwise whole machines. */
async function intentOf(reader: Reader, ctx: RequestContext, body: LaunchBody): Promise<AdmissionIntent> {
  const row = await findSku(reader, body.sku);
  const sliced = row !== undefined && shapeOf(skuFacts(row).resourceClass) === 'gpu_slice';
  const units = body.unit_count ?? null;
  const name = 'name' in body ? (body.name ?? null) : null;
  return {
    projectId: projectOf(ctx).projectId,
    ...requesterOf(ctx.principal),
    sku: body.sku,
    resourceClass: body.resource_class ?? null,
    shape: null,
    gpuCount: sliced ? units : null,
    count: sliced ? 1 : (units ?? 1),
    atLeast: sliced ? 1 : (units ?? 1),
    nodeId: null,
    regionCode: body.region_code ?? null,
    osImageSlug: body.os_image_slug ?? null,
    sshKeyIds: body.ssh_key_ids && body.ssh_key_ids.length > 0 ? body.ssh_key_ids : null,
    runtimeBundle: null,
    schedulerType: body.scheduler_type ?? 'bare_metal',
    schedulerRequest: boundedRequest(body.scheduler_request),
    name,
  };
}
