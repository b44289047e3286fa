import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { capacityReason, decideBundle, decideConcurrency, decideImage, decideSku } from './admission.js';
import { ALLOCATION_STATUSES, type AllocationStatus } from './allocation-state.js';
import { decideForceCleanup } from './force-cleanup.js';
import { groupStatusOf, isReleasedWithGroup } from './group-status.js';
import { limitsOf } from './limits.js';
import { billingUnits, hourlyMinor, monthlyMinor } from './rate.js';
import { decideGpuCount, findSkuFault, type SkuFacts } from './sku.js';
import { launchHints, resolveSku } from './sku-resolution.js';
import { decideTeardown } from './teardown.js';

const host: SkuFacts = {
  sku: 'h200',
  active: true,
  resourceClass: 'gpu_baremetal',
  billingUnit: 'gpu_hour',
  schedulingUnit: 'node',
  vcpuCount: 192,
  acceleratorVendor: 'nvidia',
  acceleratorCount: 8,
  allowedAcceleratorCounts: [],
  unitPriceMinor: 450n,
  currency: 'USD',
};
const slice: SkuFacts = {
  ...host,
  sku: 'h200-slice',
  resourceClass: 'gpu_slice',
  schedulingUnit: 'slice',
  allowedAcceleratorCounts: [4, 1, 2],
};
const status = fc.constantFrom(...ALLOCATION_STATUSES);

describe('a SKU', () => {
  it('is sold in the units of its class, for a price', () => {
    expect(findSkuFault(host)).toBeNull();
    expect(findSkuFault({ ...host, schedulingUnit: 'slice' })?.reason).toBe('scheduling_unit_mismatch');
    expect(findSkuFault({ ...slice, billingUnit: 'node_hour' })?.reason).toBe('billing_unit_mismatch');
    expect(findSkuFault({ ...host, unitPriceMinor: 0n })?.reason).toBe('price_not_positive');
    expect(findSkuFault({ ...host, acceleratorCount: null })?.reason).toBe('accelerator_count_required');
    expect(findSkuFault({ ...slice, allowedAcceleratorCounts: [16] })?.reason).toBe('accelerator_count_exceeded');
    const plane = { ...host, resourceClass: 'control_plane', billingUnit: 'node_hour', unitPriceMinor: 0n } as const;
    expect(findSkuFault(plane)).toBeNull();
  });

  it('gives the GPUs that it offers and no other number', () => {
    expect(decideGpuCount(host, null)).toEqual({ ok: true, gpus: 8 });
    expect(decideGpuCount(host, 4)).toEqual({ ok: false, offered: [8] });
    expect(decideGpuCount(slice, null)).toEqual({ ok: true, gpus: 1 });
    expect(decideGpuCount(slice, 4)).toEqual({ ok: true, gpus: 4 });
    expect(decideGpuCount(slice, 3)).toEqual({ ok: false, offered: [1, 2, 4] });
    expect(decideGpuCount({ ...slice, allowedAcceleratorCounts: [], acceleratorCount: null }, null)).toEqual({
      ok: true,
      gpus: 1,
    });
  });

  it('costs its price times its units', () => {
    expect(hourlyMinor(host, 8)).toBe(3600n);
    expect(hourlyMinor({ ...host, billingUnit: 'node_hour' }, 8)).toBe(450n);
    expect(billingUnits({ ...host, billingUnit: 'vcpu_hour' }, 8)).toBe(192);
    expect(monthlyMinor(3600n)).toBe(2_628_000n);
  });
});

describe('which SKU a create means', () => {
  it('follows the node, then the request, then the only one on sale; it never guesses', () => {
    const facts = { nodeSku: null, requested: null, shape: 'baremetal', onSale: ['a'] } as const;
    expect(resolveSku({ ...facts, nodeSku: 'n' })).toEqual({ ok: true, sku: 'n' });
    expect(resolveSku({ ...facts, nodeSku: 'n', requested: 'r' })).toMatchObject({
      ok: false,
      reason: 'sku_not_of_node',
    });
    expect(resolveSku({ ...facts, requested: 'r' })).toEqual({ ok: true, sku: 'r' });
    expect(resolveSku(facts)).toEqual({ ok: true, sku: 'a' });
    expect(resolveSku({ ...facts, onSale: [] })).toMatchObject({ ok: false, reason: 'sku_required' });
    expect(resolveSku({ ...facts, onSale: ['a', 'b'] })).toMatchObject({ ok: false, reason: 'sku_required' });
  });

  it('reads only texts from a scheduler’s request', () => {
    expect(launchHints({ sku: ' a ', region_code: 7, name: '', os_image_slug: null })).toEqual({
      sku: 'a',
      regionCode: null,
      name: null,
      osImageSlug: null,
    });
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (request) => {
        for (const hint of Object.values(launchHints(request))) {
          expect(hint === null || (typeof hint === 'string' && hint !== '')).toBe(true);
        }
      }),
    );
  });
});

describe('the gates of a launch', () => {
  it('refuse what is unknown, not on sale, or not what was meant', () => {
    const wish = { shape: null, gpuCount: null };
    expect(decideSku(null, wish)).toMatchObject({ code: 'sku_not_found', status: 400 });
    expect(decideSku({ ...host, active: false }, wish)).toMatchObject({ code: 'sku_unavailable' });
    expect(decideSku(host, { ...wish, shape: 'gpu_slice' })).toMatchObject({ reason: 'capacity_shape_mismatch' });
    expect(decideSku(host, { ...wish, resourceClass: 'cpu_vm' })).toMatchObject({ reason: 'resource_class_mismatch' });
    expect(decideSku(slice, { ...wish, gpuCount: 3 })).toMatchObject({ reason: 'gpu_count_not_offered' });
    expect(decideSku(slice, { ...wish, gpuCount: 2 })).toEqual({ ok: true });
  });

  it('let a deprecated image pass with a word, and refuse a disabled or unfit one', () => {
    const image = {
      slug: 'i',
      status: 'active',
      target: 'baremetal',
      compatibleSkus: [],
      acceleratorVendor: null,
    } as const;
    expect(decideImage(null, null, host)).toEqual({ ok: true });
    expect(decideImage('i', null, host)).toMatchObject({ reason: 'os_image_not_found', status: 400 });
    expect(decideImage('i', { ...image, status: 'disabled' }, host)).toMatchObject({ status: 409 });
    expect(decideImage('i', { ...image, status: 'deprecated' }, host)).toMatchObject({
      ok: true,
      warning: expect.any(String),
    });
    expect(decideImage('i', { ...image, target: 'vm_slice' }, host)).toMatchObject({ reason: 'os_image_incompatible' });
    expect(decideImage('i', { ...image, compatibleSkus: ['other'] }, host)).toMatchObject({ ok: false });
    expect(decideImage('i', { ...image, acceleratorVendor: 'amd' }, host)).toMatchObject({ ok: false });
  });

  it('fit a bundle to the accelerators', () => {
    const bundle = { slug: 'b', status: 'active', compatibleAccelerators: ['nvidia'] } as const;
    expect(decideBundle(bundle, 'nvidia')).toEqual({ ok: true });
    expect(decideBundle(bundle, null)).toMatchObject({ status: 409 });
    expect(decideBundle({ ...bundle, status: 'disabled' }, 'nvidia')).toMatchObject({ status: 409 });
    expect(decideBundle(null, 'nvidia')).toMatchObject({ status: 400 });
  });

  it('apply the limit to the full number asked for', () =>
    fc.assert(
      fc.property(fc.nat(50), fc.nat(50), fc.integer({ min: 1, max: 20 }), (maximum, current, wanted) => {
        expect(decideConcurrency({ maximum, current, wanted }).ok).toBe(current + wanted <= maximum);
        expect(limitsOf(maximum, current).available_allocation_slots).toBe(Math.max(0, maximum - current));
      }),
    ));

  it('say why there is no room', () => {
    expect(capacityReason({ free: 0, unclaimed: 0 })).toBe('no_capacity_in_region');
    expect(capacityReason({ free: 0, unclaimed: 3 })).toBe('readiness_blocked');
    expect(capacityReason({ free: 0, unclaimed: 0, freeGpus: 4, gpusWanted: 4 })).toBe('no_single_node_fit');
  });
});

describe('the end of a teardown', () => {
  it('frees hardware on proof alone, and never retries without end', () =>
    fc.assert(
      fc.property(status, fc.boolean(), fc.nat(5), fc.boolean(), (current, proven, attempts, overdue) => {
        const decision = decideTeardown({ status: current, proven, attempts, overdue });
        if (decision === 'release' || decision === 'free_claims') expect(proven).toBe(true);
        if (decision === 'retry') expect(attempts).toBeLessThan(3);
        const leaving: AllocationStatus[] = ['releasing', 'release_failed', 'failed'];
        if (!leaving.includes(current)) expect(decision).toBe('ignore');
      }),
    ));
});

describe('an operator’s word', () => {
  const facts = fc.record({
    status,
    guest: fc.boolean(),
    blocked: fc.boolean(),
    occupies: fc.boolean(),
    verifiedAbsent: fc.boolean(),
    hostResponds: fc.boolean(),
  });

  it('counts for a whole host only where it is stuck and silent, and only once someone has looked', () =>
    fc.assert(
      fc.property(facts, (given) => {
        const decision = decideForceCleanup({ ...given, guest: false });
        if (!decision.ok) return;
        expect(decision.effect).toBe('release');
        expect([given.verifiedAbsent, given.hostResponds]).toEqual([true, false]);
        expect(['releasing', 'release_failed', 'failed']).toContain(given.status);
        if (given.status === 'failed') expect(given.occupies).toBe(true);
      }),
    ));

  it('frees what a guest occupies only once someone has looked, and ends a guest that was not there yet', () =>
    fc.assert(
      fc.property(facts, (given) => {
        const decision = decideForceCleanup({ ...given, guest: true });
        const launching = given.status === 'requested' || given.status === 'provisioning';
        if (launching) expect(decision.ok).toBe(true);
        if (!decision.ok) return;
        expect(decision.effect === 'fail_and_block').toBe(launching && !given.verifiedAbsent);
        expect(decision.effect === 'release').toBe(!launching);
        if (launching) return;
        expect(given.verifiedAbsent).toBe(true);
        // A host that still answers has the first word, unless it has spoken and could not clean up.
        if (given.hostResponds) expect([given.status, given.blocked]).toEqual(['failed', true]);
      }),
    ));
});

describe('a group', () => {
  const member = fc.record({ status, required: fc.boolean(), wasActive: fc.boolean() });

  it('is active only while every required member is, and has ended only when all have', () =>
    fc.assert(
      fc.property(fc.array(member, { minLength: 1, maxLength: 5 }), fc.boolean(), (members, leaving) => {
        const group = groupStatusOf(members, leaving);
        const required = members.filter((one) => one.required);
        const basis = required.length > 0 ? required : members;
        if (group === 'active') expect(basis.every((one) => one.status === 'active')).toBe(true);
        if (group === 'released')
          expect(members.every((one) => ['released', 'failed'].includes(one.status))).toBe(true);
        if (leaving) expect(['released', 'releasing', 'release_failed']).toContain(group);
      }),
    ));

  it('takes the members with it that can still leave', () => {
    expect(ALLOCATION_STATUSES.filter((one) => isReleasedWithGroup(one, 'all_members'))).toEqual([
      'requested',
      'provisioning',
      'active',
      'restarting',
      'restart_failed',
      'release_failed',
    ]);
    expect(ALLOCATION_STATUSES.filter((one) => isReleasedWithGroup(one, 'active_or_failed_members'))).toEqual([
      'active',
      'restart_failed',
      'release_failed',
    ]);
  });
});
