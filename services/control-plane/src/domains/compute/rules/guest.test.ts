import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { areWiped, decideGuestUp } from './guest.js';

const up = { privateIp: '10.77.0.10', domainState: 'running', sshReachable: true };

describe('a guest', () => {
  it('serves once it runs and someone can log in', () => {
    expect(decideGuestUp(up, [])).toEqual({ ok: true, host: '10.77.0.10' });
    expect(decideGuestUp({ ...up, sshReachable: false }, [])).toEqual({ ok: false, reason: 'readiness' });
    expect(decideGuestUp({ ...up, domainState: 'paused' }, [])).toEqual({ ok: false, reason: 'readiness' });
  });

  it('is where operators put it, else at a private address, and nowhere else', () => {
    expect(decideGuestUp(up, ['10.9.0.1'])).toEqual({ ok: false, reason: 'address_unusable' });
    expect(decideGuestUp({ ...up, privateIp: null }, ['10.9.0.1'])).toEqual({ ok: true, host: '10.9.0.1' });
    expect(decideGuestUp({ ...up, privateIp: '10.9.0.2' }, ['10.9.0.1', '10.9.0.2'])).toMatchObject({ ok: true });
    expect(decideGuestUp({ ...up, privateIp: null }, [])).toEqual({ ok: false, reason: 'address_unusable' });
    for (const privateIp of ['8.8.8.8', '169.254.169.254', '127.0.0.1', 'evil.example', '::1', '']) {
      expect(decideGuestUp({ ...up, privateIp }, [])).toEqual({ ok: false, reason: 'address_unusable' });
    }
    fc.assert(
      fc.property(fc.ipV4(), (privateIp) => {
        const proof = decideGuestUp({ ...up, privateIp }, []);
        expect(proof.ok).toBe(
          /^(10|172\.(1[6-9]|2\d|3[01])|192\.168|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./.test(privateIp),
        );
      }),
    );
  });

  it('has left its disks only when each of them was wiped', () => {
    const slots = [{ nvme_wwn: 'eui.1', nvme_device: '/dev/a' }, { nvme_device: '/dev/b' }, {}];
    expect(areWiped(slots, ['eui.1', '/dev/b'])).toBe(true);
    expect(areWiped(slots, ['/dev/a', '/dev/b'])).toBe(false);
    expect(areWiped(slots, ['eui.1'])).toBe(false);
    expect(areWiped([{}], [])).toBe(true);
  });
});
