import type { Schema, SuccessResponse } from '@gpuaas/contract';
import { ApiError, type Client, createClient } from '@gpuaas/sdk';

/** A session is renewed by signing in again well before its token runs out. */
const TOKEN_USE_SECONDS = 600;

/** The site's staff: signs in as an operator and does over the API what a person would do for a real rack. */
export class SiteOperator {
  readonly #client: Client;

  constructor(options: { apiUrl: string; username: string; password: () => Promise<string> }) {
    const anonymous = createClient({ baseUrl: options.apiUrl });
    let token: { value: string; until: number } | null = null;
    this.#client = createClient({
      baseUrl: options.apiUrl,
      token: async () => {
        if (token && token.until > Date.now()) return token.value;
        const password = await options.password();
        const session = await anonymous.call('loginPersonal', { body: { username: options.username, password } });
        token = { value: session.body.access_token, until: Date.now() + TOKEN_USE_SECONDS * 1000 };
        return token.value;
      },
    });
  }

  /** Every host that the platform knows. */
  async listNodes(): Promise<Schema<'NodeAdmin'>[]> {
    const nodes: Schema<'NodeAdmin'>[] = [];
    let cursor: string | null = null;
    do {
      const page: SuccessResponse<'adminListNodes'> = await this.#client.call('adminListNodes', {
        query: { page_size: 200, ...(cursor !== null && { cursor }) },
      });
      nodes.push(...page.body.items);
      cursor = page.body.pagination.next_cursor;
    } while (cursor !== null);
    return nodes;
  }

  /** Registers a host; null where one of that name is registered already. */
  async registerNode(node: {
    host: string;
    hostname: string;
    sku: string;
    gpus: number;
    region: string;
  }): Promise<string | null> {
    try {
      const created = await this.#client.call('adminCreateNode', {
        body: {
          host: node.host,
          hostname: node.hostname,
          sku: node.sku,
          gpus_total: node.gpus,
          region_code: node.region,
          probe: false,
        },
      });
      return created.body.id;
    } catch (error) {
      if (error instanceof ApiError && error.code === 'node_already_exists') return null;
      throw error;
    }
  }

  /** A one-time token for a host that has no certificate yet, with all that its agent must trust. */
  async issueEnrollment(nodeId: string): Promise<Schema<'AdminNodeEnrollmentTokenResponse'>> {
    const issued = await this.#client.call('adminCreateNodeEnrollmentToken', { path: { node_id: nodeId } });
    return issued.body;
  }

  /** A one-time token for a host whose certificate has run out; what it trusts it knows already. */
  async reissueEnrollment(nodeId: string): Promise<string> {
    const issued = await this.#client.call('adminReissueNodeEnrollment', { path: { node_id: nodeId } });
    return issued.body.enrollment_token;
  }
}
