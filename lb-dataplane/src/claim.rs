//! Which network interfaces are ours: asked before DPDK touches them.
//!
//! A second process on the queues of an AF_XDP interface fails to bind, but DPDK's driver then takes the interface's program
//! away on closing, and with it the first one's packets. So each interface is claimed first, by an abstract UNIX socket: its
//! name belongs to the network namespace as the interface's does, and it is gone with its holder, however that ends.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::config::PortConfig;
use crate::error::{PortProblem, StartError};
use crate::preflight::interface;

/// The claims on the interfaces of a configuration, given up when dropped.
#[derive(Debug)]
pub(crate) struct Claims {
    _sockets: Vec<UnixListener>,
}

impl Claims {
    /// Claims the kernel's interface under each port that is on one.
    ///
    /// # Errors
    /// `InUse` when another process has claimed it.
    pub(crate) fn take(ports: &[PortConfig]) -> Result<Claims, StartError> {
        let mut sockets = Vec::new();
        for port in ports {
            if let Some(interface) = interface(&port.device) {
                sockets.push(claim(interface).map_err(|problem| StartError::Port {
                    port: port.name.clone(),
                    device: port.device.clone(),
                    problem,
                })?);
            }
        }
        Ok(Claims { _sockets: sockets })
    }
}

fn claim(interface: &str) -> Result<UnixListener, PortProblem> {
    let failed = |error: std::io::Error| PortProblem::Setup {
        step: "claiming the interface",
        reason: error.to_string(),
    };
    let name = SocketAddr::from_abstract_name(format!("lb-interface-{interface}")).map_err(failed)?;
    UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => PortProblem::InUse(interface.to_owned()),
        _ => failed(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: &str) -> PortConfig {
        PortConfig {
            name: "wan".to_owned(),
            device: device.to_owned(),
            mtu: 1500,
            outside: false,
            twin: false,
        }
    }

    #[test]
    fn an_interface_is_claimed_once_until_it_is_given_up() {
        let ports = [port("net_null0"), port("net_af_xdp0,iface=claimed0")];
        let first = Claims::take(&ports).unwrap();
        let refused = Claims::take(&[port("net_af_packet3,iface=claimed0")]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "port \"wan\", device \"net_af_packet3,iface=claimed0\": another lbd uses the interface claimed0"
        );
        Claims::take(&[port("net_af_xdp1,iface=claimed1")]).unwrap();
        drop(first);
        Claims::take(&ports).unwrap();
    }
}
