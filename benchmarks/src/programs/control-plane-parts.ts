import { composeDomains } from '@gpuaas/control-plane/app/compose';
import { openCertificateAuthority } from '@gpuaas/control-plane/spine/certificate-authority';
import { createCustody, parseCustodyKeys } from '@gpuaas/control-plane/spine/custody';
import { APPLICATION_ROLE, openDatabase } from '@gpuaas/control-plane/spine/database';
import { policies } from '@gpuaas/control-plane/spine/policy-registry';
import { createSignals } from '@gpuaas/control-plane/spine/signals';
import { createLogger, systemClock } from '@gpuaas/kernel';

/**
 * The domains of the control plane in this process, wired as the product wires them, without its HTTP server: to call
 * one of them directly.
 */
export async function openDomains(options: {
  readonly databaseUrl: string;
  readonly masterKey: string;
  readonly poolSize: number;
}) {
  const log = createLogger({ program: 'benchmark', level: 'warn' });
  const clock = systemClock;
  const signals = createSignals({ url: options.databaseUrl, log });
  const db = openDatabase({
    url: options.databaseUrl,
    role: APPLICATION_ROLE,
    poolSize: options.poolSize,
    afterCommit: signals.afterCommit,
  });
  await signals.ready();
  const custody = createCustody(parseCustodyKeys(options.masterKey));
  const domains = composeDomains({
    db,
    custody,
    policies,
    authority: await openCertificateAuthority({ db, custody, clock, environment: 'development' }),
    signals,
    clock,
    log,
    tokenIssuer: 'benchmark',
    nodeApiUrl: () => 'https://127.0.0.1',
    acceptsInternalTokens: false,
    settings: {},
  });
  return { db, domains, clock, log };
}
