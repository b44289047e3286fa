/**
 * No system account of any distribution begins like this, so that no user name can reach an account that a host
 * already has (`root`, `ubuntu`, `postgres`, `maas`).
 */
const PREFIX = 'u-';
const MAXIMUM_LENGTH = 31;

/**
 * The `attempt`-th candidate for the account name of a user on GPU hosts; always matches `[a-z_][a-z0-9_-]{0,30}`.
 * An e-mail address counts by its local part.
 */
export function posixNameCandidate(username: string, attempt: number): string {
  const local = username.split('@')[0] ?? '';
  const base =
    local
      .normalize('NFKD')
      .replace(/\p{M}/gu, '')
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-')
      .replace(/^-+|-+$/g, '') || 'user';
  const suffix = attempt <= 1 ? '' : `-${attempt}`;
  return `${`${PREFIX}${base}`.slice(0, MAXIMUM_LENGTH - suffix.length).replace(/-+$/, '')}${suffix}`;
}
