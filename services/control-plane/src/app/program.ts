import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createLogger, SettingsError, systemClock } from '@gpuaas/kernel';
import { startEmbeddedBroker } from '../adapters/embedded-broker/embedded-broker.js';
import { startEmbeddedPostgres } from '../adapters/embedded-postgres/index.js';
import { custodyKeysFromFile, parseCustodyKeys } from '../spine/custody.js';
import { migrate } from '../spine/migrations.js';
import { migrateWorkflowEngine } from '../spine/workflow-engine.js';
import { ensureAdministrator } from './administrator.js';
import { startControlPlane } from './control-plane.js';
import { ensureSecretFile } from './secret-files.js';
import { controlPlaneSettings, type Settings } from './settings.js';
import { startTelemetry } from './telemetry.js';

/** Starts the roles that the settings name, with the embedded pieces that they leave to us, until a signal ends it. */
async function main(settings: Settings): Promise<void> {
  const log = createLogger({ program: 'control-plane', level: settings.logLevel });
  const undo: (() => Promise<unknown>)[] = [];
  let stopping: Promise<void> | null = null;
  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      for (const step of undo)
        await step().catch((error: unknown) => log.error({ err: error }, 'a part did not stop cleanly'));
    })();
    return stopping;
  };
  const stopAndExit = () => void stop().then(() => process.exit(0));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stopAndExit);
  // Started by another program that is gone now: nobody would ever stop us.
  process.on('disconnect', stopAndExit);

  try {
    await mkdir(settings.dataDirectory, { recursive: true, mode: 0o755 });
    const telemetry = startTelemetry(process.env);
    undo.unshift(() => telemetry.close());

    let databaseUrl = settings.databaseUrl;
    if (databaseUrl === null) {
      const server = await startEmbeddedPostgres({
        directory: join(settings.dataDirectory, 'postgres'),
        database: 'gpuaas',
      });
      undo.unshift(() => server.stop());
      databaseUrl = server.url;
    }
    await migrate(databaseUrl);
    await migrateWorkflowEngine(databaseUrl);

    if (settings.mqtt.url === null) {
      const broker = await startEmbeddedBroker({ port: settings.mqtt.port, log });
      undo.unshift(() => broker.close());
    }

    const controlPlane = await startControlPlane({
      environment: settings.environment,
      roles: settings.roles,
      databaseUrl,
      replicaUrl: settings.replicaUrl,
      databasePoolSize: settings.databasePoolSize,
      custodyKeys:
        settings.masterKeys === null
          ? await custodyKeysFromFile(join(settings.dataDirectory, 'master.key'))
          : parseCustodyKeys(settings.masterKeys),
      api: settings.api,
      nodes: settings.nodes,
      metrics: settings.metrics,
      trustedProxies: settings.trustedProxies,
      clock: systemClock,
      log,
      validatesResponses: settings.environment !== 'production',
      domains: { signInRedirectUris: settings.signInRedirectUris },
    });
    undo.unshift(() => controlPlane.close());

    const passwordFile = join(settings.dataDirectory, 'operator.password');
    const password =
      settings.administrator.password ??
      ensureSecretFile(settings.dataDirectory, 'operator.password', () => randomBytes(18).toString('base64url')).value;
    await ensureAdministrator(controlPlane, { username: settings.administrator.username, password });

    log.info({ api: controlPlane.apiUrl, nodes: controlPlane.nodeUrl, metrics: controlPlane.metricsUrl }, 'ready');
    process.send?.({
      ready: {
        apiUrl: controlPlane.apiUrl,
        nodeUrl: controlPlane.nodeUrl,
        metricsUrl: controlPlane.metricsUrl,
        username: settings.administrator.username,
        password,
        passwordFile: settings.administrator.password === null ? passwordFile : null,
      },
    });
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * The whole life of a control plane as a program: settings, start, signals, stop. A start that fails says why on standard
 * error and exits with 1.
 */
export async function runControlPlane(environment: Readonly<Record<string, string | undefined>>): Promise<void> {
  try {
    await main(controlPlaneSettings(environment));
  } catch (error) {
    const reason =
      error instanceof SettingsError
        ? error.message
        : error instanceof Error
          ? (error.stack ?? error.message)
          : String(error);
    process.stderr.write(`control plane: ${reason}\n`);
    process.exit(1);
  }
}
