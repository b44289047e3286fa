import type { Schema } from '@gpuaas/contract';
import type { AllocationId, NodeId, UserId } from '@gpuaas/kernel';
import type { Reader } from '../../spine/operation.js';

/** What fleet needs of others, in its own words; the composition root puts something behind each. */

export interface IssuedCertificate {
  /** the certificate, then those that lead to the authority, as PEM */
  readonly chainPem: string;
  /** lower-case hex without leading zeros */
  readonly serialNumber: string;
  /** SHA-256 of the certificate in DER, lower-case hex */
  readonly fingerprintSha256: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface CertificateAuthorityPort {
  /** The anchors that prove a node's certificate, as PEM. */
  caBundlePem(): string | Promise<string>;
  /** A client certificate for the node, whatever subject the request names. */
  issueClientCertificate(request: {
    readonly csrPem: string;
    readonly nodeId: NodeId;
    readonly lifetimeSeconds: number;
    readonly now: Date;
  }): Promise<IssuedCertificate>;
}

/** Who holds a node whole, as compute knows it. */
export interface NodeOccupant {
  readonly allocationId: AllocationId;
  readonly userId: UserId;
  /** null until the account exists */
  readonly usernameOnNode: string | null;
  readonly allocationStatus: Schema<'Allocation'>['status'];
}

export interface OccupancyPort {
  /** The occupants of these nodes; a node without one has no entry. */
  occupancyOf(reader: Reader, nodeIds: readonly NodeId[]): Promise<ReadonlyMap<NodeId, NodeOccupant>>;
}

export interface SkuCatalogPort {
  findSku(reader: Reader, code: string): Promise<{ readonly code: string } | null>;
}

/** Tries to connect to a host's port. Answers within a few seconds and never throws. */
export type DialHost = (host: string, port: number) => Promise<boolean>;

/** The password with which a first boot pulls images, or null where this site has no registry. */
export type RegistryCredentialPort = () => Promise<Schema<'NodeBootstrapRegistryCredential'> | null>;

export interface FleetSettings {
  /** where hosts reach the control plane: the listener that asks for their certificate; known once it stands */
  nodeApiUrl(): string;
  /** where hosts reach the terminal relay */
  terminalApiUrl(): string;
  /** PEM of the anchors that prove the server at nodeApiUrl; null where the host's own store does */
  readonly apiCaBundlePem: string | null;
  /** the built package of the node agent */
  readonly nodePackagePath: string;
  /** the account that hosts are installed with */
  readonly sshUsername: string;
  /** development only: nodes may also identify themselves by the token that came with their certificate */
  readonly acceptsInternalTokens: boolean;
  readonly pollHoldMilliseconds: number;
}
