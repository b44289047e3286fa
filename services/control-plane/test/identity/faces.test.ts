import { asId, createLogger, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { posixIdentityOf, shareProject, sshKeysFor } from '../../src/domains/identity/index.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { callOver, ManualClock, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import { publicKey } from './keys.js';
import { nobody } from './team.js';

let site: TestSite;
const clock = new ManualClock(new Date('2031-01-01T00:00:00Z'));
beforeAll(async () => {
  site = await startTestSite({ clock, roles: ['api'] });
});
afterAll(() => site?.stop());

async function addKey(person: Person, options: { project?: boolean; isDefault?: boolean } = {}): Promise<string> {
  const answer = await site.call({
    method: 'POST',
    path: '/api/v1/ssh-keys',
    token: person.token,
    body: { name: 'k', public_key: publicKey(), set_as_default: options.isDefault ?? false },
    ...(options.project && { project: person.projectId }),
  });
  return answer.body.key.id;
}
const idsOf = (keys: readonly { id: string }[]) => keys.map((key) => key.id);

describe('sshKeysFor', () => {
  it('takes the default, or all personal keys where none is marked', async () => {
    const person = await site.signup();
    const owner = { userId: asId<'user'>(person.userId), projectId: asId<'project'>(person.projectId) };
    expect(await sshKeysFor(site.db, { ...owner, ids: null })).toEqual([]);
    const first = await addKey(person);
    const second = await addKey(person);
    await addKey(person, { project: true });
    expect(idsOf(await sshKeysFor(site.db, { ...owner, ids: null }))).toEqual([first, second]);
    const marked = await addKey(person, { isDefault: true });
    expect(idsOf(await sshKeysFor(site.db, { ...owner, ids: null }))).toEqual([marked]);
  });

  it('takes named keys of the person and of the project, and no other', async () => {
    const person = await site.signup();
    const stranger = await site.signup();
    const owner = { userId: asId<'user'>(person.userId), projectId: asId<'project'>(person.projectId) };
    const own = await addKey(person);
    const shared = await addKey(person, { project: true });
    const foreign = await addKey(stranger);
    const foreignShared = await addKey(stranger, { project: true });
    expect(idsOf(await sshKeysFor(site.db, { ...owner, ids: [shared, own, own] }))).toEqual([shared, own]);
    expect(idsOf(await sshKeysFor(site.db, { ...owner, userId: null, ids: [shared] }))).toEqual([shared]);
    for (const ids of [[foreign], [own, foreignShared], [nobody()]]) {
      await expect(sshKeysFor(site.db, { ...owner, ids })).rejects.toMatchObject({
        status: 400,
        details: { reason: 'ssh_key_not_found' },
      });
    }
    await expect(sshKeysFor(site.db, { ...owner, userId: null, ids: [own] })).rejects.toThrow();
  });
});

describe('posixIdentityOf', () => {
  it('makes one account a person for ever, however many ask first', async () => {
    const name = `same-${Date.now()}`;
    const people = [await site.signup(`${name}@a.example`), await site.signup(`${name}@b.example`)];
    const identities = await Promise.all(
      people.flatMap((person) => {
        const userId: UserId = asId(person.userId);
        return Array.from({ length: 5 }, () => inTransaction(site.db, (tx) => posixIdentityOf(tx, userId)));
      }),
    );
    const distinct = new Set(identities.map(({ username, uid }) => `${username}:${uid}`));
    expect(distinct.size).toBe(2);
    expect(new Set(identities.map(({ username }) => username)).size).toBe(2);
    for (const { username, uid } of identities) {
      expect(username).toMatch(/^u-[a-z0-9_-]{0,29}$/);
      expect(uid).toBeGreaterThanOrEqual(100_000);
    }
  });
});

describe('shareProject', () => {
  it('holds a project until commit: its deletion waits', async () => {
    const person = await site.signup();
    const order: string[] = [];
    let deletion: Promise<unknown> = Promise.resolve();
    await inTransaction(site.db, async (tx) => {
      await shareProject(tx, asId(person.projectId));
      deletion = site
        .call({ method: 'DELETE', path: `/api/v1/projects/${person.projectId}`, token: person.token })
        .then(() => order.push('deleted'));
      // the deletion is waiting for the row that this transaction shares
      await until(async () => (await waitingForLocks()) > 0);
      order.push('committed');
    });
    await deletion;
    expect(order).toEqual(['committed', 'deleted']);
    await expect(inTransaction(site.db, (tx) => shareProject(tx, asId(person.projectId)))).rejects.toMatchObject({
      status: 403,
    });
  });
});

async function waitingForLocks(): Promise<number> {
  const { rows } = await sql<{ waiting: bigint }>`SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted`.execute(
    site.db,
  );
  return Number(rows[0]?.waiting ?? 0n);
}

describe('presence', () => {
  it('is noted behind requests, once a minute', async () => {
    const person = await site.signup();
    const seenAt = async () => {
      await site.controlPlane.domains.identity.close();
      const row = await site.db
        .selectFrom('sessions')
        .select('last_seen_at')
        .where('user_id', '=', person.userId)
        .executeTakeFirstOrThrow();
      return row.last_seen_at.getTime();
    };
    const start = clock.now().getTime();
    const use = () => site.call({ path: '/api/v1/users/me', token: person.token });
    clock.advance(59_000);
    await use();
    expect(await seenAt()).toBe(start);
    clock.advance(1_000);
    await use();
    expect(await seenAt()).toBe(start + 60_000);
    clock.advance(59_000);
    await use();
    expect(await seenAt()).toBe(start + 60_000);
  });
});

describe('housekeeping', () => {
  it('forgets sealed successors after their grace, and tokens after their session', async () => {
    const person = await site.signup();
    const refresh = () =>
      site.call({ method: 'POST', path: '/api/v1/auth/token/refresh', body: { refresh_token: person.refreshToken } });
    const kept = async () =>
      site.db
        .selectFrom('refresh_tokens as t')
        .innerJoin('sessions as s', 's.id', 't.session_id')
        .select('t.successor_sealed')
        .where('s.user_id', '=', person.userId)
        .orderBy('t.issued_at')
        .orderBy('t.id')
        .execute()
        .then((rows) => rows.map((row) => row.successor_sealed !== null));
    expect((await refresh()).status).toBe(200);
    await runJob('identity.sweep-credentials');
    expect(await kept()).toEqual([true, false]);
    expect((await refresh()).status).toBe(200);
    clock.advance(20_001);
    await runJob('identity.sweep-credentials');
    expect(await kept()).toEqual([false, false]);
    clock.advance(15 * 24 * 3600 * 1000);
    await runJob('identity.sweep-credentials');
    expect(await kept()).toEqual([]);
  });
});

async function runJob(name: string): Promise<void> {
  const job = site.controlPlane.domains.periodicJobs.find((each) => each.name === name);
  if (!job) throw new Error(`no job ${name}`);
  const log = createLogger({ program: 'test', level: 'silent' });
  await job.run(site.db, jobContext('test', { clock, log }), new AbortController().signal);
}

describe('signing keys', () => {
  const rotate = () => runJob('identity.rotate-signing-key');
  const kidOf = (token: string): string =>
    JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()).kid;
  const me = async (token: string) => (await site.call({ path: '/api/v1/users/me', token })).status;

  it('rotate after a month without breaking live tokens, also of a process that has not heard of it', async () => {
    await rotate();
    clock.advance(30 * 24 * 3600 * 1000);
    const before = await site.signup();
    await rotate();
    const other = await site.startAnother();
    clock.advance(31_000);
    const after = await site.signup();
    expect(kidOf(after.token)).not.toBe(kidOf(before.token));
    expect(await me(before.token)).toBe(200);
    const elsewhere = await callOver(other.apiUrl, { path: '/api/v1/users/me', token: after.token });
    expect(elsewhere.status).toBe(200);
  });

  it('take every token with them when they are revoked', async () => {
    const person = await site.signup();
    expect(await me(person.token)).toBe(200);
    await site.db
      .updateTable('signing_keys')
      .set({ status: 'revoked' })
      .where('key_id', '=', kidOf(person.token))
      .execute();
    clock.advance(31_000);
    expect(await me(person.token)).toBe(401);
    const next = await site.signup();
    expect(await me(next.token)).toBe(200);
  });

  it('are kept sealed', async () => {
    const rows = await site.db
      .selectFrom('signing_keys')
      .select(['private_sealed', 'public_jwk'])
      .where('purpose', '=', 'access_token')
      .execute();
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) {
      expect(row.private_sealed).toMatch(/^v1\./);
      expect(JSON.stringify(row.public_jwk)).not.toContain('"d"');
    }
  });
});
