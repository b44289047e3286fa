import { connect } from 'node:net';

const DIAL_TIMEOUT_MILLISECONDS = 3_000;

/** Whether something accepts TCP connections at a host's port within three seconds; sends nothing and never throws. */
export function dialHost(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: DIAL_TIMEOUT_MILLISECONDS });
    const answer = (reachable: boolean) => {
      socket.destroy();
      resolve(reachable);
    };
    socket.once('connect', () => answer(true));
    socket.once('timeout', () => answer(false));
    socket.once('error', () => answer(false));
  });
}
