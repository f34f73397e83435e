// Three routes of maxbooster-api on Express, with the limiter that an Express service usually takes:
// rate-limiter-flexible on Redis, a bucket in memory while Redis is away. Environment: PORT,
// PROCESSES, POOL_SIZE (of all processes), DATABASE_URL, REDIS_URL, RATE_LIMIT_MAX,
// RATE_LIMIT_WINDOW_MS.
'use strict';

const cluster = require('node:cluster');

const express = require('express');
const Redis = require('ioredis');
const { Pool } = require('pg');
const { RateLimiterMemory, RateLimiterRedis } = require('rate-limiter-flexible');

const { claimOf } = require('../common/claim');

const env = process.env;
const processes = Number(env.PROCESSES);

function serve() {
  const pool = new Pool({
    connectionString: env.DATABASE_URL,
    max: Math.max(1, Math.floor(Number(env.POOL_SIZE) / processes)),
    connectionTimeoutMillis: 10000,
  });
  const redis = new Redis(env.REDIS_URL);
  const quota = { points: Number(env.RATE_LIMIT_MAX), duration: Number(env.RATE_LIMIT_WINDOW_MS) / 1000 };
  const limiter = new RateLimiterRedis({
    storeClient: redis, keyPrefix: 'flexible', ...quota, insuranceLimiter: new RateLimiterMemory(quota),
  });
  const app = express();
  app.disable('x-powered-by');

  app.use(async (req, res, next) => {
    const claim = claimOf(req.get('authorization'));
    const hash = claim && await redis.hget(`session:{${claim.user}}:${claim.session}`, 'h');
    if (!hash || hash !== claim.hash) {
      res.status(401).json({ code: 'unauthenticated' });
      return;
    }
    try {
      await limiter.consume(claim.user);
    } catch (verdict) {
      res.status(429).set('Retry-After', '1').json({ code: 'rate_limited' });
      return;
    }
    req.user = claim.user;
    next();
  });

  app.get('/api/auth/me', async (req, res) => {
    const { rows } = await pool.query({
      name: 'users_by_id',
      text: 'SELECT id, email, name, role, created_at, updated_at FROM users WHERE id = $1',
      values: [req.user],
    });
    res.json(rows[0]);
  });
  app.get('/api/users/search', async (req, res) => {
    const { rows } = await pool.query({
      name: 'users_search',
      text: "SELECT id, name, role, created_at FROM users WHERE lower(name) LIKE '%' || lower($1) || '%' ORDER BY id LIMIT 21",
      values: [req.query.q],
    });
    res.json({ items: rows, nextCursor: null });
  });
  app.delete('/api/auth/sessions/:id', async (req, res) => {
    const n = await redis.del(`session:{${req.user}}:${req.params.id}`);
    res.status(n === 1 ? 204 : 404).end();
  });
  app.use((error, req, res, next) => {
    res.status(503).set('Retry-After', '1').json({ code: 'dependency_unavailable' });
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
