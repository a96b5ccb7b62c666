//! Network interfaces, asked of the kernel by netlink; and the mark on those that are kept for the next start.
//!
//! The mark is the interface's alias, so that the operator sees it too (`ip link show`).

use std::io::{self, Read, Write};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::{cpu, tap};

/// Longest datagram that the kernel answers with.
const LONGEST_REPLY: usize = 64 * 1024;

/// What the kernel says of an interface.
///
/// # Errors
/// `NotFound` when there is no such interface.
pub(crate) fn of(interface: &str) -> io::Result<LinkMessage> {
    let mut links = ask(RouteNetlinkMessage::GetLink(by_name(interface)?), 0)?;
    links.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The mark of an interface; `None` also when there is no such interface.
pub(crate) fn mark_of(interface: &str) -> io::Result<Option<String>> {
    match of(interface) {
        Ok(link) => Ok(alias(&link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of the interfaces with this mark.
pub(crate) fn marked(mark: &str) -> io::Result<Vec<String>> {
    let links = ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let names = links.iter().filter(|link| alias(link).as_deref() == Some(mark)).filter_map(|link| {
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    });
    Ok(names.collect())
}

pub(crate) fn set_mark(interface: &str, mark: &str) -> io::Result<()> {
    let mut link = by_name(interface)?;
    link.attributes.push(LinkAttribute::IfAlias(mark.to_owned()));
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

/// Whether an interface is there and has a link.
pub(crate) fn is_up(interface: &str) -> bool {
    of(interface).is_ok_and(|link| link.header.flags.contains(LinkFlags::Running))
}

/// Gives a TAP device a carrier, or takes it: what follows links (keepalived, BIRD, routes that are `linkdown`) sees it.
pub(crate) fn set_carrier(interface: &str, is_on: bool) -> io::Result<()> {
    let mut link = by_name(interface)?;
    link.attributes.push(LinkAttribute::Carrier(is_on.into()));
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

fn by_name(interface: &str) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = cpu::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
    Ok(link)
}

fn alias(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.clone()),
        _ => None,
    })
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<LinkMessage>> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = tap::netlink_socket()?;
    socket.write_all(&bytes)?;
    let mut links = Vec::new();
    let mut reply = vec![0; LONGEST_REPLY];
    loop {
        // An answer is there when the request was taken, and the next one when this was: the socket need not wait.
        let len = socket.read(&mut reply)?;
        let mut rest = &reply[..len];
        while !rest.is_empty() {
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            rest = rest.get((answer.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => links.push(link),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => return Ok(links),
            }
        }
        if flags & NLM_F_DUMP != NLM_F_DUMP {
            return Ok(links);
        }
    }
}
