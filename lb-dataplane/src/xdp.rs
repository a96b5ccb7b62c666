//! The XDP program of a network interface, asked of the kernel by netlink.
//!
//! A run that was killed leaves its program attached, and nothing else: its TAPs end with it. AF_XDP's driver takes such a
//! program over and removes it at a clean stop, so that all there is to do is to say so.

use std::io::{self, Read, Write};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::{cpu, tap};

/// Longest datagram that the kernel answers with.
const LONGEST_REPLY: usize = 64 * 1024;

/// The kernel's number of the program that is attached to `interface`, if there is one.
///
/// # Errors
/// What the kernel says; `NotFound` when there is no such interface.
pub(crate) fn program_on(interface: &str) -> io::Result<Option<u32>> {
    let mut link = LinkMessage::default();
    link.header.index = cpu::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = tap::netlink_socket()?;
    socket.write_all(&bytes)?;
    // The answer is there when the request was taken, so that the socket need not wait.
    let mut reply = vec![0; LONGEST_REPLY];
    let len = socket.read(&mut reply)?;
    let reply =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply[..len]).map_err(io::Error::other)?;
    match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(program_of(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn program_of(link: &LinkMessage) -> Option<u32> {
    let lists = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(list) => Some(list),
        _ => None,
    });
    lists.flatten().find_map(|entry| match *entry {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(id).filter(|&id| id != 0)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::XdpAttached;

    use super::*;

    #[test]
    fn an_interface_without_a_program_has_none_and_a_missing_one_is_an_error() {
        assert_eq!(program_on("lo").unwrap(), None);
        assert_eq!(program_on("nosuch0").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_program_is_found_whatever_the_way_it_is_attached() {
        for id in [LinkXdp::ProgId(7), LinkXdp::SkbProgId(7), LinkXdp::DrvProgId(7)] {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::Mtu(1500));
            link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::SocketBuffer), id]));
            assert_eq!(program_of(&link), Some(7));
        }
    }
}
