import { asId, newId } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock, OPERATOR, PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { type Books, booksOn, type Owner, TEST_TIME } from './books.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

let site: TestSite;
let books: Books;
const clock = new ManualClock(TEST_TIME);
beforeAll(async () => {
  // Without the worker: the tests say when the rater runs.
  site = await startTestSite({ roles: ['api'], clock });
  books = booksOn(site.db, clock);
});
afterAll(() => site?.stop());

const ownerOf = (person: Person): Owner => ({
  tenantId: asId(person.tenantId),
  userId: asId(person.userId),
  projectId: asId(person.projectId),
  currency: 'USD',
});

const read = async (person: Person, path: string) =>
  site.call({ path: `/api/v1/billing/${path}`, token: await tokenOf(person.username, PASSWORD) });

async function adjust(userId: string, body: Record<string, unknown>, options: { key?: string; token?: string } = {}) {
  return site.call({
    method: 'POST',
    path: `/api/v1/admin/users/${userId}/balance`,
    token: options.token ?? (await operatorToken()),
    body: { currency: 'USD', reason: 'goodwill', ...body },
    ...(options.key && { key: options.key }),
  });
}

const balanceOf = async (person: Person): Promise<number> => (await read(person, 'balance')).body.balance.amount_minor;

const sessions = new Map<string, { readonly at: number; readonly token: Promise<string> }>();

/** A token of now: the clock of these tests outruns every token. */
function tokenOf(username: string, password: string): Promise<string> {
  const at = clock.now().getTime();
  const known = sessions.get(username);
  if (known && at - known.at < 10 * MINUTE) return known.token;
  const token = site
    .call({ method: 'POST', path: '/api/v1/auth/personal/login', body: { username, password } })
    .then(({ status, body }) => {
      if (status !== 200) throw new Error(`sign-in failed: ${JSON.stringify(body)}`);
      return String(body.access_token);
    });
  sessions.set(username, { at, token });
  return token;
}

const operatorToken = () => tokenOf(OPERATOR.username, OPERATOR.password);

/** Puts a person into another's tenant, as an accepted invitation would. */
async function moveInto(tenantOf: Person, person: Person, role: 'admin' | 'member' | 'billing_viewer'): Promise<void> {
  const now = clock.now();
  await site.db
    .updateTable('tenant_memberships')
    .set({ ended_at: now, updated_at: now })
    .where('user_id', '=', person.userId)
    .where('ended_at', 'is', null)
    .execute();
  await site.db
    .insertInto('tenant_memberships')
    .values({ id: newId(), tenant_id: tenantOf.tenantId, user_id: person.userId, role })
    .execute();
}

describe('the balance', () => {
  it('of a new user is nothing, in one currency', async () => {
    const person = await site.signup();
    const { status, body } = await read(person, 'balance');
    expect(status).toBe(200);
    expect(body).toEqual({
      balance: { amount_minor: 0, currency: 'USD' },
      balances: [{ amount_minor: 0, currency: 'USD' }],
    });
  });

  it('lists every currency, the default first', async () => {
    const person = await site.signup();
    await books.credit({ ...ownerOf(person), currency: 'EUR' }, 70n);
    await books.credit({ ...ownerOf(person), currency: 'CHF' }, 30n);
    expect((await read(person, 'balance')).body).toEqual({
      balance: { amount_minor: 0, currency: 'USD' },
      balances: [
        { amount_minor: 0, currency: 'USD' },
        { amount_minor: 30, currency: 'CHF' },
        { amount_minor: 70, currency: 'EUR' },
      ],
    });
  });

  it('of an operator without a tenant is nothing', async () => {
    const { status, body } = await site.call({ path: '/api/v1/billing/balance', token: await operatorToken() });
    expect(status).toBe(200);
    expect(body.balances).toEqual([{ amount_minor: 0, currency: 'USD' }]);
  });
});

describe('an adjustment by the operator', () => {
  it('is made once a key, and another amount under the key is refused', async () => {
    const person = await site.signup();
    const key = newId();
    const answers = [
      await adjust(person.userId, { direction: 'credit', amount_minor: 5000 }, { key }),
      await adjust(person.userId, { direction: 'credit', amount_minor: 5000 }, { key }),
    ];
    expect(answers.map((answer) => [answer.status, answer.headers.get('idempotency-replayed')])).toEqual([
      [200, null],
      [200, 'true'],
    ]);
    expect(await balanceOf(person)).toBe(5000);
    const other = await adjust(person.userId, { direction: 'credit', amount_minor: 5001 }, { key });
    expect(other).toMatchObject({ status: 409, body: { details: { reason: 'idempotency_key_reused' } } });

    clock.advance(29 * 24 * HOUR);
    const token = await operatorToken();
    await adjust(person.userId, { direction: 'credit', amount_minor: 5000 }, { key, token });
    expect(await balanceOf(person)).toBe(5000);
  });

  it('is made once when the same request arrives many times at once', async () => {
    const person = await site.signup();
    const key = newId();
    const token = await operatorToken();
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        adjust(person.userId, { direction: 'credit', amount_minor: 100 }, { key, token }),
      ),
    );
    expect(answers.map((answer) => answer.status)).toEqual(Array.from({ length: 8 }, () => 200));
    expect(await balanceOf(person)).toBe(100);
  });

  it('leaves one audit row, one balanced entry under its id, and one event', async () => {
    const person = await site.signup();
    const token = await operatorToken();
    await adjust(person.userId, { direction: 'credit', amount_minor: 300, reason: 'outage in april' }, { token });
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['id', 'actor_role', 'target_id', 'tenant_id', 'result', 'metadata'])
      .where('action', '=', 'user.balance.adjust')
      .where('target_user_id', '=', person.userId)
      .execute();
    expect(rows).toMatchObject([
      {
        actor_role: 'admin',
        target_id: person.userId,
        tenant_id: person.tenantId,
        result: 'success',
        metadata: { direction: 'credit', amount_minor: 300, currency: 'USD', reason: 'outage in april' },
      },
    ]);
    const postings = await site.db
      .selectFrom('postings')
      .innerJoin('journal_txns as entry', 'entry.id', 'postings.txn_id')
      .select(['account_code', 'amount_minor', 'user_id', 'kind'])
      .where('entry.idempotency_key', '=', `adjust:${rows[0]?.id}`)
      .orderBy('amount_minor')
      .execute();
    expect(postings).toEqual([
      { account_code: 'credits_granted', amount_minor: -300n, user_id: null, kind: 'admin_credit' },
      { account_code: 'wallet', amount_minor: 300n, user_id: person.userId, kind: 'admin_credit' },
    ]);
    expect(await books.finance.reconcile(site.db)).toEqual([]);
  });

  it('is for platform administrators', async () => {
    const person = await site.signup();
    const answer = await adjust(person.userId, { direction: 'credit', amount_minor: 1 }, { token: person.token });
    expect(answer).toMatchObject({ status: 403, body: { code: 'admin_required' } });
    expect(await balanceOf(person)).toBe(0);
  });

  it('knows only users who exist', async () => {
    const answer = await adjust(newId(), { direction: 'credit', amount_minor: 1 }, { token: await operatorToken() });
    expect(answer).toMatchObject({ status: 404, body: { code: 'user_not_found' } });
  });

  it('takes back no more than there is, also when many take at once', async () => {
    const person = await site.signup();
    const token = await operatorToken();
    const debit = (amount: number) => adjust(person.userId, { direction: 'debit', amount_minor: amount }, { token });
    expect(await debit(999_999)).toMatchObject({ status: 400, body: { code: 'insufficient_balance' } });
    await adjust(person.userId, { direction: 'credit', amount_minor: 1000 }, { token });
    const answers = await Promise.all(Array.from({ length: 6 }, () => debit(300)));
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 200, 200, 400, 400, 400]);
    expect(await balanceOf(person)).toBe(100);
    expect((await debit(100)).status).toBe(200);
    expect(await balanceOf(person)).toBe(0);
  });

  it.each([
    ['nothing', { direction: 'credit', amount_minor: 0 }],
    ['less than nothing', { direction: 'credit', amount_minor: -5 }],
    ['parts of a cent', { direction: 'credit', amount_minor: 1.5 }],
    ['more than 10^12', { direction: 'credit', amount_minor: 1_000_000_000_001 }],
    ['more than a number carries', { direction: 'credit', amount_minor: 1e22 }],
    ['a text', { direction: 'credit', amount_minor: '5' }],
    ['another direction', { direction: 'sideways', amount_minor: 5 }],
    ['no currency', { direction: 'credit', amount_minor: 5, currency: 'usd' }],
    ['a currency that the tenant does not have', { direction: 'credit', amount_minor: 5, currency: 'JPY' }],
    ['a key that nobody knows', { direction: 'credit', amount_minor: 5, extra: true }],
  ])('refuses %s', async (_, body) => {
    const person = await site.signup();
    expect((await adjust(person.userId, body, { token: await operatorToken() })).status).toBe(400);
    expect(await balanceOf(person)).toBe(0);
  });

  it('takes the largest amount exactly', async () => {
    const person = await site.signup();
    const token = await operatorToken();
    await adjust(person.userId, { direction: 'credit', amount_minor: 1_000_000_000_000 }, { token });
    expect(await balanceOf(person)).toBe(1_000_000_000_000);
  });

  it('needs a tenant to hold the wallet', async () => {
    const token = await operatorToken();
    const me = await site.call({ path: '/api/v1/users/me', token });
    expect(await adjust(me.body.id, { direction: 'credit', amount_minor: 5 }, { token })).toMatchObject({
      status: 409,
      body: { details: { reason: 'user_has_no_tenant' } },
    });
  });
});

describe('usage', () => {
  it('grows while it runs and ends with the release: balance drop, cost and rated lines are one number', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    await books.credit(owner, 100_000n);
    const allocation = await books.start(owner, { units: 8, unitPriceMinor: 215n });
    clock.advance(HOUR);
    await books.rate();
    clock.advance(90_500);
    const usage = async () => (await read(person, `usage?allocation_id=${allocation}`)).body.items[0];
    const running = await usage();
    expect(running).toMatchObject({
      usage_source: 'allocation',
      usage_unit: 'gpu_hour',
      allocation_id: allocation,
      requested_by_user_id: person.userId,
      sku: 'h200',
      control_plane_component: false,
      end_time: null,
    });
    expect(running.cost.amount_minor).toBe(Math.round((8 * 215 * (HOUR + 90_500)) / HOUR));

    await books.stop(allocation);
    const ended = await usage();
    expect(ended).toMatchObject({ end_time: clock.now().toISOString(), last_billed_at: clock.now().toISOString() });
    const { items } = (await read(person, `rated-usage?usage_record_id=${ended.id}`)).body;
    const total = items.reduce(
      (sum: number, line: { amount: { amount_minor: number } }) => sum + line.amount.amount_minor,
      0,
    );
    expect(ended.cost.amount_minor).toBe(total);
    expect(100_000 - (await balanceOf(person))).toBe(total);

    clock.advance(HOUR);
    await books.rate();
    expect(await usage()).toEqual(ended);
    expect(100_000 - (await balanceOf(person))).toBe(total);
    expect(await books.finance.reconcile(site.db)).toEqual([]);
  });

  it('explains each rated line', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    const allocation = await books.start(owner, { units: 2, unitPriceMinor: 1_000n });
    const from = clock.now().toISOString();
    clock.advance(3 * MINUTE);
    await books.stop(allocation);
    const { items } = (await read(person, 'rated-usage')).body;
    expect(items).toHaveLength(1);
    expect(items[0]).toMatchObject({
      org_id: person.tenantId,
      project_id: person.projectId,
      requested_by_user_id: person.userId,
      usage_source: 'allocation',
      usage_unit: 'gpu_hour',
      bill_from: from,
      bill_to: clock.now().toISOString(),
      unit_quantity_millis: 100,
      unit_price: { amount_minor: 1_000, currency: 'USD' },
      units: 2,
      amount: { amount_minor: 100, currency: 'USD' },
      pricing_source: 'sku_list_price',
      pricing_snapshot: { rule: 'telescoping_half_up_v1', unit_price_minor: 1_000, units: 2 },
      fx_snapshot: null,
      invoice_id: null,
    });
    const one = await read(person, `rated-usage/${items[0].id}`);
    expect(one).toMatchObject({ status: 200, body: items[0] });
  });

  it('is the tenant’s for those who answer for its money, and one’s own for members', async () => {
    const boss = await site.signup();
    const [viewer, member] = [await site.signup(), await site.signup()];
    const stranger = await site.signup();
    await moveInto(boss, viewer, 'billing_viewer');
    await moveInto(boss, member, 'member');
    const inTenant = (person: Person): Owner => ({
      ...ownerOf(person),
      tenantId: asId(boss.tenantId),
      projectId: asId(boss.projectId),
    });
    const usages = new Map<Person, string>();
    for (const person of [boss, member]) {
      const allocation = await books.start(inTenant(person), { unitPriceMinor: 600n });
      clock.advance(MINUTE);
      await books.stop(allocation);
      usages.set(person, allocation);
    }
    const allocationsSeenBy = async (person: Person) =>
      (await read(person, 'usage')).body.items.map((item: { allocation_id: string }) => item.allocation_id).sort();
    const both = [...usages.values()].sort();
    expect(await allocationsSeenBy(boss)).toEqual(both);
    expect(await allocationsSeenBy(viewer)).toEqual(both);
    expect(await allocationsSeenBy(member)).toEqual([usages.get(member)]);
    expect(await allocationsSeenBy(stranger)).toEqual([]);

    const lines = (await read(boss, 'rated-usage')).body.items;
    const theBoss = lines.find((line: { requested_by_user_id: string }) => line.requested_by_user_id === boss.userId);
    for (const person of [member, stranger]) {
      expect(await read(person, `rated-usage/${theBoss.id}`)).toMatchObject({
        status: 404,
        body: { code: 'invalid_request', details: { reason: 'rated_usage_line_not_found' } },
      });
    }
    expect((await read(viewer, `rated-usage/${theBoss.id}`)).status).toBe(200);
    const ofMember = (await read(member, 'rated-usage')).body.items;
    expect(
      ofMember.every((line: { requested_by_user_id: string }) => line.requested_by_user_id === member.userId),
    ).toBe(true);
    expect((await read(boss, `rated-usage/${newId()}`)).status).toBe(404);
  });

  it.each(['start_time_desc', 'start_time_asc', 'cost_desc', 'cost_asc'])(
    'is listed whole and in order by %s while it grows',
    async (sort) => {
      const person = await site.signup();
      const owner = ownerOf(person);
      const running = [];
      for (let index = 0; index < 7; index += 1) {
        running.push(
          await books.start(owner, { units: 1 + ((index * 3) % 5), unitPriceMinor: 100n + BigInt(index % 2) * 400n }),
        );
        clock.advance(MINUTE);
      }
      const seen: { id: string; start_time: string; cost: { amount_minor: number } }[] = [];
      let cursor: string | null = null;
      do {
        const page: { items: typeof seen; pagination: { next_cursor: string | null; page_size: number } } = (
          await read(person, `usage?sort=${sort}&page_size=2${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`)
        ).body;
        expect(page.pagination.page_size).toBe(2);
        seen.push(...page.items);
        cursor = page.pagination.next_cursor;
        // Between two pages everything changes: time passes, the rater runs, something is released.
        clock.advance(30 * MINUTE);
        await books.rate();
        const next = running.pop();
        if (next) await books.stop(next);
      } while (cursor !== null);
      expect(new Set(seen.map((usage) => usage.id)).size).toBe(7);
      const keys = seen.map((usage) =>
        sort.startsWith('cost') ? usage.cost.amount_minor : Date.parse(usage.start_time),
      );
      const sorted = [...keys].sort((left, right) => (sort.endsWith('asc') ? left - right : right - left));
      expect(keys).toEqual(sorted);
      for (const allocation of running) await books.stop(allocation);
    },
  );

  it('of a time is what ran in it, be it for a moment', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    const start = clock.now().getTime();
    const early = await books.start(owner);
    clock.advance(HOUR);
    await books.stop(early);
    const late = await books.start(owner);
    const at = (offset: number) => encodeURIComponent(new Date(start + offset).toISOString());
    const between = async (from: number, to: number) =>
      (await read(person, `usage?from=${at(from)}&to=${at(to)}`)).body.items.map(
        (usage: { allocation_id: string }) => usage.allocation_id,
      );
    expect(await between(-HOUR, 0)).toEqual([]);
    expect(await between(-HOUR, 1)).toEqual([early]);
    expect(await between(HOUR - 1, HOUR)).toEqual([early]);
    expect(await between(HOUR - 1, HOUR + 1)).toEqual([late, early]);
    expect(await between(HOUR, 9 * HOUR)).toEqual([late]);
    expect((await read(person, `usage?from=${at(5)}&to=${at(5)}`)).status).toBe(400);
    expect((await read(person, `usage?from=${at(6)}&to=${at(5)}`)).status).toBe(400);
    await books.stop(late);
  });

  it('refuses a cursor under another filter, another order, in another list, of another person, or altered', async () => {
    const person = await site.signup();
    const stranger = await site.signup();
    const owner = ownerOf(person);
    for (let index = 0; index < 3; index += 1) await books.stop(await books.start(owner));
    const { next_cursor } = (await read(person, 'usage?page_size=1')).body.pagination;
    const cursor = encodeURIComponent(next_cursor);
    expect((await read(person, `usage?page_size=1&cursor=${cursor}`)).status).toBe(200);
    const refused = [
      await read(person, `usage?page_size=1&cursor=${cursor}&usage_source=allocation`),
      await read(person, `usage?page_size=1&cursor=${cursor}&sort=cost_asc`),
      await read(person, `rated-usage?cursor=${cursor}`),
      await read(person, `usage?cursor=${next_cursor.slice(0, -2)}AA`),
      await read(person, 'usage?cursor=x'),
      await read(stranger, `usage?page_size=1&cursor=${cursor}`),
    ];
    expect(refused.map((answer) => answer.status)).toEqual([400, 400, 400, 400, 400, 400]);
  });

  it.each(['page_size=0', 'page_size=201', 'sort=price', 'usage_source=disk', 'allocation_id=7', 'from=yesterday'])(
    'refuses %s',
    async (parameter) => {
      expect((await read(await site.signup(), `usage?${parameter}`)).status).toBe(400);
    },
  );
});

describe('usage as a file', () => {
  it('has the rows of the list, each with its cost in cents and in dollars', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    for (let index = 0; index < 3; index += 1) {
      const allocation = await books.start(owner, { unitPriceMinor: 1_205n * BigInt(index) });
      clock.advance(HOUR);
      if (index !== 1) await books.stop(allocation);
    }
    const { items } = (await read(person, 'usage?usage_source=allocation&sort=start_time_asc')).body;
    const file = await read(person, 'usage/csv?usage_source=allocation&sort=start_time_asc');
    expect(file.status).toBe(200);
    expect(file.headers.get('content-type')).toBe('text/csv; charset=utf-8');
    const [header, ...lines] = file.body
      .trimEnd()
      .split('\r\n')
      .map((line: string) => line.split(','));
    const rows = lines.map((line: string[]) =>
      Object.fromEntries(header.map((name: string, at: number) => [name, line[at]])),
    );
    expect(rows.map((row: Record<string, string>) => [row.id, Number(row.cost_minor), row.end_time])).toEqual(
      items.map((item: { id: string; cost: { amount_minor: number }; end_time: string | null }) => [
        item.id,
        item.cost.amount_minor,
        item.end_time ?? '',
      ]),
    );
    expect(rows.map((row: Record<string, string>) => row.cost)).toEqual(['0.00', '24.10', '24.10']);
    const exports = await site.db
      .selectFrom('audit_logs')
      .select(['metadata', 'tenant_id'])
      .where('action', '=', 'billing.usage.export')
      .where('actor_id', '=', person.userId)
      .execute();
    expect(exports).toMatchObject([{ tenant_id: person.tenantId, metadata: { rows: 3, usage_source: 'allocation' } }]);
  });
});

describe('shadow rating', () => {
  const shadow = async (tenantId: string, ids: readonly string[], price: { amount_minor: number; currency: string }) =>
    site.call({
      method: 'POST',
      path: '/api/v1/admin/billing/shadow-rating',
      token: await operatorToken(),
      body: { org_id: tenantId, usage_record_ids: ids, candidate_unit_price: price },
    });

  it('at twice the price costs as much again, and moves no money', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    const allocations = [
      await books.start(owner, { units: 3, unitPriceMinor: 111n }),
      await books.start(owner, { unitPriceMinor: 111n }),
    ];
    clock.advance(77_777);
    for (const allocation of allocations) await books.stop(allocation);
    const { items } = (await read(person, 'usage')).body;
    const before = await balanceOf(person);
    const answer = await shadow(
      person.tenantId,
      items.map((item: { id: string }) => item.id),
      { amount_minor: 222, currency: 'USD' },
    );
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ ledger_writes: false, rated_usage_writes: false });
    for (const line of answer.body.lines) {
      const existing = line.existing_rated_amount.amount_minor;
      expect(existing).toBeGreaterThan(0);
      expect(Math.abs(line.delta_amount.amount_minor - existing)).toBeLessThanOrEqual(1);
    }
    expect(answer.body.totals.existing_rated_amount.amount_minor).toBe(-before);
    expect(await balanceOf(person)).toBe(before);
  });

  it('refuses what cannot be compared, by name, and more than a hundred', async () => {
    const person = await site.signup();
    const other = await site.signup();
    await books.stop(await books.start(ownerOf(other)));
    const [foreign] = (await read(other, 'usage')).body.items;
    const price = { amount_minor: 1, currency: 'USD' };
    const refusal = await shadow(person.tenantId, [foreign.id], price);
    expect(refusal.status).toBe(400);
    expect(JSON.stringify(refusal.body)).toContain(foreign.id);
    expect((await shadow(other.tenantId, [foreign.id], { ...price, currency: 'EUR' })).status).toBe(400);
    expect((await shadow(other.tenantId, [foreign.id, foreign.id], price)).status).toBe(400);
    expect((await shadow(other.tenantId, [newId()], price)).status).toBe(400);
    expect((await shadow(other.tenantId, [foreign.id], { ...price, amount_minor: -1 })).status).toBe(400);
    expect(
      (
        await shadow(
          other.tenantId,
          Array.from({ length: 101 }, () => newId()),
          price,
        )
      ).status,
    ).toBe(400);
    expect((await shadow(other.tenantId, [foreign.id], price)).status).toBe(200);
  });
});

describe('a financial restriction', () => {
  const set = async (type: string, id: string, body: Record<string, unknown>, token?: string) =>
    site.call({
      method: 'POST',
      path: `/api/v1/admin/billing/financial-restrictions/${type}/${id}`,
      token: token ?? (await operatorToken()),
      body,
    });

  it('set by the operator closes the gate, and lifted opens it; what runs goes on and ends as ever', async () => {
    const person = await site.signup();
    const owner = ownerOf(person);
    await books.credit(owner, 10_000n);
    const running = await books.start(owner);
    const check = () => books.finance.fundsGate.check(site.db, { ...owner, hourlyMinor: 100n });
    const answer = await set('tenant', person.tenantId, { state: 'restricted', reason: 'unpaid invoice' });
    expect(answer).toMatchObject({
      status: 200,
      body: {
        scope_type: 'tenant',
        scope_id: person.tenantId,
        state: 'restricted',
        reason: 'unpaid invoice',
        effects: { launch_blocked: true, refunds_blocked: false },
      },
    });
    expect(await check()).toMatchObject({
      allowed: false,
      code: 'insufficient_permissions',
      reason: 'financial_restriction',
    });
    clock.advance(HOUR);
    await books.stop(running);
    expect(await balanceOf(person)).toBe(10_000 - 250);
    const again = await set('tenant', person.tenantId, { state: 'healthy', reason: 'paid' });
    expect(again.body.id).toBe(answer.body.id);
    expect(await check()).toEqual({ allowed: true });
    const audited = await site.db
      .selectFrom('audit_logs')
      .select('metadata')
      .where('action', '=', 'billing.financial_restriction.set')
      .where('target_id', '=', person.tenantId)
      .orderBy('occurred_at')
      .execute();
    expect(audited).toMatchObject([
      { metadata: { from: null, to: 'restricted' } },
      { metadata: { from: 'restricted', to: 'healthy' } },
    ]);
  });

  it.each(['user', 'project', 'tenant'])('is refused for a %s that nobody knows', async (type) => {
    expect(await set(type, newId(), { state: 'restricted', reason: 'x' })).toMatchObject({
      status: 400,
      body: { details: { reason: 'scope_not_found' } },
    });
  });

  it('is for platform administrators, and says why', async () => {
    const person = await site.signup();
    const body = { state: 'restricted', reason: 'x' };
    expect(await set('user', person.userId, body, await tokenOf(person.username, PASSWORD))).toMatchObject({
      status: 403,
      body: { code: 'admin_required' },
    });
    expect((await set('user', person.userId, { state: 'restricted', reason: '' })).status).toBe(400);
    expect((await set('user', person.userId, { state: 'frozen', reason: 'x' })).status).toBe(400);
    const huge = { ...body, metadata: { note: 'x'.repeat(70_000) } };
    expect((await set('user', person.userId, huge)).status).toBe(400);
    expect((await set('user', person.userId, { ...body, metadata: { ticket: 'T-1' } })).status).toBe(200);
  });
});
