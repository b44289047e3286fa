import { isIP } from 'node:net';
import { isAbsolute, resolve } from 'node:path';
import { integerSetting, LOG_LEVELS, readSettings, SettingsError } from '@gpuaas/kernel';
import { z } from 'zod';

export const ROLES = ['api', 'worker', 'power', 'infra'] as const;
export type Role = (typeof ROLES)[number];

const port = integerSetting(0, 65_535);
const url = z.url({ error: 'must be a URL' });
const commaSeparated = z.string().transform((text) =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== ''),
);

const NETWORK_NAMES = new Set(['loopback', 'linklocal', 'uniquelocal']);

/** A network of everyone would let every caller choose the address that it is known by. */
function isProxy(entry: string): boolean {
  if (NETWORK_NAMES.has(entry)) return true;
  const [address = '', prefix, ...rest] = entry.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  if (prefix === undefined) return true;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) >= 1 && Number(prefix) <= (family === 4 ? 32 : 128);
}

/** Exchanged codes are bound to the address without its query, so that one with a query could never come back. */
function isRedirectUri(entry: string): boolean {
  return URL.canParse(entry) && /^https?:$/.test(new URL(entry).protocol) && !/[?#]/.test(entry);
}

const SCHEMA = z.object({
  GPUAAS_ENV: z.enum(['development', 'test', 'production']).default('development'),
  GPUAAS_HOST: z.string().default('127.0.0.1'),
  GPUAAS_PORT: port.default(8090),
  GPUAAS_NODE_HOST: z.string().optional(),
  GPUAAS_NODE_PORT: port.default(8091),
  GPUAAS_METRICS_HOST: z.string().default('127.0.0.1'),
  GPUAAS_METRICS_PORT: port.default(8092),
  GPUAAS_MQTT_PORT: port.default(8093),
  GPUAAS_MQTT_URL: url.optional(),
  GPUAAS_PUBLIC_URL: url.optional(),
  GPUAAS_NODE_PUBLIC_URL: url.optional(),
  GPUAAS_DATA_DIR: z.string().default('.data/gpuaas'),
  GPUAAS_ADMIN_USERNAME: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._@-]{1,62}$/, 'must be 2 to 63 of a-z, 0-9, and . _ @ -')
    .default('operator'),
  GPUAAS_ADMIN_PASSWORD: z.string().min(12, 'must have at least 12 characters').max(256).optional(),
  GPUAAS_SIMULATED_NODES: integerSetting(0, 1000).optional(),
  GPUAAS_ROLES: commaSeparated.pipe(z.array(z.enum(ROLES)).min(1)).default([...ROLES]),
  GPUAAS_LOG_LEVEL: z.enum(LOG_LEVELS).default('info'),
  GPUAAS_NODE_AUTH_MODE: z.enum(['mtls', 'mtls_or_bearer']).optional(),
  GPUAAS_MASTER_KEY: z
    .string()
    .regex(/^[0-9a-f]{64}([\s,]+[0-9a-f]{64})*$/i, 'must be 64 hex digits, or several such keys, the sealing one first')
    .optional(),
  GPUAAS_TRUSTED_PROXIES: commaSeparated
    .refine(
      (entries) => entries.every(isProxy),
      'must be addresses, networks narrower than all, loopback, linklocal or uniquelocal',
    )
    .default([]),
  GPUAAS_SIGN_IN_REDIRECT_URIS: commaSeparated
    .refine((entries) => entries.every(isRedirectUri), 'must be URLs without a query or a fragment')
    .default([]),
  GPUAAS_DATABASE_POOL: integerSetting(2, 500).default(20),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
  DATABASE_REPLICA_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
});

/** Every setting of the control plane, checked, with its default applied. */
export interface Settings {
  readonly environment: 'development' | 'test' | 'production';
  readonly roles: ReadonlySet<Role>;
  readonly api: { readonly host: string; readonly port: number; readonly publicUrl: string | null };
  /** the TLS listener where hosts show their certificates */
  readonly nodes: {
    readonly host: string;
    readonly port: number;
    readonly publicUrl: string | null;
    readonly authentication: 'mtls' | 'mtls_or_bearer';
  };
  readonly metrics: { readonly host: string; readonly port: number };
  readonly mqtt: { readonly url: string | null; readonly port: number };
  readonly dataDirectory: string;
  readonly administrator: { readonly username: string; readonly password: string | null };
  /** null: the embedded server, in the data directory */
  readonly databaseUrl: string | null;
  readonly replicaUrl: string | null;
  readonly databasePoolSize: number;
  /** keys in hex, the sealing one first; null: generated once and kept in the data directory, readable by its owner alone */
  readonly masterKeys: string | null;
  readonly trustedProxies: readonly string[];
  /** where a browser may be sent back to after a sign-in at an identity provider */
  readonly signInRedirectUris: readonly string[];
  readonly logLevel: (typeof LOG_LEVELS)[number];
}

/**
 * Reads and checks the settings. Throws a SettingsError with one line a problem.
 * Production refuses to start on anything that only a development site may stand on.
 */
export function controlPlaneSettings(environment: Readonly<Record<string, string | undefined>>): Settings {
  const values = readSettings(SCHEMA, environment);
  const production = values.GPUAAS_ENV === 'production';
  const authentication = values.GPUAAS_NODE_AUTH_MODE ?? (production ? 'mtls' : 'mtls_or_bearer');
  if (production) refuseUnsafe(values, authentication);
  return {
    environment: values.GPUAAS_ENV,
    roles: new Set(values.GPUAAS_ROLES),
    api: { host: values.GPUAAS_HOST, port: values.GPUAAS_PORT, publicUrl: values.GPUAAS_PUBLIC_URL ?? null },
    nodes: {
      host: values.GPUAAS_NODE_HOST ?? values.GPUAAS_HOST,
      port: values.GPUAAS_NODE_PORT,
      publicUrl: values.GPUAAS_NODE_PUBLIC_URL ?? null,
      authentication,
    },
    metrics: { host: values.GPUAAS_METRICS_HOST, port: values.GPUAAS_METRICS_PORT },
    mqtt: { url: values.GPUAAS_MQTT_URL ?? null, port: values.GPUAAS_MQTT_PORT },
    dataDirectory: isAbsolute(values.GPUAAS_DATA_DIR) ? values.GPUAAS_DATA_DIR : resolve(values.GPUAAS_DATA_DIR),
    administrator: { username: values.GPUAAS_ADMIN_USERNAME, password: values.GPUAAS_ADMIN_PASSWORD ?? null },
    databaseUrl: values.DATABASE_URL ?? null,
    replicaUrl: values.DATABASE_REPLICA_URL ?? null,
    databasePoolSize: values.GPUAAS_DATABASE_POOL,
    masterKeys: values.GPUAAS_MASTER_KEY ?? null,
    trustedProxies: values.GPUAAS_TRUSTED_PROXIES,
    signInRedirectUris: values.GPUAAS_SIGN_IN_REDIRECT_URIS,
    logLevel: values.GPUAAS_LOG_LEVEL,
  };
}

function refuseUnsafe(values: z.infer<typeof SCHEMA>, authentication: 'mtls' | 'mtls_or_bearer'): void {
  const secure = (value: string | undefined, scheme: string) => value?.startsWith(scheme) ?? false;
  const problems = [
    !values.DATABASE_URL && 'DATABASE_URL: is needed; the embedded PostgreSQL must not serve production',
    !values.GPUAAS_MQTT_URL && 'GPUAAS_MQTT_URL: is needed; the embedded broker must not serve production',
    values.GPUAAS_MQTT_URL &&
      !/^(mqtts|wss):\/\//.test(values.GPUAAS_MQTT_URL) &&
      'GPUAAS_MQTT_URL: must be mqtts or wss; grid events and credentials must not travel in the clear',
    !values.GPUAAS_MASTER_KEY &&
      'GPUAAS_MASTER_KEY: is needed; a generated key in the data directory must not protect production',
    !values.GPUAAS_ADMIN_PASSWORD && 'GPUAAS_ADMIN_PASSWORD: is needed; a generated password must not open production',
    !secure(values.GPUAAS_PUBLIC_URL, 'https://') && 'GPUAAS_PUBLIC_URL: is needed and must be https',
    !secure(values.GPUAAS_NODE_PUBLIC_URL, 'https://') && 'GPUAAS_NODE_PUBLIC_URL: is needed and must be https',
    authentication !== 'mtls' &&
      'GPUAAS_NODE_AUTH_MODE: must be mtls; tokens over plain HTTP must not identify production hosts',
    (values.GPUAAS_SIMULATED_NODES ?? 0) > 0 && 'GPUAAS_SIMULATED_NODES: must be 0; simulated hosts must not be sold',
  ].filter((line) => typeof line === 'string');
  if (problems.length > 0) throw new SettingsError(problems);
}
