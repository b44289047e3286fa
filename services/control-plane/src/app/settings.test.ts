import { SettingsError } from '@gpuaas/kernel';
import { describe, expect, it } from 'vitest';
import { controlPlaneSettings } from './settings.js';

const SAFE = {
  GPUAAS_ENV: 'production',
  DATABASE_URL: 'postgres://gpuaas@db/gpuaas',
  GPUAAS_MQTT_URL: 'mqtts://broker:8883',
  GPUAAS_MASTER_KEY: '0f'.repeat(32),
  GPUAAS_ADMIN_PASSWORD: 'correct horse battery staple',
  GPUAAS_PUBLIC_URL: 'https://gpu.example',
  GPUAAS_NODE_PUBLIC_URL: 'https://nodes.gpu.example',
};

function problemsOf(environment: Record<string, string>): readonly string[] {
  try {
    controlPlaneSettings(environment);
    return [];
  } catch (error) {
    if (error instanceof SettingsError) return error.problems;
    throw error;
  }
}

describe('settings of the control plane', () => {
  it('need nothing for a development site', () => {
    const settings = controlPlaneSettings({});
    expect(settings.api.port).toBe(8090);
    expect(settings.databaseUrl).toBeNull();
    expect([...settings.roles]).toEqual(['api', 'worker', 'power', 'infra']);
  });

  it('let a complete production site start', () => {
    expect(problemsOf(SAFE)).toEqual([]);
    expect(controlPlaneSettings(SAFE).nodes.authentication).toBe('mtls');
  });

  it.each([
    'DATABASE_URL',
    'GPUAAS_MQTT_URL',
    'GPUAAS_MASTER_KEY',
    'GPUAAS_ADMIN_PASSWORD',
    'GPUAAS_PUBLIC_URL',
    'GPUAAS_NODE_PUBLIC_URL',
  ])('refuse production without %s', (name) => {
    const { [name]: _left, ...rest } = SAFE as Record<string, string>;
    expect(problemsOf(rest)).toEqual([expect.stringContaining(`${name}:`)]);
  });

  it('refuse production over plain HTTP, with tokens for hosts, or with simulated hosts', () => {
    expect(problemsOf({ ...SAFE, GPUAAS_NODE_PUBLIC_URL: 'http://nodes' })).toEqual([
      expect.stringContaining('GPUAAS_NODE_PUBLIC_URL'),
    ]);
    expect(problemsOf({ ...SAFE, GPUAAS_NODE_AUTH_MODE: 'mtls_or_bearer' })).toEqual([
      expect.stringContaining('GPUAAS_NODE_AUTH_MODE'),
    ]);
    expect(problemsOf({ ...SAFE, GPUAAS_SIMULATED_NODES: '8' })).toEqual([
      expect.stringContaining('GPUAAS_SIMULATED_NODES'),
    ]);
  });

  it('refuse production over a broker without TLS', () => {
    expect(problemsOf({ ...SAFE, GPUAAS_MQTT_URL: 'mqtt://broker:1883' })).toEqual([
      expect.stringContaining('GPUAAS_MQTT_URL'),
    ]);
    expect(problemsOf({ ...SAFE, GPUAAS_MQTT_URL: 'wss://broker/mqtt' })).toEqual([]);
  });

  it.each(['everyone', '10.0.0.0/33', '10.0.0.256', '0.0.0.0/0', '::/0', '10.0.0.1, 0.0.0.0/0'])(
    'refuse to trust %s as a proxy',
    (value) => {
      expect(problemsOf({ GPUAAS_TRUSTED_PROXIES: value })).toEqual([
        expect.stringContaining('GPUAAS_TRUSTED_PROXIES'),
      ]);
    },
  );

  it('trust proxies by address, network or the name of a network', () => {
    const settings = controlPlaneSettings({ GPUAAS_TRUSTED_PROXIES: 'loopback, 10.0.0.0/8,2001:db8::1, fd00::/8' });
    expect(settings.trustedProxies).toEqual(['loopback', '10.0.0.0/8', '2001:db8::1', 'fd00::/8']);
  });

  it('send browsers back to no address but those that are listed', () => {
    expect(controlPlaneSettings({}).signInRedirectUris).toEqual([]);
    const uri = 'https://console.gpu.example/signed-in';
    expect(controlPlaneSettings({ GPUAAS_SIGN_IN_REDIRECT_URIS: uri }).signInRedirectUris).toEqual([uri]);
    for (const value of ['console', `${uri}?next=x`, `${uri}#x`, 'javascript:alert(1)']) {
      expect(problemsOf({ GPUAAS_SIGN_IN_REDIRECT_URIS: value })).toEqual([
        expect.stringContaining('GPUAAS_SIGN_IN_REDIRECT_URIS'),
      ]);
    }
  });

  it('name every bad value at once', () => {
    expect(problemsOf({ GPUAAS_PORT: 'x', GPUAAS_ROLES: 'api,cook', GPUAAS_ADMIN_PASSWORD: 'short' })).toHaveLength(3);
  });
});
