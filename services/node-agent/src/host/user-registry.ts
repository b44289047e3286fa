import { createHash } from 'node:crypto';
import { managedKey } from '@gpuaas/node-protocol';
import { z } from 'zod';
import type { StateStore } from '../store/state-store.js';
import { HostError, type InstalledKeySet, type KeySet, type RuntimeUser } from './host-port.js';

const NAME = 'host-users.json';
/** The most allocations whose teardown is remembered; the oldest are forgotten first. */
const MAX_RELEASED = 10_000;

const registryDocument = z.object({
  users: z.array(
    z.object({
      allocation_id: z.string(),
      username: z.string(),
      uid: z.int(),
      /** `creating`: the account did not exist when this was written, so whatever is there now is ours and unused. */
      state: z.enum(['creating', 'present', 'leaving']),
      key_set: z.object({ version: z.int(), keys: z.array(managedKey) }).nullable(),
    }),
  ),
  released: z.array(z.string()),
});
type RegistryDocument = z.infer<typeof registryDocument>;
export type RegistryUser = RegistryDocument['users'][number];

/**
 * Which accounts of this host belong to which allocation, where no tenant can write. A driver believes this record and
 * never a marker in a home directory, which its owner may edit.
 */
export class UserRegistry {
  #document: RegistryDocument | null = null;
  readonly #store: StateStore;

  constructor(store: StateStore) {
    this.#store = store;
  }

  async users(): Promise<RegistryUser[]> {
    return (await this.#load()).users;
  }

  async find(allocationId: string): Promise<RegistryUser | undefined> {
    return (await this.users()).find((entry) => entry.allocation_id === allocationId);
  }

  /** Refuses an account that another allocation holds and an allocation that was already torn down. */
  async claim(user: RuntimeUser): Promise<RegistryUser | undefined> {
    const { users, released } = await this.#load();
    if (released.includes(user.allocationId)) {
      throw new HostError('allocation_released', 'this allocation was already torn down on this host');
    }
    const mine = users.find((entry) => entry.allocation_id === user.allocationId);
    const taken = users.some((entry) => entry !== mine && (entry.username === user.username || entry.uid === user.uid));
    const renamed = mine !== undefined && (mine.username !== user.username || mine.uid !== user.uid);
    if (taken || renamed)
      throw new HostError('account_taken', `account ${user.username} belongs to another allocation`);
    if (mine?.state === 'leaving') throw new HostError('allocation_released', 'this allocation is being torn down');
    return mine;
  }

  /** The account of an allocation in use. Refuses what is absent, half made, leaving, or named differently. */
  async present(user: RuntimeUser): Promise<RegistryUser> {
    const entry = await this.find(user.allocationId);
    if (entry?.state !== 'present' || entry.username !== user.username || entry.uid !== user.uid) {
      throw new HostError('allocation_not_provisioned', `no account ${user.username} is in use for this allocation`);
    }
    return entry;
  }

  async put(entry: RegistryUser): Promise<void> {
    const { users, released } = await this.#load();
    const others = users.filter((other) => other.allocation_id !== entry.allocation_id);
    await this.#save({ users: [...others, entry], released });
  }

  /** Forgets the account and remembers that the allocation is over. */
  async release(allocationId: string): Promise<void> {
    const { users, released } = await this.#load();
    await this.#save({
      users: users.filter((entry) => entry.allocation_id !== allocationId),
      released: [...released.filter((id) => id !== allocationId), allocationId].slice(-MAX_RELEASED),
    });
  }

  async #load(): Promise<RegistryDocument> {
    if (this.#document === null) {
      const text = await this.#store.read(NAME);
      this.#document = text === null ? { users: [], released: [] } : registryDocument.parse(JSON.parse(text));
    }
    return this.#document;
  }

  async #save(document: RegistryDocument): Promise<void> {
    await this.#store.write(NAME, JSON.stringify(document));
    this.#document = document;
  }
}

/**
 * Which set should stand: the installed one if it is newer. Equal versions with other keys are refused, since one of
 * the two would be lost without a trace.
 */
export function decideKeySet(installed: KeySet | null, wanted: KeySet): KeySet {
  if (installed === null || wanted.version > installed.version) return wanted;
  if (wanted.version < installed.version) return installed;
  if (renderAuthorizedKeys(installed) !== renderAuthorizedKeys(wanted)) {
    throw new HostError('key_set_conflict', `version ${wanted.version} is installed with other keys`);
  }
  return installed;
}

/** The file that the login service reads. The whole file is managed; what a user adds to it is gone with the next set. */
export function renderAuthorizedKeys(keySet: KeySet): string {
  const lines = [...keySet.keys]
    .sort((left, right) => (left.managed_key_id < right.managed_key_id ? -1 : 1))
    .map((key) => `# gpuaas key ${key.managed_key_id}\n${key.public_key}\n`);
  return `# Managed by gpuaas-node-agent; changes are overwritten.\n${lines.join('')}`;
}

export function describeKeySet(keySet: KeySet): InstalledKeySet {
  const sha256 = createHash('sha256').update(renderAuthorizedKeys(keySet)).digest('hex');
  return { version: keySet.version, count: keySet.keys.length, sha256 };
}
