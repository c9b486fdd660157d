'use strict';

// A courier enters an area, moves in it and leaves it, under the eyes of a watcher.
//
// Usage: node example.js [HOST:PORT...]   the client addresses of some servers of a herd, or of all;
//                                         without any, those of the herd that ./run.sh starts

const { Herd, UnknownError, HerdError } = require('./herd.js');

const SERVERS = [0, 1, 2, 3, 4].map((number) => `127.0.0.1:${12000 + number}`);
const COURIER = 'courier.example';

/** @param {string[]} servers */
async function main(servers) {
  const herd = new Herd(servers);
  try {
    for await (const event of herd.watchArea(34.07, -118.445, 2, { name: 'campus' })) {
      // Others may be there.
      if (event.client !== undefined && event.client !== COURIER) continue;
      console.log(event.kind, event.record ? event.record.locationText : `${event.total} clients`);
      if (event.kind === 'settled') {
        await herd.report(COURIER, 34.06893, -118.445127);
        await herd.reportMany([
          { client: 'kiwi.example', lat: 34.07, lon: -118.44 },
          { client: 'tui.example', lat: 34.08, lon: -118.47 },
        ]);
      } else if (event.kind === 'enter') {
        for (const { km, record } of await herd.nearby(COURIER, 10, 3))
          console.log('  near:', String(record.client), km, 'km');
        const places = await herd.whatsat(COURIER, 10, 2);
        for (const { name } of places.answer.results) console.log('  near:', name);
        await herd.report(COURIER, 34.075, -118.444);
      } else if (event.kind === 'move' && event.record) {
        // At a time of one's own: nanoseconds, as a BigInt.
        await herd.report(COURIER, 34.1, -118.3, event.record.timeNs + 1_000_000n);
      } else if (event.kind === 'leave') {
        break;
      }
    }
    for (const client of [COURIER, 'kiwi.example', 'tui.example']) await herd.forget(client);
    await herd.where(COURIER).catch((error) => {
      if (!(error instanceof UnknownError)) throw error;
      console.log(error.code);
    });
  } finally {
    herd.close();
  }
}

main(process.argv.length > 2 ? process.argv.slice(2) : SERVERS).catch((error) => {
  console.error(error instanceof HerdError ? `example.js: ${error.message}` : error);
  process.exitCode = 1;
});
