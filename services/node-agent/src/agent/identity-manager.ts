import { createHash } from 'node:crypto';
import type { Clock, Logger } from '@gpuaas/kernel';
import { parseSigningKeys, type SigningKeys } from '@gpuaas/node-protocol';
import { TaskRefused, type TrustUpdate } from '../tasks/task-context.js';
import type { TlsIdentity, Transport } from '../transport/transport.js';
import { certificateLife, parseCertificates, problemWithChain } from './certificates.js';
import type { NodeAgentConfig } from './config.js';
import type { CallFailure, ControlPlaneClient, Credentials } from './control-plane-client.js';
import { AgentExitError } from './exit.js';
import type { IdentityStore, NodeIdentity, TrustBundle } from './identity-store.js';
import { certificateRequest, newPrivateKeyPem } from './keys.js';
import { backoffMilliseconds, type Timer } from './timing.js';

/** With a renewed certificate that does not get through, every so often the older one is tried. */
const TRY_CURRENT_EVERY = 4;

interface Held {
  identity: NodeIdentity;
  tls: TlsIdentity;
  notAfter: Date;
  renewAt: Date;
  serialNumber: string;
}

interface Dependencies {
  config: NodeAgentConfig;
  store: IdentityStore;
  client: ControlPlaneClient;
  transport: Transport;
  clock: Clock;
  timer: Timer;
  random: () => number;
  log: Logger;
}

/**
 * Who this host is to the control plane and whom it believes. A renewed certificate stands beside the current one until
 * it has polled once, since only then the control plane withdraws the older one; at every moment one of them works.
 */
export class IdentityManager {
  readonly #d: Dependencies;
  #current: Held | null = null;
  #next: Held | null = null;
  #trust: TrustBundle = { version: 0, ca_pem: null, node_ca_pem: null, signing_pubkeys: null };
  #signingKeys: SigningKeys = new Map();
  #renewal: Promise<Held> | null = null;
  #renewalFailures = 0;
  #renewNotBefore = 0;

  constructor(dependencies: Dependencies) {
    this.#d = dependencies;
  }

  /** Reads what is kept. Throws an AgentExitError for settings that cannot be used with it. */
  async load(): Promise<void> {
    const { config, store } = this.#d;
    this.#trust = (await store.trust()) ?? this.#trust;
    this.#signingKeys = requireKeys(this.#trust.signing_pubkeys ?? config.signingKeys);
    const [current, next] = [await store.current(), await store.next()];
    const other = [current, next].find((identity) => identity !== null && identity.node_id !== config.nodeId);
    if (other) {
      const message = `the state directory belongs to node ${other.node_id}, not to ${config.nodeId}`;
      throw new AgentExitError({ reason: 'configuration', message });
    }
    this.#current = current === null ? null : this.#hold(current);
    this.#next = next === null ? null : this.#hold(next);
  }

  get signingKeys(): SigningKeys {
    return this.#signingKeys;
  }

  isEnrolled(): boolean {
    return this.#current !== null;
  }

  /** Whether every certificate here has run out. */
  isExpired(): boolean {
    const now = this.#d.clock.now();
    return [this.#current, this.#next].every((held) => held === null || held.notAfter <= now);
  }

  /** A token that was configured since this host was last enrolled, if there is one. */
  hasFreshToken(): boolean {
    const { enrollmentToken } = this.#d.config;
    if (enrollmentToken === null) return false;
    return this.#current?.identity.enrollment_token_sha256 !== sha256(enrollmentToken);
  }

  /** For everything but polls. */
  credentials(): Credentials {
    return credentialsOf(this.#require(this.#current));
  }

  /** The other identity, for a call that the first was refused for; null when there is only one. */
  otherCredentials(): Credentials | null {
    return this.#next === null ? null : credentialsOf(this.#next);
  }

  /** For the next poll, after so many that failed in a row. */
  pollCredentials(failures: number): Credentials {
    const tryCurrent = failures > 0 && failures % TRY_CURRENT_EVERY === 0;
    return credentialsOf(this.#next !== null && !tryCurrent ? this.#next : this.#require(this.#current));
  }

  /** The control plane answered a poll made with these credentials: the renewed identity takes the place of the old. */
  async polled(credentials: Credentials): Promise<void> {
    if (this.#next === null || credentials.tls !== this.#next.tls) return;
    await this.#d.store.promoteNext();
    const old = this.#current;
    this.#current = this.#next;
    this.#next = null;
    if (old !== null) this.#d.transport.release(old.tls);
    this.#d.log.info({ not_after: this.#current.notAfter }, 'the renewed certificate is in use');
  }

  /** The control plane refused a poll. Returns whether there is another identity to try at once. */
  async refused(credentials: Credentials): Promise<boolean> {
    if (this.#next === null || credentials.tls !== this.#next.tls) return false;
    await this.#d.store.dropNext();
    this.#d.transport.release(this.#next.tls);
    this.#next = null;
    this.#delayRenewal();
    this.#d.log.warn('the renewed certificate was refused; the current one stays in use');
    return true;
  }

  /**
   * Gets the first certificate, or a new one with a token that was reissued. Retries for as long as the control plane
   * cannot be reached; throws an AgentExitError when it refuses.
   */
  async enroll(signal: AbortSignal): Promise<void> {
    const { config, store, client, clock, timer, random, log } = this.#d;
    const token = config.enrollmentToken;
    if (token === null) {
      const message = 'this host is not enrolled and has no enrolment token: set GPUAAS_ENROLLMENT_TOKEN';
      throw new AgentExitError({ reason: 'configuration', message });
    }
    const privateKeyPem = await store.pendingKey('enroll', newPrivateKeyPem);
    const csr = await certificateRequest(privateKeyPem, config.nodeId);
    const tls: TlsIdentity = { client: null, caPem: this.#caPem() };
    for (let failures = 1; !signal.aborted; failures += 1) {
      const result = await client.enroll(tls, token, csr, signal);
      if (result.kind === 'ok') {
        const { certificate, ca_bundle, internalToken } = result.value;
        const anchorsPem = this.#trust.node_ca_pem ?? config.nodeCaPem ?? ca_bundle;
        const problem = problemWithChain(certificate, {
          privateKeyPem,
          nodeId: config.nodeId,
          anchorsPem,
          now: clock.now(),
        });
        if (problem !== null)
          throw new AgentExitError({ reason: 'identity_refused', message: `enrolment failed: ${problem}` });
        const identity: NodeIdentity = {
          node_id: config.nodeId,
          private_key_pem: privateKeyPem,
          certificate_pem: certificate,
          node_ca_pem: ca_bundle,
          internal_token: internalToken,
          enrollment_token_sha256: sha256(token),
        };
        await store.saveCurrent(identity);
        await store.dropNext();
        await store.dropPendingKey();
        this.#d.transport.release(tls);
        this.#current = this.#hold(identity);
        this.#next = null;
        log.info({ not_after: this.#current.notAfter }, 'this host is enrolled');
        return;
      }
      if (result.kind !== 'unavailable') throw enrollmentRefused(result);
      const wait = Math.max(backoffMilliseconds(failures, random()), result.retryAfterMilliseconds);
      log.warn({ reason: result.message, retry_in_ms: wait }, 'enrolment is not possible yet');
      await timer.sleep(wait, signal);
    }
  }

  /** Renews when two thirds of the certificate's life are over. A failure is retried later and harms nothing now. */
  async renewIfDue(): Promise<void> {
    const now = this.#d.clock.now();
    if (this.#current === null || this.#next !== null) return;
    if (now < this.#current.renewAt || now.getTime() < this.#renewNotBefore) return;
    await this.renew().catch((error: unknown) => {
      const { notAfter } = this.#require(this.#current);
      this.#d.log.warn({ err: error, not_after: notAfter }, 'the certificate could not be renewed');
    });
  }

  /** Gets a certificate for a new key; calls made meanwhile share it. Throws a TaskRefused. */
  renew(): Promise<{ serialNumber: string; notAfter: Date }> {
    if (this.#next !== null) return Promise.resolve(this.#next);
    this.#renewal ??= this.#renewOnce().finally(() => {
      this.#renewal = null;
    });
    return this.#renewal;
  }

  /** See AgentControl.updateTrust. */
  async updateTrust(update: TrustUpdate): Promise<{ version: number; signingKeyIds: string[] }> {
    const merged: TrustBundle = {
      version: update.version,
      ca_pem: update.caPem ?? this.#trust.ca_pem,
      node_ca_pem: update.nodeCaPem ?? this.#trust.node_ca_pem,
      signing_pubkeys: update.signingKeys ?? this.#trust.signing_pubkeys,
    };
    const same = JSON.stringify(merged) === JSON.stringify(this.#trust);
    if (update.version < this.#trust.version || (update.version === this.#trust.version && !same)) {
      throw new TaskRefused('trust_bundle_older', `version ${this.#trust.version} is in use`);
    }
    const keys = this.#checkKeys(merged, update.signedBy);
    if (same) return { version: merged.version, signingKeyIds: [...keys.keys()] };
    for (const pem of [update.caPem, update.nodeCaPem]) {
      if (pem !== undefined && parseCertificates(pem) === null) {
        throw new TaskRefused('trust_bundle_invalid', 'a bundle holds no readable certificate');
      }
    }
    await this.#checkReachable(merged);
    await this.#d.store.saveTrust(merged);
    this.#trust = merged;
    this.#signingKeys = keys;
    for (const held of [this.#current, this.#next]) {
      if (held === null) continue;
      this.#d.transport.release(held.tls);
      held.tls = this.#tlsOf(held.identity);
    }
    return { version: merged.version, signingKeyIds: [...keys.keys()] };
  }

  async forget(): Promise<void> {
    await this.#d.store.forget();
  }

  async #renewOnce(): Promise<Held> {
    const { config, store, client, clock } = this.#d;
    const { identity } = this.#require(this.#current);
    const privateKeyPem = await store.pendingKey('renew', newPrivateKeyPem);
    const csr = await certificateRequest(privateKeyPem, config.nodeId);
    const result = await client.renew(this.credentials(), csr);
    if (result.kind !== 'ok') {
      this.#delayRenewal();
      throw new TaskRefused('renewal_refused', 'message' in result ? result.message : 'the call was given up');
    }
    const { certificate, internalToken } = result.value;
    const anchorsPem = this.#trust.node_ca_pem ?? config.nodeCaPem ?? identity.node_ca_pem;
    const problem =
      problemWithChain(certificate, { privateKeyPem, nodeId: config.nodeId, anchorsPem, now: clock.now() }) ??
      (internalToken === null && !this.#d.transport.encrypted ? 'the answer has no token' : null);
    if (problem !== null) {
      this.#delayRenewal();
      throw new TaskRefused('renewal_unusable', problem);
    }
    const renewed = {
      ...identity,
      private_key_pem: privateKeyPem,
      certificate_pem: certificate,
      internal_token: internalToken,
    };
    await store.saveNext(renewed);
    await store.dropPendingKey();
    this.#renewalFailures = 0;
    this.#next = this.#hold(renewed);
    return this.#next;
  }

  #delayRenewal(): void {
    this.#renewalFailures += 1;
    const wait = backoffMilliseconds(this.#renewalFailures, this.#d.random());
    this.#renewNotBefore = this.#d.clock.now().getTime() + wait;
  }

  /** A list without the key that signs for us would be the last order this host ever obeys. */
  #checkKeys(bundle: TrustBundle, signedBy: string): SigningKeys {
    const parsed = parseSigningKeys(bundle.signing_pubkeys ?? this.#d.config.signingKeys);
    if (!parsed.ok) throw new TaskRefused('trust_bundle_invalid', parsed.problem);
    if (!parsed.keys.has(signedBy)) {
      throw new TaskRefused('trust_bundle_invalid', `the new list lacks key ${signedBy}, which signed it`);
    }
    return parsed.keys;
  }

  async #checkReachable(bundle: TrustBundle): Promise<void> {
    if (!this.#d.transport.encrypted || bundle.ca_pem === this.#trust.ca_pem) return;
    const trial: TlsIdentity = { client: this.#require(this.#current).tls.client, caPem: bundle.ca_pem };
    const reachable = await this.#d.client.isReachable(trial);
    this.#d.transport.release(trial);
    if (!reachable)
      throw new TaskRefused('api_not_trusted', 'the control plane cannot be reached under the new bundle');
  }

  #caPem(): string | null {
    return this.#trust.ca_pem ?? this.#d.config.caPem;
  }

  #tlsOf(identity: NodeIdentity): TlsIdentity {
    const client = { certificatePem: identity.certificate_pem, privateKeyPem: identity.private_key_pem };
    return { client, caPem: this.#caPem() };
  }

  #hold(identity: NodeIdentity): Held {
    return { identity, tls: this.#tlsOf(identity), ...certificateLife(identity.certificate_pem) };
  }

  #require(held: Held | null): Held {
    if (held === null) throw new Error('this host is not enrolled');
    return held;
  }
}

function credentialsOf(held: Held): Credentials {
  return { tls: held.tls, bearerToken: held.identity.internal_token };
}

function requireKeys(text: string): SigningKeys {
  const parsed = parseSigningKeys(text);
  if (parsed.ok) return parsed.keys;
  throw new AgentExitError({
    reason: 'configuration',
    message: `the task signing keys cannot be used: ${parsed.problem}`,
  });
}

function enrollmentRefused(failure: Exclude<CallFailure, { kind: 'unavailable' }>): AgentExitError {
  const message =
    failure.kind === 'aborted'
      ? 'enrolment was given up'
      : `the control plane refuses to enrol this host (${failure.message}): reissue its enrolment token`;
  return new AgentExitError({ reason: failure.kind === 'aborted' ? 'stopped' : 'identity_refused', message });
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
