import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import fastifyStatic from '@fastify/static';
import { loadOpenApiDocument } from '@gpuaas/contract';
import type { FastifyInstance } from 'fastify';

const PAGE = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>GPUaaS API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css"></head>
<body><div id="reference"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>`;

const START = `window.ui = SwaggerUIBundle({
  url: '/openapi.json', dom_id: '#reference', docExpansion: 'none', filter: true, deepLinking: true,
  defaultModelsExpandDepth: 0, tryItOutEnabled: true,
});`;

/** Serves the corrected contract at `/openapi.json` and a browsable reference of it at `/docs`. */
export async function registerDocumentation(server: FastifyInstance): Promise<void> {
  const document = JSON.stringify(loadOpenApiDocument());
  const assets = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));

  await server.register(fastifyStatic, { root: assets, prefix: '/docs/assets/', decorateReply: false, index: false });
  server.get('/openapi.json', async (_request, reply) => reply.type('application/json; charset=utf-8').send(document));
  server.get('/docs/start.js', async (_request, reply) => reply.type('text/javascript; charset=utf-8').send(START));
  server.get('/docs', async (_request, reply) => reply.type('text/html; charset=utf-8').send(PAGE));
}
