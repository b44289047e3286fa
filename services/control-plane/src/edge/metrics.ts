import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** What the process tells Prometheus; names and labels are part of the operator's interface. */
export class EdgeMetrics {
  readonly registry = new Registry();
  readonly #requests: Counter<'operation' | 'status'>;
  readonly #durations: Histogram<'operation'>;

  constructor(role: string) {
    this.registry.setDefaultLabels({ role });
    collectDefaultMetrics({ register: this.registry });
    this.#requests = new Counter({
      name: 'gpuaas_http_requests_total',
      help: 'Requests answered, by operation and status',
      labelNames: ['operation', 'status'],
      registers: [this.registry],
    });
    this.#durations = new Histogram({
      name: 'gpuaas_http_request_duration_seconds',
      help: 'Time from the first byte of a request to the answer, by operation',
      labelNames: ['operation'],
      buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30],
      registers: [this.registry],
    });
  }

  observe(operation: string, status: number, seconds: number): void {
    this.#requests.inc({ operation, status: String(status) });
    this.#durations.observe({ operation }, seconds);
  }

  /** A gauge whose value is asked for at each scrape; null leaves it out: unknown is not zero. */
  gauge(name: string, help: string, read: () => Promise<number | null> | number | null): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      async collect() {
        const value = await read();
        if (value === null) this.reset();
        else this.set(value);
      },
    });
  }
}
