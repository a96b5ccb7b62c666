//! What the table `nat`, and rules that exchange prefixes, make of a packet's ends.

use std::net::IpAddr;

use lb_core::flow::Tuple;

use super::{Choice, Connection, Netfilter, Packet, Passage, Verdict, npt, number};
use crate::wire::{TCP, UDP};

impl Netfilter {
    pub(super) fn translate_destination(&self, verdict: Verdict, passage: &mut Passage) {
        let connection = passage.connection.as_mut().expect("it begins one");
        let ends = &mut passage.ends;
        match verdict {
            Verdict::Destination(Choice { addresses: (first, _), ports, .. }) => {
                ends.dst = first;
                if let Some((port, _)) = ports {
                    ends.dport = port;
                }
            }
            Verdict::Redirect(port) => {
                ends.dst = self.net.own(passage.input.expect("PREROUTING alone redirects"));
                ends.dport = port;
            }
            _ => {}
        }
        connection.reply = ends.reversed();
    }

    /// False: no port is free.
    pub(super) fn translate_source(
        &self,
        verdict: Verdict,
        passage: &mut Passage,
        left: Option<&Packet>,
    ) -> Result<bool, String> {
        let ends = passage.ends;
        let is_kept = !matches!(verdict, Verdict::Source(_) | Verdict::Masquerade(_));
        let choice = match verdict {
            Verdict::Source(choice) => choice,
            Verdict::Masquerade(ports) => {
                let own = self.net.own(passage.output.expect("POSTROUTING alone masquerades"));
                Choice { addresses: (own, own), ports, is_random: false }
            }
            // Somebody else's translation may have taken what its answers would be known by.
            _ => Choice { addresses: (ends.src, ends.src), ports: None, is_random: false },
        };
        let Some(ends) = self.choose(passage, choice, self.shares_ports && !is_kept, left)? else {
            return Ok(false);
        };
        passage.ends = ends;
        passage.connection.as_mut().expect("it begins one").reply = ends.reversed();
        Ok(true)
    }

    /// The ends with the source that the path chose, if it was free to. `None`: it had no choice. `shares_ports`: some are for other workers
    /// alone.
    fn choose(
        &self,
        passage: &Passage,
        choice: Choice,
        shares_ports: bool,
        left: Option<&Packet>,
    ) -> Result<Option<Tuple>, String> {
        let came = passage.ends;
        let Connection { original, zone, .. } = *passage.connection.as_ref().expect("it begins one");
        let ports = choice.ports.unwrap_or_else(|| class(came));
        let is_free = |ends: Tuple| {
            let answer = ends.reversed();
            answer != original && !self.by_tuple.contains_key(&(zone, answer))
        };
        let Some(left) = left else {
            // It searches as many as there are here, if it tries them all.
            let is_any_free =
                |src: IpAddr| (ports.0..=ports.1).any(|sport| is_free(Tuple { src, sport, ..came }));
            let (first, last) = choice.addresses;
            let has_few = shares_ports && ports.1 - ports.0 < 100;
            let is_full = has_few || !is_any_free(first) || !is_any_free(last);
            return if is_full { Ok(None) } else { Err(format!("{came:?} found no port, of {choice:?}")) };
        };
        let Tuple { src, sport, .. } = left.ends;
        let ends = Tuple { src, sport, ..came };
        let (first, last) = choice.addresses;
        let is_within = (number(first)..=number(last)).contains(&number(src));
        let is_port = (ports.0..=ports.1).contains(&sport) || sport == came.sport && choice.ports.is_none();
        if !is_within || !is_port {
            return Err(format!("{came:?} left as {:?}, which is none of {choice:?}", left.ends));
        }
        let own = Tuple { sport: came.sport, ..ends };
        let may_stay =
            !choice.is_random && !shares_ports && (ports.0..=ports.1).contains(&came.sport) && is_free(own);
        if may_stay && sport != came.sport {
            return Err(format!("{came:?} left as {:?}: its own port was free", left.ends));
        }
        let connection = passage.connection.as_ref().expect("it begins one");
        if !is_free(ends) && self.gives_way(ends.reversed(), connection).is_none() {
            return Err(format!("{came:?} left as {:?}, whose answers are another connection's", left.ends));
        }
        Ok(Some(ends))
    }

    /// The connection with such answers, if it is over and a new one's SYN is beyond what it sent.
    pub(super) fn gives_way(&self, answer: Tuple, new: &Connection) -> Option<usize> {
        let &(number, is_reply) = self.by_tuple.get(&(new.zone, answer))?;
        let old = self.connections[number].as_ref()?;
        let is_outrun =
            old.tcp.as_ref().zip(new.tcp.as_ref()).is_some_and(|(old, new)| old.is_outrun_by(new));
        (is_reply && !old.is_served && is_outrun).then_some(number)
    }
}

impl Passage {
    /// An end of what begins a connection, or is of none; with an error's, the opposite one of what it quotes.
    pub(super) fn exchange_prefix(&mut self, is_destination: bool) {
        let (from, to) = if is_destination { (npt::OUTER, npt::INNER) } else { (npt::INNER, npt::OUTER) };
        // Those of a connection's packets stay what the connection says.
        let answer = self.answer.as_mut().filter(|_| self.connection.is_none());
        for ends in [Some(&mut self.ends), answer].into_iter().flatten() {
            let end = if is_destination { &mut ends.dst } else { &mut ends.src };
            if npt::is_of(from, number(*end)) {
                *end = IpAddr::V6(npt::map(number(*end), to).into());
            }
        }
    }

    /// What begins a connection is to the table `nat` translated already where prefixes were exchanged.
    pub(super) fn note_prefixes(&mut self) {
        let answer = self.ends.reversed();
        self.connection.iter_mut().for_each(|connection| connection.reply = answer);
    }

    /// A packet of a connection that is known, or an error about one, goes where that goes.
    pub(super) fn become_destination(&mut self) {
        let Some(connection) = &self.connection else { return };
        let (comes, leaves) = (connection.comes(self.is_reply), connection.leaves(self.is_reply));
        if !self.is_error {
            (self.ends.dst, self.ends.dport) = (leaves.dst, leaves.dport);
        } else if (comes.dst, comes.dport) != (leaves.dst, leaves.dport) {
            self.ends.dst = leaves.dst;
        }
    }

    /// And it is from whom that is from.
    pub(super) fn become_source(&mut self) {
        let Some(connection) = &self.connection else { return };
        let (comes, leaves) = (connection.comes(self.is_reply), connection.leaves(self.is_reply));
        if !self.is_error {
            self.ends = leaves;
        } else if (comes.src, comes.sport) != (leaves.src, leaves.sport) {
            self.ends.src = leaves.src;
        }
    }
}

/// The ports that a source may get of which no rule says any: those of its own class. Identifiers have none.
fn class(ends: Tuple) -> (u16, u16) {
    match ends.sport {
        _ if ![TCP, UDP].contains(&ends.protocol.0) => (0, u16::MAX),
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}
