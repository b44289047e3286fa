import { afterEach, describe, expect, it, vi } from 'vitest';
import { findProgram, requirePrograms } from './prerequisites.js';

const ABSENT = 'gpuaas-no-such-program';

describe('what a suite needs of the machine', () => {
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.restoreAllMocks();
  });

  it('is found on the path and beside it', () => {
    expect(findProgram('sh')).toMatch(/\/sh$/);
    vi.stubEnv('PATH', '');
    expect(findProgram('useradd') ?? '/usr/sbin/useradd').toBe('/usr/sbin/useradd');
    expect(findProgram(ABSENT)).toBeNull();
  });

  it('is said aloud where it is missing', () => {
    vi.stubEnv('GPUAAS_TESTS_MAY_SKIP', '');
    const warned = vi.spyOn(console, 'warn').mockReturnValue();
    expect(requirePrograms(['sh', ABSENT], { suite: 'a suite' })).toBe(false);
    expect(warned).toHaveBeenCalledWith(`SKIPPED a suite: this machine lacks ${ABSENT}`);
    expect(requirePrograms(['sh'], { suite: 'a suite' })).toBe(true);
  });

  it('fails the suite where nothing may be skipped', () => {
    vi.stubEnv('GPUAAS_TESTS_MAY_SKIP', 'no');
    expect(() => requirePrograms([ABSENT], { suite: 'a suite' })).toThrow(`a suite: this machine lacks ${ABSENT}`);
    vi.spyOn(process, 'getuid').mockReturnValue(1000);
    expect(() => requirePrograms(['sh'], { suite: 'a suite', root: true })).toThrow('lacks root');
  });
});
