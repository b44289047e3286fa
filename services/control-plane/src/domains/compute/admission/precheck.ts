import type { Schema } from '@gpuaas/contract';
import type { Reader, RequestContext } from '../../../spine/operation.js';
import type { ProjectScope } from '../../../spine/principal.js';
import { Refusal } from '../../../spine/refusal.js';
import { toWireInteger, toWireTime } from '../../../spine/wire.js';
import type { SshKey } from '../ports.js';
import { type CheckId, decideConcurrency, decideImage, decideSku, type Gate, OPEN } from '../rules/admission.js';
import { CONCURRENCY_POLICY } from '../rules/limits.js';
import { hourlyMinor, monthlyMinor } from '../rules/rate.js';
import { decideGpuCount, type SkuFacts, shapeOf } from '../rules/sku.js';
import { countLiveAllocations } from '../store/allocations.js';
import { findImageBySlug, imageFacts } from '../store/os-images.js';
import { findSku, type SkuRow, skuFacts } from '../store/skus.js';
import { isKnownRegion } from '../views/capacity.js';
import type { AdmissionIntent, AdmissionServices } from './admit.js';
import { decideGuest } from './guest.js';
import { capacityGate } from './places.js';
import { fundsGate } from './refusals.js';

type Check = Schema<'V3LaunchPrecheckCheck'>;
type InlineAction = Schema<'V3LaunchInlineActionKind'>;
type Severity = Schema<'V3LaunchPrecheckSeverity'>;

const LABELS: Record<CheckId, string> = {
  project: 'Project',
  sku: 'SKU',
  image: 'Image',
  region: 'Region',
  ssh_key: 'SSH key',
  capacity: 'Capacity',
  concurrency: 'Allocation limit',
  financial_posture: 'Financial posture',
  balance: 'Balance',
  budget: 'Budget',
  storage: 'Storage',
  network_policy: 'Network policy',
};

/** Where a blocked check can be unblocked. */
const ACTIONS: Partial<Record<CheckId, { kind: InlineAction; label: string; href: string }>> = {
  sku: { kind: 'select_sku', label: 'Choose another SKU', href: '/launch/compute' },
  image: { kind: 'select_image', label: 'Choose another image', href: '/launch/compute' },
  ssh_key: { kind: 'create_ssh_key', label: 'Add an SSH key', href: '/account/ssh-keys' },
  capacity: { kind: 'select_sku', label: 'Choose another SKU', href: '/launch/compute' },
  concurrency: { kind: 'request_quota', label: 'Ask for a higher limit', href: '/account/limits' },
  balance: { kind: 'add_funds', label: 'Add funds', href: '/account/billing' },
  financial_posture: { kind: 'add_funds', label: 'Open billing', href: '/account/billing' },
  storage: { kind: 'create_bucket', label: 'Create a bucket', href: '/storage' },
  network_policy: { kind: 'create_network_policy', label: 'Open network policies', href: '/launch/compute' },
};

/**
 * The gates of a launch, asked without taking anything: the same rules as the launch itself, whose answer may differ
 * by the time it is made. What could not be found out blocks.
 */
export async function precheckLaunch(
  db: Reader,
  ctx: RequestContext,
  services: AdmissionServices,
  project: ProjectScope,
  intent: AdmissionIntent,
  extras: { readonly storageBucketIds: readonly string[]; readonly networkPolicyId: string | null },
): Promise<Schema<'V3LaunchPrecheckResponse'>> {
  const row = await findSku(db, intent.sku);
  const sku = row ? skuFacts(row) : null;
  const skuGate = decideSku(sku, intent);
  const sellable = skuGate.ok ? sku : null;
  const gpus = sellable === null ? null : decideGpuCount(sellable, intent.gpuCount);
  const hourly = sellable !== null && gpus?.ok ? hourlyMinor(sellable, gpus.gpus) * BigInt(intent.count) : null;

  const keys = await findKeys(db, services, intent);
  const image = row && sellable && gpus?.ok ? await findImage(db, row, sellable, gpus.gpus, intent) : null;
  const capacity =
    sellable === null || !gpus?.ok
      ? null
      : await capacityGate(db, services.fleet, {
          ...intent,
          sku: sellable,
          gpus: gpus.gpus,
          imageDigest: image?.digest ?? null,
          now: ctx.clock.now(),
        });
  const funds =
    sellable === null || hourly === null
      ? null
      : fundsGate(
          await services.funds.check(db, {
            tenantId: project.tenantId,
            userId: intent.userId,
            projectId: intent.projectId,
            hourlyMinor: hourly,
            currency: sellable.currency,
          }),
        );

  const checks: Check[] = [
    check('project', OPEN, 'the project may launch'),
    check('sku', skuGate, `${intent.sku} is on sale`),
    check('image', image?.gate ?? null, 'the image fits'),
    check('region', await regionGate(db, intent), intent.regionCode ?? 'any region'),
    keys.ok ? keyCheck(keys.keys) : check('ssh_key', keys.gate, ''),
    check('capacity', capacity, 'there is room'),
    check('concurrency', await concurrencyGate(db, services, project, intent), 'the limit is not reached'),
    check('financial_posture', fundsPart(funds, 'financial_posture'), 'launches are allowed'),
    check('balance', fundsPart(funds, 'balance'), 'the balance covers the first hour'),
    check('budget', fundsPart(funds, 'budget'), 'no budget stands against it'),
    check('storage', bucketGate(extras.storageBucketIds), 'nothing to attach'),
    check('network_policy', networkGate(extras.networkPolicyId), 'the default applies'),
  ];
  const severity = worst(checks);
  return {
    ready: severity !== 'blocker',
    severity,
    checks,
    estimate: {
      hourly_rate: sellable === null || hourly === null ? null : money(hourly, sellable),
      monthly_estimate: sellable === null || hourly === null ? null : money(monthlyMinor(hourly), sellable),
      billing_mode: 'on_demand',
    },
    resolved: {
      sku: intent.sku,
      resource_class: sku?.resourceClass ?? null,
      unit_count: gpus?.ok && shapeOf(sellable?.resourceClass ?? 'cpu_vm') === 'gpu_slice' ? gpus.gpus : intent.count,
      os_image_slug: intent.osImageSlug,
      region_code: intent.regionCode,
      ssh_key_ids: keys.ok ? keys.keys.map((key) => key.id) : [],
      placement: { availability_state: availabilityOf(skuGate, capacity) },
    },
    meta: { generated_at: toWireTime(ctx.clock.now()), cache: 'bypass' },
  };
}

/** The image of the launch and, of a guest, what identifies it. */
async function findImage(
  db: Reader,
  row: SkuRow,
  sku: SkuFacts,
  gpus: number,
  intent: AdmissionIntent,
): Promise<{ readonly gate: Gate; readonly digest: string | null }> {
  const image = intent.osImageSlug === null ? undefined : await findImageBySlug(db, intent.osImageSlug);
  const gate = decideImage(intent.osImageSlug, image ? imageFacts(image) : null, sku);
  if (!gate.ok) return { gate, digest: null };
  const made = await decideGuest(db, row, sku, gpus, image);
  return made.ok ? { gate, digest: made.guest?.digest ?? null } : { gate: made, digest: null };
}

async function regionGate(db: Reader, intent: AdmissionIntent): Promise<Gate> {
  if (intent.regionCode === null || (await isKnownRegion(db, intent.regionCode))) return OPEN;
  return blocked('region', 'region_not_found', `there is nothing in ${intent.regionCode}`);
}

async function concurrencyGate(
  db: Reader,
  services: AdmissionServices,
  project: ProjectScope,
  intent: AdmissionIntent,
): Promise<Gate> {
  const maximum = await services.policies.policyNumber(db, CONCURRENCY_POLICY, {
    userId: intent.userId,
    projectId: intent.projectId,
    tenantId: project.tenantId,
  });
  return decideConcurrency({ maximum, current: await countLiveAllocations(db, intent.userId), wanted: intent.count });
}

async function findKeys(
  db: Reader,
  services: AdmissionServices,
  intent: AdmissionIntent,
): Promise<{ ok: true; keys: readonly SshKey[] } | { ok: false; gate: Gate }> {
  try {
    const owner = { userId: intent.userId, projectId: intent.projectId, ids: intent.sshKeyIds };
    return { ok: true, keys: await services.identity.sshKeysFor(db, owner) };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { ok: false, gate: blocked('ssh_key', error.details?.reason ?? error.code, error.message) };
  }
}

function keyCheck(keys: readonly SshKey[]): Check {
  if (keys.length === 0) {
    return check('ssh_key', { ok: true, warning: 'without a key nobody can log in until one is added' }, '');
  }
  return check('ssh_key', OPEN, keys.map((key) => key.name).join(', '));
}

function bucketGate(bucketIds: readonly string[]): Gate {
  return bucketIds.length === 0 ? OPEN : blocked('storage', 'storage_bucket_not_found', 'there is no such bucket');
}

function networkGate(id: string | null): Gate {
  return id === null ? OPEN : blocked('network_policy', 'network_policy_not_found', 'there is no such network policy');
}

function blocked(id: CheckId, reason: string, message: string): Gate {
  return { ok: false, check: id, code: 'invalid_request', reason, message };
}

/** Finance gives one answer; a check that it did not come to is unknown, and unknown blocks. */
function fundsPart(funds: Gate | null, id: CheckId): Gate | null {
  if (funds === null || funds.ok || funds.check === id) return funds;
  const order: CheckId[] = ['financial_posture', 'balance', 'budget'];
  return order.indexOf(id) < order.indexOf(funds.check) ? OPEN : null;
}

/** `null`: it could not be found out. */
function check(id: CheckId, gate: Gate | null, fine: string): Check {
  const severity: Severity = gate === null || !gate.ok ? 'blocker' : gate.warning ? 'warn' : 'ok';
  const action = severity === 'ok' ? undefined : ACTIONS[id];
  return {
    id,
    label: LABELS[id],
    status: gate === null ? 'unknown' : severity,
    severity,
    message: gate === null ? 'not known yet' : gate.ok ? (gate.warning ?? fine) : gate.message,
    action_label: action?.label ?? null,
    action_href: action?.href ?? null,
    inline_action_kind: action?.kind ?? 'none',
  };
}

function worst(checks: readonly Check[]): Severity {
  if (checks.some((one) => one.severity === 'blocker')) return 'blocker';
  return checks.some((one) => one.severity === 'warn') ? 'warn' : 'ok';
}

function availabilityOf(sku: Gate, capacity: Gate | null): string {
  if (!sku.ok) return 'blocked_policy';
  return capacity?.ok ? 'ready_now' : 'blocked_capacity';
}

function money(amount: bigint, sku: SkuFacts): Schema<'Money'> {
  return { amount_minor: toWireInteger(amount), currency: sku.currency };
}
