//! The kernel in the director's place: nftables NAT that spreads connections round robin.
//!
//! It proves the lab without `lbd`, and is the peer named `nft` in the end-to-end benchmark.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::server::{ECHO_PORT, HTTP_PORT};
use crate::topology::{self, LAN_LINK, Lab, WAN_LINK};

/// A director whose kernel forwards; it ends with its lab.
#[derive(Debug)]
pub struct KernelDirector;

impl KernelDirector {
    /// Gives the director's links the addresses that its twins would have, and loads the rules: the VIP's TCP port 80
    /// and UDP [`ECHO_PORT`] go to the real servers in turn.
    ///
    /// # Errors
    /// What `ip` or `nft` say.
    pub fn start(lab: &Lab) -> Result<KernelDirector> {
        let director = lab.director();
        for link in [WAN_LINK, LAN_LINK] {
            director.sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
        }
        for (addresses, link) in [(WAN_ADDRESSES, WAN_LINK), (LAN_ADDRESSES, LAN_LINK)] {
            for address in addresses {
                director.ip(&format!("addr add {address} dev {link}"))?;
            }
        }
        if lab.access().is_some() {
            director.ip("route add 198.51.100.0/24 via 192.0.2.2")?;
            director.ip("route add 2001:db8:51::/64 via 2001:db8::2")?;
        }
        director.sysctl("ipv4/ip_forward", "1")?;
        director.sysctl("ipv6/conf/all/forwarding", "1")?;
        load_rules(lab, director)?;
        Ok(KernelDirector)
    }
}

const WAN_ADDRESSES: &[&str] = &["192.0.2.1/24", "192.0.2.10/32", "2001:db8::1/64", "2001:db8::10/128"];
const LAN_ADDRESSES: &[&str] = &["10.0.0.1/24", "fd00:1::1/64"];

fn load_rules(lab: &Lab, director: &Namespace) -> Result<()> {
    let count = lab.servers().len();
    let servers = |address: fn(u8) -> IpAddr, port: u16| {
        let map: Vec<String> =
            (0_u8..).take(count).map(|index| format!("{index} : {} . {port}", address(index))).collect();
        map.join(", ")
    };
    let v4 = |index| IpAddr::V4(topology::server(index));
    let v6 = |index| IpAddr::V6(topology::server_v6(index));
    let (vip, vip6) = (topology::VIP, topology::VIP_V6);
    let rules = format!(
        "table inet director {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {vip} tcp dport 80 dnat ip to numgen inc mod {count} map {{ {http} }}
    ip daddr {vip} udp dport {ECHO_PORT} dnat ip to numgen inc mod {count} map {{ {echo} }}
    ip6 daddr {vip6} tcp dport 80 dnat ip6 to numgen inc mod {count} map {{ {http6} }}
    ip6 daddr {vip6} udp dport {ECHO_PORT} dnat ip6 to numgen inc mod {count} map {{ {echo6} }}
  }}
}}
",
        http = servers(v4, HTTP_PORT),
        echo = servers(v4, ECHO_PORT),
        http6 = servers(v6, HTTP_PORT),
        echo6 = servers(v6, ECHO_PORT),
    );
    let file = lab.dir().join("director.nft");
    std::fs::write(&file, rules)?;
    director.run(10, "nft", &["-f", file.to_str().context("the lab's directory is not UTF-8")?])?;
    Ok(())
}
