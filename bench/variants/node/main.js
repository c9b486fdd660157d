/** The program: flags, exit codes, signals. Exit code 1 is a failure, 2 bad usage or configuration. */

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { Herd } from './herd.js';
import { Log } from './log.js';
import { KEY_VARIABLE, Provider } from './places.js';
import { TopologyError, load } from './topology.js';

/** Descriptors that are kept for everything that is not a client. */
const SPARE_DESCRIPTORS = 256;

const HELP = `Usage: serve NAME --servers FILE [OPTION...]

Serve as the server NAME of a herd.

  --servers FILE      the servers of the herd
  --log FILE          log connections and lines there
  --places-url URL    Google's Nearby Search (legacy) or one like it; the key is in
                      $${KEY_VARIABLE} (default: no places)
  --max-clients N     clients at a time (default: open files allowed, less ${SPARE_DESCRIPTORS})
  --max-records N     clients whose location is kept (default: 10000000)
  --idle-timeout S    seconds after which a silent client is closed (default: 600)
  -h, --help          this text
`;

/** What the user has to put right. */
class UsageError extends Error {}

function positive(flag, text) {
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < 1) throw new UsageError(`--${flag} must be a number, at least 1`);
  return number;
}

/** How many files this process may have open. Node has raised the soft limit to the hard one. */
function openFiles() {
  const match = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'));
  return Number(match?.[1] ?? 1024);
}

function provider(url) {
  if (url === undefined) return undefined;
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new UsageError('--places-url must be an http or https URL');
  const key = process.env[KEY_VARIABLE]?.trim();
  if (!key) throw new UsageError(`--places-url needs an API key in the environment variable ${KEY_VARIABLE}`);
  return new Provider(url, key);
}

function openLog(path) {
  if (path === undefined) return undefined;
  try {
    return new Log(path);
  } catch (error) {
    throw new UsageError(`can't write the log ${path}: ${error.message}`);
  }
}

function readSettings() {
  let parsed;
  const text = (fallback) => ({ type: 'string', default: fallback });
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        servers: text(),
        log: text(),
        'places-url': text(),
        'max-clients': text(String(Math.max(1, openFiles() - SPARE_DESCRIPTORS))),
        'max-records': text('10000000'),
        'idle-timeout': text('600'),
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw new UsageError(`${error.message}\n${HELP}`);
  }
  const { values: flags, positionals } = parsed;
  if (flags.help) {
    process.stdout.write(HELP);
    process.exit(0);
  }
  const [name] = positionals;
  if (positionals.length !== 1 || flags.servers === undefined) {
    throw new UsageError(`one NAME and --servers are needed\n${HELP}`);
  }
  const servers = load(flags.servers);
  const me = servers.get(name);
  if (!me) throw new UsageError(`${flags.servers} names no server ${name}; it names ${[...servers.keys()].join(', ')}`);
  return {
    me,
    neighbors: me.neighbors.map((neighbor) => servers.get(neighbor)),
    provider: provider(flags['places-url']),
    log: openLog(flags.log),
    maxClients: positive('max-clients', flags['max-clients']),
    maxRecords: positive('max-records', flags['max-records']),
    idleTimeout: 1000 * positive('idle-timeout', flags['idle-timeout']),
  };
}

try {
  const settings = readSettings();
  const herd = new Herd(settings);
  await herd.start();
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => herd.stop());
  const { name, clients, peers } = settings.me;
  process.stdout.write(`${name} is ready: clients ${clients.text}, peers ${peers.text}\n`);
} catch (error) {
  const isUsage = error instanceof UsageError || error instanceof TopologyError;
  process.stderr.write(`${error.message}\n`);
  process.exit(isUsage ? 2 : 1);
}
