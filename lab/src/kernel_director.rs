//! The kernel in the director's place: nftables NAT that spreads connections round robin, or a proxy on its sockets.
//!
//! It proves the lab without `lbd`, and these are the peers of the end-to-end benchmark.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, anyhow};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::server::{ECHO_PORT, HTTP_PORT};
use crate::topology::{self, LAN_LINK, Lab, WAN_LINK};
use crate::wait;

/// A director of the kernel's, or a proxy on it; it ends with its lab.
#[derive(Debug)]
pub struct KernelDirector {
    /// The proxy; none with `nft`, whose rules are the kernel's.
    _proxy: Option<Process>,
}

impl KernelDirector {
    /// nftables: the VIP's TCP port 80 and UDP [`ECHO_PORT`] go to the real servers in turn.
    ///
    /// # Errors
    /// What `ip` or `nft` say.
    pub fn start(lab: &Lab) -> Result<KernelDirector> {
        take_links(lab)?;
        load_rules(lab, lab.director())?;
        Ok(KernelDirector { _proxy: None })
    }

    /// The kernel alone, which forwards.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn without_rules(lab: &Lab) -> Result<KernelDirector> {
        take_links(lab)?;
        Ok(KernelDirector { _proxy: None })
    }

    /// haproxy on the VIP's TCP port 80, IPv4, one thread, not looking into HTTP.
    ///
    /// # Errors
    /// What haproxy says.
    pub fn haproxy(lab: &Lab) -> Result<KernelDirector> {
        let config = format!(
            "global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen vip
  bind {}:80
  balance roundrobin
{}",
            topology::VIP,
            each_server(lab, |role, address| format!("  server {role} {address}\n"))
        );
        KernelDirector::proxy(lab, "haproxy", &config, &["-db", "-f"])
    }

    /// nginx's stream proxy on the VIP's TCP port 80, IPv4, one process.
    ///
    /// # Errors
    /// What nginx says.
    pub fn nginx_stream(lab: &Lab) -> Result<KernelDirector> {
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {}/stream.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
stream {{
  upstream servers {{
{}  }}
  server {{ listen {}:80 backlog=4096; proxy_pass servers; }}
}}
",
            lab.dir().display(),
            each_server(lab, |_, address| format!("    server {address};\n")),
            topology::VIP,
        );
        KernelDirector::proxy(lab, "nginx", &config, &["-c"])
    }

    /// Starts a proxy in the director's namespace and waits until it takes connections.
    fn proxy(lab: &Lab, program: &str, config: &str, arguments: &[&str]) -> Result<KernelDirector> {
        take_links(lab)?;
        let file = lab.dir().join("director.conf");
        std::fs::write(&file, config)?;
        let mut arguments = arguments.to_vec();
        arguments.push(file.to_str().context("the lab's directory is not UTF-8")?);
        let mut process = Process::spawn(lab.director(), lab.dir(), "proxy", program, &arguments)?;
        wait::until(program, wait::PATIENCE, || {
            if let Ok(Some(status)) = process.exited() {
                return Some(Err(anyhow!("{program} ended with {status}: {}", process.log())));
            }
            let connected = lab.director().enter(|| TcpStream::connect((topology::VIP, 80)).is_ok());
            matches!(connected, Ok(true)).then_some(Ok(()))
        })??;
        Ok(KernelDirector { _proxy: Some(process) })
    }
}

/// One line a real server.
fn each_server(lab: &Lab, line: impl Fn(&str, SocketAddr) -> String) -> String {
    (0_u8..)
        .zip(lab.servers())
        .map(|(index, namespace)| {
            line(namespace.role(), SocketAddr::new(topology::server(index).into(), HTTP_PORT))
        })
        .collect()
}

/// Gives the director's links the addresses that its twins would have, and lets the kernel forward between them.
fn take_links(lab: &Lab) -> Result<()> {
    let director = lab.director();
    for link in [WAN_LINK, LAN_LINK] {
        director.sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
    }
    for (addresses, link) in [(WAN_ADDRESSES, WAN_LINK), (LAN_ADDRESSES, LAN_LINK)] {
        for address in addresses {
            director.ip(&format!("addr add {address} dev {link} nodad"))?;
        }
    }
    if lab.access().is_some() {
        director.ip("route add 198.51.100.0/24 via 192.0.2.2")?;
        director.ip("route add 2001:db8:51::/64 via 2001:db8::2")?;
    }
    director.sysctl("ipv4/ip_forward", "1")?;
    director.sysctl("ipv6/conf/all/forwarding", "1")
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
    director.run(60, "nft", &["-f", file.to_str().context("the lab's directory is not UTF-8")?])?;
    Ok(())
}
