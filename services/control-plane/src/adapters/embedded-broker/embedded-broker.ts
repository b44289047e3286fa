import { createServer, type Server, type Socket } from 'node:net';
import type { Logger } from '@gpuaas/kernel';
import { Aedes } from 'aedes';

export interface EmbeddedBroker {
  readonly url: string;
  close(): Promise<void>;
}

/**
 * An MQTT 3.1.1 broker inside this process, on loopback alone: for development and small sites.
 * Nagle's algorithm is off: with it a signed round trip takes tens of milliseconds.
 */
export async function startEmbeddedBroker(options: { port: number; log: Logger }): Promise<EmbeddedBroker> {
  const broker = await Aedes.createBroker({ id: 'gpuaas-embedded' });
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    socket.setNoDelay(true);
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    broker.handle(socket);
  });
  broker.on('clientError', (client, error) =>
    options.log.warn({ client: client.id, err: error }, 'MQTT client failed'),
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the broker has no TCP address');
  return {
    url: `mqtt://127.0.0.1:${address.port}`,
    async close() {
      await new Promise<void>((resolve) => broker.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
