import { describe, expect, it } from 'vitest';
import { startTestSite } from '../harness/site.js';

describe('the metrics of a process', () => {
  it('count requests by operation and status, and show what waits in each queue', async () => {
    const site = await startTestSite({ planes: 1, servesMetrics: true });
    try {
      const ann = await site.signup();
      await site.call({ path: '/api/v1/users/me', token: ann.token });
      const { metricsUrl } = site.controlPlane;
      const text = await (await fetch(`${metricsUrl}/metrics`)).text();
      expect(text).toMatch(/gpuaas_http_requests_total\{[^}]*operation="getMe",status="200"[^}]*\} 1\b/);
      expect(text).toMatch(/^gpuaas_dead_letters\{[^}]*\} 0$/m);
      expect(text).toMatch(/^gpuaas_held_polls\{[^}]*\} 0$/m);
      expect(text).toMatch(/^provisioning_queue_depth\{[^}]*\} 0$/m);
      expect(text).not.toContain(ann.userId);
    } finally {
      await site.stop();
    }
  });
});
