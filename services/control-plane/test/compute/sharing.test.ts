import { randomUUID } from 'node:crypto';
import { type RawBuilder, sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Answer, Person } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import { publicKey } from '../identity/keys.js';
import { addMember } from '../identity/team.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

/** A colleague in the owner's project, with a key of their own. */
async function colleagueOf(owner: Person, role: 'member' | 'viewer' | 'admin' = 'member') {
  const member = await addMember(site, owner, { project: role });
  const key = await site.call({
    method: 'POST',
    path: '/api/v1/ssh-keys',
    token: member.token,
    body: { name: 'mine', public_key: publicKey() },
  });
  expect(key.status).toBe(201);
  const person = { ...owner, userId: member.userId, username: member.username, token: member.token };
  return { ...person, keyId: key.body.key.id as string };
}

async function activeAllocation() {
  const { nodeId } = await site.addHost();
  const owner = await site.customer();
  const { id } = (await site.launch(owner, { node_id: nodeId })).body.allocation;
  await site.untilStatus(owner, id, 'active');
  const applied = async () =>
    (
      await site.db
        .selectFrom('allocations')
        .select('key_set_applied_version')
        .where('id', '=', id)
        .executeTakeFirstOrThrow()
    ).key_set_applied_version;
  return { owner, id: id as string, applied };
}

describe('a grant', () => {
  it('brings a colleague’s key to the host, and its end takes it away (check 13)', async () => {
    const { owner, id, applied } = await activeAllocation();
    const colleague = await colleagueOf(owner);
    const path = `/api/v1/allocations/${id}/access-grants`;
    const body = { grantee_user_id: colleague.userId, ssh_key_id: colleague.keyId, reason: 'pair work' };

    const made = await site.as(owner, 'POST', path, body);
    expect(made.status).toBe(201);
    expect(made.body.grant).toMatchObject({
      status: 'active',
      runtime_sync_status: 'queued',
      grantee_username: colleague.username,
    });
    await until(async () => (await applied()) === 2);
    const listed = await site.as(owner, 'GET', path);
    expect(listed.body.items).toMatchObject([{ id: made.body.grant.id, runtime_sync_status: 'not_required' }]);

    const again = await site.as(owner, 'POST', path, { ...body, reason: 'still' });
    expect(again.body.grant).toMatchObject({ id: made.body.grant.id, reason: 'still' });
    await until(async () => (await applied()) === 3);

    // the grantee may give it back
    const revoked = await site.as(colleague, 'DELETE', `${path}/${made.body.grant.id}`);
    expect(revoked.body.grant).toMatchObject({ status: 'revoked', revoked_by_user_id: colleague.userId });
    await until(async () => (await applied()) === 4);
    const twice = await site.as(owner, 'DELETE', `${path}/${made.body.grant.id}`);
    expect(twice.body.grant.status).toBe('revoked');
  });

  it('is refused for strangers, for keys of others, and to who does not own the allocation', async () => {
    const { owner, id } = await activeAllocation();
    const stranger = await site.customer();
    const colleague = await colleagueOf(owner);
    const path = `/api/v1/allocations/${id}/access-grants`;
    const post = (person: Person, grantee_user_id: string, ssh_key_id: string) =>
      site.as(person, 'POST', path, { grantee_user_id, ssh_key_id });
    const toStranger = await post(owner, stranger.userId, stranger.keyId);
    expect([toStranger.status, toStranger.body.details.reason]).toEqual([400, 'grantee_not_member']);
    const foreignKey = await post(owner, colleague.userId, owner.keyId);
    expect([foreignKey.status, foreignKey.body.details.reason]).toEqual([400, 'ssh_key_not_found']);
    const toOwner = await post(owner, owner.userId, owner.keyId);
    expect(toOwner.body.details.reason).toBe('grantee_is_owner');
    const byColleague = await post(colleague, colleague.userId, colleague.keyId);
    expect([byColleague.status, byColleague.body.code]).toEqual([403, 'ownership_required']);
    const release = await site.as(colleague, 'POST', `/api/v1/allocations/${id}/release`);
    expect(release.body.code).toBe('ownership_required');
    const unknown = await site.as(owner, 'DELETE', `${path}/${randomUUID()}`);
    expect([unknown.status, unknown.body.details.reason]).toEqual([404, 'access_grant_not_found']);
  });

  it('ends with the membership, with the key, and with the allocation', async () => {
    const { owner, id } = await activeAllocation();
    const path = `/api/v1/allocations/${id}/access-grants`;
    const [leaving, losing, staying] = [await colleagueOf(owner), await colleagueOf(owner), await colleagueOf(owner)];
    for (const person of [leaving, losing, staying]) {
      const made = await site.as(owner, 'POST', path, { grantee_user_id: person.userId, ssh_key_id: person.keyId });
      expect(made.status).toBe(201);
    }
    const active = async () =>
      (await site.as(owner, 'GET', path)).body.items
        .filter((grant: { status: string }) => grant.status === 'active')
        .map((grant: { grantee_user_id: string }) => grant.grantee_user_id)
        .sort();
    await site.call({ method: 'DELETE', path: `/api/v1/ssh-keys/${losing.keyId}`, token: losing.token });
    await until(async () => (await active()).join() === [leaving.userId, staying.userId].sort().join());
    const removed = await site.call({
      method: 'POST',
      path: `/api/v1/v3/access/memberships/users/${leaving.userId}/remove`,
      token: owner.token,
      project: owner.projectId,
      body: { project_id: owner.projectId, scope: 'tenant' },
    });
    expect(removed.status).toBe(200);
    await until(async () => (await active()).join() === staying.userId);
    await site.as(owner, 'POST', `/api/v1/allocations/${id}/release`);
    expect(await active()).toEqual([]);
  });

  it('made before the host is ready is brought by the activation', async () => {
    const { nodeId } = await site.addHost({
      faults: [{ id: 's', task: 'allocation.provision_user', delayMilliseconds: 200 }],
    });
    const owner = await site.customer();
    const colleague = await colleagueOf(owner);
    const { id } = (await site.launch(owner, { node_id: nodeId })).body.allocation;
    const made = await site.as(owner, 'POST', `/api/v1/allocations/${id}/access-grants`, {
      grantee_user_id: colleague.userId,
      ssh_key_id: colleague.keyId,
    });
    expect(made.body.grant.runtime_sync_status).toBe('pending');
    await site.untilStatus(owner, id, 'active');
    await until(async () => {
      const row = await site.db
        .selectFrom('allocations')
        .select(['key_set_version', 'key_set_applied_version'])
        .where('id', '=', id)
        .executeTakeFirstOrThrow();
      return row.key_set_version === 2 && row.key_set_applied_version === 2;
    });
  });
});

describe('what is taken away while it is being given', () => {
  const waiters = async () => {
    const { rows } = await sql<{ count: bigint }>`
      SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
      WHERE NOT granted AND datname = current_database()`.execute(site.db);
    return Number(rows[0]?.count ?? 0n);
  };
  /** Runs `give` into a lock that the test holds, then `take`, and lets go once `take` is through or waits as well. */
  async function overlap(lock: RawBuilder<unknown>, give: () => Promise<Answer>, take: () => Promise<Answer>) {
    const running = await site.db.transaction().execute(async (tx) => {
      await lock.execute(tx);
      const given = give();
      await until(async () => (await waiters()) >= 1, { what: 'the first to wait' });
      let through = false;
      const taken = take().finally(() => {
        through = true;
      });
      await until(async () => through || (await waiters()) >= 2, { what: 'the second to end or to wait' });
      if (through) await untilToldAll();
      return { given, taken };
    });
    return [await running.given, await running.taken] as const;
  }
  const untilToldAll = () =>
    until(async () => {
      const open = await site.db
        .selectFrom('outbox_events')
        .select('id')
        .where('event_type', 'in', ['identity.ssh_key.revoked', 'identity.membership.changed'])
        .where('status', '<>', 'published')
        .execute();
      return open.length === 0;
    });

  it('a key that is revoked during a launch opens nothing', async () => {
    const owner = await site.customer();
    const nodeId = await site.addSilentHost();
    const [launched, revoked] = await overlap(
      sql`SELECT FROM wallet_balances WHERE user_id = ${owner.userId} FOR UPDATE`,
      () => site.launch(owner, { node_id: nodeId }),
      () => site.call({ method: 'DELETE', path: `/api/v1/ssh-keys/${owner.keyId}`, token: owner.token }),
    );
    expect(launched.status).toBe(201);
    expect(revoked.status).toBeLessThan(300);
    await until(
      async () => {
        const shown = await site.as(owner, 'GET', `/api/v1/allocations/${launched.body.allocation.id}`);
        return shown.body.ssh_keys.length === 0;
      },
      { what: 'the end of the revoked key' },
    );
  });

  it('a member who leaves during a grant has none', async () => {
    const { owner, id } = await activeAllocation();
    const colleague = await colleagueOf(owner);
    const [granted, left] = await overlap(
      sql`SELECT FROM ssh_keys WHERE id = ${colleague.keyId}::uuid FOR UPDATE`,
      () =>
        site.as(owner, 'POST', `/api/v1/allocations/${id}/access-grants`, {
          grantee_user_id: colleague.userId,
          ssh_key_id: colleague.keyId,
        }),
      () =>
        site.call({
          method: 'POST',
          path: `/api/v1/v3/access/memberships/users/${colleague.userId}/remove`,
          token: owner.token,
          project: owner.projectId,
          body: { project_id: owner.projectId, scope: 'tenant' },
        }),
    );
    expect(granted.status).toBe(201);
    expect(left.status).toBe(200);
    await until(
      async () => {
        const shown = await site.as(owner, 'GET', `/api/v1/allocations/${id}/access-grants`);
        return shown.body.items.every((grant: { status: string }) => grant.status === 'revoked');
      },
      { what: 'the end of the grant' },
    );
  });
});

describe('a service account', () => {
  it('launches in its own project on its maker’s money, rules only what it made, and nothing elsewhere (check 11)', async () => {
    const owner = await site.customer();
    const other = await site.customer();
    const made = await site.call({
      method: 'POST',
      path: `/api/v1/projects/${owner.projectId}/service-accounts`,
      token: owner.token,
      body: { name: 'Robot', slug: 'robot', purpose: 'automation' },
    });
    const { service_account: account, initial_credential: key } = made.body;
    const minted = await site.call({
      method: 'POST',
      path: '/api/v1/auth/service-account/token',
      body: { service_account_id: account.id, key_id: key.key_id, client_secret: key.client_secret },
    });
    const robot = { ...owner, token: minted.body.access_token };

    const [first, second] = [await site.addSilentHost(), await site.addSilentHost()];
    const launched = await site.launch(robot, { node_id: first, ssh_key_ids: [owner.keyId] });
    expect(launched.status).toBe(201);
    expect(launched.body.allocation.requested_by_user_id).toBe(owner.userId);
    const own = await site.launch(owner, { node_id: second });
    const foreign = await site.as(robot, 'POST', `/api/v1/allocations/${own.body.allocation.id}/release`);
    expect([foreign.status, foreign.body.code]).toEqual([403, 'ownership_required']);
    const mine = await site.as(robot, 'POST', `/api/v1/allocations/${launched.body.allocation.id}/release`);
    expect(mine.status).toBe(202);

    const elsewhere = await site.as({ ...robot, projectId: other.projectId }, 'GET', '/api/v1/allocations');
    expect([elsewhere.status, elsewhere.body.code]).toEqual([401, 'token_scope_invalid']);
  });
});
