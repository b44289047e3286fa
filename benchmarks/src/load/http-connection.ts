import { connect, type Socket } from 'node:net';

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

interface Waiting {
  resolve(answer: HttpAnswer): void;
  reject(error: Error): void;
}

/**
 * One keep-alive connection of plain HTTP/1.1, one request at a time: what ten thousand waiting clients in one process
 * can afford. Understands the answers of our own servers: a body of a stated length, or none.
 */
export class HttpConnection {
  readonly #host: string;
  readonly #port: number;
  #socket: Socket | null = null;
  #waiting: Waiting | null = null;
  #received: Buffer = Buffer.alloc(0);
  #closed = false;

  constructor(url: string) {
    const { hostname, port } = new URL(url);
    this.#host = hostname;
    this.#port = Number(port);
  }

  /** Sends a request and resolves with its answer; rejects where the connection breaks. */
  async request(
    method: 'GET' | 'POST',
    path: string,
    headers: Readonly<Record<string, string>>,
    body?: string,
  ): Promise<HttpAnswer> {
    if (this.#waiting !== null) throw new Error('one request at a time');
    const socket = this.#socket ?? (await this.#connect());
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    if (body !== undefined) {
      lines.push(`content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`);
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      socket.write(
        `${method} ${path} HTTP/1.1\r\nhost: ${this.#host}:${this.#port}\r\n${lines.join('')}\r\n${body ?? ''}`,
      );
    });
  }

  close(): void {
    this.#closed = true;
    this.#socket?.destroy();
    this.#fail(new Error('closed'));
  }

  #connect(): Promise<Socket> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(new Error('closed'));
        return;
      }
      const socket = connect({ host: this.#host, port: this.#port, noDelay: true });
      socket.once('connect', () => {
        this.#socket = socket;
        resolve(socket);
      });
      socket.on('data', (data) => this.#receive(data));
      const broken = (error?: Error): void => {
        if (this.#socket === socket) this.#socket = null;
        this.#received = Buffer.alloc(0);
        const reason = error ?? new Error('the server closed the connection');
        reject(reason);
        this.#fail(reason);
      };
      socket.once('error', broken);
      socket.once('close', () => broken());
    });
  }

  #fail(error: Error): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.reject(error);
  }

  #receive(data: Buffer): void {
    this.#received = this.#received.length === 0 ? data : Buffer.concat([this.#received, data]);
    const headEnd = this.#received.indexOf('\r\n\r\n');
    if (headEnd < 0) return;
    const head = this.#received.toString('latin1', 0, headEnd);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    const end = headEnd + 4 + length;
    if (this.#received.length < end) return;
    const answer = { status: Number(head.slice(9, 12)), body: this.#received.toString('utf8', headEnd + 4, end) };
    this.#received = this.#received.subarray(end);
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.resolve(answer);
  }
}
