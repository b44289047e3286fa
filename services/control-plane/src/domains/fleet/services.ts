import type { Clock, Logger } from '@gpuaas/kernel';
import type { Custody } from '../../spine/custody.js';
import type { Reader } from '../../spine/operation.js';
import type { Signals } from '../../spine/signals.js';
import type { AgentPackage } from './identity/agent-package.js';
import type { NodeLife } from './life/node-life.js';
import type {
  CertificateAuthorityPort,
  DialHost,
  FleetSettings,
  OccupancyPort,
  RegistryCredentialPort,
  SkuCatalogPort,
} from './ports.js';
import type { HeldPolls } from './tasks/held-polls.js';
import type { Presence } from './tasks/presence.js';
import type { TaskQueue } from './tasks/task-queue.js';
import type { TaskSigner } from './tasks/task-signer.js';

/** What the composition root gives to the fleet. */
export interface FleetDependencies {
  /** the read-write pool; held polls take no connection of it while they wait */
  readonly database: Reader;
  readonly custody: Custody;
  readonly signals: Signals;
  readonly certificateAuthority: CertificateAuthorityPort;
  readonly clock: Clock;
  readonly log: Logger;
  readonly occupancy: OccupancyPort;
  readonly skuCatalog: SkuCatalogPort;
  readonly dialHost: DialHost;
  readonly registryCredential: RegistryCredentialPort;
  readonly settings: FleetSettings;
}

/** What the operations of the fleet work with. */
export interface FleetServices extends FleetDependencies {
  readonly agentPackage: AgentPackage;
  readonly life: NodeLife;
  readonly polls: HeldPolls;
  readonly presence: Presence;
  readonly queue: TaskQueue;
  readonly signer: TaskSigner;
}
