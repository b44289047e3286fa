import { generateKeyPairSync } from 'node:crypto';
import { SettingsError } from '@gpuaas/kernel';
import { formatSigningKeys } from '@gpuaas/node-protocol';
import { describe, expect, it } from 'vitest';
import { readAgentSettings } from './settings.js';

const environment = {
  GPUAAS_API_URL: 'https://api.example',
  GPUAAS_NODE_ID: 'node-1',
  GPUAAS_TASK_SIGNING_PUBKEYS: formatSigningKeys([['k', generateKeyPairSync('ed25519').publicKey]]),
};

const problems = (args: string[], changes: Record<string, string | undefined>) => {
  try {
    readAgentSettings(args, { ...environment, ...changes });
    return [];
  } catch (error) {
    return error instanceof SettingsError ? error.problems : [String(error)];
  }
};

describe('settings', () => {
  it('have defaults for everything but address, node and keys', () => {
    expect(readAgentSettings([], environment)).toMatchObject({
      GPUAAS_STATE_DIR: '/var/lib/gpuaas/node-agent',
      GPUAAS_AGENT_HOST: 'linux',
      GPUAAS_SSH_PORT: 22,
    });
    expect(
      problems([], { GPUAAS_API_URL: undefined, GPUAAS_NODE_ID: '', GPUAAS_TASK_SIGNING_PUBKEYS: undefined }),
    ).toEqual([
      'GPUAAS_API_URL: must be set to an http or https address',
      'GPUAAS_NODE_ID: must be set',
      'GPUAAS_TASK_SIGNING_PUBKEYS: must be set',
    ]);
  });

  it('give way to flags', () => {
    expect(readAgentSettings(['--host', 'simulated', '--node-id=n2'], environment)).toMatchObject({
      GPUAAS_AGENT_HOST: 'simulated',
      GPUAAS_NODE_ID: 'n2',
    });
  });

  it.each([
    [{ GPUAAS_ENV: 'production', GPUAAS_API_URL: 'http://api' }, 'GPUAAS_API_URL: must be https in production'],
    [{ GPUAAS_API_URL: 'ftp://api' }, 'GPUAAS_API_URL: must be set to an http or https address'],
    [{ GPUAAS_TASK_SIGNING_PUBKEYS: 'k:AAAA' }, 'GPUAAS_TASK_SIGNING_PUBKEYS: key k is not 32 bytes in base64'],
    [{ GPUAAS_STATE_DIR: 'relative' }, 'GPUAAS_STATE_DIR: must be an absolute path'],
    [{ GPUAAS_SSH_PORT: '0' }, 'GPUAAS_SSH_PORT: must lie in 1..65535'],
    [
      { GPUAAS_ENROLLMENT_TOKEN: 'a', GPUAAS_ENROLLMENT_TOKEN_FILE: '/b' },
      'GPUAAS_ENROLLMENT_TOKEN_FILE: give the token or its file, not both',
    ],
  ])('refuse %j', (changes, problem) => expect(problems([], changes)).toContain(problem));

  it('refuse flags that do not exist', () => expect(problems(['--force'], {})[0]).toContain('--force'));
});
