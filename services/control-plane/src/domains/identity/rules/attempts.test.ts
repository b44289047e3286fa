import { describe, expect, it } from 'vitest';
import { usernameBucket } from './attempts.js';

describe('usernameBucket', () => {
  it('does not hold what was typed', () => {
    expect(usernameBucket('my secret passphrase')).toMatch(/^[0-9a-f]{64}$/);
  });
});
