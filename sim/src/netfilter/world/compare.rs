//! Whether what the workers did with a packet is what the model says.

use lb_core::drop::DropReason;
use lb_core::flow::Tuple;
use lb_core::hook::Hook;
use lb_core::ids::PortId;
use lb_core::packet::{Frame, Packet as _};

use super::super::model::{Fate, Told};
use super::super::packet::{OnWire, Packet};
use super::super::rule::Refusal;
use super::{Came, Drops, World, same};
use crate::wire::{self, ICMP, ICMPV6, RST};

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
                    stops(*hook, DropReason::RuleRejects);
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
                    let link = self.net.link_to(*server);
                    let interface = self.net.interface(*server);
                    let outer = (self.net.own(interface), *server);
                    must_sent.push((
                        PortId(interface as u16),
                        wire::in_tunnel(&link, outer, &packet.frame(&link)),
                    ));
                }
                Fate::Sent(packet) => {
                    let to = packet.to();
                    must_sent
                        .push((PortId(self.net.interface(to) as u16), packet.frame(&self.net.link_to(to))));
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
    }
}
