import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { integerSetting, readSettings, SettingsError } from './settings.js';

const SHAPE = z.object({ PORT: integerSetting(0, 65_535).default(80), NAME: z.string().optional() });

describe('settings', () => {
  it('apply their default where the variable is absent or empty', () => {
    expect(readSettings(SHAPE, { PORT: '' })).toEqual({ PORT: 80 });
  });

  it('name every variable that cannot be used, and why', () => {
    expect(() => readSettings(SHAPE, { PORT: '99999' })).toThrow(/PORT: must lie in 0\.\.65535/);
    expect(() => readSettings(SHAPE, { PORT: '-1' })).toThrow(SettingsError);
    expect(() => readSettings(SHAPE, { PORT: '0x10' })).toThrow(/PORT: must be a whole number/);
  });
});
