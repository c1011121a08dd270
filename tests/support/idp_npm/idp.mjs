// An authorization server of somebody else's (oidc-provider) for tests, on loopback.
//
// argv[2] is a folder with idp.json: { audience, ttl_s, nonce, clients, keys }.
//   clients: [{ client_id, key (public JWK), scope, bound, redirect (people log in through it) }]
//   keys: private JWKs that sign tokens; the first one signs, all are published.
// Prints "ready <issuer>" once it answers. SIGHUP reads the file again; SIGTERM ends it.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import Provider, { errors } from 'oidc-provider';

const file = join(process.argv[2], 'idp.json');
const nonceSecret = randomBytes(32);
const scopes = ['fl:train', 'fl:run', 'fl:approve', 'fl:audit'];

function provider(issuer) {
  const { audience, ttl_s: ttl, nonce, clients, keys } = JSON.parse(readFileSync(file, 'utf8'));
  const resource = {
    audience,
    scope: scopes.join(' '),
    accessTokenFormat: 'jwt',
    accessTokenTTL: ttl,
    jwt: { sign: { alg: keys[0].alg } },
  };
  return new Provider(issuer, {
    jwks: { keys },
    cookies: { keys: [nonceSecret.toString('hex')] },
    findAccount: (_context, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    issueRefreshToken: (_context, client) => client.grantTypeAllowed('refresh_token'),
    scopes,
    clients: clients.map((client) => ({
      client_id: client.client_id,
      scope: client.scope,
      jwks: { keys: [client.key] },
      grant_types: client.redirect ? ['authorization_code', 'refresh_token'] : ['client_credentials'],
      response_types: client.redirect ? ['code'] : [],
      redirect_uris: client.redirect ? [client.redirect] : [],
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: client.key.alg,
      id_token_signed_response_alg: keys[0].alg, // there are none, but a key for them must exist
      dpop_bound_access_tokens: client.bound,
    })),
    enabledJWA: { dPoPSigningAlgValues: ['ES256', 'ES384', 'EdDSA', 'Ed25519'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: clients.some((client) => client.redirect) }, // its own pages: any name logs in
      dPoP: { enabled: true, nonceSecret, requireNonce: () => nonce, allowReplay: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        getResourceServerInfo: (_context, asked) => {
          if (asked !== audience) throw new errors.InvalidTarget();
          return resource;
        },
      },
    },
  });
}

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const load = () => {
    answer = provider(issuer).callback();
  };
  load();
  process.on('SIGHUP', () => {
    load();
    console.log('reloaded');
  });
  console.log(`ready ${issuer}`);
});
process.on('SIGTERM', () => process.exit(0));
