import { createServer } from 'node:http';
import { describe, expect, it } from 'vitest';
import { createGuardedFetch, ForbiddenTarget, isForbiddenAddress } from './guarded-fetch.js';

const production = { allowsPlainHttp: false };
const development = { allowsPlainHttp: true };

describe('addresses that may be asked', () => {
  it.each(['169.254.169.254', '::ffff:169.254.169.254', 'fe80::1', 'fd00:ec2::254', '0.0.0.0', '::', '224.0.0.1', 'x'])(
    'never include %s',
    (address) => {
      expect(isForbiddenAddress(address, development)).toBe(true);
    },
  );

  it('include this machine in development alone', () => {
    for (const address of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) {
      expect(isForbiddenAddress(address, development)).toBe(false);
      expect(isForbiddenAddress(address, production)).toBe(true);
    }
  });

  it('include public and private networks', () => {
    expect(isForbiddenAddress('93.184.216.34', production)).toBe(false);
    expect(isForbiddenAddress('10.1.2.3', production)).toBe(false);
    expect(isForbiddenAddress('2606:4700::1', production)).toBe(false);
  });
});

describe('the guarded fetch', () => {
  const get = { method: 'GET', headers: {} };

  it('refuses plain HTTP and this machine outside development, by number and by name', async () => {
    const guarded = createGuardedFetch(production);
    await expect(guarded('http://idp.acme.com/', get)).rejects.toBeInstanceOf(ForbiddenTarget);
    await expect(guarded('https://127.0.0.1/', get)).rejects.toBeInstanceOf(ForbiddenTarget);
    await expect(guarded('https://[::1]/', get)).rejects.toBeInstanceOf(ForbiddenTarget);
    await expect(guarded('https://localhost/', get)).rejects.toBeInstanceOf(ForbiddenTarget);
    await expect(createGuardedFetch(development)('http://169.254.169.254/latest', get)).rejects.toBeInstanceOf(
      ForbiddenTarget,
    );
  });

  it('follows no redirect and takes no endless answer', async () => {
    const server = createServer((request, response) => {
      if (request.url === '/away') {
        response.writeHead(302, { location: 'http://169.254.169.254/' }).end();
      } else {
        response.writeHead(200);
        response.write(Buffer.alloc(2_000_000));
        response.end();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const guarded = createGuardedFetch(development);
    try {
      expect((await guarded(`http://127.0.0.1:${address.port}/away`, get)).status).toBe(302);
      await expect(guarded(`http://127.0.0.1:${address.port}/endless`, get)).rejects.toThrow('too much');
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  });
});
