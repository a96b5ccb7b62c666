//! Whether what the workers did with a packet is what the model says.

use std::net::IpAddr;

use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::packet::{Frame, Packet as _};
use lb_core::tables::{GueChecksum, Tunnel};

use super::super::model::{Fate, Forwarding, Told};
use super::super::packet::{OnWire, Packet};
use super::super::rule::Refusal;
use super::{Came, Drops, World, same};
use crate::wire::{self, ICMP, ICMPV6, RST, UDP};

impl World {
    /// # Errors
    /// What is not so.
    pub(super) fn compare<T: OnWire>(&self, fates: &[Fate<T>], came: &Came) -> Result<(), String> {
        let &Came { is_host, port, ref out, before: (ref drops_before, _) } = came;
        let mut drops = self.drops();
        for (key, count) in drops_before {
            *drops.entry(*key).or_default() -= count;
        }
        drops.retain(|_, count| *count > 0);
        let bytes = |all: &[(PortId, Frame)]| -> Vec<(PortId, Vec<u8>)> {
            all.iter().map(|(port, frame)| (*port, frame.data().to_vec())).collect()
        };
        let (mut sent, mut up) = (bytes(&out.sent), bytes(&out.up));
        let mut must_sent = Vec::new();
        let mut must_up = Vec::new();
        let mut must_drop = Drops::new();
        let mut stops = |hook: Hook, reason: DropReason| {
            *must_drop.entry((reason.label(), hook.name())).or_default() += 1
        };
        for fate in fates {
            match fate {
                Fate::Dropped(hook) => stops(*hook, DropReason::Rule),
                Fate::NoPort(hook) => stops(*hook, DropReason::NoLocalPort),
                Fate::Refused(hook, refusal, told) => {
                    let is_hops = *refusal == Refusal::NoHop;
                    stops(*hook, if is_hops { DropReason::TtlExceeded } else { DropReason::RuleRejects });
                    let ends = match told {
                        Told::Nobody => continue,
                        Told::Stopped(hook) => {
                            stops(*hook, DropReason::Rule);
                            continue;
                        }
                        Told::Sender(ends) => ends,
                    };
                    let is_up = is_host || self.net.is_own(ends.dst);
                    let way = if is_up { port } else { PortId(self.net.interface(ends.dst) as u16) };
                    let answers = if is_up { &mut up } else { &mut sent };
                    let is_right =
                        |(to, frame): &(PortId, Vec<u8>)| *to == way && is_refusal(frame, *refusal, ends);
                    match answers.iter().position(is_right) {
                        Some(at) => drop(answers.remove(at)),
                        None => return Err(format!("it was refused with {answers:02x?}")),
                    }
                }
                Fate::Up(packet) => must_up.push((port, packet.frame(&self.net.link_to(packet.to())))),
                Fate::Routed(packet, by) => {
                    let interface = PortId(self.net.interface(*by) as u16);
                    must_sent.push((interface, packet.frame(&self.net.link_to(*by))));
                }
                Fate::Tunnelled(packet, server) => {
                    let (link, way) = (self.net.link_to(*server), PortId(self.net.interface(*server) as u16));
                    let [(port, frame)] = &mut sent[..] else {
                        return Err(format!("it did not leave through a tunnel: {sent:02x?}"));
                    };
                    *frame = self.unpacked(frame, *server)?;
                    must_sent.push((way, packet.frame(&link)));
                    same("through a tunnel by a port", port, &way)?;
                }
                Fate::Sent(packet) => {
                    let to = packet.to();
                    let mut frame = packet.frame(&self.net.link_to(to));
                    // What comes from IPv6 has an identification of its own, and may be split (RFC 7915 §5.1).
                    if let [(_, sent)] = &sent[..]
                        && self.is_translated_to_ipv4(to)
                    {
                        wire::identify_like(&mut frame, sent);
                    }
                    must_sent.push((PortId(self.net.interface(to) as u16), frame));
                }
            }
        }
        // The link of what the host gets is the one that it came with.
        let unlinked = |all: &[(PortId, Vec<u8>)]| -> Vec<(PortId, Vec<u8>)> {
            all.iter().map(|(port, frame)| (*port, frame[12..].to_vec())).collect()
        };
        same("dropped", &drops, &must_drop)?;
        same("sent", &sent, &must_sent)?;
        same("up the twin", &unlinked(&up), &unlinked(&must_up))
    }
}

impl World {
    /// Whether what goes there by the service comes from IPv6.
    fn is_translated_to_ipv4(&self, to: IpAddr) -> bool {
        let servers = self.model.service.map(|service| service.servers[0].0.is_ipv6());
        to.is_ipv4() && servers.is_some_and(|servers| servers != self.net.is_ipv6)
    }

    /// What a frame carries to a real server through a tunnel, which must be one of the service's.
    fn unpacked(&self, frame: &[u8], server: IpAddr) -> Result<Vec<u8>, String> {
        let outer = wire::read(frame)?;
        let kind = match self.model.service.map(|service| service.forwarding) {
            Some(Forwarding::Tunnel(kind)) => kind,
            _ => return Err("there is no tunnel".to_owned()),
        };
        let inner = wire::unpack(frame, &outer)?;
        let seen = wire::read(&inner)?;
        same("a tunnel's ends", &(outer.src, outer.dst), &(self.net.own_like(server), server))?;
        same("its TTL", &outer.ttl, &seen.ttl)?;
        let (word, is_ipv6) = (|at: usize| be16(&frame[outer.l4 + at..]), seen.dst.is_ipv6());
        let plain = if is_ipv6 { wire::IPV6 } else { wire::IPIP };
        match kind {
            Tunnel::Ipip => same("a tunnel's protocol", &outer.protocol, &plain),
            Tunnel::Gue { port, checksum } => {
                let is_summed = checksum != GueChecksum::No;
                let is = (outer.protocol, word(2), word(6) != 0);
                same("GUE's protocol, port and checksum", &is, &(UDP, port, is_summed))
            }
            Tunnel::Gre { checksum } => {
                same("GRE's protocol and flags", &(outer.protocol, word(0) != 0), &(wire::GRE, checksum))
            }
        }?;
        if outer.dst.is_ipv4() && seen.dst.is_ipv4() {
            same("whether it may be split", &outer.dont_fragment, &seen.dont_fragment)?;
        }
        Ok(inner)
    }
}

fn be16(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |word| u16::from_be_bytes(*word))
}

/// Whether a frame is an answer with such ends that tells somebody that a packet is refused so.
fn is_refusal(frame: &[u8], refusal: Refusal, ends: &Tuple) -> bool {
    let Ok(seen) = wire::read(frame) else { return false };
    if (seen.src, seen.dst) != (ends.src, ends.dst) || !seen.is_sum_right(frame) {
        return false;
    }
    match refusal {
        Refusal::Reset => {
            Packet::read(frame).is_some_and(|answer| answer.ends == *ends && answer.flags() & RST != 0)
        }
        Refusal::PortUnreachable => match seen.protocol {
            ICMP => frame[seen.l4..].starts_with(&[3, 3]),
            ICMPV6 => frame[seen.l4..].starts_with(&[1, 4]),
            _ => false,
        },
        Refusal::NoHop => match seen.protocol {
            ICMP => frame[seen.l4..].starts_with(&[11, 0]),
            ICMPV6 => frame[seen.l4..].starts_with(&[3, 0]),
            _ => false,
        },
    }
}
