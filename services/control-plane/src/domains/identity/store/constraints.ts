import { conflict, type Refusal, refuse } from '../../../spine/refusal.js';
import { RetryTransaction, violatedConstraint } from '../../../spine/transaction.js';

/**
 * What a violated constraint means to a caller. A constraint without an entry guards against our own mistakes and
 * stays an internal error; `retry` marks those that only a race can break, where a second look decides properly.
 */
const MEANING: Readonly<Record<string, (() => Refusal) | 'retry'>> = {
  users_username_unique: () => refuse('user_already_exists', { resource: 'user' }),
  identity_links_subject_once: () =>
    refuse('user_already_exists', { reason: 'identity_linked', resource: 'identity_link' }),
  federation_providers_name_unique: 'retry',
  federation_domain_bindings_verified: () => conflict('domain_bound_elsewhere', { resource: 'domain_binding' }),
  projects_slug_unique: () => conflict('project_slug_taken', { resource: 'project' }),
  service_accounts_slug_unique: () => conflict('service_account_slug_taken', { resource: 'service_account' }),
  ssh_keys_once_a_user: () => conflict('ssh_key_exists', { resource: 'ssh_key' }),
  ssh_keys_once_a_project: () => conflict('ssh_key_exists', { resource: 'ssh_key' }),
  ssh_keys_one_default: 'retry',
  tenants_slug_unique: 'retry',
  tenant_memberships_one_home: 'retry',
  project_memberships_one_role: 'retry',
  platform_role_bindings_once: 'retry',
};

/** Runs a write and turns a violated constraint into what it means. */
export async function guarded<Result>(write: Promise<Result>): Promise<Result> {
  try {
    return await write;
  } catch (error) {
    const name = violatedConstraint(error);
    const meaning = name !== undefined && Object.hasOwn(MEANING, name) ? MEANING[name] : undefined;
    if (meaning === undefined) throw error;
    if (meaning === 'retry') throw new RetryTransaction(`lost a race on ${name}`, { cause: error });
    throw meaning();
  }
}
