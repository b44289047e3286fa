import type {
  HealthReport,
  ManagedKey,
  NodeTaskType,
  SliceSlot,
  TaskParams,
  TopologyReport,
} from '@gpuaas/node-protocol';

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

export type WipePolicy = TaskParams<'slice.vm_release'>['wipe_policy'];

/** A virtual machine that is one allocation, with devices of the host passed through to it. */
export interface GuestOrder extends RuntimeUser {
  slots: readonly SliceSlot[];
  image: { ref: string; digest: string };
  vcpuCount: number;
  memoryMib: number;
  keySet: KeySet;
}

export interface GuestState {
  vmName: string;
  /** on the host's private subnet */
  privateIp: string | null;
  /** in the words of the hypervisor; `running` is the one that serves */
  domainState: string;
  sshReachable: boolean;
  /** of the guest's own kernel */
  bootId: string;
}

/** What a host can do with guests. A host without it carries none, and says so in its topology. */
export interface GuestDriver {
  /**
   * Boots the guest and waits until it can be logged in to. Refuses `lease_conflict` while one of its devices is in
   * another guest or its disk still holds another's data, and `allocation_released` for an allocation that was already
   * torn down here. Fails with `image`, `vfio`, `virt_install` or `readiness` by the step that did not succeed.
   */
  ensureGuest(order: GuestOrder): Promise<GuestState>;
  /**
   * Destroys the guest, takes its devices back and wipes its disks. `leftovers` names what still stands or could not be
   * wiped; empty, it is proof of absence. A disk that another guest or the host itself uses is never touched.
   */
  ensureGuestAbsent(
    allocationId: string,
    slots: readonly SliceSlot[],
    wipePolicy: WipePolicy,
  ): Promise<{ wiped: string[]; leftovers: string[] }>;
  /** Null where there is no such guest. */
  guest(allocationId: string): Promise<GuestState | null>;
  /** Restarts the guest; its devices and its disk stay. Refuses `guest_absent`. */
  rebootGuest(allocationId: string): Promise<void>;
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
  /** Accounts on the host, and guests, that exist here for allocations, half made or half removed ones included. */
  runtimeUsers(): Promise<RuntimeUser[]>;

  /** Writes the environment file of an allocation, readable by its account alone. Returns the path. */
  ensureRuntimeBundle(bundle: RuntimeBundle): Promise<string>;

  /** Absent where this host cannot run guests. */
  guests?: GuestDriver;

  topology(): Promise<TopologyReport>;
  /** Looks at the machine, and at one allocation's account if asked. */
  healthChecks(allocationId: string | null): Promise<HealthCheck[]>;

  /** Takes away what belongs to no allocation: bundle directory, service registration. Returns what was removed. */
  ensureUninstalled(): Promise<string[]>;

  /** Called before each task runs; a throw fails the task. Simulated hosts inject faults here. */
  beforeTask?(type: NodeTaskType, signal: AbortSignal): Promise<void>;
}

export const hostErrorCodes = [
  'account_taken',
  'allocation_not_provisioned',
  'allocation_released',
  'command_failed',
  'guest_absent',
  'home_not_empty',
  'home_not_safe',
  'image',
  'injected_fault',
  'key_set_conflict',
  'lease_conflict',
  'readiness',
  'restart_not_observed',
  'vfio',
  'virt_install',
  'wipe_failed',
] as const;
export type HostErrorCode = (typeof hostErrorCodes)[number];

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
