import { defineConfig } from 'vitest/config';

/** Workspace packages resolve to their sources, so that a test never sees a stale build. */
const conditions = ['source', 'node', 'default'];
const project = (name: string, include: string[], extra: Record<string, unknown> = {}) => ({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  // Generous: a loaded machine is slow, and a test that hangs is found all the same.
  test: { name, include, environment: 'node' as const, testTimeout: 60_000, hookTimeout: 120_000, ...extra },
});

export default defineConfig({
  test: {
    // Tests wait for databases and timers more than they compute: more files at a time than cores.
    maxWorkers: 4,
    projects: [
      project('contract', ['packages/contract/**/*.test.{ts,mjs}', 'packages/sdk/src/**/*.test.ts']),
      project('kernel', ['packages/kernel/src/**/*.test.ts', 'packages/node-protocol/src/**/*.test.ts']),
      project('node-agent', ['services/node-agent/src/**/*.test.ts']),
      project(
        'control-plane',
        ['services/control-plane/src/**/*.test.ts', 'services/control-plane/test/**/*.test.ts'],
        {
          globalSetup: ['services/control-plane/test/harness/global-setup.ts'],
        },
      ),
      project('benchmarks', ['benchmarks/src/**/*.test.ts']),
      project('simulators', ['simulators/*/src/**/*.test.ts']),
    ],
  },
});
