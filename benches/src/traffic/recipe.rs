//! One packet, as little of it as differs from the others'.

use std::net::Ipv4Addr;

use lb_core::tables::Protocol;
use lb_core::wire::{checksum, ipv4};

use super::director::{MACS, SERVERS, VIP, server};
use super::{LAN, LEN, WAN};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// What the generator writes over the template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Recipe {
    src: u32,
    dst: u32,
    sport: u16,
    dport: u16,
    ip_checksum: u16,
    /// Any but 0, which would say that there is none: nobody between the ends looks at it, it is only updated.
    l4_checksum: u16,
}

impl Recipe {
    /// From the n-th client to the virtual service; two billion clients differ.
    pub(super) fn request(transport: Transport, n: u32) -> Recipe {
        Recipe::new(transport, client(n), (VIP.into(), 80))
    }

    /// From the n-th client to one of the real servers itself.
    pub(super) fn past_the_service(transport: Transport, n: u32) -> Recipe {
        Recipe::new(transport, client(n), (server(n % SERVERS).into(), 80))
    }

    pub(super) fn reply(transport: Transport, server: (u32, u16), client: (u32, u16)) -> Recipe {
        Recipe::new(transport, server, client)
    }

    fn new(transport: Transport, from: (u32, u16), to: (u32, u16)) -> Recipe {
        let mut header = [0; 20];
        header.copy_from_slice(&template(transport)[14..34]);
        header[12..16].copy_from_slice(&from.0.to_be_bytes());
        header[16..20].copy_from_slice(&to.0.to_be_bytes());
        ipv4::fill_checksum(&mut header);
        let ip_checksum = u16::from_be_bytes([header[10], header[11]]);
        Recipe {
            src: from.0,
            dst: to.0,
            sport: from.1,
            dport: to.1,
            ip_checksum,
            l4_checksum: checksum::finish_udp(ip_checksum),
        }
    }

    #[inline]
    pub(super) fn write(&self, template: &[u8; LEN], transport: Transport, flags: u8, frame: &mut [u8; LEN]) {
        *frame = *template;
        frame[24..26].copy_from_slice(&self.ip_checksum.to_be_bytes());
        frame[26..30].copy_from_slice(&self.src.to_be_bytes());
        frame[30..34].copy_from_slice(&self.dst.to_be_bytes());
        frame[34..36].copy_from_slice(&self.sport.to_be_bytes());
        frame[36..38].copy_from_slice(&self.dport.to_be_bytes());
        match transport {
            Transport::Udp => frame[40..42].copy_from_slice(&self.l4_checksum.to_be_bytes()),
            Transport::Tcp => {
                frame[47] = flags;
                frame[50..52].copy_from_slice(&self.l4_checksum.to_be_bytes());
            }
        }
    }
}

/// Address and port of the n-th client.
pub(crate) fn client(n: u32) -> (u32, u16) {
    (u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n / 50_000, (1024 + n % 50_000) as u16)
}

/// What all packets of a transport have in common, addressed to the clients' port.
pub fn template(transport: Transport) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&MACS[WAN.index()]);
    frame[12] = 8;
    let protocol = match transport {
        Transport::Udp => Protocol::UDP,
        Transport::Tcp => Protocol::TCP,
    };
    frame[14..24].copy_from_slice(&[0x45, 0, 0, (LEN - 14) as u8, 0, 1, 0x40, 0, 64, protocol.0]);
    match transport {
        Transport::Udp => frame[38..40].copy_from_slice(&((LEN - 34) as u16).to_be_bytes()),
        Transport::Tcp => frame[46] = 0x50,
    }
    frame
}

/// Templates by port.
pub(super) fn templates(transport: Transport) -> [[u8; LEN]; 2] {
    let mut both = [template(transport); 2];
    both[LAN.index()][..6].copy_from_slice(&MACS[LAN.index()]);
    both
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_frames_are_what_etherparse_takes_for_valid_ones() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut frame = [0; LEN];
            Recipe::request(transport, 123_456).write(&template(transport), transport, SYN, &mut frame);
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!(header.source_addr(), Ipv4Addr::new(10, 128, 0, 2));
            assert_eq!(usize::from(header.total_len()), LEN - 14);
            let ports = match sliced.transport.unwrap() {
                etherparse::TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
                etherparse::TransportSlice::Tcp(tcp) => {
                    assert!(tcp.syn() && !tcp.ack());
                    (tcp.source_port(), tcp.destination_port())
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(ports, (1024 + 23_456, 80));
        }
    }
}
