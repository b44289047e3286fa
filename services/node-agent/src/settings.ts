import { hostname } from 'node:os';
import { isAbsolute } from 'node:path';
import { parseArgs } from 'node:util';
import { integerSetting, LOG_LEVELS, readSettings, SettingsError } from '@gpuaas/kernel';
import { parseSigningKeys } from '@gpuaas/node-protocol';
import { z } from 'zod';

const absolutePath = z.string().refine(isAbsolute, 'must be an absolute path');

const signingKeys = z.string({ error: 'must be set' }).superRefine((text, context) => {
  const parsed = parseSigningKeys(text);
  if (!parsed.ok) context.addIssue({ code: 'custom', message: parsed.problem });
});

const settings = z.object({
  GPUAAS_ENV: z.enum(['development', 'production']).default('development'),
  GPUAAS_API_URL: z.url({ protocol: /^https?$/, error: 'must be set to an http or https address' }),
  GPUAAS_NODE_ID: z.string({ error: 'must be set' }).regex(/^[A-Za-z0-9._-]{1,128}$/, 'must be the id of the node'),
  GPUAAS_ENROLLMENT_TOKEN: z.string().optional(),
  GPUAAS_ENROLLMENT_TOKEN_FILE: absolutePath.optional(),
  GPUAAS_STATE_DIR: absolutePath.default('/var/lib/gpuaas/node-agent'),
  GPUAAS_CA_BUNDLE_PATH: absolutePath.optional(),
  GPUAAS_NODE_CERT_CA_BUNDLE_PATH: absolutePath.optional(),
  GPUAAS_TASK_SIGNING_PUBKEYS: signingKeys,
  GPUAAS_AGENT_HOST: z.enum(['linux', 'simulated']).default('linux'),
  GPUAAS_SSH_HOST: z.string().max(253).default(hostname()),
  GPUAAS_SSH_PORT: integerSetting(1, 65_535).default(22),
  GPUAAS_HOME_ROOT: absolutePath.default('/home'),
  GPUAAS_RUNTIME_DIR: absolutePath.default('/etc/gpuaas/runtime'),
  GPUAAS_REBOOT_COMMAND: z.string().default('systemctl reboot'),
  GPUAAS_SHUTDOWN_GRACE_SECONDS: integerSetting(0, 3600).default(30),
  GPUAAS_SIMULATED_FAULTS_FILE: absolutePath.optional(),
  GPUAAS_SIMULATED_GPU_COUNT: integerSetting(0, 15).optional(),
  GPUAAS_SIMULATED_GPU_MODEL: z
    .string()
    .regex(/^[A-Za-z0-9 ._-]{1,64}$/, 'must be a model name')
    .optional(),
  GPUAAS_LOG_LEVEL: z.enum(LOG_LEVELS).default('info'),
});
export type Settings = z.infer<typeof settings>;

/** Flags and the variables that they stand for; a flag wins. */
const FLAGS = {
  host: 'GPUAAS_AGENT_HOST',
  'api-url': 'GPUAAS_API_URL',
  'node-id': 'GPUAAS_NODE_ID',
  'state-dir': 'GPUAAS_STATE_DIR',
  'log-level': 'GPUAAS_LOG_LEVEL',
} as const;

export const USAGE = `usage: gpuaas-node-agent [--host linux|simulated] [--api-url URL] [--node-id ID] [--state-dir DIR] [--log-level LEVEL]
Everything else is set by environment variables; see docs/node-agent.md.`;

/**
 * The settings of the program from its arguments and environment.
 * Throws a SettingsError that names every setting that cannot be used.
 */
export function readAgentSettings(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Settings {
  const flags = parseFlags(args);
  const read = readSettings(settings, { ...environment, ...flags });
  const problems: string[] = [];
  if (read.GPUAAS_API_URL.startsWith('http:') && read.GPUAAS_ENV === 'production') {
    problems.push('GPUAAS_API_URL: must be https in production');
  }
  if (read.GPUAAS_ENROLLMENT_TOKEN !== undefined && read.GPUAAS_ENROLLMENT_TOKEN_FILE !== undefined) {
    problems.push('GPUAAS_ENROLLMENT_TOKEN_FILE: give the token or its file, not both');
  }
  if (problems.length > 0) throw new SettingsError(problems);
  return read;
}

function parseFlags(args: readonly string[]): Record<string, string> {
  const options = Object.fromEntries(Object.keys(FLAGS).map((name) => [name, { type: 'string' } as const]));
  try {
    const { values } = parseArgs({ args: [...args], options, allowPositionals: false });
    return Object.fromEntries(
      Object.entries(FLAGS).flatMap(([flag, variable]) => {
        const value = values[flag];
        return typeof value === 'string' ? [[variable, value]] : [];
      }),
    );
  } catch (cause) {
    throw new SettingsError([cause instanceof Error ? cause.message : String(cause)]);
  }
}
