'use strict';

// Tests of the library against servers that follow a script, and against a herd. The second need the environment
// variables that tests/libraries.sh sets; without them they are skipped.

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const library = require('./herd.js');
const { Herd } = library;

const RECORD = '+0.000000001 kiwi +34.06893-118.445127 1479413884.392014450';
const NS = 1_000_000_000n;

/** A client's connection at a scripted server. */
class Talk {
  #text = '';
  #ended = false;
  #wake = () => {};

  constructor(socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#text += chunk.toString('latin1');
      this.#wake();
    });
    for (const event of ['end', 'close', 'error']) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  /** The next line, or null at the end. */
  async line() {
    for (;;) {
      const end = this.#text.indexOf('\n');
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      if (this.#ended) return null;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }

  async expect(line) {
    assert.equal(await this.line(), line);
  }

  send(...lines) {
    this.socket.write(lines.map((line) => `${line}\n`).join(''), 'latin1');
  }

  async greet() {
    await this.expect('HELLO 2');
    this.send('HELLO 2 Fake 0.1.0');
  }

  async untilClosed() {
    while ((await this.line()) !== null);
  }
}

/** A server whose connections follow one script each; later ones the last. A script that fails fails its test. */
async function fake(t, ...scripts) {
  const server = net.createServer();
  const running = [];
  const made = { connections: 0, address: '' };
  server.on('connection', (socket) => {
    const script = scripts[Math.min(made.connections, scripts.length - 1)];
    made.connections += 1;
    const talk = new Talk(socket);
    running.push(Promise.resolve(script(talk)).finally(() => socket.end(() => socket.destroy())));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  made.address = `127.0.0.1:${server.address().port}`;
  t.after(async () => {
    server.close();
    await Promise.all(running);
  });
  return made;
}

/** A script: a greeting, then each of these commands with its reply, then until the client closes. */
function answers(...replies) {
  return async (talk) => {
    await talk.greet();
    for (const [command, reply] of replies) {
      await talk.expect(command);
      talk.send(reply);
    }
    await talk.untilClosed();
  };
}

async function closedPort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return `127.0.0.1:${port}`;
}

// Closes it before the servers, whose scripts wait for that: `after` functions run in the order of their making.
function connect(t, servers, options = {}) {
  const herd = new Herd(servers, { timeout: 5_000, replyTimeout: 1_000, shuffle: false, ...options });
  open.get(t)?.push(() => herd.close()) ?? open.set(t, [() => herd.close()]);
  return herd;
}

const open = new WeakMap();

/** A test whose herds and watchers are closed at its end, also a failed one. */
function check(name, body, options = {}) {
  test(name, { timeout: 30_000, ...options }, async (t) => {
    try {
      await body(t);
    } finally {
      for (const close of open.get(t) ?? []) await close();
    }
  });
}

check('a report with its texts', async (t) => {
  const command = 'IAMAT kiwi +34.06893-118.445127 1479413884.392014450';
  const { address } = await fake(t, answers([command, `AT Fake ${RECORD}`]));
  const { record, current } = await connect(t, [address]).report('kiwi', 34.06893, -118.445127, 1479413884392014450n);
  assert.ok(current);
  assert.deepEqual([record.client, record.server, record.lat, record.lon], ['kiwi', 'Fake', 34.06893, -118.445127]);
  assert.equal(record.timeNs, 1479413884392014450n);
  assert.equal(record.receivedNs, 1479413884392014451n);
});

check('texts of numbers', async (t) => {
  const texts = [
    [0, -0, '+0+0'],
    [1e-7, -1e-13, '+0.000000100000-0.000000000000'],
    [90, -180, '+90-180'],
    [34.068930000000001, 0.1 + 0.2, '+34.06893+0.300000000000'],
  ];
  const replies = texts.map(([, , text]) => [`IAMAT a ${text} 1.000000000`, `AT Fake +0.0 a ${text} 1.000000000`]);
  const herd = connect(t, [(await fake(t, answers(...replies))).address]);
  for (const [lat, lon, text] of texts) {
    assert.equal((await herd.report('a', lat, lon, NS)).record.locationText, text);
  }
  for (const wrong of [NaN, Infinity, 90.0001]) {
    await assert.rejects(herd.report('a', wrong, 0), { code: 'LOCATION' });
  }
});

check('what must not be sent is refused before', async (t) => {
  const herd = connect(t, [await closedPort()]);
  for (const client of ['', 'a b', 'a\nb', 'x'.repeat(256), Buffer.from([11]), '\ud800']) {
    await assert.rejects(herd.where(client), { name: 'InvalidError', code: 'CLIENT' });
  }
  await assert.rejects(herd.reportText('a', '+1+1\nFORGET b', '1'), { code: 'LOCATION' });
  await assert.rejects(herd.nearby('+1-1', 1), { code: 'CLIENT' });
  await assert.rejects(herd.report('a', 1, 1, 1.5), TypeError);
  await assert.rejects(herd.where(7), TypeError);
  for (const servers of [[], ['host'], ['host:0'], ['host:x'], 'host:1']) {
    assert.throws(() => new Herd(servers), TypeError);
  }
});

check('ids that are not UTF-8', async (t) => {
  const { address } = await fake(t, answers(['WHERE \xff\x00', 'AT Fake +0.0 \xff\x00 +1+1 1']));
  const { client } = await connect(t, [address]).where(Buffer.from([255, 0]));
  assert.deepEqual(client, Buffer.from([255, 0]));
});

check('OLD is success for the same report alone', async (t) => {
  const old = 'OLD Other +0.5 a +1+1 2';
  const { address } = await fake(t, answers(['IAMAT a +1+1 2.000000000', old], ['IAMAT a +1+1 1.000000000', old]));
  const herd = connect(t, [address]);
  assert.ok((await herd.report('a', 1, 1, 2n * NS)).current);
  const { current, record } = await herd.report('a', 1, 1, NS);
  assert.deepEqual([current, record.server, record.timeNs], [false, 'Other', 2n * NS]);
});

check('lists in pieces of a byte', async (t) => {
  const { address } = await fake(t, async (talk) => {
    await talk.greet();
    await talk.expect('NEARBY +1+1 10 20');
    for (const byte of 'NEAR 0.000 AT A +0.0 a +1+1 1\nNEAR 7.250 AT B +0.0 b +2-2 2.5\n\n') {
      talk.socket.write(byte);
      await new Promise(setImmediate);
    }
    await talk.expect('WITHIN +1+170 +2-170 5');
    talk.send('');
    await talk.untilClosed();
  });
  const herd = connect(t, [address]);
  const found = await herd.nearby({ lat: 1, lon: 1 }, 10);
  assert.deepEqual(
    found.map(({ km, record }) => [km, record.client]),
    [
      [0, 'a'],
      [7.25, 'b'],
    ],
  );
  assert.equal(found[1].record.timeNs, 2_500_000_000n);
  assert.deepEqual(await herd.within(1, 170, 2, -170, 5), []);
});

check('a huge reply', async (t) => {
  const text = `{"results":[\n${Array(20)
    .fill(`"${'x'.repeat(100_000)}"`)
    .join(',\n')}],\n"status":"OK"}\n`;
  const { address } = await fake(t, answers(['WHATSAT kiwi 10 20', `AT Fake ${RECORD}\n${text}`]));
  const { answer } = await connect(t, [address]).whatsat('kiwi', 10, 20);
  assert.deepEqual([answer.results.length, answer.status], [20, 'OK']);
});

check('a reply without an end is given up', async (t) => {
  const endless = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    for (let count = 0; count < 20; count += 1) talk.socket.write('x'.repeat(1 << 20));
    await talk.untilClosed();
  });
  const other = await fake(t, answers(['WHERE kiwi', `AT Fake ${RECORD}`]));
  assert.equal((await connect(t, [endless.address, other.address]).where('kiwi')).client, 'kiwi');
});

check('errors by code', async (t) => {
  const cases = {
    SYNTAX: library.InvalidError,
    AHEAD: library.AheadError,
    FORGOTTEN: library.ForgottenError,
    UNKNOWN: library.UnknownError,
    FULL: library.FullError,
    DENIED: library.DeniedError,
    BUSY: library.BusyError,
    'SOMETHING-NEW': library.RefusedError,
  };
  const server = await fake(t, answers(...Object.keys(cases).map((code) => ['WHERE a', `ERR ${code} the reason`])));
  const herd = connect(t, [server.address]);
  for (const [code, kind] of Object.entries(cases)) {
    await assert.rejects(herd.where('a'), (error) => {
      assert.deepEqual([error.constructor, error.code, error.text], [kind, code, 'the reason']);
      return true;
    });
  }
  assert.equal(server.connections, 1);
});

check('the token is sent once the dialect is known', async (t) => {
  const taken = await fake(t, answers(['AUTH secret', 'WELCOME app'], ['PING', 'PONG']));
  assert.ok((await connect(t, [taken.address], { token: 'secret' }).ping()) < 1_000);
  const denied = await fake(t, answers(['AUTH wrong', 'ERR DENIED no such token']));
  await assert.rejects(connect(t, [denied.address], { token: 'wrong' }).ping(), library.DeniedError);
});

check('calls share a connection, and their times rise', async (t) => {
  const times = [];
  const server = await fake(t, async (talk) => {
    await talk.greet();
    for (let line; (line = await talk.line()) !== null;) {
      const [, client, location, time] = line.split(' ');
      times.push(time);
      talk.send(`AT Fake +0.0 ${client} ${location} ${time}`);
    }
  });
  const herd = connect(t, [server.address]);
  const receipts = await Promise.all(Array.from({ length: 2_000 }, (_, number) => herd.report(`c${number}`, 1, 1)));
  receipts.forEach(({ record }, number) => assert.equal(record.client, `c${number}`));
  assert.deepEqual(times, [...new Set(times)].sort());
  assert.equal(server.connections, 1);
});

check('the next server gets what the first did not answer', async (t) => {
  const bad = [
    async (talk) => {
      await talk.greet();
      await talk.line();
      talk.socket.write('AT Fake +0.0');
    },
    async (talk) => {
      await talk.greet();
      await talk.untilClosed();
    },
    async (talk) => {
      await talk.greet();
      await talk.line();
      talk.send('AT Fake +0.0 another +1+1 1');
      await talk.untilClosed();
    },
    async (talk) => {
      await talk.expect('HELLO 2');
      talk.send('? HELLO 2');
      await talk.untilClosed();
    },
    async (talk) => {
      talk.send('? server full');
      await talk.untilClosed();
    },
  ];
  const servers = [];
  for (const script of [...bad, answers(['WHERE kiwi', `AT Fake ${RECORD}`])]) servers.push(await fake(t, script));
  const herd = connect(t, [await closedPort(), ...servers.map(({ address }) => address)], { replyTimeout: 200 });
  assert.equal((await herd.where('kiwi')).client, 'kiwi');
  assert.deepEqual(
    servers.map(({ connections }) => connections),
    [1, 1, 1, 1, 1, 1],
  );
  assert.equal(herd.server, 'Fake');
});

check('codes of one server go on at another', async (t) => {
  const command = 'IAMAT a +1+1 1.000000000';
  for (const code of ['REMOVED', 'UNWRITABLE', 'STARTING']) {
    const refuses = await fake(t, answers([command, `ERR ${code} not here`]));
    const takes = await fake(t, answers([command, 'AT Fake +0.0 a +1+1 1.000000000']));
    assert.ok((await connect(t, [refuses.address, takes.address]).report('a', 1, 1, NS)).current);
    // Everywhere the same: the error says so, after some rounds.
    const alone = await fake(t, answers([command, `ERR ${code} not here`]));
    await assert.rejects(connect(t, [alone.address], { maxAttempts: 3 }).report('a', 1, 1, NS), { code });
    assert.equal(alone.connections, 3);
  }
});

check('the deadline is a total', async (t) => {
  const drips = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    const timer = setInterval(() => talk.socket.write('x'), 20);
    await talk.untilClosed();
    clearInterval(timer);
  });
  const herd = connect(t, [drips.address], { timeout: 500, replyTimeout: 300 });
  const began = performance.now();
  await assert.rejects(herd.where('a'), library.UnavailableError);
  assert.ok(performance.now() - began < 2_000);
});

check('no server is there', async (t) => {
  const servers = [await closedPort(), await closedPort()];
  const began = performance.now();
  await assert.rejects(connect(t, servers, { timeout: 500 }).ping(), (error) => {
    assert.ok(error instanceof library.UnavailableError);
    assert.deepEqual([...error.reasons.keys()].sort(), [...servers].sort());
    return true;
  });
  assert.ok(performance.now() - began < 2_000);
});

check('a closed one', async (t) => {
  const herd = connect(t, [(await fake(t, answers())).address]);
  const waiting = assert.rejects(herd.ping(), library.UnavailableError);
  await sleep(50);
  herd.close();
  await waiting;
  await assert.rejects(herd.ping(), library.UnavailableError);
});

check('a connection closed while idle is made again at the same server', async (t) => {
  const once = async (talk) => {
    await talk.greet();
    await talk.expect('PING');
    talk.send('PONG');
  };
  const first = await fake(t, once, answers(['PING', 'PONG']));
  const second = await fake(t, answers());
  const herd = connect(t, [first.address, second.address]);
  await herd.ping();
  const deadline = performance.now() + 5_000;
  while (herd.server !== null && performance.now() < deadline) await sleep(1);
  await herd.ping();
  assert.deepEqual([first.connections, second.connections], [2, 0]);
});

check('many reports go on where they were not answered', async (t) => {
  let seen = 0;
  const server = (count) => async (talk) => {
    await talk.greet();
    for (let line; seen < count && (line = await talk.line()) !== null;) {
      seen += 1;
      const [, client, location, time] = line.split(' ');
      talk.send(client === 'c5' ? 'ERR FULL no room' : `AT Fake +0.0 ${client} ${location} ${time}`);
    }
  };
  const first = await fake(t, server(100));
  const second = await fake(t, server(100_000));
  function* reports() {
    for (let n = 0; n < 3_000; n += 1) yield { client: n === 7 ? 'a b' : `c${n}`, lat: 1, lon: 1, timeNs: BigInt(n) };
  }
  const results = await connect(t, [first.address, second.address]).reportMany(reports());
  assert.equal(results.length, 3_000);
  results.forEach((result, number) => {
    if (number === 5 || number === 7) assert.equal(result.code, number === 5 ? 'FULL' : 'CLIENT');
    else assert.deepEqual([result.record.client, result.record.timeNs], [`c${number}`, BigInt(number)]);
  });
  assert.deepEqual([first.connections, second.connections], [1, 1]);
});

check('many reports that end early keep their answers', async (t) => {
  const script = async (talk) => {
    await talk.greet();
    const [, ...fields] = (await talk.line()).split(' ');
    talk.send(`AT Fake +0.0 ${fields.join(' ')}`);
  };
  const { address } = await fake(t, script, async () => {});
  const reports = ['a', 'b'].map((client) => ({ client, lat: 1, lon: 1 }));
  await assert.rejects(connect(t, [address], { timeout: 300 }).reportMany(reports), (error) => {
    assert.ok(error instanceof library.UnavailableError);
    assert.deepEqual([error.results[0].record.client, error.results[1]], ['a', null]);
    return true;
  });
});

function push(word, client, time, place = '+1+1', name = 'w') {
  return `${word} ${name} AT Fake +0.0 ${client} ${place} ${time}`;
}

function watchArea(t, servers, options = {}) {
  const watcher = connect(t, servers, { replyTimeout: 500 }).watchArea(1, 1, 5, { name: 'w', ...options });
  open.get(t).push(() => watcher.close());
  return watcher;
}

async function told(watcher, count) {
  const events = [];
  while (events.length < count) {
    const { value } = await watcher.next();
    const { kind, client, record, total } = value;
    events.push([kind, client, record ? Number(record.timeNs / NS) : total]);
  }
  return events;
}

check('after a loss only the difference is told', async (t) => {
  const first = await fake(t, async (talk) => {
    await talk.greet();
    await talk.expect('WATCH w +1+1 5');
    talk.send('WATCHING w', 'RESET w', ...[...'abcde'].map((client) => push('INSIDE', client, 10)), 'SETTLED w 5');
    talk.send(push('MOVE', 'a', 11), push('ENTER', 'f', 10), push('LEAVE', 'b', 12, '+9+9'), 'GONE w c');
  });
  const second = await fake(t, async (talk) => {
    await talk.greet();
    await talk.expect('WATCH w +1+1 5');
    // A push of a watch that is not confirmed is of an older one.
    talk.send(push('INSIDE', 'zombie', 1), 'WATCHING w', 'RESET w');
    // a as before; d moved; e older than told; f left; g came.
    talk.send(push('INSIDE', 'a', 11), push('INSIDE', 'd', 20), push('INSIDE', 'e', 9), push('ENTER', 'g', 21));
    talk.send('SETTLED w 4', push('MOVE', 'e', 10), push('MOVE', 'e', 30));
    // An overflow of this watch's marks.
    talk.send('RESET w', push('INSIDE', 'a', 11), push('MOVE', 'g', 31), push('INSIDE', 'g', 31), 'SETTLED w 2');
    await talk.untilClosed();
  });
  const watcher = watchArea(t, [first.address, second.address]);
  assert.deepEqual(await told(watcher, 6), [
    ...[...'abcde'].map((client) => ['inside', client, 10]),
    ['settled', undefined, 5],
  ]);
  assert.deepEqual(await told(watcher, 4), [
    ['move', 'a', 11],
    ['enter', 'f', 10],
    ['leave', 'b', 12],
    ['gone', 'c', 10],
  ]);
  assert.deepEqual(await told(watcher, 3), [
    ['move', 'd', 20],
    ['enter', 'g', 21],
    ['leave', 'f', 10],
  ]);
  assert.deepEqual(await told(watcher, 2), [
    ['move', 'e', 30],
    ['move', 'g', 31],
  ]);
  assert.deepEqual((await told(watcher, 2)).sort(), [
    ['leave', 'd', 20],
    ['leave', 'e', 30],
  ]);
});

check('a first filling that breaks off goes on', async (t) => {
  const { address } = await fake(
    t,
    async (talk) => {
      await talk.greet();
      await talk.line();
      talk.send('WATCHING w', 'RESET w', push('INSIDE', 'a', 1));
      talk.socket.write('INSIDE w AT Fa');
    },
    async (talk) => {
      await talk.greet();
      await talk.line();
      talk.send('WATCHING w', 'RESET w', push('INSIDE', 'a', 1), push('INSIDE', 'b', 1), 'SETTLED w 2');
      await talk.untilClosed();
    },
  );
  const watcher = watchArea(t, [address]);
  assert.deepEqual(await told(watcher, 3), [
    ['inside', 'a', 1],
    ['inside', 'b', 1],
    ['settled', undefined, 2],
  ]);
});

check('several watches with pushes between replies', async (t) => {
  const { address } = await fake(t, async (talk) => {
    await talk.greet();
    await talk.expect('WATCH w +1+1 5');
    await talk.expect('WATCH watch-1 \xff');
    talk.send('WATCHING w', 'RESET w', 'SETTLED w 0', push('ENTER', 'a', 1), 'ERR BUSY 64 watches');
    await talk.expect('WATCH k kiwi');
    talk.send(push('MOVE', 'a', 2), 'WATCHING k', 'RESET k', 'SETTLED k 0', push('MOVE', 'kiwi', 3, '+1+1', 'k'));
    await talk.expect('UNWATCH w');
    talk.send(push('MOVE', 'a', 4), 'UNWATCHED w', 'GONE k kiwi');
    await talk.untilClosed();
  });
  const watcher = watchArea(t, [address]);
  assert.equal(watcher.addClient(Buffer.from([255])), 'watch-1');
  assert.deepEqual(await told(watcher, 2), [
    ['settled', undefined, 0],
    ['enter', 'a', 1],
  ]);
  await assert.rejects(watcher.next(), { name: 'BusyError', watch: 'watch-1' });
  watcher.addClient('kiwi', 'k');
  assert.deepEqual(await told(watcher, 3), [
    ['move', 'a', 2],
    ['settled', undefined, 0],
    ['move', 'kiwi', 3],
  ]);
  watcher.remove('w');
  assert.deepEqual(await told(watcher, 1), [['gone', 'kiwi', 3]]);
  assert.throws(() => watcher.remove('w'), library.UnknownError);
  assert.throws(() => watcher.addClient('x', 'k'), library.InvalidError);
});

check('a silent server is asked and left', async (t) => {
  const frozen = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    talk.send('WATCHING w', 'RESET w', 'SETTLED w 0');
    await talk.expect('PING');
    talk.send('PONG');
    await talk.expect('PING');
    await talk.untilClosed();
  });
  const other = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    talk.send('WATCHING w', 'RESET w', push('INSIDE', 'a', 1), 'SETTLED w 1');
    await talk.untilClosed();
  });
  const watcher = watchArea(t, [frozen.address, other.address], { pingInterval: 50 });
  assert.deepEqual(await told(watcher, 2), [
    ['settled', undefined, 0],
    ['enter', 'a', 1],
  ]);
});

check('a slow consumer leaves the rest at the server', async (t) => {
  let sent = 0;
  const { address } = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    talk.send('WATCHING w', 'RESET w', 'SETTLED w 0', push('ENTER', 'a', 1));
    const filler = '0'.repeat(200);
    for (let stalled = false; !stalled && sent < 1_000_000;) {
      sent += 1;
      if (talk.socket.write(`${push('MOVE', 'a', sent + 1, `+1+1.${filler}`)}\n`)) continue;
      const drained = new Promise((resolve) => talk.socket.once('drain', () => resolve(false)));
      stalled = await Promise.race([drained, sleep(300, true)]);
    }
    await talk.untilClosed();
  });
  const watcher = watchArea(t, [address]);
  assert.deepEqual(await told(watcher, 2), [
    ['settled', undefined, 0],
    ['enter', 'a', 1],
  ]);
  await sleep(500);
  assert.ok(sent > 0 && sent < 100_000, `${sent}`);
  assert.deepEqual((await told(watcher, 100)).at(-1), ['move', 'a', 101]);
});

check('closing ends a waiting iterator', async (t) => {
  const { address } = await fake(t, async (talk) => {
    await talk.greet();
    await talk.line();
    talk.send('WATCHING w', 'RESET w', 'SETTLED w 0');
    await talk.untilClosed();
  });
  const watcher = watchArea(t, [address]);
  assert.deepEqual(await told(watcher, 1), [['settled', undefined, 0]]);
  setTimeout(() => watcher.close(), 50);
  for await (const event of watcher) assert.fail(event.kind);
  assert.deepEqual(await watcher.next(), { done: true, value: undefined });
  assert.throws(() => watcher.addClient('a'), library.UnavailableError);
  const other = watchArea(t, [address]);
  for await (const event of other) {
    assert.equal(event.kind, 'settled');
    break;
  }
  assert.ok((await other.next()).done);
});

check('without any server its patience ends', async (t) => {
  const servers = [await closedPort(), await closedPort()];
  const watcher = watchArea(t, servers, { patience: 200 });
  for (let round = 0; round < 2; round += 1) {
    await assert.rejects(watcher.next(), (error) => {
      assert.ok(error instanceof library.UnavailableError);
      assert.deepEqual([...error.reasons.keys()].sort(), [...servers].sort());
      return true;
    });
  }
});

/** Whole numbers below a limit, the same for the same seed. */
function chances(seed) {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** What servers that are behind each other and break off tell a watch of the same story, a list of lines for each. */
function connectionsOf(story, below) {
  const connections = [];
  let inside;
  const happens = (moment) => {
    const { client, place } = story[moment];
    const was = inside.delete(client);
    if (place === 'inside') {
      inside.set(client, moment);
      return push(was ? 'MOVE' : 'ENTER', client, moment);
    }
    if (!was) return null;
    return place === 'gone' ? `GONE w ${client}` : push('LEAVE', client, moment, '+9+9');
  };
  for (let connection = 0; connection < 4; connection += 1) {
    const lines = ['RESET w'];
    // A server knows the beginning of the story, and learns the rest while it fills the watch and after.
    let known = below(story.length);
    let untold = [...'abcdef'];
    let settled = false;
    inside = new Map();
    for (let moment = 0; moment < known; moment += 1) happens(moment);
    while ((known < story.length || !settled) && (connection === 3 || below(100) >= 3)) {
      if (below(100) < 3) {
        // An overflow of its marks: what was not told yet never is.
        for (; known < story.length && below(10) < 7; known += 1) happens(known);
        untold = [...'abcdef'];
        settled = false;
        lines.push('RESET w');
      } else if (untold.length > 0 && below(10) < 6) {
        const [client] = untold.splice(below(untold.length), 1);
        if (inside.has(client)) lines.push(push('INSIDE', client, inside.get(client)));
      } else if (untold.length === 0 && !settled) {
        settled = true;
        lines.push(`SETTLED w ${inside.size}`);
      } else if (known < story.length) {
        const line = happens(known);
        if (line !== null && !untold.includes(story[known].client)) lines.push(line);
        known += 1;
      }
    }
    connections.push(lines);
  }
  return { connections, inside };
}

check('whatever servers lag and break off, what was told ends as what is', async (t) => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const below = chances(seed);
    const story = Array.from({ length: 60 }, () => ({
      client: 'abcdef'[below(6)],
      place: ['inside', 'inside', 'outside', 'gone'][below(4)],
    }));
    const { connections, inside } = connectionsOf(story, below);
    const scripts = connections.map((lines, number) => async (talk) => {
      await talk.greet();
      await talk.line();
      talk.send('WATCHING w', ...lines);
      if (number < 3) return;
      talk.send(push('ENTER', 'end', 0));
      await talk.untilClosed();
    });
    const { address } = await fake(t, ...scripts);
    const watcher = watchArea(t, [address]);
    const told = new Map();
    for await (const { kind, client, record } of watcher) {
      if (client === 'end') break;
      if (kind === 'settled') continue;
      const before = told.get(client);
      const seen = `seed ${seed}: ${kind} ${client} ${record.timeText}`;
      // No client enters twice, and none leaves or moves that is not inside.
      assert.equal(kind === 'inside' || kind === 'enter', before === undefined, seen);
      told.delete(client);
      if (kind === 'leave' || kind === 'gone') continue;
      told.set(client, Number(record.timeText));
      assert.ok(before === undefined || told.get(client) > before, seen);
    }
    assert.deepEqual(new Map([...told].sort()), new Map([...inside].sort()), `seed ${seed}`);
  }
});

// --- A herd whose addresses are in HERD_SERVERS, with HERD_RUN as the run.sh of its servers, and HERD_STATE its state
// directory ---

const servers = process.env.HERD_SERVERS?.split(' ');
const needsHerd = { skip: servers === undefined && 'tests/libraries.sh runs it with a herd' };

/** Kills a server; the function that it returns starts it again. */
function kill(name) {
  process.kill(Number(fs.readFileSync(path.join(process.env.HERD_STATE, `${name}.pid`), 'utf8')), 'SIGKILL');
  return () => execFileSync(process.env.HERD_RUN, ['start', name, '--detach']);
}

/** Waits until it holds at each server. */
async function everywhere(t, condition) {
  for (const server of servers) {
    const asked = connect(t, [server]);
    const deadline = performance.now() + 10_000;
    while (!(await condition(asked))) {
      assert.ok(performance.now() < deadline, server);
      await sleep(10);
    }
  }
}

check(
  'questions to a herd',
  async (t) => {
    const herd = connect(t, servers);
    const kiwi = `js-${process.pid}-kiwi`;
    const tui = Buffer.from(`js-${process.pid}-tui\xff`, 'latin1');
    await assert.rejects(herd.where(kiwi), library.UnknownError);
    const { record, current } = await herd.report(kiwi, 48.2082, 16.3738);
    assert.ok(current);
    assert.ok((await herd.report(kiwi, 48.2082, 16.3738, record.timeNs)).current);
    assert.ok(!(await herd.report(kiwi, 48.2082, 16.3738, record.timeNs - 1n)).current);
    assert.ok((await herd.reportText(tui, '+48.21+016.38', '1479413884.39201446')).current);
    const found = await herd.where(tui);
    assert.deepEqual([found.client, found.locationText, found.timeText], [tui, '+48.21+016.38', '1479413884.39201446']);
    const near = await herd.nearby(kiwi, 5, 10);
    assert.deepEqual(
      near.map(({ record: { client } }) => client),
      [tui],
    );
    assert.ok(near[0].km > 0.3 && near[0].km < 1);
    assert.equal((await herd.nearby({ lat: 48.2, lon: 16.37 }, 5)).length, 2);
    assert.equal((await herd.within(48, 16, 49, 17)).length, 2);
    assert.equal((await herd.whatsat(kiwi, 10, 1)).answer.status, 'OK');
    await assert.rejects(herd.nearby(kiwi, 30_000), library.InvalidError);
    await assert.rejects(herd.report(kiwi, 1, 1, record.timeNs + 1000n * NS), library.AheadError);
    assert.equal((await herd.forget(kiwi)).client, kiwi);
    await assert.rejects(herd.where(kiwi), library.UnknownError);
    await assert.rejects(herd.report(kiwi, 1, 1, record.timeNs), library.ForgottenError);
    assert.ok((await herd.forget(tui)).timeNs > record.timeNs);
  },
  needsHerd,
);

check(
  'reports to a herd while a server is killed',
  async (t) => {
    const herd = connect(t, servers, { timeout: 15_000 });
    await herd.ping();
    const victim = herd.server;
    let start = () => {};
    function* reports() {
      for (let number = 0; number < 10_000; number += 1) {
        if (number === 5_000) start = kill(victim);
        yield { client: `js-${process.pid}-${number % 500}`, lat: 30 + number / 1e5, lon: 20 };
      }
    }
    try {
      const results = await herd.reportMany(reports());
      assert.notEqual(herd.server, victim);
      assert.deepEqual(
        results.filter(({ current }) => !current),
        [],
      );
      const newest = results.slice(-500);
      start();
      start = () => {};
      await everywhere(t, async (asked) => {
        const found = await Promise.all(
          newest.map(({ record }) => asked.where(record.client).catch(() => ({ timeNs: 0n }))),
        );
        return found.every(({ timeNs }, at) => timeNs >= newest[at].record.timeNs);
      });
    } finally {
      start();
    }
  },
  needsHerd,
);

check(
  'a watch goes on when its server is killed',
  async (t) => {
    const reporter = connect(t, [...servers].reverse(), { timeout: 15_000 });
    const [inside, moved, gone] = ['inside', 'moved', 'gone'].map((name) => `js-${process.pid}-${name}`);
    for (const client of [inside, moved, gone]) await reporter.report(client, -50, 60);
    await everywhere(t, async (asked) => (await asked.nearby({ lat: -50, lon: 60 }, 5)).length === 3);
    const watcher = connect(t, servers).watchArea(-50, 60, 5, { name: 'area' });
    open.get(t).push(() => watcher.close());
    watcher.addClient(moved, 'one');
    const next = async (count) => {
      const events = [];
      while (events.length < count) {
        const { value } = await watcher.next();
        events.push(`${value.watch} ${value.kind} ${value.client ?? value.total}`);
      }
      return events.sort();
    };
    assert.deepEqual(
      await next(6),
      [
        ...[inside, moved, gone].map((client) => `area inside ${client}`),
        'area settled 3',
        `one inside ${moved}`,
        'one settled 1',
      ].sort(),
    );
    const victim = watcher.server;
    const start = kill(victim);
    try {
      await reporter.report(moved, -50.001, 60);
      await reporter.report(inside, 70, 70);
      await reporter.forget(gone);
      const events = await next(4);
      for (const event of [`area move ${moved}`, `one move ${moved}`, `area leave ${inside}`]) {
        assert.ok(events.includes(event), `${events}`);
      }
      assert.ok(
        events.some((event) => /^area (leave|gone) .*-gone$/.test(event)),
        `${events}`,
      );
      assert.notEqual(watcher.server, victim);
      await reporter.report(inside, -50, 60);
      assert.deepEqual(await next(1), [`area enter ${inside}`]);
    } finally {
      // Another run counts who is here.
      for (const client of [inside, moved, gone]) await reporter.forget(client);
      start();
    }
  },
  needsHerd,
);
