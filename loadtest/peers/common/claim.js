// What the peers in Node share: who a token claims to be.
'use strict';

const crypto = require('node:crypto');

function uuid(bytes) {
  const h = bytes.toString('hex');
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
}

// A token is base64url(user id, 16 bytes ‖ secret, 32 bytes); the session's id comes from the
// secret's hash.
function claimOf(authorization) {
  if (authorization === undefined || !authorization.startsWith('Bearer ')) {
    return null;
  }
  const token = Buffer.from(authorization.slice(7), 'base64url');
  if (token.length !== 48) {
    return null;
  }
  const user = uuid(token.subarray(0, 16));
  const hash = crypto.createHash('sha256').update(token.subarray(16)).digest();
  const id = Buffer.from(hash.subarray(0, 16));
  crypto.createHash('sha256').update(user).digest().copy(id, 0, 0, 4);
  id[6] = (id[6] & 0x0f) | 0x80;
  id[8] = (id[8] & 0x3f) | 0x80;
  return { user, session: uuid(id), hash: hash.toString('hex') };
}

module.exports = { claimOf };
