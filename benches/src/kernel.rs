//! The kernel's netfilter as a peer: connections that begin, sent by this process to itself through the rules of the network
//! namespace it is in.
//!
//! A raw socket sends UDP datagrams over the loopback interface, each from a source of its own, so that each is a new
//! connection to the kernel's connection tracking. The kernel does all of it within the send: OUTPUT, loopback, INPUT, the
//! receiving socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);
const IPV4: usize = 20;
const LEN: usize = IPV4 + 8 + 18;

/// Nanoseconds for each of so many datagrams, all of them of connections that begin; run after run.
///
/// # Errors
/// Without the right to raw sockets.
pub(crate) fn measure(packets: u32, runs: u32) -> Result<Vec<f64>> {
    let server = socket(AddressFamily::INET, SocketType::DGRAM, None).context("the server's socket")?;
    bind(&server, &SERVER).context("the server's address")?;
    let client = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("a raw socket")?;
    let mut sources = (0..).map(source);
    let mut run = || {
        let mut datagrams: Vec<[u8; LEN]> = sources.by_ref().take(packets as usize).map(datagram).collect();
        let begun = Instant::now();
        for datagram in &mut datagrams {
            sendto(&client, datagram, SendFlags::empty(), &SERVER)?;
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(packets))
    };
    (0..runs).map(|_| run()).collect()
}

/// The n-th client's address and port.
fn source(n: u32) -> SocketAddrV4 {
    let [_, high, middle, low] = (n / 50_000 + 2).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, high, middle, low), 10_000 + (n % 50_000) as u16)
}

/// A 64-byte frame's datagram. The kernel fills in the identification and the IPv4 checksum (raw(7)); a UDP checksum of
/// zero says that there is none (RFC 768).
fn datagram(source: SocketAddrV4) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let [len, udp] = [LEN, LEN - IPV4].map(|len| (len as u16).to_be_bytes());
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&len);
    bytes[8..10].copy_from_slice(&[64, 17]);
    bytes[12..16].copy_from_slice(&source.ip().octets());
    bytes[16..20].copy_from_slice(&SERVER.ip().octets());
    bytes[20..22].copy_from_slice(&source.port().to_be_bytes());
    bytes[22..24].copy_from_slice(&SERVER.port().to_be_bytes());
    bytes[24..26].copy_from_slice(&udp);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_datagram_begins_a_connection() {
        let sources: BTreeSet<SocketAddrV4> = (0..200_000).map(source).collect();
        assert_eq!(sources.len(), 200_000);
        assert!(sources.iter().all(|source| source.ip().is_loopback() && source.port() >= 10_000));
        let bytes = datagram(source(7));
        let parsed = etherparse::SlicedPacket::from_ip(&bytes).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else { panic!("{parsed:?}") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.payload().len()), (10_007, 53, 18));
    }
}
