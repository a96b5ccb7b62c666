//! A TCP segment of our own without data, written over a packet's headers.

use std::net::IpAddr;

use super::parse::{Headers, Parsed, parse};
use super::{checksum, ipv4, ipv6, tcp};
use crate::flow::Tuple;
use crate::packet::{NoRoom, Packet, RxChecksum};
use crate::tables::Protocol;

/// TTL and hop limit of what we send, as Linux's.
const TTL: u8 = 64;

/// What a segment says that has no data.
#[derive(Clone, Copy, Debug)]
pub struct Bare<'a> {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of four bytes.
    pub options: &'a [u8],
}

impl Bare<'_> {
    /// Writes it behind the link header, which has `l3` bytes and stays: from `ends.src` to `ends.dst`, not to be split, with its checksums.
    /// Returns its headers.
    ///
    /// # Errors
    /// `NoRoom` in the buffer, or it is chained: the packet is as it was. Ends of two families, or a link header of another: it is not.
    pub fn write<P: Packet>(&self, packet: &mut P, l3: usize, ends: &Tuple) -> Result<Headers, NoRoom> {
        let ip_len = if ends.src.is_ipv6() { ipv6::LEN } else { ipv4::LEN };
        let tcp_len = tcp::LEN + self.options.len();
        packet.set_len(l3 + ip_len + tcp_len)?;
        let ip = packet.data_mut().get_mut(l3..).ok_or(NoRoom)?;
        let pseudo = match (ends.src, ends.dst) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = ip.first_chunk_mut::<{ ipv4::LEN }>().ok_or(NoRoom)?;
                *header = [0; ipv4::LEN];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&((ip_len + tcp_len) as u16).to_be_bytes());
                // Not to be split, so that it needs no identification (RFC 6864 §4.1).
                header[6] = 0x40;
                (header[8], header[9]) = (TTL, Protocol::TCP.0);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                ipv4::fill_checksum(header);
                checksum::pseudo_v4(from.into(), to.into(), Protocol::TCP.0, tcp_len as u16)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = ip.first_chunk_mut::<{ ipv6::LEN }>().ok_or(NoRoom)?;
                *header = [0; ipv6::LEN];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&(tcp_len as u16).to_be_bytes());
                (header[6], header[7]) = (Protocol::TCP.0, TTL);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                checksum::pseudo_v6(&from.octets(), &to.octets(), Protocol::TCP.0, tcp_len as u32)
            }
            _ => return Err(NoRoom),
        };
        let segment = ip.get_mut(ip_len..ip_len + tcp_len).ok_or(NoRoom)?;
        let (header, options) = segment.split_first_chunk_mut::<{ tcp::LEN }>().ok_or(NoRoom)?;
        options.copy_from_slice(self.options);
        *header = [0; tcp::LEN];
        header[0..2].copy_from_slice(&ends.sport.to_be_bytes());
        header[2..4].copy_from_slice(&ends.dport.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.to_be_bytes());
        (header[12], header[13]) = ((tcp_len as u8 / 4) << 4, self.flags);
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        let sum = checksum::add(checksum::add(pseudo, checksum::sum(header)), checksum::sum(options));
        tcp::set_checksum(header, checksum::finish(sum));
        match parse(packet.data(), packet.frame_len(), RxChecksum::Good) {
            Ok(Parsed::Ip(headers)) => Ok(headers),
            _ => Err(NoRoom),
        }
    }
}
