import { z } from 'zod';
import type { StateStore } from '../store/state-store.js';

const CURRENT = 'identity.json';
/** A renewed identity that has not polled yet: until it has, the current one may be the only one that works. */
const NEXT = 'identity.next.json';
const PENDING_KEY = 'pending-key.json';
const TRUST = 'trust.json';

const nodeIdentity = z.object({
  node_id: z.string(),
  private_key_pem: z.string(),
  certificate_pem: z.string(),
  node_ca_pem: z.string(),
  internal_token: z.string().nullable(),
  /** Of the token that this identity was enrolled with: the same token is not offered twice. */
  enrollment_token_sha256: z.string(),
});
/** Key, certificate and token in one record, so that they change together. */
export type NodeIdentity = z.infer<typeof nodeIdentity>;

const pendingKey = z.object({ purpose: z.enum(['enroll', 'renew']), private_key_pem: z.string() });
export type PendingKeyPurpose = z.infer<typeof pendingKey>['purpose'];

const trustBundle = z.object({
  version: z.int().nonnegative(),
  ca_pem: z.string().nullable(),
  node_ca_pem: z.string().nullable(),
  signing_pubkeys: z.string().nullable(),
});
/** What the control plane last told this host to trust; null leaves a part to the configuration. */
export type TrustBundle = z.infer<typeof trustBundle>;

export interface IdentityStore {
  current(): Promise<NodeIdentity | null>;
  next(): Promise<NodeIdentity | null>;
  saveCurrent(identity: NodeIdentity): Promise<void>;
  saveNext(identity: NodeIdentity): Promise<void>;
  promoteNext(): Promise<void>;
  dropNext(): Promise<void>;
  /**
   * The key to ask a certificate for. It is kept until the answer is, so that an attempt repeated after a lost answer
   * or a crash asks for the same certificate again.
   */
  pendingKey(purpose: PendingKeyPurpose, make: () => Promise<string>): Promise<string>;
  dropPendingKey(): Promise<void>;
  trust(): Promise<TrustBundle | null>;
  saveTrust(bundle: TrustBundle): Promise<void>;
  forget(): Promise<void>;
}

/** The agent's own identity in its state store. A file that cannot be read is an error, never an absence. */
export function createIdentityStore(store: StateStore): IdentityStore {
  const read = async <Value>(name: string, schema: z.ZodType<Value>): Promise<Value | null> => {
    const text = await store.read(name);
    if (text === null) return null;
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw new Error(`${name} in the state directory cannot be read`, { cause });
    }
  };
  const write = (name: string, value: unknown) => store.write(name, JSON.stringify(value));

  return {
    current: () => read(CURRENT, nodeIdentity),
    next: () => read(NEXT, nodeIdentity),
    saveCurrent: (identity) => write(CURRENT, identity),
    saveNext: (identity) => write(NEXT, identity),
    promoteNext: () => store.rename(NEXT, CURRENT),
    dropNext: () => store.remove(NEXT),
    pendingKey: async (purpose, make) => {
      const kept = await read(PENDING_KEY, pendingKey);
      if (kept?.purpose === purpose) return kept.private_key_pem;
      const made = await make();
      await write(PENDING_KEY, { purpose, private_key_pem: made });
      return made;
    },
    dropPendingKey: () => store.remove(PENDING_KEY),
    trust: () => read(TRUST, trustBundle),
    saveTrust: (bundle) => write(TRUST, bundle),
    forget: async () => {
      for (const name of [NEXT, PENDING_KEY, CURRENT, TRUST]) await store.remove(name);
    },
  };
}
