//! The lab itself: which namespaces there are, how they are wired, and who has which address.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | client | 192.0.2.100/24 (behind an access router: 198.51.100.100/24) | 2001:db8::100/64 (2001:db8:51::100/64) |
//! | access router, when planned | 198.51.100.1/24, 192.0.2.2/24 | 2001:db8:51::1/64, 2001:db8::2/64 |
//! | director, on its twin `wan` | 192.0.2.1/24, VIP 192.0.2.10/32 | 2001:db8::1/64, VIP 2001:db8::10/128 |
//! | director, on its twin `lan` | 10.0.0.1/24 | fd00:1::1/64 |
//! | standby, when planned, on its twins | 192.0.2.3/24, 10.0.0.3/24 | 2001:db8::3/64, fd00:1::3/64 |
//! | both directors, between them | 10.9.0.1/24, 10.9.0.2/24 on `sync0` | link-local |
//! | real servers s1, s2 … | 10.0.0.11/24 … | fd00:1::11/64 … |
//!
//! The director's two links end in `lbwan0` and `lblan0`, without addresses: they stand for the NIC that DPDK takes.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::cleanup::{self, Tag};
use crate::namespace::Namespace;
use crate::wait;

/// The client's address on the wan.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// The client's address when it sits behind the access router.
pub const CLIENT_BEHIND_ACCESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);
/// The same of IPv6.
pub const CLIENT_V6_BEHIND_ACCESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x100);
/// The client's IPv6 address on the wan.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
/// The director's own address on the wan.
pub const DIRECTOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The director's own IPv6 address on the wan.
pub const DIRECTOR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The virtual service's address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The virtual service's IPv6 address.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The director's address on the lan: the real servers' default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The director's IPv6 address on the lan.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);

/// The standby's own addresses: on the wan, and on the lan.
pub const STANDBY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(10, 0, 0, 3)];
/// The standby's own IPv6 addresses: on the wan, and on the lan.
pub const STANDBY_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3)];

/// The link between the two directors, the same name on both.
pub const SYNC_LINK: &str = "sync0";

/// The director's end of the wan link.
pub const WAN_LINK: &str = "lbwan0";
/// The director's end of the lan link.
pub const LAN_LINK: &str = "lblan0";

/// The address of real server `index` (s1 has index 0).
pub fn server(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + index)
}

/// The IPv6 address of real server `index`: `fd00:1::11` for s1, and so on.
pub fn server_v6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x11 + u16::from(index))
}

/// What lab to make.
#[derive(Clone, Debug)]
pub struct Plan {
    pub tag: Tag,
    /// Real servers, at most 5.
    pub servers: u8,
    /// MTU of the wan link, both ends.
    pub wan_mtu: u16,
    /// MTU of everything on the lan side.
    pub lan_mtu: u16,
    /// Puts the client behind a router whose link towards it has this MTU, while the client's own end keeps 1500: what
    /// a tunnel in somebody's access network looks like.
    pub access_mtu: Option<u16>,
    /// A second director, on the same wan and lan, and a link between the two.
    pub standby: bool,
    /// Queues of the director's links: AF_XDP takes one, a worker more needs one more of `af_packet`.
    pub queues: u8,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            tag: Tag::of_this_process(),
            servers: 3,
            wan_mtu: 1500,
            lan_mtu: 1500,
            access_mtu: None,
            standby: false,
            queues: 1,
        }
    }
}

/// A lab that is up; dropping it removes it with everything that runs in it.
#[derive(Debug)]
pub struct Lab {
    tag: Tag,
    client: Namespace,
    director: Namespace,
    access: Option<Namespace>,
    standby: Option<Namespace>,
    switch: Namespace,
    servers: Vec<Namespace>,
    dir: PathBuf,
    /// Set when the operator wants to keep it.
    is_left_behind: bool,
}

impl Lab {
    /// A lab of the default plan: three real servers, MTU 1500 everywhere.
    ///
    /// # Errors
    /// Without root, or what the kernel says.
    pub fn new() -> Result<Lab> {
        Lab::with(&Plan::default())
    }

    /// Makes namespaces and links, and gives addresses and routes to all but the director.
    ///
    /// # Errors
    /// Without root, when a lab of that tag is there, or what the kernel says; nothing is left behind.
    pub fn with(plan: &Plan) -> Result<Lab> {
        if !Uid::effective().is_root() {
            bail!("the lab makes network namespaces: it needs root");
        }
        if plan.tag.exists() {
            bail!("lab {} is there already", plan.tag);
        }
        cleanup::register(&plan.tag)?;
        build(plan).inspect_err(|_| cleanup::remove(&plan.tag))
    }

    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    pub fn client(&self) -> &Namespace {
        &self.client
    }

    pub fn director(&self) -> &Namespace {
        &self.director
    }

    /// The router between the client and the wan, when planned.
    pub fn access(&self) -> Option<&Namespace> {
        self.access.as_ref()
    }

    /// The second director, when planned.
    pub fn standby(&self) -> Option<&Namespace> {
        self.standby.as_ref()
    }

    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// The real servers' namespaces, s1 first.
    pub fn servers(&self) -> &[Namespace] {
        &self.servers
    }

    /// Where files of this lab go: configurations, logs, sockets. Removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets the lab stay when this program ends; `cleanup::remove` with its tag takes it away.
    pub fn leave_behind(mut self) {
        self.is_left_behind = true;
        cleanup::forget(&self.tag);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.is_left_behind {
            cleanup::remove(&self.tag);
        }
    }
}

fn build(plan: &Plan) -> Result<Lab> {
    let dir = plan.tag.dir();
    fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let make = |role: &str| Namespace::create(plan.tag.namespace(role), role);

    let client = make("client")?;
    let director = make("director")?;
    let switch = make("switch")?;
    let servers = (1..=plan.servers).map(|n| make(&format!("s{n}"))).collect::<Result<Vec<_>>>()?;
    let access = plan.access_mtu.map(|_| make("access")).transpose()?;
    let standby = plan.standby.then(|| make("standby")).transpose()?;

    match (&access, plan.access_mtu) {
        (Some(access), Some(mtu)) => wire_access(plan, &client, access, &director, mtu)?,
        _ if plan.standby => {
            bridge(&switch, "brwan", plan.wan_mtu)?;
            for (host, name, port) in [(&client, "eth0", "client"), (&director, WAN_LINK, "wan")] {
                plug(plan, (host, name), &switch, port, "brwan", plan.wan_mtu)?;
            }
            endpoint(&client, &[&format!("{CLIENT}/24"), &format!("{CLIENT_V6}/64")], None)?;
        }
        _ => {
            link(plan, (&client, "eth0", plan.wan_mtu), (&director, WAN_LINK, plan.wan_mtu))?;
            endpoint(&client, &[&format!("{CLIENT}/24"), &format!("{CLIENT_V6}/64")], None)?;
        }
    }

    bridge(&switch, "br0", plan.lan_mtu)?;
    plug(plan, (&director, LAN_LINK), &switch, "director", "br0", plan.lan_mtu)?;
    for (index, server_ns) in (0_u8..).zip(&servers) {
        let port = server_ns.role().to_owned();
        plug(plan, (server_ns, "eth0"), &switch, &port, "br0", plan.lan_mtu)?;
        endpoint(
            server_ns,
            &[&format!("{}/24", server(index)), &format!("{}/64", server_v6(index))],
            Some((GATEWAY, GATEWAY_V6)),
        )?;
    }
    nic(&director, WAN_LINK, plan.queues)?;
    nic(&director, LAN_LINK, plan.queues)?;
    if let Some(standby) = &standby {
        plug(plan, (standby, WAN_LINK), &switch, "standbywan", "brwan", plan.wan_mtu)?;
        plug(plan, (standby, LAN_LINK), &switch, "standbylan", "br0", plan.lan_mtu)?;
        nic(standby, WAN_LINK, plan.queues)?;
        nic(standby, LAN_LINK, plan.queues)?;
        link(plan, (&director, SYNC_LINK, 1500), (standby, SYNC_LINK, 1500))?;
        for (host, address) in [(&director, "10.9.0.1/24"), (standby, "10.9.0.2/24")] {
            host.ip(&format!("addr add {address} dev {SYNC_LINK}"))?;
            host.ip(&format!("link set {SYNC_LINK} up"))?;
        }
    }

    let of_client = access.as_ref().map_or(CLIENT_V6, |_| CLIENT_V6_BEHIND_ACCESS);
    until_local(&client, of_client)?;
    for (index, server) in (0..).zip(&servers) {
        until_local(server, server_v6(index))?;
    }

    Ok(Lab {
        tag: plan.tag.clone(),
        client,
        director,
        access,
        standby,
        switch,
        servers,
        dir,
        is_left_behind: false,
    })
}

fn bridge(switch: &Namespace, name: &str, mtu: u16) -> Result<()> {
    switch.ip(&format!("link add {name} type bridge mcast_snooping 0 stp_state 0"))?;
    switch.ip(&format!("link set {name} mtu {mtu} up"))?;
    Ok(())
}

/// A cable from a host to a port of a bridge.
fn plug(
    plan: &Plan,
    host: (&Namespace, &str),
    switch: &Namespace,
    port: &str,
    bridge: &str,
    mtu: u16,
) -> Result<()> {
    link(plan, (host.0, host.1, mtu), (switch, port, mtu))?;
    switch.ip(&format!("link set {port} master {bridge} up"))?;
    Ok(())
}

/// client ── access router ── director, with the small MTU on the router's link towards the client.
fn wire_access(
    plan: &Plan,
    client: &Namespace,
    access: &Namespace,
    director: &Namespace,
    mtu: u16,
) -> Result<()> {
    link(plan, (client, "eth0", plan.wan_mtu), (access, "eth1", mtu))?;
    link(plan, (access, "eth0", plan.wan_mtu), (director, WAN_LINK, plan.wan_mtu))?;
    let near = Ipv4Addr::new(198, 51, 100, 1);
    let near_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1);
    endpoint(
        client,
        &[&format!("{CLIENT_BEHIND_ACCESS}/24"), &format!("{CLIENT_V6_BEHIND_ACCESS}/64")],
        Some((near, near_v6)),
    )?;
    endpoint(access, &["192.0.2.2/24", "2001:db8::2/64"], None)?;
    access.run(60, "ethtool", &["-K", "eth1", "tx", "off"])?;
    access.ip(&format!("addr add {near}/24 dev eth1"))?;
    access.ip(&format!("addr add {near_v6}/64 dev eth1 nodad"))?;
    access.ip("link set eth1 up")?;
    access.sysctl("ipv4/ip_forward", "1")?;
    access.sysctl("ipv6/conf/all/forwarding", "1")
}

/// A cable: a veth pair, each end born in its own namespace.
fn link(plan: &Plan, a: (&Namespace, &str, u16), b: (&Namespace, &str, u16)) -> Result<()> {
    let queues = plan.queues;
    a.0.ip(&format!(
        "link add {} mtu {} numrxqueues {queues} numtxqueues {queues} type veth \
         peer name {} mtu {} numrxqueues {queues} numtxqueues {queues} netns {}",
        a.1,
        a.2,
        b.1,
        b.2,
        b.0.name()
    ))?;
    Ok(())
}

/// A host's `eth0`: addresses, which are not tentative at first, default routes, and checksums computed by the host itself. A veth otherwise passes
/// packets on with partial checksums; the DPDK drivers cannot tell, and whoever gets them next drops them.
fn endpoint(host: &Namespace, addresses: &[&str], gateway: Option<(Ipv4Addr, Ipv6Addr)>) -> Result<()> {
    host.run(60, "ethtool", &["-K", "eth0", "tx", "off"])?;
    for address in addresses {
        host.ip(&format!("addr add {address} dev eth0 nodad"))?;
    }
    host.ip("link set eth0 up")?;
    if let Some((v4, v6)) = gateway {
        host.ip(&format!("route add default via {v4}"))?;
        host.ip(&format!("route add default via {v6}"))?;
    }
    Ok(())
}

/// An IPv6 address is the host's when the kernel has come to it, a moment after the link is up at both ends.
fn until_local(host: &Namespace, address: Ipv6Addr) -> Result<()> {
    wait::until(&format!("{address} of {}", host.role()), wait::PATIENCE, || {
        let local = host.ip("-6 route show table local").ok()?;
        local.contains(&format!("local {address} ")).then_some(())
    })
}

/// The director's end of a cable, as a NIC that the kernel says nothing on.
fn nic(director: &Namespace, name: &str, queues: u8) -> Result<()> {
    director.sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    director.run(60, "ethtool", &["-K", name, "tx", "off"])?;
    let offered = director.ip(&format!("-d link show {name}"))?;
    if !offered.contains(&format!("numrxqueues {queues} ")) {
        bail!("{name}: {queues} queues asked for, the kernel says: {offered}");
    }
    director.ip(&format!("link set {name} up"))?;
    Ok(())
}
