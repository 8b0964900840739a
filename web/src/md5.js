// MD5 (RFC 1321): DNG's NewRawImageDigest. Browsers offer no MD5.

const SHIFTS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
const SINES = Int32Array.from({ length: 64 }, (_, i) => Math.floor(2 ** 32 * Math.abs(Math.sin(i + 1))) | 0);

/** Return the digest (16 bytes) of bytes. */
export function md5(bytes) {
  const state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476), words = new Int32Array(16);
  const whole = bytes.length - (bytes.length % 64);
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < whole; at += 64) block(state, words, data, at);
  const rest = new Uint8Array(bytes.length % 64 < 56 ? 64 : 128), end = new DataView(rest.buffer);
  rest.set(bytes.subarray(whole));
  rest[bytes.length - whole] = 0x80;
  end.setUint32(rest.length - 8, (bytes.length * 8) >>> 0, true);
  end.setUint32(rest.length - 4, Math.floor(bytes.length / 2 ** 29), true);
  for (let at = 0; at < rest.length; at += 64) block(state, words, end, at);
  return new Uint8Array(state.buffer);
}

function block(state, words, data, at) {
  for (let i = 0; i < 16; i++) words[i] = data.getInt32(at + 4 * i, true);
  let [a, b, c, d] = state;
  for (let i = 0; i < 64; i++) {
    const round = i >> 4;
    let mixed, word;
    if (round === 0) [mixed, word] = [(b & c) | (~b & d), i];
    else if (round === 1) [mixed, word] = [(d & b) | (~d & c), (5 * i + 1) & 15];
    else if (round === 2) [mixed, word] = [b ^ c ^ d, (3 * i + 5) & 15];
    else [mixed, word] = [c ^ (b | ~d), (7 * i) & 15];
    const sum = (a + mixed + SINES[i] + words[word]) | 0, shift = SHIFTS[round][i & 3];
    [a, d, c] = [d, c, b];
    b = (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
}
