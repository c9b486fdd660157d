//! Clients in towns, and the question for the nearest of them: `--towns` and `--nearby`.
//!
//! Four of five clients are within 0.15° of one of 200 towns, the others anywhere up to 85° north and south. None moves,
//! so a question from where a client is must find that client first.

use std::f64::consts::TAU;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::Wire;
use crate::net::PATIENCE;

/// Number of towns.
const TOWNS: u64 = 200;

/// Radius of a town in degrees.
const TOWN_DEGREES: f64 = 0.15;

/// Latitude that no town is beyond, north or south.
const TOWN_LATITUDE: f64 = 60.0;

/// Sine of the greatest latitude: Redis takes none over 85.05°.
const MAX_SINE: f64 = 0.996;

/// Returns the latitude and longitude of a client.
pub(crate) fn degrees(client: usize) -> (f64, f64) {
    let draw = |number: u64| unit(3 * client as u64 + number);
    if draw(0) >= 0.8 {
        return (
            (MAX_SINE * (2.0 * draw(1) - 1.0)).asin().to_degrees(),
            360.0 * draw(2) - 180.0,
        );
    }
    let town = mix(client as u64) % TOWNS;
    let of_town = |number: u64| 2.0 * unit(u64::MAX - 2 * town - number) - 1.0;
    let (distance, (north, east)) = (TOWN_DEGREES * draw(1).sqrt(), (TAU * draw(2)).sin_cos());
    let longitude = 180.0 * of_town(0) + distance * east;
    (
        TOWN_LATITUDE * of_town(1) + distance * north,
        longitude.clamp(-180.0, 180.0),
    )
}

/// Returns a question for the clients near a location.
pub(crate) fn question(
    wire: Wire,
    (latitude, longitude): (f64, f64),
    radius: &str,
    bound: u8,
) -> Vec<u8> {
    if wire != Wire::Redis {
        let text = format!("NEARBY {latitude:+010.6}{longitude:+011.6} {radius} {bound}\n");
        return text.into_bytes();
    }
    let (longitude, latitude) = (format!("{longitude:.6}"), format!("{latitude:.6}"));
    let bound = bound.to_string();
    let words = [
        "GEOSEARCH",
        "herd",
        "FROMLONLAT",
        &longitude,
        &latitude,
        "BYRADIUS",
        radius,
        "km",
        "ASC",
        "COUNT",
        &bound,
        "WITHDIST",
    ];
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// Returns the number of bytes of the answer at the start of `input`, or `None` if it is incomplete.
pub(crate) fn answer(wire: Wire, input: &[u8], bound: usize) -> Result<Option<usize>, String> {
    match wire {
        Wire::Redis => array(input, bound),
        Wire::Herd | Wire::Echo => lines(input, bound),
    }
}

/// An answer of the herd: a line for each client, the one at that place first, then an empty line.
fn lines(input: &[u8], bound: usize) -> Result<Option<usize>, String> {
    let (mut bytes, mut found) = (0, 0);
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\n") {
            break;
        }
        bytes += line.len();
        let start: &[u8] = if found == 0 {
            b"NEAR 0.000 AT "
        } else {
            b"NEAR "
        };
        match line {
            b"\n" if (1..=bound).contains(&found) => return Ok(Some(bytes)),
            line if line.starts_with(start) => found += 1,
            line => {
                return Err(format!(
                    "a wrong answer after {found} lines: {}",
                    line.escape_ascii()
                ));
            }
        }
    }
    Ok(None)
}

/// An answer of Redis: an array of pairs of member and distance.
fn array(input: &[u8], bound: usize) -> Result<Option<usize>, String> {
    let mut rest = input;
    let mut next = || {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        Some(line)
    };
    let Some(head) = next() else { return Ok(None) };
    let found = std::str::from_utf8(head)
        .ok()
        .and_then(|head| head.strip_prefix('*')?.parse().ok());
    let Some(found) = found.filter(|found| (1..=bound).contains(found)) else {
        return Err(format!("a wrong answer: {}", head.escape_ascii()));
    };
    for _ in 0..found {
        for kind in [b'*', b'$', b'b', b'$', b'0'] {
            let Some(line) = next() else { return Ok(None) };
            let is_right = match kind {
                b'*' | b'$' | b'b' => line.first() == Some(&kind),
                _ => line
                    .iter()
                    .all(|byte| byte.is_ascii_digit() || *byte == b'.'),
            };
            if !is_right {
                return Err(format!("a wrong answer: {}", line.escape_ascii()));
            }
        }
    }
    Ok(Some(input.len() - rest.len()))
}

/// Has a connection speak the second dialect from now on.
pub(crate) fn say_hello(mut stream: &TcpStream) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("the second dialect: {error}");
    stream.set_nonblocking(false).map_err(fault)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.write_all(b"HELLO 2\n").map_err(fault)?;
    let mut reply = Vec::new();
    let mut byte = [0];
    while !reply.ends_with(b"\n") && stream.read(&mut byte).map_err(fault)? > 0 {
        reply.extend_from_slice(&byte);
    }
    if !reply.starts_with(b"HELLO 2 ") {
        return Err(format!(
            "the second dialect was answered \"{}\"",
            reply.escape_ascii()
        ));
    }
    stream.set_nonblocking(true).map_err(fault)
}

/// Returns a number from 0 to below 1 that looks random and is always the same.
fn unit(number: u64) -> f64 {
    (mix(number) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The output function of SplitMix64.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_parts(wire: Wire, answer_text: &[u8]) {
        for length in 0..answer_text.len() {
            assert_eq!(
                answer(wire, &answer_text[..length], 20),
                Ok(None),
                "{length}"
            );
        }
        let more = [answer_text, b"NEAR"].concat();
        assert_eq!(answer(wire, &more, 20), Ok(Some(answer_text.len())));
    }

    #[test]
    fn whole_answers_are_found() {
        check_parts(
            Wire::Herd,
            b"NEAR 0.000 AT A +0.1 a +1+1 1\nNEAR 0.011 AT A +0.1 b +1+1 1\n\n",
        );
        check_parts(
            Wire::Redis,
            b"*2\r\n*2\r\n$2\r\nb1\r\n$6\r\n0.0001\r\n*2\r\n$2\r\nb2\r\n$6\r\n1.0001\r\n",
        );
    }

    #[test]
    fn wrong_answers_are_found() {
        for wrong in [
            &b"\n"[..],
            b"NEAR 0.010 AT A\n\n",
            b"ERR SYNTAX x\n",
            b"NEAR 0.000 AT A\nx\n",
        ] {
            assert!(
                answer(Wire::Herd, wrong, 20).is_err(),
                "{}",
                wrong.escape_ascii()
            );
        }
        assert!(answer(Wire::Herd, b"NEAR 0.000 AT A\nNEAR 1 AT A\n\n", 1).is_err());
        for wrong in [
            &b"*0\r\n"[..],
            b"-ERR x\r\n",
            b"*1\r\n$2\r\n",
            b"*1\r\n*2\r\n$1\r\na\r\n",
        ] {
            assert!(
                answer(Wire::Redis, wrong, 20).is_err(),
                "{}",
                wrong.escape_ascii()
            );
        }
    }

    #[test]
    fn four_of_five_clients_are_in_towns() {
        let all: Vec<_> = (0..20_000).map(degrees).collect();
        let near = |one: (f64, f64), other: (f64, f64)| {
            (one.0 - other.0).abs() < 0.3 && (one.1 - other.1).abs() < 0.3
        };
        let crowded = all[..500]
            .iter()
            .filter(|&&one| all.iter().filter(|&&other| near(one, other)).count() > 20);
        let crowded = crowded.count();
        assert!((350..450).contains(&crowded), "{crowded} of 500");
        assert!(
            all.iter()
                .all(|(latitude, longitude)| latitude.abs() <= 90.0 && longitude.abs() <= 180.0)
        );
    }

    #[test]
    fn questions_are_the_protocols() {
        let place = (34.06893, -118.445127);
        assert_eq!(
            question(Wire::Herd, place, "10", 20),
            b"NEARBY +34.068930-118.445127 10 20\n"
        );
        let text = String::from_utf8(question(Wire::Redis, place, "10", 20)).expect("ASCII");
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|word| !word.starts_with(['$', '*']))
            .collect();
        assert_eq!(
            words.join(" "),
            "GEOSEARCH herd FROMLONLAT -118.445127 34.068930 BYRADIUS 10 km ASC COUNT 20 WITHDIST "
        );
    }
}
