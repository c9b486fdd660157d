//! Binds and starts the HTTP port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use log::{info, warn};

use super::error::{StartError, bind_reason};
use super::{resolve, warn_of_left_out};
use crate::config::HttpConfig;
use crate::http::HttpPort;
use crate::http::head::Hosts;
use crate::listener::Bound;
use crate::logging::EVENT;
use crate::thread::Liveness;

/// Listens on the port's addresses. An optional port that can't be had there is another one, or none.
pub(super) fn bind(config: Option<&HttpConfig>) -> Result<Option<Bound>, StartError> {
    let Some(config) = config else {
        return Ok(None);
    };
    let wanted = resolve(&config.address).and_then(|addresses| {
        Bound::bind(&addresses).map_err(|(address, error)| StartError::Bind("HTTP", address, error))
    });
    let bound = match wanted {
        Err(error) if config.is_optional => {
            let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let bound = Bound::bind(&[free]);
            let is_taken = matches!(&error, StartError::Bind(_, _, error) if error.kind() == io::ErrorKind::AddrInUse);
            match &bound {
                Ok(_) if is_taken => info!("{error}; using a free port"),
                Ok(_) => warn!("{error}; using a free port of 127.0.0.1"),
                Err((_, second)) => {
                    let reason = bind_reason(second);
                    warn!("{error}; no free port either ({reason}): starting without HTTP");
                }
            }
            return Ok(bound.ok());
        }
        wanted => wanted?,
    };
    warn_of_left_out("HTTP", &bound);
    let is_public = |listener: &std::net::TcpListener| -> io::Result<bool> {
        Ok(!listener.local_addr()?.ip().is_loopback())
    };
    if bound
        .listeners()
        .iter()
        .any(|one| is_public(one).unwrap_or(true))
    {
        warn!(
            "the HTTP port {} is open to other machines: everybody who can reach it sees where all clients are",
            config.address
        );
    }
    Ok(Some(bound))
}

/// Starts the port.
pub(super) fn start(
    config: Option<&HttpConfig>,
    bound: Option<Bound>,
    liveness: Liveness,
) -> io::Result<Option<HttpPort>> {
    let (Some(config), Some(bound)) = (config, bound) else {
        return Ok(None);
    };
    let own = config
        .address
        .ip()
        .is_none()
        .then(|| config.address.host.clone());
    let hosts = Hosts::new(config.hosts.iter().cloned().chain(own));
    let port = HttpPort::start(bound, hosts, liveness)?;
    info!(target: EVENT, "HTTP port: http://{}/", port.address());
    Ok(Some(port))
}
