import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { until } from '../harness/waiting.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

/** Each query finds what must never be, at any moment, whatever runs. */
const NEVER = {
  'a host with two exclusive claims': `SELECT node_id FROM placement_claims WHERE released_at IS NULL AND kind = 'node_exclusive'
     GROUP BY node_id HAVING count(*) > 1`,
  'a released allocation that still occupies': `SELECT a.id FROM allocations a JOIN placement_claims c ON c.allocation_id = a.id
     WHERE a.status = 'released' AND c.released_at IS NULL`,
  'an allocation that runs without occupying': `SELECT a.id FROM allocations a WHERE a.status NOT IN ('released', 'failed')
     AND NOT EXISTS (SELECT FROM placement_claims c WHERE c.allocation_id = a.id AND c.released_at IS NULL)`,
  'two open operations': `SELECT allocation_id FROM allocation_operations WHERE status IN ('queued', 'running')
     GROUP BY allocation_id HAVING count(*) > 1`,
  'a waiting status without an open operation': `SELECT a.id FROM allocations a
     WHERE a.status IN ('requested', 'provisioning', 'restarting', 'releasing') AND NOT EXISTS (
       SELECT FROM allocation_operations o WHERE o.id = a.current_operation_id AND o.status IN ('queued', 'running'))`,
  'an open operation that is not the current one': `SELECT o.id FROM allocation_operations o
     JOIN allocations a ON a.id = o.allocation_id WHERE o.status IN ('queued', 'running') AND a.current_operation_id <> o.id`,
  'a served hour that nobody meters': `SELECT a.id FROM allocations a WHERE a.status IN ('active', 'restarting')
     AND NOT EXISTS (SELECT FROM usage_records u WHERE u.allocation_id = a.id AND u.end_time IS NULL)`,
  'a metered hour that nobody is served': `SELECT a.id FROM allocations a JOIN usage_records u ON u.allocation_id = a.id
     WHERE u.end_time IS NULL AND a.status NOT IN ('active', 'restarting')`,
  'a count of claims that is wrong': `SELECT n.id FROM nodes n WHERE n.open_claims <>
     (SELECT count(*) FROM placement_claims c WHERE c.node_id = n.id AND c.released_at IS NULL)`,
  'money set aside for what has ended': `SELECT h.allocation_id FROM wallet_holds h JOIN allocations a ON a.id = h.allocation_id
     WHERE a.status IN ('released', 'failed', 'releasing')`,
  'a user above the limit': `SELECT requested_by_user_id FROM allocations WHERE status NOT IN ('released', 'failed')
     GROUP BY requested_by_user_id HAVING count(*) > 3`,
};

async function findViolations(): Promise<string[]> {
  const found = await Promise.all(
    Object.entries(NEVER).map(async ([name, query]) =>
      (await sql.raw(query).execute(site.db)).rows.length > 0 ? name : null,
    ),
  );
  return found.filter((name) => name !== null);
}

/** A small generator of its own, so that a failing run can be repeated by its seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

it('nothing breaks the books of placement, money and operations: many people, hosts that fail, everything at once', async () => {
  const seed = Number(process.env.GPUAAS_TEST_SEED ?? Date.now() % 100_000);
  const random = randomFrom(seed);
  await site.setLimit(3);
  await Promise.all([
    site.addHost(),
    site.addHost({ faults: [{ id: 'p', task: 'allocation.provision_user', times: 2, fail: 'no' }] }),
    site.addHost({ faults: [{ id: 'd', task: 'allocation.deprovision_user', times: 2, fail: 'no' }] }),
    site.addHost({ faults: [{ id: 'r', task: 'allocation.restart', times: 3, fail: 'no' }] }),
    site.addHost({ faults: [{ id: 's', task: '*', delayMilliseconds: 60 }] }),
  ]);
  const people = await Promise.all([1, 2, 3, 4].map(() => site.customer()));
  const known: { id: string; person: (typeof people)[number] }[] = [];
  const unexpected: unknown[] = [];

  const step = async (): Promise<void> => {
    const choice = random(10);
    const person = people[random(people.length)];
    const target = known[random(Math.max(1, known.length))];
    if (!person) return;
    if (choice < 4 || !target) {
      const answer = await site.launch(person, { requested_count: 1 + random(2) });
      if (answer.status === 201) {
        for (const allocation of answer.body.allocations) known.push({ id: allocation.id, person });
      } else if (answer.status !== 409) unexpected.push(answer.body);
      return;
    }
    const act = choice < 8 ? 'release' : choice === 8 ? 'restart' : null;
    const answer =
      act === null
        ? await site.as(target.person, 'PUT', `/api/v1/allocations/${target.id}/ssh-keys`, {
            ssh_key_ids: [target.person.keyId],
          })
        : await site.as(target.person, 'POST', `/api/v1/allocations/${target.id}/${act}`);
    if (![200, 202, 409].includes(answer.status)) unexpected.push(answer.body);
  };

  for (let round = 0; round < 12; round += 1) {
    await Promise.all(Array.from({ length: 8 }, step));
    expect({ seed, violations: await findViolations() }).toEqual({ seed, violations: [] });
  }
  // Everything that was launched can be ended, and every host is free again.
  await until(
    async () => {
      for (const { id, person } of known) await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
      const open = await site.db.selectFrom('placement_claims').select('id').where('released_at', 'is', null).execute();
      return open.length === 0;
    },
    { timeoutMilliseconds: 30_000, what: 'all hosts to be free' },
  );
  expect({ seed, violations: await findViolations(), unexpected }).toEqual({ seed, violations: [], unexpected: [] });
  expect(await site.controlPlane.domains.finance.reconcile(site.db)).toEqual([]);
});
