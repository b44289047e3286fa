import { integerSetting, readSettings, SettingsError } from '@gpuaas/kernel';
import { z } from 'zod';

const SCHEMA = z.object({
  GPUAAS_API_URL: z.url({ error: 'must be a URL' }),
  /** of the listener for hosts */
  GPUAAS_NODE_API_URL: z.url({ error: 'must be a URL' }),
  GPUAAS_OPERATOR_USERNAME: z.string(),
  GPUAAS_OPERATOR_PASSWORD_FILE: z.string().optional(),
  /** where no file holds it, because whoever started the platform chose it */
  GPUAAS_OPERATOR_PASSWORD: z.string().optional(),
  GPUAAS_SITE_DIR: z.string(),
  GPUAAS_SIMULATED_NODES: integerSetting(1, 1000).default(8),
  GPUAAS_SIMULATED_SKU: z.string().default('h200-sxm-baremetal-8g'),
  GPUAAS_SIMULATED_REGION: z.string().default('region-sim-1'),
  GPUAAS_LOG_LEVEL: z.string().default('warn'),
});

export type SiteSettings = z.infer<typeof SCHEMA>;

/** Reads the settings of a simulated site; throws a SettingsError that names every bad one. */
export function siteSettings(environment: Readonly<Record<string, string | undefined>>): SiteSettings {
  const settings = readSettings(SCHEMA, environment);
  if (settings.GPUAAS_OPERATOR_PASSWORD === undefined && settings.GPUAAS_OPERATOR_PASSWORD_FILE === undefined) {
    throw new SettingsError([
      'GPUAAS_OPERATOR_PASSWORD_FILE: must name a file, where GPUAAS_OPERATOR_PASSWORD is not set',
    ]);
  }
  return settings;
}
