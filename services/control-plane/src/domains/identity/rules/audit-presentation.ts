export type AuditSeverity = 'info' | 'success' | 'warning' | 'error' | 'critical';
export type AuditCategory = 'Access' | 'Finance' | 'Fleet' | 'Operations' | 'Platform';

/** One row of the record, as far as its wording depends on it. */
export interface AuditFacts {
  readonly action: string;
  readonly actorName: string;
  readonly targetType: string;
  readonly targetId: string | null;
  readonly result: 'success' | 'failure';
  readonly metadata: Readonly<Record<string, unknown>>;
}

export interface AuditWording {
  readonly actorLabel: string;
  readonly targetLabel: string;
  readonly targetTypeLabel: string;
  readonly actionLabel: string;
  readonly category: AuditCategory;
  readonly family: string;
  readonly summary: string;
  readonly resultLabel: string;
  readonly severity: AuditSeverity;
  /** the facts that everyone who sees the row may see */
  readonly safeDetails: Readonly<Record<string, unknown>>;
}

interface CatalogueEntry {
  /** in the past tense, to stand between actor and target */
  readonly label: string;
  readonly success: AuditSeverity;
  readonly failure: AuditSeverity;
  /** names in the metadata that hold nothing but safe facts */
  readonly safe: readonly string[];
}

const entry = (
  label: string,
  safe: readonly string[] = [],
  success: AuditSeverity = 'success',
  failure: AuditSeverity = 'error',
): CatalogueEntry => ({ label, success, failure, safe });

/** Actions with words of their own. One that is missing is worded from its name. */
const CATALOGUE: Readonly<Record<string, CatalogueEntry>> = {
  'auth.signup': entry('created the account', ['method']),
  'auth.login': entry('signed in', ['method', 'reason'], 'info', 'warning'),
  'auth.logout': entry('signed out', ['sessions_ended'], 'info'),
  'auth.refresh': entry('renewed the session', [], 'info'),
  'auth.refresh.reuse_detected': entry('presented a used refresh token of', [], 'critical', 'critical'),
  'auth.service_account.token': entry('took a token for', ['scopes', 'reason'], 'info', 'warning'),
  'auth.session.revoke': entry('ended', [], 'warning'),
  'auth.session.revoke_others': entry('ended all other sessions of', [], 'warning'),
  'authz.deny': entry('was refused', ['reason', 'operation'], 'warning', 'warning'),
  'rate_limit.block': entry('was slowed down at', ['retry_after_seconds'], 'warning', 'warning'),
  'project.create': entry('created', ['name', 'slug']),
  'project.update': entry('changed', ['name', 'slug']),
  'project.delete': entry(
    'deleted',
    ['name', 'members_removed', 'service_accounts_deleted', 'ssh_keys_revoked'],
    'warning',
  ),
  'project.set_default': entry('made the default', [], 'info'),
  'ssh_key.create': entry('added', ['name', 'fingerprint', 'owner_scope', 'type', 'is_default']),
  'ssh_key.revoke': entry('revoked', ['name', 'fingerprint', 'owner_scope'], 'warning'),
  'ssh_key.set_default': entry('made the default', ['name', 'fingerprint'], 'info'),
  'service_account.create': entry('created', ['name', 'slug', 'purpose', 'key_id']),
  'service_account.disable': entry('disabled', ['name', 'slug', 'changed'], 'warning'),
  'service_account.delete': entry('deleted', ['name', 'slug', 'changed'], 'warning'),
  'service_account.credential.rotate': entry('rotated the key of', ['name', 'slug', 'key_id']),
  'tenant.user.create': entry('created', ['tenant_role', 'project_role']),
  'tenant.user.membership.bind': entry('set the roles of', ['tenant_role', 'project_role']),
  'tenant.user.membership.remove': entry(
    'removed',
    ['scope', 'reason', 'project_memberships', 'tenant_membership'],
    'warning',
  ),
  'platform.user.create': entry('created', ['role', 'local', 'federated', 'bootstrap']),
  'platform.user.password_reset': entry('reset the password of', ['bootstrap'], 'warning'),
  'platform.membership.bind': entry(
    'gave a home to',
    ['mode', 'rehomed_from', 'reason', 'tenant_role', 'project_role'],
    'warning',
  ),
  'platform.role.bind': entry('gave a platform role to', ['role', 'changed'], 'warning'),
  'platform.role.revoke': entry('took a platform role from', ['role', 'changed'], 'warning'),
  'audit.export': entry('exported', ['format', 'rows', 'filters'], 'warning'),
  'policy.update': entry('changed the policy', ['scope', 'value', 'ceiling'], 'warning'),
  'user.balance.adjust': entry(
    'adjusted the balance of',
    ['direction', 'amount_minor', 'currency', 'reason'],
    'warning',
  ),
  'refund.create': entry('refunded', ['amount_minor', 'currency', 'reason'], 'warning'),
  'allocation.create': entry('launched', ['sku', 'count', 'region_code']),
  'allocation.release': entry('released', ['from', 'to', 'reason']),
  'allocation.force_release': entry('forced the release of', ['from', 'to', 'reason'], 'warning'),
  'allocation.restart': entry('restarted', ['from', 'to']),
  'allocation.ssh_keys.update': entry('changed the keys of', ['key_count']),
  'node.create': entry('registered', ['hostname', 'sku', 'region_code']),
  'node.cordon': entry('cordoned', ['reason'], 'warning'),
  'node.drain': entry('began to drain', ['reason'], 'warning'),
  'node.delete': entry('removed', ['reason'], 'warning'),
};

const CATEGORY_OF_FAMILY: Readonly<Record<string, AuditCategory>> = {
  auth: 'Access',
  authz: 'Access',
  session: 'Access',
  account: 'Access',
  identity: 'Access',
  mfa: 'Access',
  project: 'Access',
  ssh_key: 'Access',
  service_account: 'Access',
  access_credential: 'Access',
  tenant: 'Access',
  billing: 'Finance',
  payment: 'Finance',
  refund: 'Finance',
  usage: 'Finance',
  user: 'Finance',
  wallet: 'Finance',
  node: 'Fleet',
  maas: 'Fleet',
  provider: 'Fleet',
  os_image: 'Fleet',
  sku: 'Fleet',
  agent: 'Fleet',
  allocation: 'Operations',
  allocation_group: 'Operations',
  app: 'Operations',
  app_instance: 'Operations',
  storage: 'Operations',
  terminal: 'Operations',
  workflow: 'Operations',
  outbox: 'Operations',
  dlq: 'Operations',
};

/** How a row reads. Pure and total: an action that nobody thought of still reads as a sentence. */
export function wordAudit(facts: AuditFacts): AuditWording {
  const family = facts.action.split('.')[0] ?? facts.action;
  const known = Object.hasOwn(CATALOGUE, facts.action) ? CATALOGUE[facts.action] : undefined;
  const label = known?.label ?? words(facts.action.split('.').slice(1).join(' ') || facts.action);
  const targetTypeLabel = words(facts.targetType);
  const name = facts.metadata.name;
  const named = typeof name === 'string' ? name : (facts.targetId ?? '');
  const targetLabel = known?.safe.includes('name') ? named : (facts.targetId ?? '');
  const failed = facts.result === 'failure';
  const target = [targetTypeLabel, targetLabel].filter((part) => part !== '').join(' ');
  return {
    actorLabel: facts.actorName,
    targetLabel,
    targetTypeLabel,
    actionLabel: label,
    category: (Object.hasOwn(CATEGORY_OF_FAMILY, family) && CATEGORY_OF_FAMILY[family]) || 'Platform',
    family,
    summary: `${facts.actorName} ${failed ? 'failed: ' : ''}${label} ${target}`.trim(),
    resultLabel: failed ? 'Failed' : 'Succeeded',
    severity: failed ? (known?.failure ?? 'error') : (known?.success ?? 'info'),
    safeDetails: Object.fromEntries(
      (known?.safe ?? []).flatMap((key) => (Object.hasOwn(facts.metadata, key) ? [[key, facts.metadata[key]]] : [])),
    ),
  };
}

function words(name: string): string {
  return name.replace(/[._-]+/g, ' ').trim();
}
