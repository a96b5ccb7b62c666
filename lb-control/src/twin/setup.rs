//! Changes that we make to the kernel's side of a twin: addresses, up, settings, questions for neighbours.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use tracing::warn;

use super::links::IfIndex;
use super::neighbours::Key;
use super::socket::Socket;

/// Who put an address there (`ip addr show`: `proto 0x6c`), so that the next process knows which ones were the config's.
/// Kernels before 5.18 do not keep it.
pub(super) const OUR_PROTOCOL: u8 = b'l';

pub(super) async fn bring_up(socket: &mut Socket, index: IfIndex) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    socket.change(RouteNetlinkMessage::SetLink(link), 0).await
}

/// False: it was there already.
pub(super) async fn add_address(socket: &mut Socket, index: IfIndex, address: IpNet) -> io::Result<bool> {
    let request = RouteNetlinkMessage::NewAddress(address_message(index, address));
    match socket.change(request, NLM_F_CREATE | NLM_F_EXCL).await {
        Ok(()) => Ok(true),
        Err(error) if is(&error, Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An address that is gone already is no error.
pub(super) async fn remove_address(socket: &mut Socket, index: IfIndex, address: IpNet) -> io::Result<()> {
    match socket.change(RouteNetlinkMessage::DelAddress(address_message(index, address)), 0).await {
        Err(error) if is(&error, Errno::ADDRNOTAVAIL) => Ok(()),
        done => done,
    }
}

/// Has the kernel resolve a neighbour, or prove one that is stale, as if it had a packet for it: `NTF_USE`.
///
/// An entry that is not there, or failed, is asked for by broadcast (ARP) or multicast (ND) at once; a stale one is asked
/// directly after `delay_first_probe_time` (5 s), unless it shows signs of life before.
pub(super) async fn probe(socket: &mut Socket, (index, address): Key) -> io::Result<()> {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family(address);
    neighbour.header.ifindex = index;
    neighbour.header.state = NeighbourState::None;
    neighbour.header.flags = NeighbourFlags::Use;
    neighbour.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    socket.change(RouteNetlinkMessage::NewNeighbour(neighbour), NLM_F_CREATE).await
}

fn address_message(index: IfIndex, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)));
    if address.addr().is_ipv6() {
        // The address is the operator's word: it works from the first packet on.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Sets what a twin needs and nobody else has an opinion on; docs/twin.md says why for each.
///
/// The files of `/proc/sys/net` are those of the network namespace of the thread that opens them.
pub(super) fn settle(name: &str) {
    set(name, "ipv4/conf", "rp_filter", "0");
    set(name, "ipv4/conf", "promote_secondaries", "1");
    // While lbd is restarted the twin has no carrier. Older kernels than 5.16 forget the neighbours then, and ask again.
    // When a link goes down Linux forgets its IPv6 addresses, and no IPv4 one: ours are the config's word.
    for (family, setting, value) in [
        ("ipv4/conf", "arp_evict_nocarrier", "0"),
        ("ipv6/conf", "ndisc_evict_nocarrier", "0"),
        ("ipv6/conf", "keep_addr_on_down", "1"),
    ] {
        if std::path::Path::new(&format!("/proc/sys/net/{family}/{name}/{setting}")).exists() {
            set(name, family, setting, value);
        }
    }
    // The kernel takes the stricter of `all` and the interface's own.
    if let Ok(all) = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter")
        && all.trim() == "1"
    {
        warn!(
            interface = name,
            "net.ipv4.conf.all.rp_filter = 1: Linux drops packets to this host that arrive by another interface \
             than its route back; set it to 0 or 2"
        );
    }
}

fn set(name: &str, family: &str, setting: &str, value: &str) {
    if let Err(error) = std::fs::write(format!("/proc/sys/net/{family}/{name}/{setting}"), value) {
        warn!(interface = name, setting, value, %error, "cannot set a sysctl of the twin");
    }
}

/// Why an address was refused, in words where the kernel's are misleading.
pub(super) fn why_refused(name: &str, address: IpNet, error: &io::Error) -> String {
    if address.addr().is_ipv6() && (is(error, Errno::ACCESS) || is(error, Errno::OPNOTSUPP)) {
        return format!("IPv6 is off on this interface (sysctl net.ipv6.conf.{name}.disable_ipv6)");
    }
    error.to_string()
}
