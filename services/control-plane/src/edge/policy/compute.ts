import {
  allow,
  anyOf,
  anyUser,
  capability,
  inProject,
  type PolicyRule,
  serviceAccount,
  sharedRuntimeOperator,
  tenantAdmin,
} from './rules.js';

const browses = allow(anyOf(anyUser, serviceAccount('compute.read')));
const reads = allow(inProject('viewer', ['compute.read']));
const launches = allow(inProject('member', ['compute.write']));
const OWNER_OR_ADMIN = 'owner of the allocation, or admin of the project';
const manages = allow(inProject('member', ['compute.write']), OWNER_OR_ADMIN);
/** An owner who has since become a viewer must still be able to stop paying. */
const releases = allow(inProject('viewer', ['compute.write']), OWNER_OR_ADMIN);
const readsTenant = allow(
  anyOf(tenantAdmin, capability('platform.ops.read'), sharedRuntimeOperator),
  'shared runtime operator: allocations of its runtime alone',
);
const managesAppCredential = allow(
  inProject('member', ['apps.instances.write', 'apps.runtime.report']),
  'owner of the workload, admin of the project, or a service account of it',
);
const operatorReads = allow(capability('platform.ops.read'));
const operatorWrites = allow(capability('platform.ops.write'));

export const computePolicy = {
  listSkus: browses,
  listNodeSummaries: browses,
  listManagedRuntimeBundles: browses,

  listAllocations: reads,
  getAllocationLimits: reads,
  getAllocationById: reads,
  getAllocationTimeline: reads,
  getAllocationMetrics: reads,
  getAllocationMetricsTimeseries: reads,
  listAllocationRuntimeBundles: reads,
  listAllocationAccessGrants: reads,
  listProjectAllocations: reads,
  getProjectAllocationById: reads,
  listProjectAllocationGroups: reads,
  getProjectAllocationGroup: reads,
  listV3Workloads: reads,
  getV3WorkloadDetail: reads,
  listV3Tasks: reads,
  getV3TaskDetail: reads,
  getV3ComputeCatalog: reads,

  createAllocation: launches,
  precheckV3ComputeLaunch: launches,
  submitV3ComputeLaunch: launches,
  createProjectAllocationGroup: allow(
    inProject('member', ['compute.write']),
    'a runtime as owner: its admin or its service account',
  ),

  releaseAllocation: releases,
  releaseProjectAllocationGroup: allow(
    inProject('viewer', ['compute.write']),
    'owner of the group, or admin of the project',
  ),
  restartAllocation: manages,
  setAllocationSshKeys: manages,
  setV3AllocationSshKeysCompat: manages,
  applyAllocationRuntimeBundle: manages,
  createTerminalToken: allow(inProject('viewer'), 'owner, holder of an active grant, or admin of the project'),
  createAllocationAccessGrant: allow(anyOf(inProject('member'), capability('platform.admin')), OWNER_OR_ADMIN),
  revokeAllocationAccessGrant: allow(
    anyOf(inProject('viewer'), capability('platform.admin')),
    'owner of the allocation, grantee, or admin of the project',
  ),

  listOrgAllocations: readsTenant,
  getOrgAllocationById: readsTenant,

  reconcileV3AppRuntimeCredential: managesAppCredential,
  sweepV3AppRuntimeCredentials: managesAppCredential,
  rotateV3AppRuntimeCredential: managesAppCredential,
  disableV3AppRuntimeCredential: managesAppCredential,

  adminListOSImages: operatorReads,
  adminCreateOSImage: operatorWrites,
  adminRemoveOSImage: operatorWrites,
  adminListSkus: operatorReads,
  adminCreateSku: operatorWrites,
  adminUpdateSku: operatorWrites,
  adminActivateSku: operatorWrites,
  adminDeactivateSku: operatorWrites,
  adminListAllocations: operatorReads,
  adminGetAllocationTimeline: operatorReads,
  adminGetAllocationConcurrencyPolicy: operatorReads,
  adminSetAllocationConcurrencyPolicy: operatorWrites,
  adminBackfillAllocationPlacementClaims: operatorWrites,
  adminForceReleaseAllocation: operatorWrites,
  adminForceCleanupAllocation: operatorWrites,
  createV3PlatformConfigSkuCompat: operatorWrites,
  updateV3PlatformConfigSkuCompat: operatorWrites,
  activateV3PlatformConfigSkuCompat: operatorWrites,
  deactivateV3PlatformConfigSkuCompat: operatorWrites,
  createV3PlatformConfigOSImageCompat: operatorWrites,
  updateV3PlatformConfigOSImageCompat: operatorWrites,
  deprecateV3PlatformConfigOSImageCompat: operatorWrites,
  reactivateV3PlatformConfigOSImageCompat: operatorWrites,
  deleteV3PlatformConfigOSImageCompat: operatorWrites,
  getV3PlatformConfigAllocationConcurrencyPolicyCompat: operatorReads,
  setV3PlatformConfigAllocationConcurrencyPolicyCompat: operatorWrites,
  getV3PlatformConfig: operatorReads,
  getV3PlatformSetupChecklist: operatorReads,
} satisfies Record<string, PolicyRule>;
