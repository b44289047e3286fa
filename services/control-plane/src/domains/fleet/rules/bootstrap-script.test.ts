import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseBaseUrl, renderBootstrapScript, type ScriptInputs, shellQuote } from './bootstrap-script.js';

const inputs: ScriptInputs = {
  mode: 'manual',
  nodeId: '0193f2d0-0000-7000-8000-000000000001',
  apiUrl: 'https://nodes.example.net:8091',
  terminalApiUrl: 'https://terminal.example.net',
  caBundlePem: '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n',
  nodeCaBundlePem: '-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n',
  signingKeys: 'k1:AAAA',
  trustBundleVersion: 'trust-1',
  packageDigest: 'a'.repeat(64),
};

describe('quoting for a shell', () => {
  it('gives the shell back exactly what went in', () =>
    fc.assert(
      fc.property(fc.string({ maxLength: 60, unit: 'binary' }), (text) => {
        fc.pre(!text.includes('\0'));
        const heard = execFileSync('/bin/sh', ['-c', `printf '%s' ${shellQuote(text)}`], { encoding: 'utf8' });
        expect(heard).toBe(Buffer.from(text, 'utf8').toString('utf8'));
      }),
      { numRuns: 60 },
    ));
});

describe('addresses that go into scripts', () => {
  it('are an origin and a plain path', () => {
    expect(parseBaseUrl('https://api.example.net/')).toEqual({ ok: true, url: 'https://api.example.net' });
    expect(parseBaseUrl('http://10.0.0.1:8091/gpuaas')).toEqual({ ok: true, url: 'http://10.0.0.1:8091/gpuaas' });
    expect(parseBaseUrl('http://[fd00::1]:8091')).toEqual({ ok: true, url: 'http://[fd00::1]:8091' });
  });

  it.each([
    'ftp://example.net',
    'file:///etc/passwd',
    'https://user:secret@example.net',
    'https://example.net/?x=1',
    'https://example.net/#x',
    "https://example.net/';reboot;'",
    'https://example.net/$(reboot)',
    'https://example.net/`reboot`',
    'not a url',
  ])('%s is refused', (text) => {
    expect(parseBaseUrl(text).ok).toBe(false);
  });

  it('contain nothing that a shell would read, whatever is offered', () =>
    fc.assert(
      fc.property(fc.oneof(fc.webUrl({ withFragments: true, withQueryParameters: true }), fc.string()), (text) => {
        const parsed = parseBaseUrl(text);
        if (parsed.ok) expect(parsed.url).toMatch(/^[A-Za-z0-9:/._~[\]-]+$/);
      }),
    ));
});

describe('the first-boot script', () => {
  it('is the same for the same inputs and is sound shell', () => {
    const script = renderBootstrapScript(inputs, 'token');
    expect(renderBootstrapScript(inputs, 'token')).toBe(script);
    execFileSync('bash', ['-n'], { input: script });
  });

  it('checks the package before it unpacks it', () => {
    const script = renderBootstrapScript(inputs, 'token');
    expect(script).toContain('a'.repeat(64));
    expect(script.indexOf('sha256sum --check')).toBeLessThan(script.indexOf('tar --extract'));
  });

  it('carries the shell script through cloud-init unchanged', () => {
    const cloud = renderBootstrapScript({ ...inputs, mode: 'cloud_init' }, 'token');
    const content = /content: (\S+)/.exec(cloud)?.[1] ?? '';
    expect(cloud.startsWith('#cloud-config\n')).toBe(true);
    expect(Buffer.from(content, 'base64').toString('utf8')).toBe(renderBootstrapScript(inputs, 'token'));
  });
});
