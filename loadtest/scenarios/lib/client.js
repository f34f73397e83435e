// One request: sent, judged, and written down as a line of the samples,
//   intended start (ms) · lateness (ms) · latency (ms) · name · status · 1 if good · error
// Latency counts from the intended start: lateness of the generator, connecting and the answer.
import http from 'k6/http';
import { Rate, Trend } from 'k6/metrics';

const latency = new Trend('latency');
const failed = new Rate('failed');
let keys = 0;

/** An Idempotency-Key that no other request of this run has. */
export function freshKey(seed) {
  keys += 1;
  return `load-${seed}-${__VU}-${keys}`;
}

/** Send it. isGood judges the reply beyond its status. Returns the reply where it is good, else null.
 *  params is of this request alone. */
export function send(intendedMs, name, method, url, body, params, expected, isGood) {
  const lateMs = Math.max(0, Date.now() - intendedMs);
  params.tags = { name };
  const reply = http.request(method, url, body, params);
  const { status, timings } = reply;
  const tookMs = lateMs + timings.blocked + timings.duration;
  const good = status === expected && (!isGood || isGood(reply));
  let why = '';
  if (!good) {
    why = status === expected ? 'content' : `${reply.error_code || ''}${codeOf(reply)}`;
  }
  latency.add(tookMs);
  failed.add(!good);
  console.log(`${intendedMs.toFixed(0)} ${lateMs.toFixed(0)} ${tookMs.toFixed(3)} ${name} `
    + `${status} ${good ? 1 : 0} ${why}`);
  return good ? reply : null;
}

/** The word of a problem document. */
function codeOf(reply) {
  const found = typeof reply.body === 'string' ? reply.body.match(/"code":"([a-z_]+)"/) : null;
  return found ? `:${found[1]}` : '';
}
