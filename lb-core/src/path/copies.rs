//! Copies that rules have made of packets (`TEE`): they go to their gateways when the turn ends, by OUTPUT and POSTROUTING, tracked by nobody.
//!
//! Source of the facts: Linux, `net/ipv4/netfilter/nf_dup_ipv4.c`, `net/ipv6/netfilter/nf_dup_ipv6.c`.

use super::hooks::why;
use super::passage::OUTPUT;
use super::rewrite::{as_seen, decrement_ttl};
use super::waiting::Going;
use super::{Io, Path};
use crate::conntrack::CtState;
use crate::drop::DropReason;
use crate::flow::Tuple;
use crate::hook::Hook;
use crate::packet::Packet;
use crate::rule::copies::Copy;
use crate::tables::Way;
use crate::time::Tick;
use crate::wire::ipv4;
use crate::wire::parse::{Parsed, parse};

impl<P: Packet> Path<P> {
    #[cold]
    pub(super) fn send_copies(&mut self, now: Tick, io: &mut impl Io<P>) {
        // Rules make no copies of copies.
        self.is_copying = true;
        let (mut number, mut from) = (0, 0);
        while let Some((copy, frame)) = self.copies.get(number, from) {
            let packet = io.allocate().and_then(|mut packet| {
                packet.set_len(frame.len()).ok()?;
                packet.data_mut().get_mut(..frame.len())?.copy_from_slice(frame);
                Some(packet)
            });
            (number, from) = (number + 1, from + frame.len());
            match packet {
                Some(packet) => self.send_copy(packet, &copy, now, io),
                None => self.drop(DropReason::CopyLost, Hook::Output),
            }
        }
        let lost = self.copies.clear();
        self.mine.dropped(DropReason::CopyLost, Hook::Output).add(lost);
        self.is_copying = false;
    }

    fn send_copy(&mut self, mut packet: P, copy: &Copy, now: Tick, io: &mut impl Io<P>) {
        as_seen(packet.data_mut(), &copy.headers, &copy.tuple, copy.hops);
        if copy.is_received {
            if copy.headers.ttl <= 1 {
                return self.drop(DropReason::TtlExceeded, Hook::Output);
            }
            decrement_ttl(packet.data_mut(), &copy.headers);
        }
        // It is in one piece, or not at all.
        let l3 = usize::from(copy.headers.l3);
        if let Some(ip) = ipv4::header_mut(packet.data_mut(), l3).filter(|_| !copy.headers.is_ipv6) {
            ipv4::forbid_fragments(ip);
        }
        let Ok(Parsed::Ip(headers)) = parse(packet.data(), packet.frame_len(), packet.rx_checksums().ip)
        else {
            return self.drop(DropReason::Unsupported, Hook::Output);
        };
        let way = self.tables.way(copy.gateway);
        let output = self.output(way);
        let is_elsewhere = copy.output.is_some() && copy.output != output;
        let mtu = output.and_then(|id| self.tables.interfaces.get(id)).map(|interface| interface.mtu);
        match way {
            Way::Hop(_) | Way::Unresolved(..) if is_elsewhere => {
                return self.drop(DropReason::NoRoute, Hook::Output);
            }
            Way::Hop(_) | Way::Unresolved(..) if mtu.is_some_and(|mtu| headers.ip_len > mtu.into()) => {
                return self.drop(DropReason::TooBig, Hook::Output);
            }
            _ => {}
        }
        let mut passage = self.passage(packet.port(), &headers, CtState::Untracked, now);
        (passage.input, passage.output) = (None, output);
        (passage.mark, passage.is_untracked) = (copy.mark, true);
        let tuple = Tuple::of_packet(packet.data(), &headers);
        if let Err((verdict, hook)) = self.pass(&OUTPUT, &tuple, &mut packet, &headers, &mut passage) {
            return self.drop(why(verdict), hook);
        }
        self.leave(packet, &headers, copy.gateway, Going::AsItIs, now, io);
    }
}
