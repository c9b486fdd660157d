//! The content of the load: clients, their locations, and the requests they make.
//!
//! A client belongs to one connection, and its times only grow. So the report that a `WHATSAT`
//! must show is known exactly: the last report sent on the same connection. Requests have one length per
//! kind and are put together from ready pieces, so that making one costs less than a server's
//! reading of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Plan, Wire, towns};

/// Bytes of a client's id.
pub(crate) const ID_BYTES: usize = 26;

/// Bytes of a location: `+34.068930-118.445127`.
const LOCATION_BYTES: usize = 21;

/// Bytes of a time: `1479413884.392014450`.
const TIME_BYTES: usize = 20;

/// Bytes of `client location time` and LF.
pub(crate) const REPORT_BYTES: usize = ID_BYTES + 1 + LOCATION_BYTES + 1 + TIME_BYTES + 1;

/// Different locations, a power of two: enough to be spread over the world, few enough that
/// the places near each can be remembered.
pub(crate) const LOCATIONS: usize = 1024;

/// Around which the locations lie, in degrees: cities, since empty sea has no places.
const CITIES: [(f64, f64); 16] = [
    (34.07, -118.45),
    (51.51, -0.13),
    (35.68, 139.69),
    (-1.29, 36.82),
    (-33.87, 151.21),
    (-23.55, -46.63),
    (40.71, -74.01),
    (28.61, 77.21),
    (52.52, 13.40),
    (19.43, -99.13),
    (30.04, 31.24),
    (1.35, 103.82),
    (55.76, 37.62),
    (-34.60, -58.38),
    (64.15, -21.94),
    (-36.85, 174.76),
];

/// State of a connection's own clients.
#[derive(Debug)]
pub(crate) struct Share {
    first: usize,
    /// Clients that have reported at least once, from the first on.
    reported: usize,
    /// Offset of the one that reports next.
    next: usize,
}

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// `client location time` and LF, as the reply's first line must end.
    pub(crate) report: [u8; REPORT_BYTES],
    /// Which location that is.
    pub(crate) location: u16,
    /// `true` if places must follow.
    pub(crate) whatsat: bool,
    /// `true` if it asks for the nearest clients, and has no report.
    pub(crate) nearby: bool,
    /// When it was sent, or ought to have been, in nanoseconds since the run's start.
    pub(crate) at: u64,
}

#[derive(Debug)]
struct Client {
    id: [u8; ID_BYTES],
    /// Its last report's time, in nanoseconds since the epoch.
    last: u64,
}

/// Makes the requests of a run.
#[derive(Debug)]
pub(crate) struct Workload {
    clients: Vec<Client>,
    locations: Vec<[u8; LOCATION_BYTES]>,
    connections: usize,
    /// Of 2³² requests, how many are a `WHATSAT`.
    whatsat: u64,
    /// Of as many, how many are a `NEARBY`.
    nearby: u64,
    /// ` radius bound` and LF.
    inquiry: Vec<u8>,
    plan: Plan,
    /// For Redis, all of a report but the client's id: the same for each location.
    geoadds: Vec<Vec<u8>>,
    random: u64,
    /// The wall clock at the run's start.
    epoch: u64,
    last_time: u64,
    /// Seconds and their ten digits: they change a million requests apart.
    second: (u64, [u8; 10]),
}

impl Workload {
    /// The clients of a plan dealt out to its connections, at least one each.
    pub(crate) fn new(plan: &Plan) -> Workload {
        let options = &plan.options;
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Workload {
            clients: (0..plan.clients)
                .map(|index| Client {
                    id: client_id(index),
                    last: 0,
                })
                .collect(),
            locations: (0..LOCATIONS).map(location).collect(),
            connections: options.connections,
            whatsat: (options.whatsat / 100.0 * 2f64.powi(32)) as u64,
            nearby: (options.nearby / 100.0 * 2f64.powi(32)) as u64,
            inquiry: format!(" {} {}\n", options.radius, options.bound).into_bytes(),
            plan: plan.clone(),
            geoadds: match plan.wire {
                Wire::Redis => (0..LOCATIONS).map(|index| geoadd(degrees(index))).collect(),
                Wire::Herd | Wire::Echo => Vec::new(),
            },
            random: 0x9e37_79b9_7f4a_7c15,
            epoch: u64::try_from(epoch.as_nanos()).unwrap_or(u64::MAX),
            last_time: 0,
            second: (u64::MAX, [0; 10]),
        }
    }

    /// The clients of one connection.
    pub(crate) fn share(&self, connection: usize) -> Share {
        Share {
            first: connection,
            reported: 0,
            next: 0,
        }
    }

    /// Appends a request and returns what its reply must be. `now` and `at` are nanoseconds
    /// since the run's start.
    pub(crate) fn request(
        &mut self,
        share: &mut Share,
        now: u64,
        at: u64,
        out: &mut Vec<u8>,
    ) -> Pending {
        let draw = self.draw();
        if (draw & 0xffff_ffff) >= (1 << 32) - self.nearby {
            return self.question(draw >> 32, at, out);
        }
        let whatsat = share.reported > 0 && draw & 0xffff_ffff < self.whatsat;
        let (client, time) = if whatsat {
            let own = ((draw >> 32) as usize * share.reported) >> 32;
            let client = share.first + own * self.connections;
            (client, self.clients[client].last)
        } else {
            let client = share.first + share.next * self.connections;
            share.next += 1;
            share.reported = share.reported.max(share.next);
            if client + self.connections >= self.clients.len() {
                share.next = 0;
            }
            self.last_time = (self.epoch + now).max(self.last_time + 1);
            self.clients[client].last = self.last_time;
            (client, self.last_time)
        };
        let location = location_of(time);
        let town = self.plan.options.towns.then(|| towns::degrees(client));
        let mut pending = Pending {
            report: [b' '; REPORT_BYTES],
            location: location as u16,
            whatsat,
            nearby: false,
            at,
        };
        let (id, rest) = pending.report.split_at_mut(ID_BYTES);
        id.copy_from_slice(&self.clients[client].id);
        let text = town.map_or(self.locations[location], location_text);
        rest[1..=LOCATION_BYTES].copy_from_slice(&text);
        self.write_time(time, &mut rest[LOCATION_BYTES + 2..]);
        if whatsat {
            out.extend_from_slice(b"WHATSAT ");
            out.extend_from_slice(&self.clients[client].id);
            out.extend_from_slice(&self.inquiry);
        } else if let Some(ready) = self.geoadds.get(location) {
            match town {
                Some(town) => out.extend_from_slice(&geoadd(town)),
                None => out.extend_from_slice(ready),
            }
            out.extend_from_slice(&self.clients[client].id);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(b"IAMAT ");
            out.extend_from_slice(&pending.report);
        }
        pending
    }

    /// Appends a question for the clients near one; `draw` is random, of 32 bits.
    fn question(&self, draw: u64, at: u64, out: &mut Vec<u8>) -> Pending {
        let options = &self.plan.options;
        let place = towns::degrees((draw as usize * self.clients.len()) >> 32);
        let question = towns::question(self.plan.wire, place, &options.radius, options.bound);
        out.extend_from_slice(&question);
        Pending {
            report: [b' '; REPORT_BYTES],
            location: 0,
            whatsat: false,
            nearby: true,
            at,
        }
    }

    /// Writes seconds, point, nine decimals and LF.
    fn write_time(&mut self, time: u64, out: &mut [u8]) {
        let (seconds, mut nanos) = (time / 1_000_000_000, time % 1_000_000_000);
        if self.second.0 != seconds {
            self.second.0 = seconds;
            let mut rest = seconds;
            for digit in self.second.1.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        out[..10].copy_from_slice(&self.second.1);
        out[10] = b'.';
        for digit in out[11..TIME_BYTES].iter_mut().rev() {
            *digit = b'0' + (nanos % 10) as u8;
            nanos /= 10;
        }
        out[TIME_BYTES] = b'\n';
    }

    /// Xorshift: which requests are inquiries has to be mixed, not secret.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// The id of a client by its number.
pub(crate) fn client_id(index: usize) -> [u8; ID_BYTES] {
    let mut id = *b"bench-00000000000000000000";
    let mut rest = index;
    for digit in id[6..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    id
}

/// Where a client is follows from its time, so that nothing but the time has to be kept.
fn location_of(time: u64) -> usize {
    (time.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % LOCATIONS
}

fn degrees(index: usize) -> (f64, f64) {
    let (latitude, longitude) = CITIES[index % CITIES.len()];
    let step = (index / CITIES.len()) as f64;
    (latitude + 0.003_1 * step, longitude - 0.002_7 * step)
}

/// `GEOADD herd longitude latitude member` as RESP, up to the member itself.
fn geoadd((latitude, longitude): (f64, f64)) -> Vec<u8> {
    let mut out = b"*5\r\n".to_vec();
    for word in [
        "GEOADD".to_owned(),
        "herd".to_owned(),
        format!("{longitude:.6}"),
        format!("{latitude:.6}"),
    ] {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out.extend_from_slice(format!("${ID_BYTES}\r\n").as_bytes());
    out
}

fn location(index: usize) -> [u8; LOCATION_BYTES] {
    location_text(degrees(index))
}

fn location_text((latitude, longitude): (f64, f64)) -> [u8; LOCATION_BYTES] {
    let text = format!("{latitude:+010.6}{longitude:+011.6}");
    let mut out = [b'0'; LOCATION_BYTES];
    out.copy_from_slice(text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::*;

    #[test]
    fn locations_have_one_length_and_stay_in_range() {
        for index in 0..LOCATIONS {
            let text = location(index);
            let text = std::str::from_utf8(&text).expect("ASCII");
            let latitude: f64 = text[..10].parse().expect("a latitude");
            let longitude: f64 = text[10..].parse().expect("a longitude");
            assert!(latitude.abs() <= 90.0 && longitude.abs() <= 180.0, "{text}");
        }
        assert_eq!(&location(0), b"+34.070000-118.450000");
        assert_eq!(&location(3), b"-01.290000+036.820000");
    }

    #[test]
    fn reports_are_lines_whose_times_grow() {
        let mut load = Workload::new(&plan("--clients 3 --connections 1 --whatsat 0.0 --bound 0"));
        let mut share = load.share(0);
        let mut out = Vec::new();
        for _ in 0..4 {
            let pending = load.request(&mut share, 5, 5, &mut out);
            assert!(out.ends_with(&pending.report) && !pending.whatsat);
        }
        let text = String::from_utf8(out).expect("ASCII");
        let fields: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        let ids: Vec<&str> = fields.iter().map(|fields| fields[1]).collect();
        assert_eq!(ids[0], "bench-00000000000000000000");
        assert_eq!(ids[2], "bench-00000000000000000002");
        assert_eq!(ids[3], ids[0]);
        assert!(fields.windows(2).all(|pair| pair[0][3] < pair[1][3]));
        assert!(fields.iter().all(|fields| fields[3].len() == TIME_BYTES));
    }

    #[test]
    fn redis_is_sent_longitude_latitude_and_the_client() {
        let mut load = Workload::new(&plan("--clients 1 --connections 1 --redis"));
        let mut share = load.share(0);
        let mut out = Vec::new();
        let location = load.request(&mut share, 0, 0, &mut out).location;
        let (latitude, longitude) = degrees(location.into());
        let text = String::from_utf8(out).expect("ASCII");
        let words: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(words[..5], ["*5", "$6", "GEOADD", "$4", "herd"]);
        assert_eq!(words[6], format!("{longitude:.6}"));
        assert_eq!(words[5], format!("${}", words[6].len()));
        assert_eq!(words[8], format!("{latitude:.6}"));
        assert_eq!(words[9..], ["$26", "bench-00000000000000000000", ""]);
    }

    #[test]
    fn inquiries_ask_for_the_last_report_of_an_own_client() {
        let mut load = Workload::new(&plan(
            "--clients 10 --connections 3 --whatsat 50.0 --bound 5",
        ));
        let mut shares: Vec<Share> = (0..3).map(|index| load.share(index)).collect();
        let mut last = std::collections::HashMap::new();
        let mut inquiries = 0;
        for turn in 0..3_000 {
            let connection = turn % 3;
            let mut out = Vec::new();
            let pending = load.request(&mut shares[connection], turn as u64, 0, &mut out);
            let id = pending.report[..ID_BYTES].to_vec();
            let number: usize = String::from_utf8_lossy(&id[6..]).parse().expect("digits");
            assert_eq!(number % 3, connection);
            if pending.whatsat {
                inquiries += 1;
                assert_eq!(last.get(&id), Some(&pending.report));
                assert_eq!(out, [b"WHATSAT ", &id[..], b" 10 5\n"].concat());
            } else {
                last.insert(id, pending.report);
            }
        }
        assert_eq!(last.len(), 10);
        assert!((1_300..1_700).contains(&inquiries), "{inquiries}");
    }
}
