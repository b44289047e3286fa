import { connect, createServer, type Server, type Socket } from 'node:net';

export interface Gateway {
  readonly port: number;
  /** From here on nothing that the far side sends comes through; what is sent to it does. */
  swallowAnswers(): void;
  letThrough(): void;
  close(): Promise<void>;
}

/**
 * One address before several control planes, as a load balancer is: each connection goes to the next one that accepts
 * it, and TLS passes through untouched. A connection that breaks on one side breaks on the other.
 */
export async function openGateway(port: number, targets: readonly number[]): Promise<Gateway> {
  const open = new Set<Socket>();
  let turn = 0;
  let swallows = false;

  const forward = (client: Socket, attempts: number): void => {
    const target = targets[turn % targets.length];
    turn += 1;
    if (attempts === 0 || target === undefined || client.destroyed) {
      client.destroy();
      return;
    }
    const far = connect({ host: '127.0.0.1', port: target });
    open.add(far);
    let connected = false;
    far.once('connect', () => {
      connected = true;
      client.pipe(far);
      far.on('data', (chunk) => {
        if (!swallows && !client.write(chunk)) far.pause();
      });
      client.on('drain', () => far.resume());
    });
    far.on('error', () => undefined);
    far.once('close', () => {
      open.delete(far);
      if (connected) client.destroy();
      else forward(client, attempts - 1);
    });
    client.once('close', () => far.destroy());
  };

  const server: Server = createServer((client) => {
    open.add(client);
    client.on('error', () => undefined);
    client.once('close', () => open.delete(client));
    forward(client, targets.length);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    port,
    swallowAnswers: () => {
      swallows = true;
    },
    letThrough: () => {
      swallows = false;
    },
    close: async () => {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
