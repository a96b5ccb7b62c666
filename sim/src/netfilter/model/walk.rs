//! A list of rules, walked from its beginning.

use std::net::IpAddr;

use lb_core::rule::Table;

use super::{
    Chains, Connection, Counts, Does, Passage, Piece, Sets, Test, Verdict, Way, count, hash, number,
};

/// `None`: the packet came to the end.
pub(super) fn walk(
    chains: &mut Chains,
    sets: &mut Sets,
    table: Table,
    name: &'static str,
    passage: &mut Passage,
) -> Option<Verdict> {
    for place in 0.. {
        let (rule, counts) = chains.get_mut(&(table, name))?.rules.get_mut(place)?;
        if !rule.tests.iter().all(|test| holds(test, passage, sets)) {
            continue;
        }
        count(counts, passage.len);
        match rule.does {
            Does::Nothing => {}
            Does::Accept => return Some(Verdict::Accept),
            Does::Drop => return Some(Verdict::Drop),
            Does::Return => return None,
            Does::Jump(chain) => {
                if let Some(verdict) = walk(chains, sets, table, chain, passage) {
                    return Some(verdict);
                }
            }
            // It does not come back here.
            Does::Goto(chain) => return walk(chains, sets, table, chain, passage),
            Does::Reject(refusal) => return Some(Verdict::Reject(refusal)),
            Does::SetMark(mark) => passage.mark = mark,
            Does::OrMark(mark) => passage.mark |= mark,
            Does::SetConnMark(mark) => passage.connection.iter_mut().for_each(|of| of.mark = mark),
            Does::HashMark { is_of_connection, has_ports, seed, below } => {
                let connection = passage.connection.as_ref();
                let hash = match connection {
                    Some(connection) if is_of_connection => {
                        Some(hash::of_connection(connection, has_ports, seed))
                    }
                    None if is_of_connection => None,
                    // An error counts as what it is about.
                    _ => {
                        let is_whole = matches!(passage.piece, None | Some(Piece::Only));
                        let quoted = passage.answer.filter(|_| is_whole);
                        let ends = quoted.map_or(passage.ends, |answer| answer.reversed());
                        let is_whole = is_whole && !passage.quotes_piece;
                        Some(hash::of_packet(&ends, (has_ports, is_whole), seed))
                    }
                };
                passage.mark = hash.map_or(passage.mark, |hash| hash::below(hash, below));
            }
            Does::SaveMark => {
                let mark = passage.mark;
                passage.connection.iter_mut().for_each(|of| of.mark = mark);
            }
            Does::RestoreMark => passage.connection.iter().for_each(|of| passage.mark = of.mark),
            Does::NoTrack => passage.is_untracked |= passage.zone.is_none(),
            Does::Zone(zone) if !passage.is_untracked => passage.zone = passage.zone.or(Some(zone)),
            Does::Zone(_) => {}
            Does::Dnat(choice) => return Some(Verdict::Destination(choice)),
            Does::Snat(choice) => return Some(Verdict::Source(choice)),
            Does::Masquerade { ports } => return Some(Verdict::Masquerade(ports)),
            Does::Redirect { port } => return Some(Verdict::Redirect(port)),
            Does::Prefix { is_destination } => passage.exchange_prefix(is_destination),
            Does::PutInto { set, is_source, adding } => {
                sets.add(set, &passage.seen(), is_source, adding);
            }
            Does::TakeFrom { set, is_source } => sets.remove(set, &passage.seen(), is_source),
            Does::FillChecksum => {}
        }
    }
    None
}

fn holds(test: &Test, passage: &Passage, sets: &Sets) -> bool {
    let ends = &passage.ends;
    let connection = passage.connection.as_ref();
    let of = |holds: &dyn Fn(&Connection) -> bool| connection.is_some_and(holds);
    match test {
        Test::Input(interface) => passage.input == Some(*interface),
        Test::Output(interface) => passage.output == Some(*interface),
        Test::Source { prefix, is_not } => is_in(ends.src, prefix.address, prefix.len) != *is_not,
        Test::Destination { prefix, is_not } => is_in(ends.dst, prefix.address, prefix.len) != *is_not,
        Test::Protocol(protocol) => ends.protocol.0 == *protocol,
        Test::Ports { is_source, first, last } => {
            let port = if *is_source { &ends.sport } else { &ends.dport };
            (first..=last).contains(&port)
        }
        Test::States(states) => states.contains(&passage.state),
        Test::Translated { is_destination } => of(&|connection| connection.is_translated(*is_destination)),
        Test::Direction { is_reply } => of(&|_| passage.is_reply == *is_reply),
        Test::OriginalPort(port) => of(&|connection| connection.original.dport == *port),
        Test::ReplySource(address) => of(&|connection| connection.reply.src == *address),
        Test::Mark { value, mask, is_not } => (passage.mark & mask == *value) != *is_not,
        Test::ConnMark(mark) => of(&|connection| connection.mark == *mark),
        // Of one that was not counted yet, which an error may be about, nothing is said.
        Test::Counted { from, to, are_bytes, way, is_not } => of(&|connection| {
            if connection.counts == [(0, 0); 2] {
                return false;
            }
            let had = |(packets, bytes): Counts| if *are_bytes { bytes } else { packets };
            let [there, back] = connection.counts.map(had);
            let had = match way {
                Way::Original => there,
                Way::Reply => back,
                Way::Both => there + back,
            };
            (from..=to).contains(&&had) != *is_not
        }),
        Test::Set { set, is_source, is_not } => sets.holds(*set, &passage.seen(), *is_source) != *is_not,
        // Of IPv6 a piece's next header is that of fragments.
        Test::Program(protocol) => {
            ends.protocol.0 == *protocol && (passage.piece.is_none() || !ends.src.is_ipv6())
        }
        Test::Cpu(number) => *number == 0,
        Test::Policy { is_none, .. } => *is_none,
        Test::Segments => false,
        Test::Cluster { nodes, mask, seed, is_not } => of(&|connection| {
            let node = hash::below(hash::of_source(connection.original.src, *seed), *nodes);
            (mask >> node & 1 == 1) != *is_not
        }),
    }
}

fn is_in(address: IpAddr, net: IpAddr, len: u8) -> bool {
    let rest = if net.is_ipv6() { 128 } else { 32 } - u32::from(len);
    number(address) >> rest == number(net) >> rest
}
