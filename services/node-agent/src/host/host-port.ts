import type { HealthReport, ManagedKey, NodeTaskType, TopologyReport } from '@gpuaas/node-protocol';

/** The account on a host that an allocation runs as. */
export interface RuntimeUser {
  allocationId: string;
  username: string;
  uid: number;
}

/** All keys that may log in to an account. Higher versions are newer. */
export interface KeySet {
  version: number;
  keys: readonly ManagedKey[];
}

/** What is installed: the version, how many keys, and the SHA-256 of the file that the login service reads. */
export interface InstalledKeySet {
  version: number;
  count: number;
  sha256: string;
}

export interface RuntimeBundle {
  allocationId: string;
  slug: string;
  version: string;
  env: Readonly<Record<string, string>>;
}

export type HealthCheck = HealthReport['checks'][number];

/**
 * What the agent needs of the machine it runs on. Every `ensure…` brings a state about and may be repeated at any
 * time, also after it was interrupted half-way; none undoes what a repeat would do. Refusals are HostErrors.
 */
export interface HostPort {
  readonly kind: 'linux' | 'simulated';

  /** Changes with every boot. */
  bootId(): Promise<string>;
  /** Asks the machine to restart. May never return: the agent dies with the machine and finds a new boot id. */
  reboot(): Promise<void>;

  /**
   * Creates the account with its home, with no password and the given key set as its only way in.
   * Refuses `account_taken` when the name or the uid belongs to somebody else, and `allocation_released` when this
   * allocation was already torn down here: an order that comes late revives nobody.
   */
  ensureUser(user: RuntimeUser, keySet: KeySet): Promise<InstalledKeySet>;
  /**
   * Puts the key set in the place of the one before. An older version changes nothing and answers what is there.
   * Refuses `allocation_not_provisioned` and, for other keys under one version, `key_set_conflict`.
   */
  ensureAuthorizedKeys(user: RuntimeUser, keySet: KeySet): Promise<InstalledKeySet>;
  /**
   * Ends everything the account runs and removes it with its home and all other traces.
   * Returns what still stands; an empty list is proof that nothing does.
   */
  ensureUserAbsent(user: RuntimeUser): Promise<string[]>;
  /** The accounts that exist here for allocations, those half made or half removed included. */
  runtimeUsers(): Promise<RuntimeUser[]>;

  /** Writes the environment file of an allocation, readable by its account alone. Returns the path. */
  ensureRuntimeBundle(bundle: RuntimeBundle): Promise<string>;

  topology(): Promise<TopologyReport>;
  /** Looks at the machine, and at one allocation's account if asked. */
  healthChecks(allocationId: string | null): Promise<HealthCheck[]>;

  /** Takes away what belongs to no allocation: bundle directory, service registration. Returns what was removed. */
  ensureUninstalled(): Promise<string[]>;

  /** Called before each task runs; a throw fails the task. Simulated hosts inject faults here. */
  beforeTask?(type: NodeTaskType, signal: AbortSignal): Promise<void>;
}

export type HostErrorCode =
  | 'account_taken'
  | 'allocation_not_provisioned'
  | 'allocation_released'
  | 'command_failed'
  | 'home_not_empty'
  | 'home_not_safe'
  | 'injected_fault'
  | 'key_set_conflict'
  | 'restart_not_observed';

/** A refusal or failure that the control plane should know by its code. The message holds no secret. */
export class HostError extends Error {
  constructor(
    readonly code: HostErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'HostError';
  }
}
