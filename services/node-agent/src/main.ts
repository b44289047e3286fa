#!/usr/bin/env node
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createLogger, errorChain, SettingsError } from '@gpuaas/kernel';
import { z } from 'zod';
import type { BuildInfo } from './agent/build-info.js';
import { type AgentExit, AgentExitError, EXIT_CODES } from './agent/exit.js';
import { createNodeAgent } from './agent/node-agent.js';
import type { HostPort } from './host/host-port.js';
import { createLinuxHost } from './host/linux/linux-host.js';
import { createSimulatedHost, H200_SHAPE } from './host/simulated/simulated-host.js';
import { readAgentSettings, type Settings, USAGE } from './settings.js';
import { openFileStore, StateDirectoryError } from './store/file-store.js';
import type { StateStore } from './store/state-store.js';

process.exitCode = await main();

async function main(): Promise<number> {
  if (process.argv.includes('--help')) {
    console.log(USAGE);
    return 0;
  }
  let settings: Settings;
  try {
    settings = readAgentSettings(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    console.error(`${error.message}\n\n${USAGE}`);
    return EXIT_CODES.configuration;
  }

  const log = createLogger({ program: 'node-agent', level: settings.GPUAAS_LOG_LEVEL }).child({
    node_id: settings.GPUAAS_NODE_ID,
  });
  const exit = await run(settings, log).catch((error: unknown): AgentExit => {
    if (error instanceof AgentExitError) return error.exit;
    const reason = error instanceof StateDirectoryError ? 'state_unusable' : 'configuration';
    return { reason, message: errorChain(error) };
  });
  const code = EXIT_CODES[exit.reason];
  log[code === 0 ? 'info' : 'fatal']({ reason: exit.reason }, exit.message);
  return code;
}

async function run(settings: Settings, log: ReturnType<typeof createLogger>): Promise<AgentExit> {
  if (settings.GPUAAS_AGENT_HOST === 'linux' && process.getuid?.() !== 0) {
    throw new AgentExitError({ reason: 'configuration', message: 'the linux host needs root: it makes accounts' });
  }
  const texts = {
    enrollmentToken: settings.GPUAAS_ENROLLMENT_TOKEN ?? (await tokenFrom(settings.GPUAAS_ENROLLMENT_TOKEN_FILE)),
    caPem: await fileText(settings.GPUAAS_CA_BUNDLE_PATH),
    nodeCaPem: await fileText(settings.GPUAAS_NODE_CERT_CA_BUNDLE_PATH),
  };
  const store = await openFileStore(settings.GPUAAS_STATE_DIR);
  const agent = createNodeAgent(
    {
      ...texts,
      nodeId: settings.GPUAAS_NODE_ID,
      apiUrl: settings.GPUAAS_API_URL,
      signingKeys: settings.GPUAAS_TASK_SIGNING_PUBKEYS,
      sshEndpoint: { host: settings.GPUAAS_SSH_HOST, port: settings.GPUAAS_SSH_PORT },
      build: await buildInfo(),
      shutdownGraceMilliseconds: settings.GPUAAS_SHUTDOWN_GRACE_SECONDS * 1000,
    },
    { host: hostOf(settings, store), store, log },
  );
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void agent.stop());
  await agent.start();
  log.info({ host: settings.GPUAAS_AGENT_HOST }, 'the agent is running');
  return agent.ended;
}

function hostOf(settings: Settings, store: StateStore): HostPort {
  if (settings.GPUAAS_AGENT_HOST === 'simulated') {
    const faults = settings.GPUAAS_SIMULATED_FAULTS_FILE;
    return createSimulatedHost({
      nodeId: settings.GPUAAS_NODE_ID,
      store,
      shape: {
        ...H200_SHAPE,
        gpuCount: settings.GPUAAS_SIMULATED_GPU_COUNT ?? H200_SHAPE.gpuCount,
        gpuModel: settings.GPUAAS_SIMULATED_GPU_MODEL ?? H200_SHAPE.gpuModel,
      },
      ...(faults === undefined ? {} : { readFaultFile: () => readFile(faults, 'utf8').catch(() => null) }),
    });
  }
  const [program = 'systemctl', ...args] = settings.GPUAAS_REBOOT_COMMAND.split(/\s+/).filter((word) => word !== '');
  return createLinuxHost({
    store,
    homeRoot: settings.GPUAAS_HOME_ROOT,
    runtimeDirectory: settings.GPUAAS_RUNTIME_DIR,
    sshPort: settings.GPUAAS_SSH_PORT,
    stateDirectory: settings.GPUAAS_STATE_DIR,
    rebootCommand: [program, ...args],
  });
}

/** A token that was used may be deleted: without its file there is no token, which matters only to enrol. */
async function tokenFrom(path: string | undefined): Promise<string | null> {
  return path !== undefined && existsSync(path) ? fileText(path) : null;
}

async function fileText(path: string | undefined): Promise<string | null> {
  if (path === undefined) return null;
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new AgentExitError({ reason: 'configuration', message: `${path} cannot be read` }, { cause });
  });
  return text.trim();
}

/** Written beside the program when it is packed; a build from a working tree does not know its commit. */
async function buildInfo(): Promise<BuildInfo> {
  const file = z.object({ version: z.string(), commit: z.string().nullable(), builtAt: z.string().nullable() });
  const text = await readFile(new URL('./build-info.json', import.meta.url), 'utf8').catch(() => null);
  return text === null ? { version: '0.1.0', commit: null, builtAt: null } : file.parse(JSON.parse(text));
}
