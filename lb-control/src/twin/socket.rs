//! Netlink sockets: one that asks the kernel (dumps, changes) and one that hears what changes.
//!
//! Bytes and messages only; what a message means to the mirror is [`super::mirror`]'s business.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::nexthops::{self, Nexthop, Nexthops};

/// Longest datagram that the kernel sends: dumps come in pieces of at most 32 KiB.
const DATAGRAM_MAX: usize = 64 * 1024;

/// A dump that the kernel calls inconsistent (something changed meanwhile) is repeated this many times.
const DUMP_ATTEMPTS: usize = 5;

/// Multicast groups of rtnetlink as `nl_groups` wants them: bit `n - 1` is group `n` of `linux/rtnetlink.h`
/// (`RTNLGRP_LINK` 1, `NEIGH` 3, `IPV4_IFADDR` 5, `IPV4_ROUTE` 7, `IPV4_RULE` 8, `IPV6_IFADDR` 9, `IPV6_ROUTE` 11,
/// `IPV6_RULE` 19, `NEXTHOP` 32).
const GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 31;

/// A message of rtnetlink, or what stands for one.
pub(super) enum Message {
    Route(NetlinkHeader, RouteNetlinkMessage),
    /// `RTM_NEWNEXTHOP`: an object that is new, or another one now.
    Nexthop(u32, Nexthop),
    /// `RTM_DELNEXTHOP`: routes that used the nexthop object are gone without a word.
    NexthopGone(u32),
    /// The parser did not understand it.
    Unreadable(String),
}

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    sequence: u32,
}

/// What [`Socket::recv`] got.
pub(super) enum Received {
    Messages(Vec<Message>),
    /// The kernel had to throw messages away: only a new dump tells the truth.
    Overrun,
}

impl Socket {
    /// A socket for dumps and changes.
    pub(super) fn for_requests() -> io::Result<Socket> {
        Socket::open(0)
    }

    /// A socket that hears of each change. `receive_buffer`: bytes that the kernel may hold for us.
    pub(super) fn for_events(receive_buffer: usize) -> io::Result<Socket> {
        let socket = Socket::open(GROUPS)?;
        let fd = socket.fd.get_ref();
        // Without CAP_NET_ADMIN the forced size is refused, and net.core.rmem_max bounds the plain one.
        if sockopt::set_socket_recv_buffer_size_force(fd, receive_buffer).is_err() {
            sockopt::set_socket_recv_buffer_size(fd, receive_buffer)?;
        }
        Ok(socket)
    }

    fn open(groups: u32) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        // What its successor `register` makes `unsafe` is that the descriptor stays open and the same: an `OwnedFd` that
        // nobody takes out again does.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Socket { fd, buffer: vec![0; DATAGRAM_MAX], sequence: 0 })
    }

    /// Waits for the next datagram.
    pub(super) async fn recv(&mut self) -> io::Result<Received> {
        let buffer = &mut self.buffer;
        let received = self.fd.async_io(Interest::READABLE, |fd| recv_into(fd, buffer)).await;
        self.understand(received)
    }

    /// The next datagram, if there is one already.
    pub(super) fn try_recv(&mut self) -> io::Result<Option<Received>> {
        match recv_into(self.fd.get_ref(), &mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => self.understand(received).map(Some),
        }
    }

    fn understand(&self, received: io::Result<usize>) -> io::Result<Received> {
        match received {
            Ok(len) if len > self.buffer.len() => Ok(Received::Overrun),
            Ok(len) => Ok(Received::Messages(parse(&self.buffer[..len]))),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                Ok(Received::Overrun)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for all objects of one kind; `each` gets them. Starts over, by calling `restart`, when the kernel says
    /// that something changed under way.
    pub(super) async fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        mut restart: impl FnMut() -> T,
        mut each: impl FnMut(&mut T, Message),
    ) -> io::Result<T> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut result = restart();
            self.send(request.clone(), NLM_F_DUMP).await?;
            let interrupted = self.read_dump(&mut result, &mut each).await?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(result);
            }
        }
    }

    /// Asks for all nexthop objects, as [`dump`](Socket::dump) for others.
    pub(super) async fn dump_nexthops(&mut self) -> io::Result<Nexthops> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut nexthops = Nexthops::default();
            self.sequence = self.sequence.wrapping_add(1);
            self.send_bytes(&nexthops_request(self.sequence)).await?;
            let interrupted = self
                .read_dump(&mut nexthops, &mut |nexthops, message| {
                    if let Message::Nexthop(id, nexthop) = message {
                        nexthops.put(id, nexthop);
                    }
                })
                .await?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(nexthops);
            }
        }
    }

    /// True: the kernel says that the dump is inconsistent.
    async fn read_dump<T>(
        &mut self,
        result: &mut T,
        each: &mut impl FnMut(&mut T, Message),
    ) -> io::Result<bool> {
        let mut interrupted = false;
        loop {
            let buffer = &mut self.buffer;
            let len = self.fd.async_io(Interest::READABLE, |fd| recv_into(fd, buffer)).await?;
            for bytes in Split(&self.buffer[..len.min(self.buffer.len())]) {
                let header = NetlinkBuffer::new(bytes);
                if header.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
                match dumped(bytes)? {
                    ControlFlow::Continue(Some(message)) => each(result, message),
                    ControlFlow::Continue(None) => {}
                    ControlFlow::Break(()) => return Ok(interrupted),
                }
            }
        }
    }

    /// Asks for a change and waits until the kernel did it or said why not.
    pub(super) async fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags).await?;
        loop {
            let buffer = &mut self.buffer;
            let len = self.fd.async_io(Interest::READABLE, |fd| recv_into(fd, buffer)).await?;
            for bytes in Split(&self.buffer[..len.min(self.buffer.len())]) {
                if NetlinkBuffer::new(bytes).sequence_number() != self.sequence {
                    continue;
                }
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes);
                if let Ok(NetlinkMessage { payload: NetlinkPayload::Error(answer), .. }) = parsed {
                    return if answer.code.is_none() { Ok(()) } else { Err(answer.to_io()) };
                }
            }
        }
    }

    async fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.send_bytes(&bytes).await
    }

    async fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.fd
            .async_io(Interest::WRITABLE, |fd| Ok(rustix::net::send(fd, bytes, SendFlags::empty())?))
            .await?;
        Ok(())
    }
}

/// What a message says that comes in a dump; `Break`: it is the last one.
fn dumped(bytes: &[u8]) -> io::Result<ControlFlow<(), Option<Message>>> {
    let said = |message| Ok(ControlFlow::Continue(Some(message)));
    if let Some(message) = of_nexthop(bytes) {
        return said(message);
    }
    let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        Ok(message) => message,
        Err(error) => return said(Message::Unreadable(error.to_string())),
    };
    match message.payload {
        NetlinkPayload::Done(done) if done.code == 0 => Ok(ControlFlow::Break(())),
        NetlinkPayload::Done(done) => Err(os_error(done.code)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        NetlinkPayload::InnerMessage(inner) => said(Message::Route(message.header, inner)),
        _ => Ok(ControlFlow::Continue(None)),
    }
}

/// The length of the datagram, which may be more than was read.
fn recv_into(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, len) = rustix::net::recv(fd, buffer, RecvFlags::TRUNC)?;
    Ok(len)
}

fn os_error(negative_errno: i32) -> io::Error {
    io::Error::from_raw_os_error(negative_errno.wrapping_neg())
}

/// `RTM_GETNEXTHOP` of all of them: a netlink header and an empty `struct nhmsg`.
fn nexthops_request(sequence: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&24u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_GETNEXTHOP.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// `None`: it is about something else.
fn of_nexthop(bytes: &[u8]) -> Option<Message> {
    let kind = NetlinkBuffer::new(bytes).message_type();
    if kind != RTM_NEWNEXTHOP && kind != RTM_DELNEXTHOP {
        return None;
    }
    Some(match nexthops::parse(bytes) {
        Some((id, _)) if kind == RTM_DELNEXTHOP => Message::NexthopGone(id),
        Some((id, nexthop)) => Message::Nexthop(id, nexthop),
        None => Message::Unreadable("a nexthop object".to_owned()),
    })
}

/// The messages of one datagram of events.
fn parse(datagram: &[u8]) -> Vec<Message> {
    Split(datagram)
        .filter_map(|bytes| match of_nexthop(bytes) {
            Some(message) => Some(message),
            None => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
                Ok(message) => match message.payload {
                    NetlinkPayload::InnerMessage(inner) => Some(Message::Route(message.header, inner)),
                    _ => None,
                },
                Err(error) => Some(Message::Unreadable(error.to_string())),
            },
        })
        .collect()
}

/// Cuts a datagram into messages, each with its header and at least as long as one.
struct Split<'a>(&'a [u8]);

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = NetlinkBuffer::new_checked(self.0).ok()?.length() as usize;
        let (message, _) = self.0.split_at_checked(len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_cut_at_the_aligned_ends_of_its_messages() {
        let message = |len: u32, kind: u16| {
            let mut bytes = vec![0; (len as usize).next_multiple_of(4)];
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes
        };
        let mut datagram = message(17, RTM_DELNEXTHOP);
        datagram.extend(message(16, RTM_NEWNEXTHOP));
        datagram.extend(message(16, RTM_DELNEXTHOP));
        assert_eq!(Split(&datagram).map(<[u8]>::len).collect::<Vec<_>>(), [17, 16, 16]);
        let messages = parse(&datagram);
        let are_unreadable = messages.iter().all(|message| matches!(message, Message::Unreadable(_)));
        assert!(messages.len() == 3 && are_unreadable, "they say of no object");
    }

    #[test]
    fn a_message_that_claims_more_than_there_is_ends_the_datagram() {
        let mut datagram = vec![0; 16];
        datagram[..4].copy_from_slice(&400u32.to_ne_bytes());
        assert_eq!(Split(&datagram).count(), 0);
        datagram[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(Split(&datagram).count(), 0);
        assert_eq!(Split(&datagram[..7]).count(), 0);
    }

    #[test]
    fn a_message_that_cannot_be_understood_is_reported_and_does_not_hide_the_next_one() {
        // RTM_NEWROUTE with half a header.
        let mut datagram = vec![0; 20];
        datagram[..4].copy_from_slice(&20u32.to_ne_bytes());
        datagram[4..6].copy_from_slice(&24u16.to_ne_bytes());
        let mut next = vec![0; 32];
        next[..4].copy_from_slice(&32u32.to_ne_bytes());
        next[4..6].copy_from_slice(&RTM_DELNEXTHOP.to_ne_bytes());
        // NHA_ID 7.
        next[24..].copy_from_slice(&[8u16.to_ne_bytes(), 1u16.to_ne_bytes(), [7, 0], [0, 0]].concat());
        datagram.extend(next);
        let messages = parse(&datagram);
        let id = u32::from_ne_bytes([7, 0, 0, 0]);
        assert!(matches!(messages[..], [Message::Unreadable(_), Message::NexthopGone(gone)] if gone == id));
    }
}
