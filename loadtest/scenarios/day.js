// An artist's day, as an open load: log in at a few a second, browse, upload a track straight to S3
// by its presigned URL, poll its job, read what is there. mix.json says how much of what. PLAN, a
// file of the runner, says where, for how long and as whom; see docs/internals/verify.md.
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { open as openShared, SeekMode } from 'k6/experimental/fs';
import { sleep } from 'k6';
import { arrivals, executor, stagesOf, warmUp } from './lib/arrivals.js';
import { freshKey, send } from './lib/client.js';

const mix = JSON.parse(open('./mix.json'));
const plan = JSON.parse(open(__ENV.PLAN));
const users = new SharedArray('users', () => JSON.parse(open(plan.users)));
const usersCount = users.length;
// One copy in memory for all users; open() would make one for each.
let track;
(async () => {
  track = await openShared(plan.track);
})();
const API_S = `${mix.timeoutS.api}s`;
const S3_S = `${mix.timeoutS.s3}s`;

const one = { stages: [[1, 1, 1]] };
const warmupS = plan.profile.warmupS || 0;
const stages = {
  browse: stagesOf(plan.profile, plan.browsePerS, plan.seconds),
  login: stagesOf(one, plan.loginsPerS, warmupS + plan.seconds),
  upload: stagesOf(one, plan.uploadsPerS, warmupS + plan.seconds),
};
stages.warmup = warmUp(stages.browse, warmupS);

function scenario(name, vus, more) {
  return { ...executor(stages[name]), exec: name, preAllocatedVUs: vus, maxVUs: vus,
    gracefulStop: '40s', ...more };
}

export const options = {
  scenarios: {
    // No fault is made meanwhile, so a quarter will do; each costs the generator memory.
    ...(warmupS ? { warmup: scenario('warmup', Math.ceil(plan.vus / 4),
      { gracefulStop: `${mix.timeoutS.api}s` }) } : {}),
    browse: scenario('browse', plan.vus, { startTime: `${warmupS}s` }),
    login: scenario('login', Math.ceil(plan.loginsPerS * 12)),
    upload: scenario('upload', Math.ceil(plan.uploadsPerS * 60) + 2),
  },
  systemTags: ['name', 'status'],
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max', 'count'],
  thresholds: plan.thresholds,
  userAgent: 'maxbooster-loadtest',
};

const secondsTo = {};
Object.keys(stages).forEach((name) => { secondsTo[name] = arrivals(stages[name]); });
const startMs = {};

/** This iteration of a scenario: its number, and when it should have started, ms. */
function turn(name) {
  const { scenario } = exec; // made anew each time that it is asked for
  const n = scenario.iterationInTest;
  startMs[name] = startMs[name] || scenario.startTime;
  return { n, at: startMs[name] + 1000 * secondsTo[name](n) };
}

/** A number in [0, 1) that depends on the iteration alone, so that every run asks the same. */
function chance(n, salt) {
  let h = (Math.imul(n + 1, 0x9E3779B1) ^ Math.imul(salt + plan.seed, 0x85EBCA6B)) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x2C1B3C6D) >>> 0;
  h = Math.imul(h ^ (h >>> 12), 0x297A2D39) >>> 0;
  return ((h ^ (h >>> 15)) >>> 0) / 4294967296;
}

/** Every user in turn: none asks more often than a person would. As seed.py writes them. */
function userOf(n) {
  const fields = users[n % usersCount][0].split(' ');
  return { n: n % usersCount, token: fields[0], id: fields[1], address: fields[2], job: fields[3],
    hasObject: fields[4] === '1', tracks: fields.slice(5) };
}

/** Fields of a request of that user, from his own address. */
function as(user, more) {
  return { timeout: API_S, responseType: 'text',
    headers: { Authorization: `Bearer ${user.token}`, 'X-Forwarded-For': user.address, ...more } };
}

function asJson(user, n) {
  return as(user, { 'Content-Type': 'application/json', 'Idempotency-Key': freshKey(`${plan.seed}-${n}`) });
}

const names = Object.keys(mix.browse);
const total = names.reduce((sum, name) => sum + mix.browse[name], 0);

function choose(n) {
  let left = chance(n, 1) * total;
  return names.find((name) => {
    left -= mix.browse[name];
    return left < 0;
  });
}

/** Read bytes of an object; the URL has just been given. */
function readObject(name, url, bytes) {
  send(Date.now(), name, 'GET', url, null,
    { timeout: S3_S, responseType: 'binary', headers: { Range: `bytes=0-${bytes - 1}` } }, 206,
    (r) => r.body.byteLength > 0);
}

const ACTIONS = {
  me: (at, u) => send(at, 'me', 'GET', `${plan.api}/auth/me`, null, as(u), 200,
    (r) => r.body.includes(u.id)),
  audio_list: (at, u) => send(at, 'audio_list', 'GET', `${plan.api}/audio?limit=20`, null, as(u), 200,
    (r) => r.body.includes(u.tracks[0])),
  audio_get: (at, u, pick) => send(at, 'audio_get', 'GET', `${plan.api}/audio/${u.tracks[pick]}`, null,
    as(u), 200, (r) => r.body.includes(u.tracks[pick])),
  audio_url: (at, u, pick) => send(at, 'audio_url', 'GET', `${plan.api}/audio/${u.tracks[pick]}/url`,
    null, as(u), 200, (r) => r.body.includes('X-Amz-Signature')),
  listen: (at, u) => {
    const reply = send(at, 'audio_url', 'GET', `${plan.api}/audio/${u.tracks[0]}/url`, null, as(u), 200);
    if (reply !== null && u.hasObject) {
      readObject('s3_get', reply.json('url'), mix.listenBytes);
    }
  },
  jobs_list: (at, u) => send(at, 'jobs_list', 'GET', `${plan.api}/jobs?limit=20`, null, as(u), 200,
    (r) => r.body.includes(u.job)),
  job_get: (at, u) => send(at, 'job_get', 'GET', `${plan.api}/jobs/${u.job}`, null, as(u), 200,
    (r) => r.body.includes(u.job)),
  user_get: (at, u, pick, n) => {
    const other = userOf(Math.floor(chance(n, 3) * usersCount));
    send(at, 'user_get', 'GET', `${plan.api}/users/${other.id}`, null, as(u), 200,
      (r) => r.body.includes(other.id));
  },
  users_search: (at, u, pick, n) => send(at, 'users_search', 'GET',
    `${plan.api}/users/search?q=${plan.names[Math.floor(chance(n, 4) * plan.names.length)]}&limit=10`,
    null, as(u), 200, (r) => r.body.includes('"partial":false')),
  audio_rename: (at, u, pick, n) => send(at, 'audio_rename', 'PATCH',
    `${plan.api}/audio/${u.tracks[pick]}`, JSON.stringify({ fileName: `take ${n}.mp3` }), asJson(u, n), 200,
    (r) => r.body.includes(`take ${n}.mp3`)),
  me_rename: (at, u, pick, n) => send(at, 'me_rename', 'PATCH', `${plan.api}/auth/me`,
    JSON.stringify({ name: `${plan.names[n % plan.names.length]} ${n}` }), asJson(u, n), 200,
    (r) => r.body.includes(u.id)),
};

function browseAs(scenario) {
  const { n, at } = turn(scenario);
  const user = userOf(n);
  ACTIONS[choose(n)](at, user, Math.floor(chance(n, 2) * user.tracks.length), n);
}

export function browse() {
  browseAs('browse');
}

export function warmup() {
  browseAs('warmup');
}

export function login() {
  const { n, at } = turn('login');
  const user = userOf(Math.floor(chance(n, 5) * usersCount));
  send(at, 'login', 'POST', `${plan.api}/auth/login`,
    JSON.stringify({ email: `artist${user.n}@example.org`, password: plan.password }),
    { timeout: API_S, responseType: 'text',
      headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': user.address,
        'Idempotency-Key': freshKey(`${plan.seed}-login-${n}`) } },
    200, (r) => r.body.includes(user.id));
}

async function readTrack() {
  const bytes = new Uint8Array(plan.trackBytes);
  await track.seek(0, SeekMode.Start);
  if (await track.read(bytes) !== bytes.length) {
    throw new Error('the track is not whole');
  }
  return bytes.buffer;
}

export async function upload() {
  const { n, at: start } = turn('upload');
  const user = userOf(Math.floor(chance(n, 6) * usersCount));
  let step = 0;
  // Each step has its time, so that a slow one makes the next late and is not forgiven.
  const next = () => {
    step += 1;
    const at = start + step * mix.uploads.stepS * 1000;
    sleep(Math.max(0, at - Date.now()) / 1000);
    return at;
  };
  const bytes = await readTrack();
  const post = (at, name, path, body, status) => send(at, name, 'POST', `${plan.api}${path}`,
    JSON.stringify(body), asJson(user, n), status);

  const grant = post(start, 'upload_url', '/audio/upload-url',
    { fileName: `demo ${n}.mp3`, contentType: 'audio/mpeg', size: bytes.byteLength }, 201);
  if (grant === null) {
    return;
  }
  const { url, headers, key, fileId } = grant.json();
  if (send(Date.now(), 's3_put', 'PUT', url, bytes, { timeout: S3_S, responseType: 'text', headers }, 200)
      === null
      || post(next(), 'complete_upload', '/audio/complete-upload', { key }, 201) === null) {
    return;
  }
  const promised = post(next(), 'waveform', '/audio/waveform', { fileId, zoom: 512 }, 202);
  if (promised === null) {
    return;
  }
  follow(user, promised.json('jobId'), next);
  send(next(), 'audio_get', 'GET', `${plan.api}/audio/${fileId}`, null, as(user), 200);
  const link = send(next(), 'audio_url', 'GET', `${plan.api}/audio/${fileId}/url`, null, as(user), 200);
  if (link !== null) {
    readObject('s3_get', link.json('url'), mix.listenBytes);
  }
}

/** Ask for the job until it has ended. The runner sees in the database that every promise was kept. */
function follow(user, jobId, next) {
  for (let poll = 0; poll < mix.uploads.pollsMax; poll += 1) {
    const reply = send(next(), 'job_poll', 'GET', `${plan.api}/jobs/${jobId}`, null, as(user), 200);
    if (reply !== null && !['queued', 'processing'].includes(reply.json('status'))) {
      return;
    }
  }
}

export function handleSummary(data) {
  return { [plan.summary]: JSON.stringify(data) };
}
