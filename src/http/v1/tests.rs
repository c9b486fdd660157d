//! Answers from a replica.

use super::*;
use crate::model::command::Command;
use crate::replica::ForgetOutcome;
use serde_json::{Value, json};
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_nanos(1_479_413_884_655_887_836);

/// A replica with a client for each of these, its location and its seconds.
fn replica(reports: &[(&[u8], &str, &str)]) -> Replica {
    let replica = Replica::new("Welsh", 7, 1_000);
    for (client, location, seconds) in reports {
        let line = [
            b"IAMAT ",
            *client,
            format!(" {location} {seconds}").as_bytes(),
        ]
        .concat();
        let Ok(Command::Iamat(report)) = Command::parse(&line) else {
            panic!("{location}")
        };
        replica.report(&[report], NOW, &mut Vec::new());
    }
    replica
}

fn ask(replica: &Replica, target: &str) -> Result<Value, Fault> {
    ask_while(replica, target, false)
}

fn ask_while(replica: &Replica, target: &str, is_starting: bool) -> Result<Value, Fault> {
    let answers = Answers {
        replica,
        now: NOW,
        is_starting: &|| is_starting,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let json = answers.of(path, query)?;
    Ok(serde_json::from_slice(&json).unwrap())
}

#[track_caller]
fn refused(replica: &Replica, target: &str) -> (u16, Value) {
    let response = ask(replica, target).expect_err(target).response();
    let Body::Owned(json) = response.body else {
        panic!("{target}")
    };
    assert_eq!(response.content_type, JSON);
    assert!(response.fields.contains("no-store"));
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert!(json["error"]["text"].as_str().unwrap().len() > 10, "{json}");
    (response.status, json["error"]["code"].clone())
}

/// The ids of a list, and whether there are more.
#[track_caller]
fn ids(answer: Result<Value, Fault>) -> (Vec<String>, bool) {
    let answer = answer.unwrap();
    let id = |client: &Value| client["client"].as_str().unwrap().to_owned();
    let clients = answer["clients"].as_array().unwrap();
    (
        clients.iter().map(id).collect(),
        answer["more"].as_bool().unwrap(),
    )
}

#[test]
fn a_client_has_the_fields_of_its_report() {
    let replica = replica(&[
        (
            b"kiwi.cs.ucla.edu",
            "+34.06893-118.445127",
            "1479413884.392014450",
        ),
        (b"\xff/%", "-0+007.50", "1"),
        ("\u{6771}\"".as_bytes(), "+1+1", "1"),
    ]);
    let kiwi = json!({
        "client": "kiwi.cs.ucla.edu", "lat": 34.06893, "lon": -118.445127,
        "time": "2016-11-17T20:18:04.392014450Z", "received": "2016-11-17T20:18:04.655887836Z",
        "server": "Welsh",
    });
    assert_eq!(ask(&replica, "/v1/clients/kiwi.cs.ucla.edu"), Ok(kiwi));
    let bytes = ask(&replica, "/v1/clients/%FF%2f%25").unwrap();
    assert_eq!(bytes["client_base64"], "/y8l");
    assert_eq!(bytes.get("client"), None);
    assert_eq!((&bytes["lat"], &bytes["lon"]), (&json!(-0.0), &json!(7.5)));
    let encoded = ask(&replica, "/v1/clients/%E6%9D%B1%22").unwrap();
    assert_eq!(encoded, ask(&replica, "/v1/clients/\u{6771}%22").unwrap());
}

#[test]
fn a_client_that_is_not_there_is_unknown_or_may_be_so() {
    let replica = replica(&[(b"kiwi", "+1+1", "1479413884"), (b"old", "+1+1", "1")]);
    let unknown = (404, "UNKNOWN".into());
    let paths = |id: &str| {
        [
            format!("/v1/clients/{id}"),
            format!("/v1/nearby?client={id}&radius=1"),
        ]
    };
    for path in paths("nobody") {
        assert_eq!(refused(&replica, &path), unknown, "{path}");
        let fault = ask_while(&replica, &path, true).unwrap_err();
        assert_eq!((fault.code, fault.response().status), (Code::Starting, 503));
        assert!(fault.response().fields.contains("Retry-After"));
    }
    let fault = ask(&replica, "/v1/nearby?client=34.06,-118.4&radius=1").unwrap_err();
    assert_eq!(
        fault.text,
        "no client 34.06,-118.4; if it is a location, ask with lat and lon"
    );
    // One that is known is known while the server starts, too.
    assert!(ask_while(&replica, "/v1/clients/kiwi", true).is_ok());
    let (outcome, _) = replica.forget(b"kiwi", NOW);
    assert!(matches!(outcome, ForgetOutcome::Forgotten(_)));
    replica.set_forget_after(Some(Duration::from_secs(86_400)));
    for path in ["kiwi", "old"].into_iter().flat_map(paths) {
        assert_eq!(refused(&replica, &path), unknown, "{path}");
    }
    let everywhere = "south=-90&west=-180&north=90&east=180";
    let none = (Vec::new(), false);
    assert_eq!(
        ids(ask(&replica, &format!("/v1/within?{everywhere}"))),
        none
    );
    assert_eq!(ids(ask(&replica, "/v1/nearby?lat=1&lon=1&radius=9")), none);
}

#[test]
fn what_is_near_comes_with_its_distance_the_nearest_first() {
    let replica = replica(&[
        (b"here", "+0+180", "1"),
        (b"east", "+0-179.99", "1"),
        (b"west", "+0+179.98", "1"),
        (b"far", "+0+0", "1"),
    ]);
    let answer = ask(&replica, "/v1/nearby?lat=0&lon=-180&radius=5").unwrap();
    let clients = answer["clients"].as_array().unwrap();
    let km: Vec<_> = clients
        .iter()
        .map(|one| one["km"].as_f64().unwrap())
        .collect();
    assert_eq!(km, [0.0, 1.112, 2.224]);
    let all = ["here", "east", "west"].map(str::to_owned);
    assert_eq!(ids(Ok(answer)), (all.to_vec(), false));
    let near = "/v1/nearby?client=here&radius=20016";
    let (found, has_more) = ids(ask(&replica, near));
    assert_eq!(
        (found, has_more),
        (vec!["east".into(), "west".into(), "far".into()], false)
    );
    let limited = ids(ask(&replica, &format!("{near}&limit=2")));
    assert_eq!(limited, (vec!["east".into(), "west".into()], true));
    assert!(!ids(ask(&replica, &format!("{near}&limit=3"))).1);
    assert!(ids(ask(&replica, &format!("{near}&limit=1"))).1);
}

#[test]
fn a_box_may_cross_the_antimeridian_and_has_a_limit() {
    let names: Vec<String> = (0..25).map(|number| format!("client-{number}")).collect();
    let reports: Vec<(&[u8], &str, &str)> = names
        .iter()
        .map(|name| (name.as_bytes(), "+10-179.5", "1"))
        .collect();
    let replica = replica(&reports);
    let west = "south=0&west=170&north=10&east=-170";
    let (found, has_more) = ids(ask(&replica, &format!("/v1/within?{west}")));
    assert_eq!((found.len(), has_more), (20, true));
    for (limit, count, has_more) in [(24, 24, true), (25, 25, false), (1_000, 25, false)] {
        let answer = ask(&replica, &format!("/v1/within?{west}&limit={limit}")).unwrap();
        assert!(answer["clients"][0].get("km").is_none());
        let (found, more) = ids(Ok(answer));
        assert_eq!((found.len(), more), (count, has_more), "{limit}");
    }
    let east = "/v1/within?south=0&west=-170&north=10&east=170";
    assert_eq!(ids(ask(&replica, east)), (Vec::new(), false));
}

#[test]
fn faults_have_codes_and_status() {
    let replica = replica(&[]);
    for (target, status, code) in [
        ("/v1/", 404, "SYNTAX"),
        ("/v1/clients", 404, "SYNTAX"),
        ("/v1/nothing", 404, "SYNTAX"),
        ("/v1/nearby/", 404, "SYNTAX"),
        ("/v1/Nearby", 404, "SYNTAX"),
        ("/v1/clients/", 400, "CLIENT"),
        ("/v1/clients/%zz", 400, "CLIENT"),
        ("/v1/clients/a?x=1", 400, "SYNTAX"),
        ("/v1/nearby", 400, "SYNTAX"),
        ("/v1/nearby?lat=x&lon=1&radius=1", 400, "LOCATION"),
        ("/v1/nearby?lat=1&lon=1&radius=0", 400, "RADIUS"),
        ("/v1/nearby?lat=1&lon=1&radius=1&limit=0", 400, "BOUND"),
        ("/v1/within?south=1&west=0&north=0&east=0", 400, "LOCATION"),
    ] {
        assert_eq!(refused(&replica, target), (status, code.into()), "{target}");
    }
}
