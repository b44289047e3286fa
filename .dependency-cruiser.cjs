/** The walls of the house: arrows run one way, main → app → edge → domains → spine → kernel, and nowhere in a circle. */
const plane = '^services/control-plane/src';

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, dependencyTypesNot: ['type-only'] } },
    {
      name: 'spine-knows-nobody-above',
      severity: 'error',
      from: { path: `${plane}/spine` },
      to: { path: `${plane}/(domains|edge|app|adapters|main)` },
    },
    {
      name: 'domains-know-no-edge-app-or-adapter',
      severity: 'error',
      from: { path: `${plane}/domains` },
      to: { path: `${plane}/(edge|app|adapters|main)` },
    },
    {
      name: 'domains-meet-through-faces',
      comment: 'another domain is reached by its index.ts alone',
      severity: 'error',
      from: { path: `${plane}/domains/([^/]+)/` },
      to: {
        path: `${plane}/domains/([^/]+)/`,
        pathNot: [`${plane}/domains/$1/`, `${plane}/domains/[^/]+/index\\.ts$`],
      },
    },
    {
      name: 'edge-knows-no-app-adapter-or-domain-inside',
      severity: 'error',
      from: { path: `${plane}/edge` },
      to: { path: `${plane}/(app|adapters|main|domains)` },
    },
    {
      name: 'adapters-are-imported-by-app-alone',
      severity: 'error',
      from: {
        path: '^(packages|services|simulators|benchmarks)',
        pathNot: [`${plane}/app`, `${plane}/adapters`, '^services/control-plane/test', '^benchmarks'],
      },
      to: { path: `${plane}/adapters` },
    },
    {
      name: 'rules-are-pure',
      comment: 'rules take facts and give decisions: no I/O, no clock, no database',
      severity: 'error',
      from: { path: `${plane}/domains/[^/]+/rules`, pathNot: '\\.test\\.ts$' },
      to: {
        path: [
          '^node:(fs|net|http|https|child_process|dns|tls)',
          'node_modules/(pg|kysely|fastify|@dbos-inc)/',
          `${plane}/domains/[^/]+/(store|operations|views|workflows)`,
        ],
      },
    },
    {
      name: 'nobody-imports-simulators',
      severity: 'error',
      from: { path: '^(packages|services)' },
      to: { path: '^(simulators|benchmarks)' },
    },
    {
      name: 'packages-know-no-service',
      severity: 'error',
      from: { path: '^packages' },
      to: { path: '^(services|simulators|benchmarks)' },
    },
    {
      name: 'imports-resolve',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true, pathNot: '^swagger-ui-dist' },
    },
  ],
  options: {
    doNotFollow: { path: ['node_modules', 'dist'] },
    exclude: { path: ['/dist/', '/generated/', 'node_modules/.*/node_modules'] },
    // The project's TypeScript has no JavaScript API that the cruiser could parse with.
    parser: 'swc',
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['source', 'import', 'node', 'default'],
      extensions: ['.ts', '.js', '.mjs'],
    },
  },
};
