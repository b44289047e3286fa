import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { HttpConnection } from './http-connection.js';

let server: Server | null = null;

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

async function serve(listener: Parameters<typeof createServer>[1]): Promise<string> {
  const started = createServer(listener ?? (() => undefined));
  server = started;
  await new Promise<void>((resolve) => started.listen(0, '127.0.0.1', resolve));
  const { port } = started.address() as AddressInfo;
  return `http://127.0.0.1:${port}`;
}

it('reads answers with and without a body, one after the other, on one connection', async () => {
  const ports = new Set<number | undefined>();
  const url = await serve((request, response) => {
    ports.add(request.socket.remotePort);
    if (request.method === 'GET') {
      response.writeHead(204).end();
      return;
    }
    let text = '';
    request.on('data', (data: Buffer) => {
      text += data.toString();
    });
    request.on('end', () => {
      const body = `${request.headers.authorization} ${text} ${'ü'.repeat(50_000)}`;
      response.writeHead(201, { 'content-length': Buffer.byteLength(body) }).end(body);
    });
  });
  const connection = new HttpConnection(url);
  expect(await connection.request('GET', '/', {})).toEqual({ status: 204, body: '' });
  const answer = await connection.request('POST', '/', { authorization: 'Bearer x' }, '{"a":"ö"}');
  expect(answer.status).toBe(201);
  expect(answer.body).toBe(`Bearer x {"a":"ö"} ${'ü'.repeat(50_000)}`);
  expect(await connection.request('GET', '/', {})).toEqual({ status: 204, body: '' });
  expect(ports.size).toBe(1);
  connection.close();
});

it('rejects what waits when the connection breaks, and connects again for the next', async () => {
  let calls = 0;
  const url = await serve((request, response) => {
    calls += 1;
    if (calls === 1) request.socket.destroy();
    else response.writeHead(204).end();
  });
  const connection = new HttpConnection(url);
  await expect(connection.request('GET', '/', {})).rejects.toThrow();
  expect((await connection.request('GET', '/', {})).status).toBe(204);
  connection.close();
});
