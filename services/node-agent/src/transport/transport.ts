/** Who the agent is to the control plane, and whom it believes. Made anew, never altered, when either changes. */
export interface TlsIdentity {
  /** Absent before enrolment. */
  client: { certificatePem: string; privateKeyPem: string } | null;
  /** The anchors for the server's certificate; null means those of the system. */
  caPem: string | null;
}

export interface TransportRequest {
  method: 'GET' | 'POST';
  path: string;
  headers: Readonly<Record<string, string>>;
  body?: string;
  timeoutMilliseconds: number;
  signal?: AbortSignal;
  identity: TlsIdentity;
}

export interface TransportResponse {
  status: number;
  /** Names in lower case. */
  headers: Readonly<Record<string, string>>;
  body: string;
}

/** HTTP to the control plane. May be shared by many agents. */
export interface Transport {
  /** Whether the connection itself proves who the agent is; if not, a bearer token has to. */
  readonly encrypted: boolean;
  /** Rejects with a TransportError when no complete answer came. */
  request(request: TransportRequest): Promise<TransportResponse>;
  /** The identity is not used any more: closes its idle connections, lets calls under way end. */
  release(identity: TlsIdentity): void;
  close(): void;
}

/** No complete answer: refused, reset, timed out, not trusted, or aborted by the caller. */
export class TransportError extends Error {
  constructor(
    message: string,
    readonly kind: 'aborted' | 'timeout' | 'connection' | 'oversize',
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'TransportError';
  }
}
