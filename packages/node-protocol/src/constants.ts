/** The shared numbers of the node protocol. Units are in the names. */

/** A dispatched task whose lease ran out goes back to the queue; naming it in a poll extends the lease. */
export const TASK_LEASE_SECONDS = 120;
/** A poll without work is held this long and then answered 204. */
export const POLL_HOLD_SECONDS = 25;
/** An agent gives up on a poll that stayed silent this much longer than the hold. */
export const POLL_GRACE_SECONDS = 15;
export const POLL_BACKOFF_MINIMUM_SECONDS = 1;
export const POLL_BACKOFF_MAXIMUM_SECONDS = 60;
/** A node that has not polled for this long is offline. */
export const HEARTBEAT_FRESH_SECONDS = 90;
export const CERTIFICATE_LIFE_SECONDS = 7 * 24 * 3600;
/** The part of a certificate's life after which it is renewed; the rest is the room for an outage. */
export const CERTIFICATE_RENEW_AT = 2 / 3;
/** An enrolment repeated with the same key within this time gets the same certificate again. */
export const ENROLLMENT_RETRY_SECONDS = 600;
/** At most this many tasks run at once on a host; polling goes on meanwhile, since a poll is the heartbeat. */
export const MAX_RUNNING_TASKS = 8;
/** The largest output, as JSON text, that a result may carry. */
export const MAX_OUTPUT_BYTES = 1024 * 1024;
/** The largest progress report of a first boot, as JSON text. */
export const MAX_PROGRESS_BYTES = 64 * 1024;

/** Header names in the spelling that is sent; compare without case. */
export const NODE_HEADERS = {
  requestId: 'X-Request-Id',
  agentVersion: 'X-Agent-Version',
  agentCommit: 'X-Agent-Commit',
  agentBuiltAt: 'X-Agent-Built-At',
  agentBootId: 'X-Agent-Boot-Id',
  /** Comma-separated ids of the tasks an agent holds; each poll extends the leases of those named. */
  agentRunningTasks: 'X-Agent-Running-Tasks',
  /** Sent once with a new certificate: the bearer token that is good for as long as the certificate. */
  internalToken: 'X-Node-Internal-Token',
} as const;

/** The paths of the node protocol, below the origin of the control plane. */
export const nodePaths = {
  enroll: () => '/internal/v1/nodes/enroll',
  renew: (nodeId: string) => `/internal/v1/nodes/${encodeURIComponent(nodeId)}/cert/renew`,
  wait: (nodeId: string) => `/internal/v1/nodes/${encodeURIComponent(nodeId)}/tasks/wait`,
  result: (nodeId: string, taskId: string) =>
    `/internal/v1/nodes/${encodeURIComponent(nodeId)}/tasks/${encodeURIComponent(taskId)}/result`,
  terminalStream: (nodeId: string) => `/internal/v1/nodes/${encodeURIComponent(nodeId)}/terminal/stream`,
  bootstrapScript: (token: string) => `/api/v1/bootstrap/nodes/${encodeURIComponent(token)}/script`,
  bootstrapPackage: (token: string) => `/api/v1/bootstrap/nodes/${encodeURIComponent(token)}/package`,
  bootstrapRegistryCredential: (token: string) =>
    `/api/v1/bootstrap/nodes/${encodeURIComponent(token)}/registry-credential`,
  bootstrapProgress: (token: string) => `/api/v1/bootstrap/nodes/${encodeURIComponent(token)}/progress`,
} as const;

/** The value of the running-tasks header. */
export function formatRunningTasks(taskIds: Iterable<string>): string {
  return [...taskIds].join(',');
}

/** The ids of a running-tasks header; anything that is not an id is dropped, repeats count once. */
export function parseRunningTasks(value: string | undefined): string[] {
  if (value === undefined) return [];
  const ids = value
    .split(',')
    .map((part) => part.trim().toLowerCase())
    .filter((part) => TASK_ID.test(part));
  return [...new Set(ids)];
}

const TASK_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
