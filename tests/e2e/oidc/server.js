// A real OpenID provider for the tests: discovery, client credentials, introspection, revocation, and, under /_test/,
// what a test has to make happen: another signing key, and how often the keys were asked for.
//
// With TLS_CERT and TLS_KEY (PEM files) its issuer is an https URL; what the test itself asks goes to the plain port all the same.
// CLIENT_JWKS holds the public key of the client `signer`; certificates of CLIENT_CA (a PEM file) prove CLIENT_SPIFFE_ID, or
// CLIENT_CERTIFICATE (base64 of DER) itself does.
//
// Prints one line of JSON when it listens. Ends with its standard input, so that it never outlives a test.

import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { randomBytes, X509Certificate } from "node:crypto";
import { Provider } from "oidc-provider";
import { exportJWK, generateKeyPair } from "jose";

const port = Number(process.argv[2] ?? 0);
const secret = "a-secret-of-the-tests-that-guards-nothing-at-all";

const records = new Map();
class Adapter {
  constructor(kind) {
    this.kind = kind;
  }
  key(id) {
    return `${this.kind}:${id}`;
  }
  async upsert(id, payload) {
    records.set(this.key(id), payload);
  }
  async find(id) {
    return records.get(this.key(id));
  }
  async consume(id) {
    records.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    records.delete(this.key(id));
  }
  async findByUid() {}
  async findByUserCode() {}
  async revokeByGrantId() {}
}

let serial = 0;
async function newKey() {
  const { privateKey } = await generateKeyPair("ES256", { extractable: true });
  serial += 1;
  return { ...(await exportJWK(privateKey)), kid: `key-${serial}`, alg: "ES256", use: "sig" };
}

function provider(issuer, keys) {
  const client = (client_id, more = {}) => ({
    client_id,
    client_secret: secret,
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: "ES256",
    ...more,
  });
  const clients = [client("web"), client("other"), client("sidecar")];
  if (process.env.CLIENT_JWKS) {
    const jwks = JSON.parse(process.env.CLIENT_JWKS);
    const key = { client_secret: undefined, token_endpoint_auth_method: "private_key_jwt", jwks };
    clients.push(client("signer", key));
  }
  if (process.env.CLIENT_CA) {
    const id = process.env.CLIENT_SPIFFE_ID;
    const certificate = { client_secret: undefined, token_endpoint_auth_method: "tls_client_auth" };
    clients.push(client(id, { ...certificate, tls_client_auth_san_uri: id }));
  }
  if (process.env.CLIENT_CERTIFICATE) {
    const x5c = [process.env.CLIENT_CERTIFICATE];
    const { publicKey } = new X509Certificate(Buffer.from(x5c[0], "base64"));
    const jwks = { keys: [{ ...publicKey.export({ format: "jwk" }), use: "sig", x5c }] };
    const itself = { client_secret: undefined, token_endpoint_auth_method: "self_signed_tls_client_auth", jwks };
    clients.push(client(process.env.CLIENT_SPIFFE_ID, itself));
  }
  return new Provider(issuer, {
    adapter: Adapter,
    clients,
    clientAuthMethods: [
      "client_secret_basic",
      "client_secret_post",
      "private_key_jwt",
      "tls_client_auth",
      "self_signed_tls_client_auth",
    ],
    cookies: { keys: [randomBytes(32).toString("hex")] },
    jwks: { keys },
    scopes: ["read", "write"],
    ttl: { ClientCredentials: () => Number(process.env.TTL ?? 300) },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.()?.toString(),
        certificateAuthorized: (ctx) => ctx.socket.authorized === true,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === "tls_client_auth_san_uri" &&
          ctx.socket.getPeerX509Certificate()?.subjectAltName === `URI:${expected}`,
      },
      revocation: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:orders",
        useGrantedResource: () => true,
        // A resource called `urn:opaque...` gets tokens that only introspection can read.
        getResourceServerInfo: (_context, resource) => ({
          scope: "read write",
          audience: resource,
          accessTokenFormat: resource.startsWith("urn:opaque") ? "opaque" : "jwt",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
}

// Milliseconds that an introspection waits before it is answered.
let delay = 0;
const counts = { jwks: 0, discovery: 0, introspection: 0 };
let keys = [await newKey()];
let handle;

const answer = async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/jwks") counts.jwks += 1;
  if (url.pathname === "/.well-known/openid-configuration") counts.discovery += 1;
  if (url.pathname === "/token/introspection") {
    counts.introspection += 1;
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
  if (!url.pathname.startsWith("/_test/")) return handle(request, response);
  if (url.pathname === "/_test/rotate" && request.method === "POST") {
    // The newest key signs; `keep` says how many stay published with it.
    keys = [await newKey(), ...keys].slice(0, 1 + Number(url.searchParams.get("keep") ?? 0));
    handle = provider(issuer, keys).callback();
  }
  if (url.pathname === "/_test/delay" && request.method === "POST") delay = Number(url.searchParams.get("ms"));
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ issuer, counts, kid: keys[0].kid }));
};

const listening = (server, port) =>
  new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server.address().port)));

const address = `127.0.0.1:${await listening(http.createServer(answer), port)}`;
let issuer = `http://${address}`;
if (process.env.TLS_CERT) {
  const files = { cert: readFileSync(process.env.TLS_CERT), key: readFileSync(process.env.TLS_KEY) };
  if (process.env.CLIENT_SPIFFE_ID) Object.assign(files, { requestCert: true, rejectUnauthorized: false });
  if (process.env.CLIENT_CA) files.ca = readFileSync(process.env.CLIENT_CA);
  issuer = `https://localhost:${await listening(https.createServer(files, answer), 0)}`;
}
handle = provider(issuer, keys).callback();
console.log(JSON.stringify({ issuer, address, secret }));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
