import { createServer, type Server } from 'node:http';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import Provider from 'oidc-provider';

export const REDIRECT_URI = 'https://console.gpu.example/signed-in';

export interface Account {
  readonly email: string | undefined;
  readonly verified: boolean | undefined;
}

export interface RealProvider {
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** by subject */
  readonly accounts: Map<string, Account>;
  /** Signs someone in as a browser would and returns what the provider sends back with them. */
  signIn(authorizationUrl: string, subject: string): Promise<{ code: string; state: string }>;
  stop(): Promise<void>;
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the provider has no port');
  return `http://127.0.0.1:${address.port}`;
}

async function close(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}

/** A certified implementation of OpenID Connect on loopback, with one confidential client. */
export async function startRealProvider(): Promise<RealProvider> {
  const server = createServer();
  const issuer = await listen(server);
  const clientId = 'gpuaas';
  const clientSecret = 'a secret of the client';
  const accounts = new Map<string, Account>();
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: [REDIRECT_URI],
        response_types: ['code'],
        grant_types: ['authorization_code'],
      },
    ],
    jwks: { keys: [{ ...(await exportJWK(privateKey)), kid: 'test', use: 'sig', alg: 'RS256' }] },
    cookies: { keys: ['cookies of a test'] },
    pkce: { required: () => true },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    features: { devInteractions: { enabled: true } },
    findAccount: (_ctx, subject) => ({
      accountId: subject,
      claims: () => {
        const account = accounts.get(subject);
        return { sub: subject, email: account?.email, email_verified: account?.verified };
      },
    }),
  });
  const handle = provider.callback();
  server.on('request', (request, response) => {
    void handle(request, response);
  });

  return {
    issuer,
    clientId,
    clientSecret,
    accounts,
    async signIn(authorizationUrl, subject) {
      const cookies = new Map<string, string>();
      const visit = async (url: string, form?: Record<string, string>) => {
        const response = await fetch(url, {
          method: form ? 'POST' : 'GET',
          redirect: 'manual',
          headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
          ...(form && { body: new URLSearchParams(form) }),
        });
        const text = await response.text();
        for (const cookie of response.headers.getSetCookie()) {
          const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
          if (value === '') cookies.delete(name);
          else cookies.set(name, value);
        }
        const location = response.headers.get('location');
        if (location === null) throw new Error(`the provider answered ${response.status}: ${text.slice(0, 500)}`);
        return new URL(location, url).href;
      };
      let at = await visit(authorizationUrl);
      const forms = [{ prompt: 'login', login: subject, password: 'any' }, { prompt: 'consent' }];
      for (let step = 0; step < 10 && !at.startsWith(REDIRECT_URI); step += 1) {
        at = await visit(at, at.includes('/interaction/') ? forms.shift() : undefined);
      }
      const { searchParams } = new URL(at);
      const code = searchParams.get('code');
      const state = searchParams.get('state');
      if (code === null || state === null) throw new Error(`the sign-in at the provider ended at ${at}`);
      return { code, state };
    },
    stop: () => close(server),
  };
}

/** What a forged ID token has wrong. */
export type Forgery = 'none' | 'nonce' | 'issuer' | 'audience' | 'signature' | 'expired' | 'unsigned' | 'nobody';

export interface ForgingProvider {
  readonly issuer: string;
  /** how the next ID token is made, and for which sign-in */
  forge(next: { forgery: Forgery; authorizationUrl: string; subject: string; email: string }): void;
  /** how often it was asked for tokens */
  redemptions(): number;
  stop(): Promise<void>;
}

/** A provider that speaks the protocol and lies in one point of the ID token. */
export async function startForgingProvider(): Promise<ForgingProvider> {
  const honest = await generateKeyPair('RS256', { extractable: true });
  const other = await generateKeyPair('RS256', { extractable: true });
  let next: Parameters<ForgingProvider['forge']>[0] | null = null;
  let redemptions = 0;

  async function idToken(issuer: string): Promise<string> {
    if (next === null) throw new Error('nothing to forge');
    const { forgery, subject, email } = next;
    const nonce = new URL(next.authorizationUrl).searchParams.get('nonce');
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: forgery === 'issuer' ? 'https://accounts.acme.example' : issuer,
      aud: forgery === 'audience' ? 'another-client' : 'forged',
      ...(forgery !== 'nobody' && { sub: subject }),
      nonce: forgery === 'nonce' ? 'of another sign-in' : nonce,
      iat: forgery === 'expired' ? now - 7200 : now,
      exp: forgery === 'expired' ? now - 3600 : now + 300,
      email,
      email_verified: true,
    };
    if (forgery === 'unsigned') {
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
      return `${part({ alg: 'none' })}.${part(claims)}.`;
    }
    return new SignJWT(claims)
      .setProtectedHeader({ alg: 'RS256', kid: 'honest' })
      .sign(forgery === 'signature' ? other.privateKey : honest.privateKey);
  }

  const publicKey = { ...(await exportJWK(honest.publicKey)), kid: 'honest', use: 'sig', alg: 'RS256' };
  const server = createServer((request, response) => {
    const issuer = `http://${request.headers.host}`;
    const answer = (body: object) =>
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    request.resume();
    if (request.url === '/.well-known/openid-configuration') {
      answer({
        issuer,
        authorization_endpoint: `${issuer}/auth`,
        token_endpoint: `${issuer}/token`,
        jwks_uri: `${issuer}/jwks`,
        response_types_supported: ['code'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: ['RS256'],
      });
    } else if (request.url === '/jwks') {
      answer({ keys: [publicKey] });
    } else if (request.url === '/token') {
      redemptions += 1;
      void idToken(issuer).then((token) => answer({ access_token: 'opaque', token_type: 'bearer', id_token: token }));
    } else {
      response.writeHead(404).end();
    }
  });
  const issuer = await listen(server);
  return {
    issuer,
    forge: (forged) => {
      next = forged;
    },
    redemptions: () => redemptions,
    stop: () => close(server),
  };
}
