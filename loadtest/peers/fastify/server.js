// GET /api/auth/me on Fastify: the work of maxbooster-api as a Fastify service does it, with the
// reply compiled from its schema. Environment as of the Express peer; one process.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');

const fastify = require('fastify');
const Redis = require('ioredis');
const { Pool } = require('pg');
const pino = require('pino');

const { claimOf } = require('../common/claim');

const env = process.env;
const TOUCH_MS = 60000;
const USER = {
  type: 'object',
  properties: {
    id: { type: 'string' },
    email: { type: 'string' },
    name: { type: 'string' },
    role: { type: 'string' },
    createdAt: { type: 'string' },
    updatedAt: { type: 'string' },
  },
};

const quota = Number(env.RATE_LIMIT_MAX);
const windowMs = Number(env.RATE_LIMIT_WINDOW_MS);
const ttlMs = Number(env.SESSION_TTL) * 1000;
const windowS = Math.ceil(windowMs / 1000);

const pool = new Pool({ connectionString: env.DATABASE_URL, max: Number(env.POOL_SIZE) });
const redis = new Redis(env.REDIS_URL);
redis.defineCommand('sessionCheck', { numberOfKeys: 4, lua: fs.readFileSync(env.SCRIPT, 'utf8') });

const app = fastify({
  loggerInstance: pino({
    level: 'info',
    serializers: {
      req: ({ id, method, url, ip }) => ({ id, method, url, remoteAddress: ip }),
      res: ({ statusCode }) => ({ statusCode }),
    },
  }, pino.destination({ dest: env.LOG_FILE, sync: true })),
  disableRequestLogging: true, // one line a request, below, as the others write
  genReqId: (req) => req.headers['x-request-id'] || crypto.randomUUID(),
});

app.addHook('onResponse', (req, reply, done) => {
  req.log.info({ req, res: reply, responseTime: reply.elapsedTime }, 'request completed');
  done();
});

function problem(req, reply, status, code, title, detail) {
  return reply.code(status).type('application/problem+json').send(JSON.stringify({
    type: `/problems/${code}`, title, status, detail, instance: req.id, code, requestId: req.id,
  }));
}

function unauthenticated(req, reply, detail) {
  return problem(req, reply, 401, 'unauthenticated', 'No valid session', detail);
}

app.decorateRequest('user', null);

async function session(req, reply) {
  const claim = claimOf(req.headers.authorization);
  if (claim === null) {
    return unauthenticated(req, reply, 'Send a session\'s token as a Bearer token.');
  }
  const verdict = await redis.sessionCheck(
    `session:{${claim.user}}:${claim.session}`, `rate:{${claim.user}}:default`,
    `sessions:{${claim.user}}`, `written:{${claim.user}}`,
    claim.hash, Date.now(), TOUCH_MS, ttlMs, claim.session, quota, windowMs);
  if (!Array.isArray(verdict)) {
    return unauthenticated(req, reply, 'Send a session\'s token as a Bearer token.');
  }
  const [allowed, remaining, resetMs, retryMs] = verdict;
  reply.header('RateLimit-Policy', `"default";q=${quota};w=${windowS}`);
  reply.header('RateLimit', `"default";r=${remaining};t=${Math.ceil(resetMs / 1000)}`);
  if (allowed !== 1) {
    reply.header('Retry-After', String(Math.ceil(retryMs / 1000)));
    return problem(req, reply, 429, 'rate_limited', 'Too many requests',
      `At most ${quota} requests in ${windowS} s here.`);
  }
  req.user = claim.user;
  return undefined;
}

app.get('/api/auth/me', {
  preHandler: session,
  schema: { response: { 200: USER } },
}, async (req, reply) => {
  const { rows } = await pool.query({
    name: 'users_by_id',
    text: 'SELECT id, email, name, role, password_hash, version, created_at, updated_at '
      + 'FROM users WHERE id = $1',
    values: [req.user],
  });
  if (rows.length === 0) {
    return unauthenticated(req, reply, 'The user is gone.');
  }
  const u = rows[0];
  reply.header('Cache-Control', 'no-store');
  reply.header('ETag', `"v${u.version}"`);
  reply.header('X-Request-Id', req.id);
  return {
    id: u.id,
    email: u.email,
    name: u.name,
    role: u.role,
    createdAt: u.created_at.toISOString(),
    updatedAt: u.updated_at.toISOString(),
  };
});

app.setErrorHandler((error, req, reply) => {
  req.log.error(error);
  problem(req, reply, 503, 'dependency_unavailable', 'A dependency failed', 'Try again.');
});

app.listen({ port: Number(env.PORT), host: '127.0.0.1', backlog: 1024 });
