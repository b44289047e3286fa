import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KEYS } from '../testing/fixtures.js';
import { HostError, type HostPort, type RuntimeUser } from './host-port.js';

/** One host under test, with eyes of its own: what it shows is observed, not asked of the driver. */
export interface HostUnderTest {
  host: HostPort;
  /** An account that this run may use, on a fresh allocation. */
  newUser(): RuntimeUser;
  /** The driver as a new process would make it, on the same machine. */
  restart(): Promise<HostPort>;
  /** The file that lets keys in, or null when the account does not exist. */
  authorizedKeys(user: RuntimeUser): Promise<string | null>;
  cleanUp(): Promise<void>;
}

/** What every driver promises, whatever the machine behind it. */
export function describeHostDriver(name: string, make: () => Promise<HostUnderTest>): void {
  describe(`a ${name} host`, () => {
    let machine: HostUnderTest;
    beforeEach(async () => {
      machine = await make();
    });
    afterEach(() => machine.cleanUp());

    const set = (version: number, keys = KEYS) => ({ version, keys });
    const codeOf = (work: Promise<unknown>) =>
      work.then(
        () => 'no error',
        (error: unknown) => (error instanceof HostError ? error.code : error),
      );

    it('makes an account with the given keys, however often it is asked', async () => {
      const user = machine.newUser();
      const first = await machine.host.ensureUser(user, set(1));
      const second = await machine.host.ensureUser(user, set(1));
      expect(second).toEqual(first);
      expect(first).toMatchObject({ version: 1, count: 2, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
      for (const key of KEYS) expect(await machine.authorizedKeys(user)).toContain(key.public_key);
      expect(await machine.host.runtimeUsers()).toEqual([user]);
    });

    it('replaces the whole key set, and keeps a newer one against an older', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(1));
      expect(await machine.host.ensureAuthorizedKeys(user, set(3, KEYS.slice(1)))).toMatchObject({
        version: 3,
        count: 1,
      });
      expect(await machine.host.ensureAuthorizedKeys(user, set(2))).toMatchObject({ version: 3, count: 1 });
      expect(await machine.host.ensureUser(user, set(1))).toMatchObject({ version: 3, count: 1 });
      const file = await machine.authorizedKeys(user);
      expect(file).toContain(KEYS[1]?.public_key);
      expect(file).not.toContain(KEYS[0]?.public_key);
      expect(await codeOf(machine.host.ensureAuthorizedKeys(user, set(3, [])))).toBe('key_set_conflict');
    });

    it('refuses keys and bundles for an allocation that has no account', async () => {
      const user = machine.newUser();
      expect(await codeOf(machine.host.ensureAuthorizedKeys(user, set(1)))).toBe('allocation_not_provisioned');
      const bundle = { allocationId: user.allocationId, slug: 'cuda', version: '1', env: {} };
      expect(await codeOf(machine.host.ensureRuntimeBundle(bundle))).toBe('allocation_not_provisioned');
    });

    it('gives no name and no uid to two allocations', async () => {
      const [user, other] = [machine.newUser(), machine.newUser()];
      await machine.host.ensureUser(user, set(1));
      expect(await codeOf(machine.host.ensureUser({ ...other, username: user.username }, set(1)))).toBe(
        'account_taken',
      );
      expect(await codeOf(machine.host.ensureUser({ ...other, uid: user.uid }, set(1)))).toBe('account_taken');
      expect(await codeOf(machine.host.ensureUser({ ...user, username: other.username }, set(1)))).toBe(
        'account_taken',
      );
    });

    it('removes the account and all that belongs to it, however often it is asked', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(1));
      const env = { A: '1' };
      await machine.host.ensureRuntimeBundle({ allocationId: user.allocationId, slug: 'cuda', version: '1', env });
      expect(await machine.host.ensureUserAbsent(user)).toEqual([]);
      expect(await machine.host.ensureUserAbsent(user)).toEqual([]);
      expect(await machine.authorizedKeys(user)).toBeNull();
      expect(await machine.host.runtimeUsers()).toEqual([]);
    });

    it('finds nothing to remove where nothing was made', async () => {
      expect(await machine.host.ensureUserAbsent(machine.newUser())).toEqual([]);
    });

    it('does not remove an account under a wrong name or uid', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(1));
      const other = machine.newUser();
      expect(await machine.host.ensureUserAbsent({ ...user, username: other.username })).not.toEqual([]);
      expect(await machine.host.ensureUserAbsent({ ...user, uid: other.uid })).not.toEqual([]);
      expect(await machine.authorizedKeys(user)).not.toBeNull();
    });

    it('revives no allocation that was torn down, not even after a restart of the agent', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(1));
      await machine.host.ensureUserAbsent(user);
      const again = await machine.restart();
      expect(await codeOf(again.ensureUser(user, set(2)))).toBe('allocation_released');
      expect(await codeOf(again.ensureAuthorizedKeys(user, set(2)))).toBe('allocation_not_provisioned');
      expect(await machine.authorizedKeys(user)).toBeNull();
    });

    it('lets the next allocation have the name and the uid', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(1));
      await machine.host.ensureUserAbsent(user);
      const next = { ...user, allocationId: machine.newUser().allocationId };
      expect(await machine.host.ensureUser(next, set(1, KEYS.slice(1)))).toMatchObject({ count: 1 });
      expect(await machine.authorizedKeys(next)).not.toContain(KEYS[0]?.public_key);
    });

    it('knows its accounts and key sets after a restart of the agent', async () => {
      const user = machine.newUser();
      await machine.host.ensureUser(user, set(2, KEYS.slice(1)));
      const again = await machine.restart();
      expect(await again.runtimeUsers()).toEqual([user]);
      expect(await again.ensureAuthorizedKeys(user, set(1))).toMatchObject({ version: 2, count: 1 });
    });

    it('does several things at once without harm', async () => {
      const users = [machine.newUser(), machine.newUser(), machine.newUser()];
      await Promise.all(
        users.flatMap((user) => [machine.host.ensureUser(user, set(1)), machine.host.ensureUser(user, set(1))]),
      );
      expect(new Set((await machine.host.runtimeUsers()).map((user) => user.username)).size).toBe(3);
      const leftovers = await Promise.all(users.map((user) => machine.host.ensureUserAbsent(user)));
      expect(leftovers.flat()).toEqual([]);
      expect(await machine.host.runtimeUsers()).toEqual([]);
    });

    it('tells its boot id and reports an inventory in which the unknown is null and warned of', async () => {
      const bootId = await machine.host.bootId();
      expect(bootId).toMatch(/^[0-9a-f-]{36}$/);
      const topology = await machine.host.topology();
      expect(topology.host.boot_id).toBe(bootId);
      expect(topology.host.vcpu_count).toBeGreaterThan(0);
      expect(topology.candidate_slots.every((slot) => slot.status === 'disabled')).toBe(true);
      for (const [name, value] of Object.entries(topology.host)) {
        const warned = topology.warnings.some((warning) => warning.message.startsWith(`host.${name} `));
        expect([name, value === null]).toEqual([name, warned]);
      }
    });

    it('checks the account of an allocation', async () => {
      const user = machine.newUser();
      const statusOf = async () =>
        (await machine.host.healthChecks(user.allocationId)).find((check) => check.name === 'runtime_user')?.status;
      expect(await statusOf()).toBe('failed');
      await machine.host.ensureUser(user, set(1));
      expect(await statusOf()).toBe('ok');
    });
  });
}
