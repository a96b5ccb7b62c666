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
use crate::wiring;

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
    let mut roles = vec!["client".to_owned(), "director".to_owned(), "switch".to_owned()];
    roles.extend((1..=plan.servers).map(|n| format!("s{n}")));
    let access_and_standby = [(plan.access_mtu.is_some(), "access"), (plan.standby, "standby")];
    roles.extend(
        access_and_standby.iter().filter(|(is_planned, _)| *is_planned).map(|(_, role)| (*role).to_owned()),
    );
    let mut all =
        Namespace::create_all(roles.into_iter().map(|role| (plan.tag.namespace(&role), role)))?.into_iter();
    let mut next = || all.next().context("a namespace is missing");
    let (client, director, switch) = (next()?, next()?, next()?);
    let servers = (0..plan.servers).map(|_| next()).collect::<Result<Vec<_>>>()?;
    let access = plan.access_mtu.map(|_| next()).transpose()?;
    let standby = plan.standby.then(next).transpose()?;

    let lab = Lab {
        tag: plan.tag.clone(),
        client,
        director,
        access,
        standby,
        switch,
        servers,
        dir,
        is_left_behind: false,
    };
    wiring::wire(&lab, plan)?;
    Ok(lab)
}
