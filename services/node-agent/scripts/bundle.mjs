import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const ENTRY = fileURLToPath(new URL('../src/main.ts', import.meta.url));

/**
 * Writes the agent with all that it needs as one module file, from the sources of this repository, so that it is never
 * older than they are. The same sources give the same bytes.
 */
export async function bundleAgent(file) {
  const build = await rolldown({
    input: ENTRY,
    platform: 'node',
    // Workspace packages offer their sources under this condition.
    resolve: { conditionNames: ['source', 'node', 'import', 'default'] },
    logLevel: 'silent',
  });
  try {
    await build.write({
      file,
      format: 'esm',
      codeSplitting: false,
      minify: false,
      // Dependencies that are still CommonJS ask for require, which a module file does not have.
      banner:
        "import { createRequire as __createRequire } from 'node:module';\nconst require = __createRequire(import.meta.url);",
    });
  } finally {
    await build.close();
  }
}
