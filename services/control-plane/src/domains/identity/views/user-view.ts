import type { Schema } from '@gpuaas/contract';
import type { TenantId, UserId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import type { WalletPort } from '../dependencies.js';
import { platformStanding } from '../rules/platform-roles.js';
import type { UserProfile } from '../store/users.js';

/** Users with their money, as the contract shows them. */
export interface UserViews {
  withBalance(reader: Reader, user: UserProfile): Promise<Schema<'UserWithBalance'>>;
  /** One query for the money of all. */
  withBalances(reader: Reader, users: readonly UserProfile[]): Promise<Schema<'UserWithBalance'>[]>;
}

export function createUserViews(wallet: WalletPort, currency: string): UserViews {
  const withBalances: UserViews['withBalances'] = async (reader, users) => {
    const owners = users.flatMap(({ tenantId, userId }): { tenantId: TenantId; userId: UserId }[] =>
      tenantId === null ? [] : [{ tenantId, userId }],
    );
    const balances = await wallet.walletBalancesOfPage(reader, owners);
    return users.map((user) => userView(user, balances.get(user.userId) ?? { amount_minor: 0, currency }));
  };
  return {
    withBalances,
    async withBalance(reader, user) {
      const [view] = await withBalances(reader, [user]);
      if (view === undefined) throw new Error('a user was lost on the way to its view');
      return view;
    },
  };
}

function userView(user: UserProfile, balance: Schema<'Money'>): Schema<'UserWithBalance'> {
  const standing = platformStanding({
    role: user.role,
    source: user.platformRoleSource,
    bindings: user.platformRoles,
  });
  return {
    id: user.userId,
    username: user.username,
    role: user.role,
    org_id: user.tenantId,
    org_name: user.tenantName,
    project_id: user.projectId,
    project_name: user.projectName,
    platform_roles: [...standing.roles],
    platform_role_source: standing.source,
    platform_capabilities: [...standing.capabilities],
    balance,
  };
}
