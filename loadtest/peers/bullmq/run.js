'use strict';
// No-op jobs from the first add to the last completion: run.js REDIS_PORT JOBS PAYLOAD_BYTES.
// Added by addBulk of 100, done by one worker that runs 50 at once and forgets what is completed.
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

const [port, jobs, bytes] = process.argv.slice(2).map(Number);
const connect = () => new IORedis(port, '127.0.0.1', { maxRetriesPerRequest: null });
const payload = { text: 'x'.repeat(bytes - 11) };

async function main() {
  const queue = new Queue('bench', { connection: connect() });
  await queue.waitUntilReady();
  const cpu = process.cpuUsage();
  const begun = process.hrtime.bigint();
  for (let n = 0; n < jobs; n += 100) {
    await queue.addBulk(Array.from({ length: 100 }, () => (
      { name: 'noop', data: payload, opts: { removeOnComplete: true } })));
  }
  const pushed = process.hrtime.bigint();
  let done = 0;
  await new Promise((resolve) => {
    const worker = new Worker('bench', async (job) => {
      if (job.data.text.length !== payload.text.length) throw new Error('another payload');
    }, { connection: connect(), concurrency: 50 });
    worker.on('completed', () => { done += 1; if (done === jobs) resolve(); });
  });
  const ended = process.hrtime.bigint();
  const used = process.cpuUsage(cpu);
  console.log(JSON.stringify({
    jobs, wallS: Number(ended - begun) / 1e9, pushS: Number(pushed - begun) / 1e9,
    cpuS: (used.user + used.system) / 1e6,
  }));
  process.exit(0);
}

main();
