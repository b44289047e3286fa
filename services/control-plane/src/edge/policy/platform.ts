import {
  allow,
  anyOf,
  anyServiceAccount,
  anyUser,
  capability,
  open,
  type PolicyRule,
  serviceAccount,
} from './rules.js';

/** The shell and what it needs: also for robots, which show a region or a status in their own output. */
const everyCaller = allow(anyOf(anyUser, anyServiceAccount));
const operatorReads = allow(capability('platform.ops.read'));
const operatorWrites = allow(capability('platform.ops.write'));
const auditReader = allow(capability('platform.audit.read'));
const runbookReader = allow(capability('platform.ops.runbook.read'));
/** The scope exists only for robots of the platform's own organisation. */
const readsBundles = allow(anyOf(capability('platform.ops.read'), serviceAccount('platform.evidence.write')));
const writesBundles = anyOf(capability('platform.ops.write'), serviceAccount('platform.evidence.write'));

export const platformPolicy = {
  getHealth: open('none: says only whether the service can answer'),
  getV3ShellContext: allow(anyOf(anyUser, anyServiceAccount), 'modes that the caller holds'),
  listV3Regions: everyCaller,
  getV3PlatformPublicStatus: everyCaller,

  adminGetOpsOverview: operatorReads,
  adminGetRuntimeMetadata: operatorReads,
  adminGetFleetTelemetry: operatorReads,
  adminListFailedOutboxEvents: operatorReads,
  adminRequeueOutboxEvent: operatorWrites,
  adminDiscardOutboxEvent: operatorWrites,
  adminListDLQMessages: operatorReads,
  adminRequeueDLQMessage: operatorWrites,
  adminDiscardDLQMessage: operatorWrites,
  adminListRunbooks: runbookReader,
  adminGetRunbook: runbookReader,

  getV3PlatformOverview: operatorReads,
  getV3PlatformOps: operatorReads,
  getV3PlatformOpsFleetTelemetry: operatorReads,
  listV3PlatformOpsFailedOutboxEvents: operatorReads,
  requeueV3PlatformOpsOutboxEvent: operatorWrites,
  discardV3PlatformOpsOutboxEvent: operatorWrites,
  listV3PlatformOpsDLQMessages: operatorReads,
  requeueV3PlatformOpsDLQMessage: operatorWrites,
  discardV3PlatformOpsDLQMessage: operatorWrites,
  acknowledgeV3PlatformSignal: operatorWrites,
  suppressV3PlatformSignal: operatorWrites,
  clearV3PlatformSignalAcknowledgement: operatorWrites,

  getV3PlatformEvidence: operatorReads,
  listV3PlatformEvidenceBundles: readsBundles,
  getV3PlatformEvidenceBundle: readsBundles,
  createV3PlatformEvidenceBundle: allow(writesBundles),
  recordV3PlatformEvidenceItem: allow(
    writesBundles,
    'approvals and waivers: a person other than the maker of the bundle',
  ),
  listV3PlatformEvidenceAuditLogs: auditReader,
  exportV3PlatformEvidenceAuditLogs: auditReader,

  getV3PlatformStatusReadiness: operatorReads,
  listV3PlatformStatusComponents: operatorReads,
  listV3PlatformStatusNodeTrust: allow(anyOf(capability('platform.ops.read'), capability('platform.node.read'))),
  getV3PlatformStatusGuards: operatorReads,
  listV3PlatformStatusBreakglass: operatorReads,
  listV3PlatformDevSecOpsMetrics: operatorReads,
  listV3PlatformEdgeRoutes: operatorReads,

  listV3PlatformTemporalWorkflows: operatorReads,
  getV3PlatformTemporalWorkflowRetryHistory: operatorReads,
  listV3PlatformWorkflowSchedules: operatorReads,
  listV3PlatformStuckWorkflowActivities: operatorReads,

  getV3PlatformObservabilityHealthSnapshot: operatorReads,
  getV3PlatformObservabilityCorrelationTimeline: operatorReads,
  listV3PlatformObservabilityLogs: operatorReads,
  listV3PlatformObservabilityTraces: operatorReads,
  listV3PlatformObservabilityAlerts: operatorReads,
  listV3PlatformObservabilitySLOEvidence: operatorReads,

  listV3PlatformRegistryEnvironmentArtifacts: operatorReads,
  listV3PlatformRegistryArtifactTrust: operatorReads,
  listV3PlatformRegistryAppArtifacts: operatorReads,
  listV3PlatformOpsRegistryPullDiagnosis: operatorReads,
  listV3PlatformOpsSecretsPKICertificates: operatorReads,
  listV3PlatformSecretsPKIVaultReadiness: operatorReads,
  listV3PlatformSecretsPKIRotationEvidence: operatorReads,
  listV3PlatformSecretsPKIBreakglassEvidence: operatorReads,
  listV3PlatformSecretsPKIPurposeInventory: operatorReads,
} satisfies Record<string, PolicyRule>;
