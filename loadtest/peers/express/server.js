// GET /api/auth/me on Express: the work of maxbooster-api with the libraries that an Express
// service usually takes. Environment: PORT, PROCESSES, POOL_SIZE (of all processes), DATABASE_URL,
// REDIS_URL, RATE_LIMIT_MAX, RATE_LIMIT_WINDOW_MS, SESSION_TTL, SCRIPT (file of the Lua script),
// LOG_FILE.
'use strict';

const cluster = require('node:cluster');
const crypto = require('node:crypto');
const fs = require('node:fs');

const express = require('express');
const Redis = require('ioredis');
const { Pool } = require('pg');
const pino = require('pino');
const pinoHttp = require('pino-http');

const { claimOf } = require('../common/claim');

const env = process.env;
const processes = Number(env.PROCESSES);
const TOUCH_MS = 60000;

function problem(req, res, status, code, title, detail) {
  res.status(status).type('application/problem+json').send(JSON.stringify({
    type: `/problems/${code}`, title, status, detail, instance: req.id, code, requestId: req.id,
  }));
}

function unauthenticated(req, res, detail) {
  problem(req, res, 401, 'unauthenticated', 'No valid session', detail);
}

function serve() {
  const log = pino({ level: 'info' }, pino.destination({ dest: env.LOG_FILE, sync: true }));
  const pool = new Pool({
    connectionString: env.DATABASE_URL,
    max: Math.max(1, Math.floor(Number(env.POOL_SIZE) / processes)),
  });
  const redis = new Redis(env.REDIS_URL);
  const lua = fs.readFileSync(env.SCRIPT, 'utf8');
  redis.defineCommand('sessionCheck', { numberOfKeys: 4, lua });
  const quota = Number(env.RATE_LIMIT_MAX);
  const windowMs = Number(env.RATE_LIMIT_WINDOW_MS);
  const ttlMs = Number(env.SESSION_TTL) * 1000;
  const windowS = Math.ceil(windowMs / 1000);

  const app = express();
  app.disable('x-powered-by');
  app.use(pinoHttp({
    logger: log,
    genReqId: (req) => req.headers['x-request-id'] || crypto.randomUUID(),
    // The default would log every header field, the token among them.
    serializers: {
      req: ({ id, method, url, remoteAddress }) => ({ id, method, url, remoteAddress }),
      res: (res) => ({ statusCode: res.statusCode }),
    },
  }));

  async function session(req, res, next) {
    const claim = claimOf(req.get('authorization'));
    if (claim === null) {
      unauthenticated(req, res, 'Send a session\'s token as a Bearer token.');
      return;
    }
    const verdict = await redis.sessionCheck(
      `session:{${claim.user}}:${claim.session}`, `rate:{${claim.user}}:default`,
      `sessions:{${claim.user}}`, `written:{${claim.user}}`,
      claim.hash, Date.now(), TOUCH_MS, ttlMs, claim.session, quota, windowMs);
    if (!Array.isArray(verdict)) {
      unauthenticated(req, res, 'Send a session\'s token as a Bearer token.');
      return;
    }
    const [allowed, remaining, resetMs, retryMs] = verdict;
    res.set('RateLimit-Policy', `"default";q=${quota};w=${windowS}`);
    res.set('RateLimit', `"default";r=${remaining};t=${Math.ceil(resetMs / 1000)}`);
    if (allowed !== 1) {
      res.set('Retry-After', String(Math.ceil(retryMs / 1000)));
      problem(req, res, 429, 'rate_limited', 'Too many requests',
        `At most ${quota} requests in ${windowS} s here.`);
      return;
    }
    req.user = claim.user;
    next();
  }

  app.get('/api/auth/me', session, async (req, res) => {
    const { rows } = await pool.query({
      name: 'users_by_id',
      text: 'SELECT id, email, name, role, password_hash, version, created_at, updated_at '
        + 'FROM users WHERE id = $1',
      values: [req.user],
    });
    if (rows.length === 0) {
      unauthenticated(req, res, 'The user is gone.');
      return;
    }
    const u = rows[0];
    res.set('Cache-Control', 'no-store');
    res.set('ETag', `"v${u.version}"`);
    res.set('X-Request-Id', req.id);
    res.json({
      id: u.id,
      email: u.email,
      name: u.name,
      role: u.role,
      createdAt: u.created_at,
      updatedAt: u.updated_at,
    });
  });

  app.use((error, req, res, next) => {
    if (res.headersSent) {
      next(error);
      return;
    }
    req.log.error(error);
    problem(req, res, 503, 'dependency_unavailable', 'A dependency failed', 'Try again.');
  });

  app.listen(Number(env.PORT), '127.0.0.1', 1024);
}

if (processes > 1 && cluster.isPrimary) {
  for (let i = 0; i < processes; i++) {
    cluster.fork();
  }
  process.on('SIGTERM', () => process.exit(0));
} else {
  serve();
}
