import {
  allow,
  anyOf,
  anyServiceAccount,
  anyUser,
  capability,
  inProject,
  inTenant,
  open,
  type PolicyRule,
  serviceAccount,
  sharedRuntimeOperator,
  tenantAdmin,
} from './rules.js';

const browses = allow(anyOf(anyUser, serviceAccount('apps.read')));
const downloads = allow(anyOf(anyUser, anyServiceAccount), 'artifacts for operators: platform.ops.read');
const readsDevCa = allow(anyOf(anyUser, anyServiceAccount));
const reads = allow(inProject('viewer', ['apps.read']));

const publishesArtifact = allow(inProject('member', ['apps.artifacts.write']));
const judgesArtifact = allow(inProject('admin', ['apps.artifacts.write']));

const LAUNCH_ROLES = "the entitlement's launch roles";
const launches = allow(inProject('member', ['apps.instances.write']), LAUNCH_ROLES);
/** A worker reads what it reconciles with the scope that it reports with. */
const readsInstance = allow(inProject('viewer', ['apps.read', 'apps.runtime.report']));
const INSTANCE_MANAGERS = 'requester, admin of the project, requesting or operating service account';
const manages = allow(inProject('member', ['apps.instances.write', 'apps.runtime.report']), INSTANCE_MANAGERS);
/** A requester who has since become a viewer must still be able to stop paying. */
const decommissions = allow(inProject('viewer', ['apps.instances.write', 'apps.runtime.report']), INSTANCE_MANAGERS);
const reports = allow(
  inProject('admin', ['apps.runtime.report'], 'ownership_required'),
  'where an operator is bound to the instance: that service account alone',
);
const operates = allow(inProject('admin', ['apps.runtime.report']), 'service account: operator of the instance');

const readsSharedRuntime = allow(
  anyOf(inTenant('owner', 'admin', 'member'), sharedRuntimeOperator),
  'members: the part of their own projects; operator: its own runtime',
);
const managesSharedRuntime = allow(tenantAdmin);
const reportsSharedRuntime = allow(
  anyOf(sharedRuntimeOperator, tenantAdmin),
  'tenant admins: only while no operator is bound to the runtime',
);
const contributesWorkers = allow(
  inProject('member', ['apps.instances.write']),
  'the attachment belongs to the project and permits contributions',
);
const invokesRoute = allow(
  anyOf(anyUser, serviceAccount('apps.routes.invoke')),
  'live access to the project of the route, entitlement, state of app and route',
);
const publishesVersion = allow(capability('platform.ops.write'));
const entitles = allow(anyOf(inProject('admin'), capability('platform.ops.write')), 'a project admin only tightens');

export const appsPolicy = {
  internalAppProxyRouteReport: open('token of the proxy controller of the pool'),
  authorizePlatformProxyRouteGet: invokesRoute,
  authorizePlatformProxyRoutePost: invokesRoute,
  forwardPlatformProxyRoute: invokesRoute,
  forwardPlatformProxyRoutePost: invokesRoute,
  adminResolveManagedIngressRoute: allow(capability('platform.ops.read')),

  listAppCatalog: browses,
  listAppCatalogVersions: browses,
  getAppRegistryInfo: browses,
  adminPublishAppCatalogVersion: publishesVersion,
  adminDeprecateAppCatalogVersion: publishesVersion,
  listV3Apps: reads,
  getV3AppDetail: reads,

  listPlatformReleases: downloads,
  getPlatformRelease: downloads,
  downloadPlatformReleaseArtifact: downloads,
  createPlatformReleaseArtifactPullIntent: downloads,
  getPlatformDevCA: readsDevCa,
  downloadPlatformDevCA: readsDevCa,
  listV3DeveloperReleases: downloads,
  getV3DeveloperRelease: downloads,
  downloadV3DeveloperReleaseArtifact: downloads,
  createV3DeveloperReleaseArtifactPullIntent: downloads,
  getV3DeveloperDevCA: readsDevCa,
  downloadV3DeveloperDevCA: readsDevCa,

  listProjectAppEntitlements: reads,
  upsertProjectAppEntitlement: entitles,

  listProjectAppArtifacts: reads,
  registerProjectAppArtifact: publishesArtifact,
  createProjectAppArtifactPublishIntent: publishesArtifact,
  createProjectAppArtifactPullIntent: publishesArtifact,
  promoteProjectAppArtifact: judgesArtifact,
  verifyProjectAppArtifact: judgesArtifact,
  revokeProjectAppArtifact: judgesArtifact,
  deprecateProjectAppArtifact: judgesArtifact,
  retireProjectAppArtifact: judgesArtifact,
  listV3AppArtifacts: reads,
  registerV3AppArtifact: publishesArtifact,
  createV3AppArtifactPublishIntent: publishesArtifact,
  createV3AppArtifactPullIntent: publishesArtifact,
  promoteV3AppArtifact: judgesArtifact,
  verifyV3AppArtifact: judgesArtifact,
  revokeV3AppArtifact: judgesArtifact,
  deprecateV3AppArtifact: judgesArtifact,
  retireV3AppArtifact: judgesArtifact,

  listAppInstances: readsInstance,
  getAppInstance: readsInstance,
  listAppInstanceMembers: readsInstance,
  getAppInstanceMember: readsInstance,
  listAppInstanceMemberOperations: readsInstance,
  getAppInstanceMemberOperation: readsInstance,
  listAppInstanceRepairOperations: readsInstance,
  getAppInstanceRepairOperation: readsInstance,
  getV3AppInstance: readsInstance,
  listV3AppInstanceMembers: readsInstance,
  listV3AppInstanceMemberOperations: readsInstance,

  createAppInstance: launches,
  precheckV3AppLaunch: launches,
  submitV3AppLaunch: launches,

  startAppInstance: manages,
  stopAppInstance: manages,
  restartAppInstance: manages,
  upgradeAppInstance: manages,
  rollbackAppInstance: manages,
  createAppInstanceMemberOperation: manages,
  createAppInstanceRepairOperation: manages,
  decommissionAppInstance: decommissions,
  deleteAppInstance: decommissions,
  startV3AppInstance: manages,
  stopV3AppInstance: manages,
  restartV3AppInstance: manages,
  upgradeV3AppInstance: manages,
  rollbackV3AppInstance: manages,
  createV3AppInstanceMemberOperation: manages,
  repairV3AppInstanceCompat: manages,
  decommissionV3AppInstance: decommissions,

  reportAppInstance: reports,
  reportAppInstanceMember: reports,
  reportAppInstanceMemberOperation: reports,
  reportAppInstanceRepairOperation: reports,
  issueAppInstanceRuntimeSecret: operates,
  reconcileAppInstanceBootstrapSshTrust: operates,
  getAppInstanceAccess: allow(
    inProject('member', ['apps.runtime.report']),
    'requester, admin of the project, or operating service account',
  ),

  listSharedAppRuntimes: readsSharedRuntime,
  getSharedAppRuntime: readsSharedRuntime,
  createSharedAppRuntime: managesSharedRuntime,
  deleteSharedAppRuntime: managesSharedRuntime,
  reportSharedAppRuntime: reportsSharedRuntime,
  listSharedAppRuntimeAttachments: readsSharedRuntime,
  createSharedAppRuntimeAttachment: managesSharedRuntime,
  getSharedAppRuntimeAttachment: readsSharedRuntime,
  reportSharedAppRuntimeAttachment: reportsSharedRuntime,
  deleteSharedAppRuntimeAttachment: managesSharedRuntime,
  listSharedAppRuntimeWorkers: readsSharedRuntime,
  getSharedAppRuntimeWorker: readsSharedRuntime,
  reportSharedAppRuntimeWorker: reportsSharedRuntime,
  listSharedAppRuntimeWorkerOperations: readsSharedRuntime,
  createSharedAppRuntimeWorkerOperation: managesSharedRuntime,
  getSharedAppRuntimeWorkerOperation: readsSharedRuntime,
  reportSharedAppRuntimeWorkerOperation: reportsSharedRuntime,
  listV3SharedAppRuntimes: readsSharedRuntime,
  getV3SharedAppRuntime: readsSharedRuntime,
  listV3SharedAppRuntimeAttachments: readsSharedRuntime,
  listV3SharedAppRuntimeWorkers: readsSharedRuntime,
  listV3SharedAppRuntimeWorkerOperations: readsSharedRuntime,
  createV3SharedAppRuntimeWorkerOperation: managesSharedRuntime,
  createProjectSharedRuntimeWorkerOperation: contributesWorkers,
  createV3ProjectSharedRuntimeWorkerOperation: contributesWorkers,
} satisfies Record<string, PolicyRule>;
