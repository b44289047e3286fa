import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Schema } from '@gpuaas/contract';
import { createLogger, LOG_LEVELS, SettingsError } from '@gpuaas/kernel';
import { ApiError } from '@gpuaas/sdk';
import { z } from 'zod';
import { SiteOperator } from './operator.js';
import { siteSettings } from './settings.js';
import { SimulatedHost } from './simulated-host.js';

type NodeStatus = Schema<'NodeAdmin'>['status'];

/** GPUs of a simulated host: one HGX board. */
const GPUS_PER_HOST = 8;
const READY_TIMEOUT_MILLISECONDS = 120_000;
const READY_POLL_MILLISECONDS = 250;
const STARTED_AT_ONCE = 4;
/** What a host's own polls end. */
const ON_THEIR_WAY: readonly NodeStatus[] = ['registered', 'bootstrap_issued', 'enrolling', 'offline'];
const SPARE_LIFE_MILLISECONDS = 60_000;
const AGENT_IDENTITY = z.object({ certificate_pem: z.string() });
const AGENT_ENVIRONMENT = z.record(z.string(), z.string());

/** Registers the site's hosts as an operator would, starts the agent of each, and waits until all are in service. */
async function main(): Promise<void> {
  const settings = siteSettings(process.env);
  const level = LOG_LEVELS.find((known) => known === settings.GPUAAS_LOG_LEVEL) ?? 'warn';
  const log = createLogger({ program: 'simulated-site', level });
  const operator = new SiteOperator({
    apiUrl: settings.GPUAAS_API_URL,
    username: settings.GPUAAS_OPERATOR_USERNAME,
    password: async () =>
      settings.GPUAAS_OPERATOR_PASSWORD ?? (await passwordIn(settings.GPUAAS_OPERATOR_PASSWORD_FILE)),
  });

  const hosts: SimulatedHost[] = [];
  let stopping = false;
  const stop = async () => {
    if (stopping) return;
    stopping = true;
    await Promise.all(hosts.map((host) => host.stop()));
    process.exit(0);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  // The program that started the site is gone: nobody would ever stop it.
  process.on('disconnect', stop);

  const known = new Map((await operator.listNodes()).map((node) => [node.host, node.id]));
  const wanted = Array.from({ length: settings.GPUAAS_SIMULATED_NODES }, (_, index) => hostName(index));
  const started: string[] = [];
  for (let first = 0; first < wanted.length; first += STARTED_AT_ONCE) {
    await Promise.all(
      wanted.slice(first, first + STARTED_AT_ONCE).map(async (hostname) => {
        const nodeId = known.get(hostname) ?? (await registered(hostname));
        const environment = await hostEnvironment(hostname, nodeId).catch((error: unknown) => {
          // An operator has taken it out of service for good; the rest of the site starts without it.
          if (!(error instanceof ApiError)) throw error;
          log.warn({ host: hostname, code: error.code, err: error }, 'a host gets no certificate and stays off');
          return null;
        });
        if (environment === null || stopping) return;
        const host = new SimulatedHost({ hostname, environment });
        hosts.push(host);
        started.push(nodeId);
        host.start();
      }),
    );
  }
  await untilInService(started);
  log.info({ hosts: started.length }, 'the simulated site is in service');
  process.send?.({ ready: { hosts: started.length } });

  async function registered(hostname: string): Promise<string> {
    const made = await operator.registerNode({
      host: hostname,
      hostname,
      sku: settings.GPUAAS_SIMULATED_SKU,
      gpus: GPUS_PER_HOST,
      region: settings.GPUAAS_SIMULATED_REGION,
    });
    const nodeId = made ?? (await operator.listNodes()).find((node) => node.host === hostname)?.id;
    if (nodeId === undefined) throw new Error(`${hostname} is taken, yet no list shows it`);
    return nodeId;
  }

  /** What the host's agent is told at its start; a host without a certificate gets a token to enrol with. */
  async function hostEnvironment(hostname: string, nodeId: string): Promise<Record<string, string>> {
    const directory = join(settings.GPUAAS_SITE_DIR, hostname);
    const state = join(directory, 'state');
    const apiBundle = join(directory, 'api-ca.pem');
    const nodeBundle = join(directory, 'node-ca.pem');
    const environmentFile = join(directory, 'agent.json');
    if (existsSync(environmentFile) && existsSync(join(state, 'identity.json'))) {
      const kept = AGENT_ENVIRONMENT.parse(JSON.parse(await readFile(environmentFile, 'utf8')));
      // The platform may listen elsewhere than at the last start.
      const known: Record<string, string> = { ...kept, GPUAAS_API_URL: settings.GPUAAS_NODE_API_URL };
      if (known.GPUAAS_NODE_ID === nodeId) {
        if (await hasLivingCertificate(state)) return known;
        return keep({ ...known, GPUAAS_ENROLLMENT_TOKEN: await operator.reissueEnrollment(nodeId) });
      }
      // The node that this host was is gone, and it comes back as another one.
      await rm(directory, { recursive: true });
    }

    await mkdir(state, { recursive: true, mode: 0o700 });
    const issued = await operator.issueEnrollment(nodeId);
    const bundle = issued.bootstrap_bundle;
    await writeFile(apiBundle, bundle.ca_bundle_pem ?? '');
    await writeFile(nodeBundle, bundle.ca_bundle_pem ?? '');
    return keep({
      GPUAAS_API_URL: bundle.api_url,
      GPUAAS_NODE_ID: nodeId,
      GPUAAS_ENROLLMENT_TOKEN: issued.enrollment_token,
      GPUAAS_STATE_DIR: state,
      GPUAAS_CA_BUNDLE_PATH: apiBundle,
      GPUAAS_NODE_CERT_CA_BUNDLE_PATH: nodeBundle,
      GPUAAS_TASK_SIGNING_PUBKEYS: bundle.task_signing_pubkeys ?? '',
    });

    /** Kept for the next start: by then the agent has its certificate and the token is spent. */
    async function keep(environment: Record<string, string>): Promise<Record<string, string>> {
      await writeFile(environmentFile, JSON.stringify(environment), { mode: 0o600 });
      return environment;
    }
  }

  /** A host that an operator has cordoned, drained or retired stays as it is and is not waited for. */
  async function untilInService(nodeIds: readonly string[]): Promise<void> {
    const deadline = Date.now() + READY_TIMEOUT_MILLISECONDS;
    for (;;) {
      const nodes = await operator.listNodes();
      const waiting = nodes.filter(({ id, status }) => nodeIds.includes(id) && ON_THEIR_WAY.includes(status));
      if (waiting.length === 0 || stopping) return;
      if (Date.now() > deadline) {
        log.warn({ waiting: waiting.length }, 'some hosts are not in service yet');
        return;
      }
      await delay(READY_POLL_MILLISECONDS);
    }
  }
}

/** Whether the agent can go on as who it is; one that never finished enrolling, or stood still for too long, cannot. */
async function hasLivingCertificate(stateDirectory: string): Promise<boolean> {
  const file = join(stateDirectory, 'identity.json');
  if (!existsSync(file)) return false;
  const identity = AGENT_IDENTITY.parse(JSON.parse(await readFile(file, 'utf8')));
  return Date.parse(new X509Certificate(identity.certificate_pem).validTo) > Date.now() + SPARE_LIFE_MILLISECONDS;
}

async function passwordIn(file: string | undefined): Promise<string> {
  return file === undefined ? '' : (await readFile(file, 'utf8')).trim();
}

function hostName(index: number): string {
  return `sim-h200-${String(index + 1).padStart(3, '0')}`;
}

main().catch((error: unknown) => {
  const reason =
    error instanceof SettingsError
      ? error.message
      : error instanceof Error
        ? (error.stack ?? error.message)
        : String(error);
  process.stderr.write(`simulated site: ${reason}\n`);
  process.exit(1);
});
