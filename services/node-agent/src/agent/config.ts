import type { BuildInfo } from './build-info.js';

/** All that an agent has to be told. Texts of files, not their paths: reading them is the program's part. */
export interface NodeAgentConfig {
  nodeId: string;
  /** Origin of the control plane, `https:` or, in development, `http:`. */
  apiUrl: string;
  /** Needed until the agent has a certificate, and again after that one expired. */
  enrollmentToken: string | null;
  /** Anchors for the server's certificate; null means those of the system. */
  caPem: string | null;
  /** Anchors for this node's own certificate; null means those named at enrolment. */
  nodeCaPem: string | null;
  /** `kid:base64,…` */
  signingKeys: string;
  sshEndpoint: { host: string; port: number };
  build: BuildInfo;
  /** How long running tasks may take to end when the agent is stopped. */
  shutdownGraceMilliseconds: number;
}
