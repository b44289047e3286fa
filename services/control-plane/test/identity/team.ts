import { randomBytes } from 'node:crypto';
import { newId } from '@gpuaas/kernel';
import { PASSWORD, type Person, type TestSite } from '../harness/site.js';

export type TenantRole = 'owner' | 'admin' | 'member' | 'billing_viewer';
export type ProjectRole = 'owner' | 'admin' | 'member' | 'viewer';

export interface Member {
  readonly userId: string;
  readonly username: string;
  readonly token: string;
}

export const uniqueName = (stem: string): string => `${stem}-${randomBytes(5).toString('hex')}`;

/** Signs in by password and returns the access token. */
export async function signIn(site: TestSite, username: string, password: string = PASSWORD): Promise<string> {
  const answer = await site.call({ method: 'POST', path: '/api/v1/auth/personal/login', body: { username, password } });
  if (answer.status !== 200) throw new Error(`sign-in failed: ${JSON.stringify(answer.body)}`);
  return answer.body.access_token;
}

/** A colleague whom the owner of a tenant takes in. */
export async function addMember(
  site: TestSite,
  owner: Pick<Person, 'token' | 'projectId'>,
  roles: { readonly tenant?: TenantRole; readonly project?: ProjectRole } = {},
): Promise<Member> {
  const username = uniqueName('colleague');
  const answer = await site.call({
    method: 'POST',
    path: '/api/v1/tenant/users',
    token: owner.token,
    body: {
      username,
      password: PASSWORD,
      project_id: owner.projectId,
      tenant_role: roles.tenant ?? 'member',
      project_role: roles.project ?? 'member',
    },
  });
  if (answer.status !== 201) throw new Error(`taking a colleague in failed: ${JSON.stringify(answer.body)}`);
  return { userId: answer.body.id, username, token: await signIn(site, username) };
}

/** Makes a tenant an organisation, which no operation does yet. */
export async function makeEnterprise(site: TestSite, tenantId: string): Promise<void> {
  await site.db.updateTable('tenants').set({ type: 'enterprise' }).where('id', '=', tenantId).execute();
}

/** An id that names nothing. */
export const nobody = (): string => newId();
